"""`make scan`: what it makes of its tools' answers. Those in scan/ are recorded, and shortened."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scan import accepted, bom, code, dependencies, machines, secrets, template, tool
from scan.__main__ import FOUND, NOT_DONE, Check, checks, run_checks
from scan.tool import ROOT, Broken, Finding, Json, NotDone, Ran, Report, Run, repository, run

RECORDED = Path(__file__).parent / "scan"
BUCKET = Finding("CKV_AWS_18", "ArchiveBucket", "template.yaml: … has access logging enabled")
ACCEPTED = {"template": frozenset({("CKV_AWS_18", "ArchiveBucket")})}


def recorded(name: str) -> str:
    return (RECORDED / name).read_text("utf-8")


def saying(**answers: Ran) -> Run:
    """Tools that say this, each by a word of its command. git is the real one."""

    def say(words: str, *more: str | Path) -> Ran:
        line = " ".join([words, *map(str, more)])
        if line.startswith("git "):
            return run(words, *more)
        return next(ran for word, ran in answers.items() if word.replace("_", "-") in line)

    return say


def reporting(*findings: Finding) -> Check:
    return lambda: Report("2 resources", list(findings))


def failing(error: Exception) -> Check:
    def check() -> Report:
        raise error

    return check


# The exit code, and what is accepted


@pytest.mark.parametrize(
    ("checks", "code", "line"),
    [
        ({"template": reporting(BUCKET)}, 0, "template: 2 resources, 1 accepted, "),
        ({"code": reporting(BUCKET)}, FOUND, "code: 2 resources, 1 new, "),
        ({"template": reporting()}, FOUND, "template: 2 resources, 1 no longer there, "),
        ({"code": failing(Broken("no"))}, FOUND, "code: broken, "),
        ({"code": failing(NotDone("not audited (why)"))}, NOT_DONE, "code: not audited (why), "),
        ({"template": failing(NotDone("not done"))}, NOT_DONE, "template: not done, "),
        ({"code": failing(NotDone("no")), "a": reporting(BUCKET)}, FOUND, "a: 2 resources, 1 new"),
        ({"code": failing(NotDone("no")), "a": reporting()}, NOT_DONE, "a: 2 resources, "),
    ],
)
def test_the_exit_code_tells_a_fault_from_a_check_that_could_not_be_done(
    checks: dict[str, Check], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_checks(checks, ACCEPTED) == code
    assert any(each.startswith(line) for each in capsys.readouterr().out.splitlines())


def test_a_new_finding_says_its_place_its_rule_and_what_would_be_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_checks({"code": reporting(BUCKET)}, {})
    shown = "  ArchiveBucket [CKV_AWS_18]: template.yaml: … has access logging enabled"
    assert shown in capsys.readouterr().out.splitlines()


def test_an_acceptance_whose_finding_is_gone_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run_checks({"template": reporting()}, ACCEPTED)
    shown = "  ArchiveBucket [CKV_AWS_18]: accepted, and no longer found"
    assert shown in capsys.readouterr().out.splitlines()


def test_a_broken_tool_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    run_checks({"code": failing(Broken("first line\nsecond line"))}, {})
    assert {"  first line", "  second line"} <= {*capsys.readouterr().out.splitlines()}


@pytest.mark.parametrize(
    "text",
    [
        "template: {A: [{at: [X]}]}",
        "template: {A: [{why: '', at: [X]}]}",
        "template: {A: [{why: because, at: []}]}",
        "template: {A: [{why: because, at: X}]}",
        "template: {A: [{why: because, at: [X], until: 2030}]}",
        "template: {A: [{why: because, at: [X]}, {why: really, at: [X]}]}",
        "template: {A: because}",
        "template: [A]",
        "[template]",
    ],
)
def test_an_acceptance_without_a_reason_or_a_place_is_refused(text: str) -> None:
    with pytest.raises(accepted.Unreadable):
        accepted.load(text)


def test_one_reason_may_accept_a_rule_in_several_places() -> None:
    text = "template: {A: [{why: because, at: [X, Y]}, {why: else, at: [Z]}]}"
    assert accepted.load(text) == {"template": {("A", "X"), ("A", "Y"), ("A", "Z")}}


def test_what_is_accepted_is_of_checks_that_there_are() -> None:
    names = accepted.load(accepted.ACCEPTED.read_text("utf-8"))
    assert names.keys() <= checks(run, has_npm=True).keys()


# The tools' answers


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of its own: for templates, and for what the checks write."""
    for module in (template, machines, tool):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / machines.HERE).parent.mkdir()
    (tmp_path / machines.HERE).symlink_to(ROOT / machines.HERE)
    return tmp_path


SAM = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Machine:
    Type: AWS::Serverless::StateMachine
    Properties:
      Role: arn:aws:iam::123456789012:role/work
      Definition: {StartAt: Work, States: {Work: {Type: Pass, End: true}}}
"""
PLAIN = "Resources: {Notices: {Type: AWS::SQS::Queue}}"


def written(folder: Path, **templates: str) -> Run:
    """Templates in a folder, and the git that lists them."""
    names = [name.replace("__", "/") + ".yaml" for name in templates]
    for name, text in zip(names, templates.values(), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return lambda *_: Ran(0, "\n".join(names), "")


QUEUE = "Ensure all data stored in the SQS queue is encrypted (Properties/KmsMasterKeyId)"


@pytest.mark.parametrize(("side", "place"), [(SAM, "Notices"), (PLAIN, "template.yaml Notices")])
def test_a_finding_of_checkov_goes_by_its_logical_id_where_one_template_has_it(
    side: str, place: str, somewhere: Path
) -> None:
    templates = template.expand(written(somewhere, template=PLAIN, stacks__side=side))
    answer = recorded("checkov.json").replace("ROOT", str(somewhere))
    report = template.check(saying(checkov=Ran(1, answer, "")), templates)
    message = f"template.yaml: AWS::SQS::Queue.Notices: {QUEUE}"
    assert report == Report("2 resources", [Finding("CKV_AWS_27", place, message)])


@pytest.mark.parametrize(
    "answer",
    [
        "Traceback (most recent call last):",
        '{"summary": {"parsing_errors": 1}, "results": {"failed_checks": []}}',
        '{"passed": 0, "failed": 0, "parsing_errors": 0, "resource_count": 0}',  # looked at nothing
    ],
)
def test_a_checkov_that_has_not_read_every_template_is_broken(answer: str) -> None:
    with pytest.raises(Broken):
        template.check(saying(checkov=Ran(0, answer, "")), {})


def test_each_template_is_expanded_as_sam_does_it(somewhere: Path) -> None:
    files = template.expand(written(somewhere, template=PLAIN, stacks__side=SAM))
    resources = {
        name: json.loads((somewhere / file).read_text("utf-8"))["Resources"]
        for name, file in files.items()
    }
    assert resources["template.yaml"] == {"Notices": {"Type": "AWS::SQS::Queue"}}
    assert resources["stacks/side.yaml"]["Machine"]["Type"] == "AWS::StepFunctions::StateMachine"
    assert machines.definitions(files).keys() == {"Machine"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SAM.replace("Definition:", "Definitions:"), r"Resource with id \[Machine\] is invalid"),
        ("Resources: {", "while parsing a flow node"),
    ],
)
def test_a_template_that_sam_refuses_is_broken(text: str, why: str, somewhere: Path) -> None:
    with pytest.raises(Broken, match=rf"^stacks/side\.yaml: {why}"):
        template.expand(written(somewhere, stacks__side=text))


SOURCE = """import yaml


class Store:
    def load(self, table):
        rows = self.sql.execute(f"SELECT * FROM {table}")
        return yaml.load(rows)
"""


def test_a_finding_of_bandit_goes_by_the_function_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops/sample.py").write_text(SOURCE, "utf-8")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    found = code.check(saying(bandit=Ran(1, recorded("bandit.json"), ""))).findings
    assert [(each.rule, each.place) for each in found] == [
        ("B608", "ops/sample.py Store.load"),
        ("B506", "ops/sample.py Store.load"),
    ]
    assert found[0].message.startswith("ops/sample.py:6: Possible SQL injection")


@pytest.mark.parametrize(
    ("line", "name"), [(1, ""), (4, "Store"), (5, "Store.load"), (7, "Store.load"), (99, "")]
)
def test_a_line_has_the_function_around_it(line: int, name: str) -> None:
    assert code.enclosing(SOURCE, line) == name


def test_code_that_bandit_cannot_read_is_no_clean_code() -> None:
    with pytest.raises(Broken, match=r"ops/bad\.py: syntax error"):
        code.check(saying(bandit=Ran(0, recorded("bandit-unreadable.json"), "")))


def test_a_secret_goes_by_its_file_and_its_digest_not_by_its_line() -> None:
    report = secrets.check(saying(detect=Ran(0, recorded("detect-secrets.json"), "")))
    assert [(each.rule, each.place) for each in report.findings] == [
        ("AWS Access Key", "ops/keys.py 01010101"),
        ("Base64 High Entropy String", "ops/keys.py 02020202"),
    ]
    assert report.findings[0].message == "ops/keys.py:1: looks like a secret: AWS Access Key"


def test_what_is_not_committed_yet_is_looked_at_and_what_git_ignores_is_not() -> None:
    answers = "scan/tool.py\nscan/tool.py\ngone.py\n"
    assert repository(lambda *_: Ran(0, answers, "")) == ["scan/tool.py"]
    ignored = [name for name in repository(run, "*") if name.startswith((".venv", ".tools"))]
    assert ignored == []


# The dependencies


def test_a_vulnerable_package_is_found_in_each_lock_that_has_it() -> None:
    report = dependencies.check(saying(pip_audit=Ran(1, recorded("pip-audit.json"), "Found 1")))
    locks = repository(run, "*requirements*.txt")
    assert "layers/telemetry/requirements.txt" in locks
    assert [each.place for each in report.findings] == [f"{lock} pyyaml" for lock in locks]
    assert {each.rule for each in report.findings} == {"CVE-2020-14343"}
    assert report.findings[0].message == (
        f"{locks[0]}: pyyaml 5.3.1: Improper Input Validation in PyYAML (fixed in 5.4)"
    )


MISSING = "annotated-types: Dependency not found on PyPI and could not be audited"
BLOCKED = "Could not connect to PyPI's vulnerability feed"
UNRESOLVED = "requests.exceptions.ConnectionError: no name"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (f"ERROR:pip_audit._cli:{MISSING}\n", MISSING),
        (f"ERROR:pip_audit._cli:{BLOCKED}\nERROR:pip_audit._cli:Tip: your network may", BLOCKED),
        (
            f"Traceback (most recent call last):\n  raise ConnectionError(e)\n{UNRESOLVED}",
            UNRESOLVED,
        ),
    ],
)
def test_without_advisories_the_dependencies_are_not_audited(said: str, cause: str) -> None:
    dry_run = Ran(0, '{"dependencies": [], "fixes": []}', "No known vulnerabilities found")
    with pytest.raises(NotDone) as raised:
        dependencies.check(saying(dry_run=dry_run, pip_audit=Ran(1, "", said)))
    assert str(raised.value) == f"not audited ({cause})"


def test_a_lock_that_pip_audit_refuses_is_a_fault_not_a_want_of_network() -> None:
    said = "ERROR:pip_audit._cli:requirement annotated-types==0.8.0 does not contain a hash"
    with pytest.raises(Broken, match=r"^\S+: requirement annotated-types==0.8.0 does not contain"):
        dependencies.check(saying(pip_audit=Ran(1, "", said)))


def test_a_vulnerable_package_of_npm_is_found_once() -> None:
    done = Ran(1, recorded("npm-audit.json"), "")
    report = dependencies.check_npm(saying(npm=done), has_npm=True)
    assert report.looked_at == "15 packages"
    lock, name = dependencies.NPM_LOCK, "jsonpath-plus"
    what = f"{name} <99: JSONPath Plus Remote Code Execution (RCE) Vulnerability (critical)"
    assert report.findings == [Finding("GHSA-pppg-cpfq-h7wr", f"{lock} {name}", f"{lock}: {what}")]


@pytest.mark.parametrize(
    ("has_npm", "answer", "cause"),
    [
        (False, "", "npm not found"),
        (True, '{"message": "405 Method Not Allowed", "error": {}}', "405 Method Not Allowed"),
    ],
)
def test_without_npm_or_its_advisories_its_packages_are_not_audited(
    has_npm: bool, answer: str, cause: str
) -> None:
    with pytest.raises(NotDone) as raised:
        dependencies.check_npm(saying(npm=Ran(1, answer, "")), has_npm=has_npm)
    assert str(raised.value) == f"not audited ({cause})"


# The state machines


def test_without_npm_the_machines_are_not_validated() -> None:
    with pytest.raises(NotDone, match=r"not validated \(npm not found\)"):
        machines.check(saying(), {}, has_npm=False)


def test_a_machine_that_the_validator_refuses_is_a_finding(somewhere: Path) -> None:
    templates = template.expand(written(somewhere, template=SAM))
    text = "A state with this name already exists: Work"
    answer = json.dumps([["Machine", "DUPLICATE_STATE_NAMES", text]])
    tools = saying(npm=Ran(0, "", ""), validate=Ran(0, answer, ""))
    report = machines.check(tools, templates, has_npm=True)
    assert report == Report("1 definitions", [Finding("DUPLICATE_STATE_NAMES", "Machine", text)])
    definitions = json.loads((somewhere / machines.DEFINITIONS).read_text("utf-8"))
    assert json.loads(definitions["Machine"])["StartAt"] == "Work"


def test_the_validator_is_installed_when_its_lock_changes_and_not_again(somewhere: Path) -> None:
    there, unreachable = saying(validate=Ran(0, "[]", "")), saying(npm=Ran(1, "", "no network"))
    with pytest.raises(NotDone, match=r"not validated \(npm ci: no network\)"):
        machines.check(unreachable, {}, has_npm=True)
    with pytest.raises(NotDone):  # the one that failed has left nothing that passes for it
        machines.check(unreachable, {}, has_npm=True)
    machines.install(saying(npm=Ran(0, "", "")))
    assert machines.check(there, {}, has_npm=True) == Report("0 definitions")
    (somewhere / machines.NODE / "locked.json").write_text("of another version", "utf-8")
    with pytest.raises(NotDone):
        machines.check(unreachable, {}, has_npm=True)


@pytest.mark.parametrize(
    ("properties", "definition"),
    [
        ({"Definition": {"StartAt": "A"}}, '{"StartAt": "A"}'),
        ({"DefinitionString": '{"StartAt": "A"}'}, '{"StartAt": "A"}'),
        ({"DefinitionString": {"Fn::Sub": '{"StartAt": "${A}"}'}}, '{"StartAt": "${A}"}'),
        ({"DefinitionString": {"Fn::Join": ["", ["{", "}"]]}}, "{}"),
    ],
)
def test_a_definition_is_read_in_each_form(properties: Json, definition: str) -> None:
    assert machines.definition("Machine", properties) == definition


def test_a_definition_of_no_known_form_is_not_passed_over() -> None:
    with pytest.raises(Broken, match=r"^Machine: its definition isn't an object"):
        machines.definition("Machine", {"DefinitionS3Location": {"Bucket": "b", "Key": "k"}})


# The layer's bill of materials


def read(name: str) -> Json:
    value: Json = json.loads(recorded(name))
    return value


def layers_bom() -> Json:
    return bom.merged(
        ["pydantic", "protobuf"],
        read("cyclonedx-requirements.json"),
        read("cyclonedx-environment.json"),
    )


def of_component(value: Callable[[Json], object]) -> dict[str, object]:
    return {each["name"]: value(each) for each in layers_bom()["components"]}


def test_the_layers_bom_has_what_the_lock_has_and_nothing_else_of_the_environment() -> None:
    assert of_component(lambda each: each["version"]) == {
        "annotated-types": "0.8.0",
        "protobuf": "7.36.2",
        "pydantic": "2.13.5",
    }


def test_the_layers_bom_has_the_hashes_of_the_lock() -> None:
    hashes = of_component(lambda each: each["externalReferences"][0]["hashes"][0]["content"])
    assert hashes == {"annotated-types": "01" * 32, "protobuf": "02" * 32, "pydantic": "03" * 32}


def test_the_layers_bom_has_the_licenses_of_the_installed_packages() -> None:
    licenses = of_component(lambda each: each["licenses"][0]["license"])
    assert licenses["pydantic"] == {"id": "MIT", "acknowledgement": "declared"}
    name = "3-Clause BSD License"  # no name of SPDX's: cyclonedx-py leaves it out
    assert licenses["protobuf"] == {"name": name, "acknowledgement": "declared"}


def test_the_layers_bom_tells_what_needs_what() -> None:
    purl = {name: f"pkg:pypi/{name}" for name in ("annotated-types", "protobuf", "pydantic")}
    needs = {
        each["ref"].partition("@")[0]: [ref.partition("@")[0] for ref in each["dependsOn"]]
        for each in layers_bom()["dependencies"]
    }
    assert needs == {
        "TelemetryLayer": [purl["protobuf"], purl["pydantic"]],
        purl["annotated-types"]: [],
        purl["protobuf"]: [],
        purl["pydantic"]: [purl["annotated-types"]],
    }


def test_the_order_of_a_lock_does_not_change_the_bom() -> None:
    locked = read("cyclonedx-requirements.json")
    locked["components"].reverse()
    direct = ["protobuf", "pydantic"]
    assert bom.merged(direct, locked, read("cyclonedx-environment.json")) == layers_bom()


def test_a_bom_that_breaks_the_schema_is_no_bom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bom, "BOM", tmp_path / "layer.cdx.json")
    tools = saying(
        validate=Ran(1, "", "'libary' is not one of"),
        requirements=Ran(0, recorded("cyclonedx-requirements.json"), ""),
        environment=Ran(0, recorded("cyclonedx-environment.json"), ""),
    )
    with pytest.raises(Broken, match="'libary' is not one of"):
        bom.check(tools)
