"""Validates the state machines of the expanded templates with asl-validator, on node."""

import json
import shutil
from pathlib import Path
from typing import Any

from scan.template import places, resources
from scan.tool import BUILD, ROOT, Broken, Finding, NotDone, Report, Run

HERE = Path("scan/outside")
NODE = Path(".tools/scan/node")
DEFINITIONS = BUILD / "machines.json"
NPM_CI = f"npm ci --prefix {NODE} --ignore-scripts --no-audit --no-fund"
VALIDATE = f"node {NODE}/validate_machines.js"


def check(run: Run, templates: dict[str, Path], *, has_npm: bool) -> Report:
    if not has_npm:
        raise NotDone("not validated (npm not found)")
    install(run)
    found = definitions(templates)
    (ROOT / DEFINITIONS).parent.mkdir(parents=True, exist_ok=True)
    (ROOT / DEFINITIONS).write_text(json.dumps(found, indent=1), "utf-8")
    shutil.copy(ROOT / HERE / "validate_machines.js", ROOT / NODE)
    done = run(VALIDATE, DEFINITIONS)
    if done.code:
        raise done.broken()
    wrong = json.loads(done.out)
    findings = [Finding(rule, machine, text) for machine, rule, text in wrong]
    return Report(f"{len(found)} definitions", findings)


def install(run: Run) -> None:
    """Install the lock's packages into .tools/scan/node.

    A copy of the lock, made last, shows that it is done. npm's own lock there is older than that.
    """
    lock, copy = ROOT / HERE / "package-lock.json", ROOT / NODE / "locked.json"
    if copy.exists() and copy.read_bytes() == lock.read_bytes():
        return
    (ROOT / NODE).mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / HERE / name, ROOT / NODE)
    done = run(NPM_CI)
    if done.code:
        raise NotDone(f"not validated (npm ci: {done.broken()})")
    shutil.copy(lock, copy)


def definitions(templates: dict[str, Path]) -> dict[str, str]:
    """Return each machine's definition as JSON, by the machine's place."""
    at = places(templates)
    return {
        at[template, name]: definition(name, resource["Properties"])
        for template, some in resources(templates).items()
        for name, resource in some.items()
        if resource["Type"] == "AWS::StepFunctions::StateMachine"
    }


def definition(name: str, properties: dict[str, Any]) -> str:
    """Return a machine's definition; raise Broken. SAM writes a Join of lines.

    `${Name}` may stay in it: the validator takes it for an ARN.
    """
    match properties:
        case {"Definition": dict(states)}:
            return json.dumps(states)
        case {"DefinitionString": str(text)} | {"DefinitionString": {"Fn::Sub": str(text)}}:
            return text
        case {"DefinitionString": {"Fn::Join": [str(between), list(lines)]}}:
            return between.join(lines)
    raise Broken(f"{name}: its definition isn't an object, a string, a Sub or a Join")
