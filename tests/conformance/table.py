"""The conformance table of docs/event-source-mappings.md: made from the tests, checked by one.

A test marked `as_aws(feature, basis)` shows a feature of AWS's event source mappings; the basis
says how AWS's behaviour is known: recorded, documented or inferred. The other tools' source was
read; peers.json says where.
"""

import ast
import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/event-source-mappings.md"
PEERS = Path(__file__).with_name("peers.json")
BASES = ("recorded", "documented", "inferred")
BEGIN, END = "<!-- conformance: made by `make conformance` -->\n", "<!-- /conformance -->\n"
TOOLS = {
    "ministack": "ministack {}",
    "localstack": "LocalStack {}",
    "sam_local": "sam local {}",
    "serverless_offline": "serverless-offline ({})",
}
YES, NO = "✓", "no"
SHOWN = {"yes": YES, "no": NO}

Marks = Counter[tuple[str, str]]
"""The number of test functions that show a feature, by feature and basis."""


@cache
def peers() -> dict[str, Any]:
    """Return the features of other tools, with the source of each."""
    found: dict[str, Any] = json.loads(PEERS.read_text("utf-8"))
    return found


@cache
def marked() -> Marks:
    """Return the marks of all test functions, from the files' text."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return Counter(mark for file in files for mark in marks_of(ast.parse(file.read_text("utf-8"))))


def marks_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Return the marks of a file's tests, as `@as_aws("feature", "basis")`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("as_aws"):
                feature, basis = (ast.literal_eval(argument) for argument in decorator.args)
                yield feature, basis


def block(marks: Marks) -> str:
    """Return the generated part of the document."""
    return "\n".join(rows(marks)) + "\n"


def rows(marks: Marks) -> Iterator[str]:
    """Return the table, a line each."""
    versions = peers()["versions"]
    tools = [name.format(versions[tool]) for tool, name in TOOLS.items()]
    yield "| " + " | ".join(["feature", "AWS: how we know", "here", *tools]) + " |"
    yield "|" + "---|" * (3 + len(tools))
    for key, feature in peers()["features"].items():
        known = [f"{marks[key, basis]} {basis}" for basis in BASES if marks[key, basis]]
        tests = sum(marks[key, basis] for basis in BASES)
        own = f"{YES} {tests} test{'s' * (tests != 1)}" if tests else "**none**"
        others = [NO if tool == "sam_local" else cell(feature, tool) for tool in TOOLS]
        yield "| " + " | ".join([feature["title"], ", ".join(known), own, *others]) + " |"


def cell(feature: dict[str, Any], tool: str) -> str:
    """Return whether a tool has a feature: yes, partly or no."""
    value = feature["peers"][tool]["value"]
    return SHOWN.get(value, "partly")


def generated(document: str) -> str:
    """Return the generated part as it stands in the document."""
    return document.partition(BEGIN)[2].partition(END)[0]


def with_block(document: str, content: str) -> str:
    """Return the document with another generated part."""
    before, _, rest = document.partition(BEGIN)
    return before + BEGIN + content + END + rest.partition(END)[2]
