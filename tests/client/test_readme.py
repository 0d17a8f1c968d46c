"""The package's README is true: its Python compiles and runs, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import telemetry_client
from telemetry_client.cli import parser

README = (Path(__file__).parents[2] / "clients/python/README.md").read_text("utf-8")
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = "".join(text for kind, text in BLOCKS.findall(README) if kind == "sh")
COMMANDS = re.findall(r"^telemetry-client (.*)$", SHELL, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_exists(command: str) -> None:
    assert parser().parse_args(shlex.split(command)).store == "pump-17.db"


def test_the_first_example_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = next(text for kind, text in BLOCKS.findall(README) if kind == "python")
    quick = example.replace(", transport)", ", transport, ClientOptions(close_s=0))")
    known = {"ClientOptions": telemetry_client.ClientOptions}
    exec(quick.replace("https://api.example.com", "http://127.0.0.1:1"), known)  # noqa: S102
    with telemetry_client.Store("pump-17.db", "pump-17")._sql as sql:
        (metrics,) = sql.execute("SELECT metrics FROM readings").fetchone()
    assert metrics == '{"temperature":21.5,"battery":3.7}'
    sql.close()


def test_every_name_in_the_readme_is_public() -> None:
    imported = re.findall(r"^from telemetry_client import (.*)$", README, re.MULTILINE)
    names = {name for line in imported for name in line.split(", ")}
    assert names <= set(telemetry_client.__all__)


def test_the_types_of_options_and_verdicts_are_public() -> None:
    named = {
        name
        for each in (telemetry_client.ClientOptions, telemetry_client.Verdict)
        for kind in each.__annotations__.values()
        for name in re.findall(r"telemetry_client\.\w+\.(\w+)", str(kind))
    }
    assert named == {"PaceOptions", "StoreOptions", "Verdict", "Rejection"}
    assert named <= set(telemetry_client.__all__)


def test_the_bounds_in_the_readme_are_the_codes() -> None:
    options = telemetry_client.StoreOptions()
    assert f"`max_bytes` ({options.max_bytes >> 20} MiB)" in README
