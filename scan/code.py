"""Checks the code with bandit, for the rules that ruff lacks."""

import ast
import json

from scan.tool import ROOT, Broken, Finding, Json, Report, Run, repository

# --ignore-nosec: accepted.yaml is the one place for exceptions.
BANDIT = ".tools/scan/bin/bandit --ignore-nosec --configfile pyproject.toml --quiet --format json"


def check(run: Run) -> Report:
    files = repository(run, "*.py", ":!tests/")
    done = run(BANDIT, *files)
    if done.code not in {0, 1}:
        raise done.broken()
    answer = json.loads(done.out)
    if unread := answer["errors"]:
        raise Broken("\n".join(f"{each['filename']}: {each['reason']}" for each in unread))
    return Report(f"{len(files)} files", [found(each) for each in answer["results"]])


def found(result: Json) -> Finding:
    """Return a result as a finding; its place is its file and the function around it."""
    file, line = result["filename"].removeprefix("./"), result["line_number"]
    place = f"{file} {enclosing((ROOT / file).read_text('utf-8'), line)}".rstrip()
    return Finding(result["test_id"], place, f"{file}:{line}: {result['issue_text']}")


def enclosing(source: str, line: int) -> str:
    """Return the function or class around a line, such as `Store.add`; empty for the module."""
    names: list[str] = []
    nodes: list[ast.AST] = [*ast.parse(source).body]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, ast.stmt) or not node.lineno <= line <= (node.end_lineno or 0):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        nodes = [*ast.iter_child_nodes(node)]
    return ".".join(names)
