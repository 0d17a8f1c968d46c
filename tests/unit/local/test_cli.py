from pathlib import Path

import pytest

from local.cli import main, parser
from local.fleet.rules import Rule, load


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--for", "soon"], "argument --for: 'soon' isn't a duration"),
        (["run", "--late", "3"], "argument --late: '3' isn't a share"),
        (["run", "--devices", "0"], "argument --devices: '0' isn't a whole number above 0"),
        (["devices", "--metric", "wind=w"], "argument --metric: 'wind' isn't a metric"),
        (["devices", "--speed", "fast"], "argument --speed: 'fast' isn't a speed"),
        (["up", "--retention-days", "x"], "argument --retention-days: 'x' isn't a whole number"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_would_be_right(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_operators_commands_act_on_an_instance_by_its_name_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in (["redrive"], ["quarantine", "list"], ["quarantine", "show", "name-of-it"]):
        assert main([*command, "--name", "never-started"]) == 1
        assert "no instance 'never-started' is up" in capsys.readouterr().err
    assert parser().parse_args(["quarantine", "show", "name-of-it"]).record == "name-of-it"


def test_an_error_of_a_person_is_one_message_and_no_stack_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["watch", "--name", "never-started"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no instance 'never-started' is up" in shown.err
    assert "Traceback" not in shown.err


def test_an_unreadable_file_is_reported_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["run", "--csv", "gone.csv", "--device", "a", "--metric", "temperature=t"]
    assert main(line) == 1
    assert "gone.csv: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "up", "devices", "watch", "query", "env", "down"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert "usage: python -m local" in capsys.readouterr().out


def test_a_run_checks_the_rules_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules: [{name: hot, metric: temperature, above: 30, severity: info}]", "utf-8")
    assert load(file) == [Rule("hot", "temperature", above=30)]


def test_a_rule_is_broken_strictly_beyond_its_limit() -> None:
    hot = Rule("hot", "temperature", above=38)
    assert [hot.is_broken_by(value) for value in (38.0, 38.1, float("nan"))] == [False, True, False]
