"""The house rules: each is a function that lists its violations. The last test breaks each rule."""

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from telemetry.domain.rule import filter_pattern, load_rules

from local.cli import parser
from tests.template import loaded, resources

ROOT = Path(__file__).parent.parent
LAYER = "layers/telemetry/telemetry"
LONGEST_FUNCTION_LINES = 60


@cache
def files() -> tuple[str, ...]:
    """Return every file that is committed or would be."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(sorted(name for name in set(out.splitlines()) if (ROOT / name).is_file()))


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8", errors="replace")


@cache
def syntax_of(source: str) -> ast.Module:
    """Return code parsed, once for all rules: no rule changes it."""
    return ast.parse(source)


@cache
def nodes_of(tree: ast.AST) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree))


# The code: a rule takes a module and lists "line: what is wrong".

CodeRule = Callable[[ast.Module], list[str]]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield each import's line and full name."""
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def importing(tree: ast.AST, *packages: str) -> list[str]:
    return [
        f"{line}: imports {name}"
        for line, name in imports(tree)
        if any(f"{name}.".startswith(f"{package}.") for package in packages)
    ]


def impurities(tree: ast.Module) -> list[str]:
    """Yield imports that a domain may not have: AWS, the environment, the clock, logging."""
    clock = [
        f"{node.lineno}: reads the clock: {node.attr}()"
        for node in nodes_of(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
    ]
    aws = ("boto3", "botocore", "aws_lambda_powertools", "aws_xray_sdk", "telemetry.aws")
    return importing(tree, *aws, "os", "time", "logging") + clock


def sdk_uses(tree: ast.Module) -> list[str]:
    return importing(tree, "boto3", "botocore")


def local_uses(tree: ast.Module) -> list[str]:
    return importing(tree, "local", "emulator")


PRODUCT = ("telemetry", "telemetry_client", "functions", "contract", "ops", "tests", "benchmarks")


def uses_of_the_product(tree: ast.Module) -> list[str]:
    return importing(tree, *PRODUCT)


def words_of_the_product(source: str) -> list[str]:
    """Yield where the emulator names its users or this project's commands."""
    return [
        f"{source.count(chr(10), 0, found.start()) + 1}: says {found.group()}"
        for found in re.finditer(r"(?i)telemetry|\bmake (up|run)\b|python -m local\b", source)
    ]


FOR_EITHER_PYTHON = ("event_pattern", "states_language", "sigv4", "locks")
"""Modules of the emulator that both its interpreter and the project's import."""


def strange_to_the_emulators_interpreter(tree: ast.Module) -> list[str]:
    """Yield imports that `.tools/aws` lacks: not the standard library, ministack or these."""
    known = {*sys.stdlib_module_names, "ministack"}
    return [
        f"{line}: imports {name}"
        for line, name in imports(tree)
        if name.partition(".")[0] not in known
        and not name.startswith(tuple(f"emulator.{each}" for each in ("gaps", *FOR_EITHER_PYTHON)))
    ]


# From the top down; a part imports those below it.
PARTS_OF_LOCAL = (("cli", "commands", "invoke", "tracing"), ("trial",), ("fleet",))


def upward_imports(tree: ast.Module, part: str) -> list[str]:
    """Yield imports of parts of `local` above this one; other modules of `local` are the lowest."""
    above: list[str] = []
    for level in PARTS_OF_LOCAL:
        if part in level:
            break
        above += level
    return importing(tree, *(f"local.{name}" for name in above))


def missing_from_layer(tree: ast.Module) -> list[str]:
    """Yield imports that neither the layer nor the Lambda runtime has, except those for types."""
    lock = text("layers/telemetry/requirements.txt")
    pinned = set(re.findall(r"^[\w.-]+(?===)", lock, re.MULTILINE))
    brought = {"telemetry", "boto3", "botocore", *sys.stdlib_module_names}
    brought |= {package for package, names in distributions().items() if pinned & names}
    return [
        f"{line}: imports {name}"
        for line, name in imports(without_types(tree))
        if name.partition(".")[0] not in brought
    ]


def without_types(tree: ast.Module) -> ast.Module:
    """Return the module as it runs, without imports for types only."""
    runs = [node for node in tree.body if not (isinstance(node, ast.If) and names_types(node))]
    return ast.Module(runs, [])


def names_types(branch: ast.If) -> bool:
    return isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"


@cache
def distributions() -> dict[str, set[str]]:
    """Return the distributions of each package, as a lock names them."""
    found = packages_distributions().items()
    return {package: {name.lower().replace("_", "-") for name in names} for package, names in found}


def long_functions(tree: ast.Module) -> list[str]:
    return [
        f"{node.lineno}: {node.name} has {lines} lines"
        for node in nodes_of(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION_LINES
    ]


def breaking(rule: CodeRule, *folders: str, but: str = "-") -> list[str]:
    """Return the violations of a rule in the folders' modules, except in the folder `but`."""
    return [
        f"{name}:{problem}"
        for name in files()
        if name.endswith(".py") and name.startswith(folders) and not name.startswith(but)
        for problem in rule(syntax_of(text(name)))
    ]


NO_CIRCLES = (
    *("functions/", f"{LAYER}/", "ops/", "contract/", "local/", "emulator/", "tests/simulation/"),
    *("clients/python/src/", "benchmarks/"),
)
IMPORT_ROOTS = ("layers/telemetry/", "clients/python/src/")  # and the repository itself


def module_name(file: str) -> str:
    """Return the name under which a file is imported."""
    for root in IMPORT_ROOTS:
        file = file.removeprefix(root)
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(sources: dict[str, str]) -> list[str]:
    """Return the first circle of modules that import each other, by their names.

    An import inside a function, or for types, counts as any other. `from a import b`
    takes both `a` and, if it is a module, `a.b`. `from a.b import c` doesn't take `a`: a package's
    `__init__` may hand on what its modules define.
    """
    arrows: dict[str, list[str]] = {}
    for module, source in sources.items():
        names = [name for _, name in imports(syntax_of(source))]
        taken = {each for name in names for each in (name, name.rpartition(".")[0])}
        arrows[module] = sorted(taken & sources.keys() - {module})
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return [" is imported by ".join(error.args[1])]
    return []


def test_the_domain_knows_no_aws_environment_clock_or_logging() -> None:
    assert breaking(impurities, f"{LAYER}/domain/") == []


def test_only_adapters_use_boto3() -> None:
    assert breaking(sdk_uses, "functions/", LAYER, but=f"{LAYER}/aws/") == []


def test_what_is_deployed_knows_nothing_of_the_local_run() -> None:
    assert breaking(local_uses, "functions/", LAYER) == []


def test_the_emulator_knows_nothing_of_the_local_run_or_of_what_runs_on_it() -> None:
    in_local = breaking(lambda tree: importing(tree, "local"), "emulator/")
    said = [
        f"{name}:{problem}"
        for name in files()
        if name.startswith("emulator/")
        for problem in words_of_the_product(text(name))
    ]
    assert in_local + breaking(uses_of_the_product, "emulator/") + said == []


def test_what_runs_in_the_emulators_interpreter_imports_only_what_that_has() -> None:
    modules = ("launcher", *FOR_EITHER_PYTHON)
    there = (*(f"emulator/{name}.py" for name in modules), "emulator/gaps/")
    packages = (
        "emulator/__init__.py",
        "emulator/mappings/__init__.py",
        "emulator/mqtt/__init__.py",
    )
    assert breaking(strange_to_the_emulators_interpreter, *there, *packages) == []


def test_the_local_run_reaches_the_pipeline_only_from_outside() -> None:
    assert breaking(lambda tree: importing(tree, "telemetry", "functions"), "local/") == []


def test_the_parts_of_the_local_run_import_downwards() -> None:
    modules = [name for name in files() if name.startswith("local/") and name.endswith(".py")]
    wrong = [
        f"{name}:{problem}"
        for name in modules
        for problem in upward_imports(syntax_of(text(name)), part_of_local(name))
    ]
    assert wrong == []


def part_of_local(name: str) -> str:
    """Return the folder or module directly under `local/`; the entry point counts as `cli`."""
    return name.split("/")[1].removesuffix(".py").replace("__main__", "cli")


def test_what_is_deployed_imports_only_what_the_layer_brings() -> None:
    assert breaking(missing_from_layer, "functions/", LAYER) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = [name for name in files() if name.endswith(".py") and name.startswith(NO_CIRCLES)]
    assert circles({module_name(name): text(name) for name in modules}) == []


def test_no_function_is_over_60_lines() -> None:
    assert breaking(long_functions, "") == []


# The templates.

STACKS = tuple(name for name in files() if name.startswith("stacks/"))
TEMPLATES = ("template.yaml", *STACKS)


LONGEST_TEMPLATE_LINE = 120
LONGEST_ROOT_TEMPLATE = 900


def long_lines(template: str) -> list[str]:
    return [
        f"{number}: has {len(line)} characters"
        for number, line in enumerate(template.splitlines(), 1)
        if len(line) > LONGEST_TEMPLATE_LINE
    ]


def unpaired_folders(template: str, folders: set[str]) -> list[str]:
    """Yield functions whose CodeUri has no folder, and folders without a function."""
    return sorted(code_folders(template) ^ folders)


def code_folders(template: str) -> set[str]:
    """Return the folders of a template's functions, relative to the repository."""
    functions = resources(template, "AWS::Serverless::Function").values()
    return {function["CodeUri"].strip("./") for function in functions}


def unlike_the_rules(template: str, rules: str) -> list[str]:
    """Yield the alert function's filters that differ from the compiled rules."""
    alert = resources(template, "AWS::Serverless::Function")["AlertFunction"]
    patterns = [
        json.loads(each["Pattern"])
        for event in alert["Events"].values()
        for each in event["Properties"]["FilterCriteria"]["Filters"]
    ]
    expected = filter_pattern(load_rules(rules))
    return [] if patterns == expected else [f"{patterns}, and the rules say {expected}"]


def unlike_the_plan(template: str, handler: str) -> list[str]:
    """Yield a difference between a replay's concurrency and the parts that share its rate."""
    states = resources(template, "AWS::Serverless::StateMachine")["ReplayMachine"]["Definition"]
    planned = re.findall(r"^PARTS_AT_ONCE = (\d+)", handler, re.MULTILINE)
    at_once = str(states["States"]["Hours"]["MaxConcurrency"])
    return [] if planned == [at_once] else [f"{at_once}, and the plan says {planned}"]


def refused_nulls(template: str) -> list[str]:
    """Yield where the template has a null, except in definitions of machines: SAM makes them texts.

    CloudFormation refuses every other: 'null' values are not allowed in templates.
    """
    return [
        name
        for name, resource in loaded(template)["Resources"].items()
        if resource["Type"] != "AWS::Serverless::StateMachine" and has_null(resource)
    ]


def has_null(value: Any) -> bool:
    """Return whether a value contains a null."""
    if isinstance(value, dict | list):
        return any(map(has_null, value.values() if isinstance(value, dict) else value))
    return value is None


def test_each_function_has_its_folder_and_each_folder_its_function() -> None:
    folders = {str(Path(name).parent) for name in files() if name.startswith("functions/")}
    nested = {folder for name in STACKS for folder in code_folders(text(name))}
    assert unpaired_folders(text("template.yaml"), folders - nested) == []
    assert nested <= folders


def test_cloudformation_gets_no_null() -> None:
    assert [each for name in TEMPLATES for each in refused_nulls(text(name))] == []


def test_a_template_can_be_read_in_one_sitting() -> None:
    assert [f"{name}:{each}" for name in TEMPLATES for each in long_lines(text(name))] == []
    assert len(text("template.yaml").splitlines()) < LONGEST_ROOT_TEMPLATE


def test_a_logical_id_is_in_one_template_only() -> None:
    ids = [each for name in TEMPLATES for each in loaded(text(name))["Resources"]]
    assert sorted(ids) == sorted(set(ids))


def test_the_event_filters_are_those_of_the_rules() -> None:
    assert unlike_the_rules(text("template.yaml"), text("rules.yaml")) == []


def test_a_replay_does_as_many_parts_at_once_as_it_shares_its_rate_among() -> None:
    assert unlike_the_plan(text("stacks/recovery.yaml"), text("functions/replay/handler.py")) == []


# The documents: what they tell people to type or to open is there.

FENCED = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
MAKE = re.compile(r"\bmake (?:\w+=\S+ )*([a-z]+(?:-[a-z]+)*)")
COMMAND = r"((?:python -m local|make(?= run| up| down)) (\w+(?: [a-z]+(?= |$))?).*)"
LOCAL = re.compile(COMMAND, re.MULTILINE)
FILE_NAME = re.compile(r"[\w./-]+\.(avsc|json|md|py|toml|txt|yaml|yml)")
MADE = (".venv/", ".tools/", ".aws-sam/", ".local/")  # not committed: made here


def untrue(document: str, local_help: Callable[[str], str]) -> list[str]:
    """Yield names in a document that don't exist: targets, commands of `local`, options, paths."""
    fenced = "\n".join(FENCED.findall(document)).replace("\\\n", "")
    inline = INLINE.findall(FENCED.sub("", document))
    code = "\n".join([fenced, *inline])
    made = set(re.findall(r"^[a-z-]+(?=:)", text("Makefile"), re.MULTILINE))
    wrong = [f"make {each}" for each in MAKE.findall(code) if each not in made]
    for line, command in LOCAL.findall(code):
        known = local_help(command)
        options = re.findall(r"--[a-z-]+", line)
        wrong += [] if known else [f"python -m local {command}"]
        wrong += [f"{command} {option}" for option in options if option not in known]
    named = [word for word in re.split(r"[\s=\"']+", fenced) if "/" in word] + inline
    named = [name for name in named if FILE_NAME.fullmatch(name) or top_folder(name)]
    return wrong + [name for name in named + LINK.findall(document) if not is_there(name)]


def top_folder(name: str) -> bool:
    top, slash, _ = name.partition("/")
    return bool(slash) and any(file.startswith(f"{top}/") for file in files())


def is_there(name: str) -> bool:
    """Return whether a path, or the end of a path, is a file or folder of the repository."""
    ends = (f"/{name}", f"/{name.rstrip('/')}/")
    return name.startswith(MADE) or any(end in f"/{file}" for end in ends for file in files())


@cache
def help_of_local(command: str) -> str:
    """Return the help of a subcommand of `python -m local`; empty if there is none."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(io.StringIO()), suppress(SystemExit):
        parser().parse_args([*command.split(), "--help"])
    return told.getvalue()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_the_documents_name_is_there(name: str) -> None:
    assert untrue(text(name), help_of_local) == []


# Every file.

UNFIT = {
    "unfinished": r"\b(TODO|FIXME|XXX)\b",
    "somebody's home folder": r"(?<![\w.])/(home|root|Users)/\w",
    # AWS's documents and emulators use the three that are let through
    "an account": r"(?<![\w.-])(?!0{12}|111122223333|123456789012)\d{12}(?![\w-])",
    "a package index": r"--(extra-)?index-url|--find-links|https?://\S+/simple\b",
}


def unfit(content: str) -> list[str]:
    return [
        f"{content.count(chr(10), 0, found.start()) + 1}: {what}: {found.group()}"
        for what, pattern in UNFIT.items()
        for found in re.finditer(pattern, content)
    ]


def test_no_file_is_unfinished_or_tells_where_it_was_written() -> None:
    others = [name for name in files() if ROOT / name != Path(__file__)]
    assert [f"{name}:{problem}" for name in others for problem in unfit(text(name))] == []


# Each rule fails where it should.

FUNCTION = "Resources: {AlertFunction: {Type: 'AWS::Serverless::Function', Properties: {%s}}}"
FILTERED = FUNCTION % "Events: {S: {Properties: {FilterCriteria: {Filters: [{Pattern: '%s'}]}}}}"
RULES = "rules: [{name: hot, metric: temperature, above: %s, clears_below: 1, severity: info}]"
TABLE = "Resources: {ArchiveTable: {Type: 'AWS::Glue::Table', Properties: {TableInput: %s}}}"
MACHINE = "Resources: {ReplayMachine: {Type: 'AWS::Serverless::StateMachine', Properties: %s}}"
MAP = MACHINE % "{Definition: {States: {Hours: {MaxConcurrency: 4}}}}"
COLDER = '{"data": {"temperature": [{"numeric": [">", 37]}]}}'


def parsed(rule: CodeRule) -> Callable[[str], list[str]]:
    return lambda source: rule(ast.parse(source))


@pytest.mark.parametrize(
    ("rule", "offence"),
    [
        (parsed(impurities), "import boto3"),
        (parsed(impurities), "from aws_lambda_powertools import Logger"),
        (parsed(impurities), "from telemetry.aws import stream"),
        (parsed(impurities), "from os import environ"),
        (parsed(impurities), "import logging"),
        (parsed(impurities), "def f():\n  import time"),
        (parsed(impurities), "at = datetime.now(UTC)"),
        (parsed(sdk_uses), "from botocore.exceptions import ClientError"),
        (parsed(local_uses), "from local import api"),
        (parsed(local_uses), "from emulator.instance import State"),
        (parsed(uses_of_the_product), "from telemetry.domain import rule"),
        (parsed(uses_of_the_product), "import ops.cli"),
        (words_of_the_product, "# the stack is called telemetry"),
        (words_of_the_product, "start it with `python -m local up`"),
        (parsed(strange_to_the_emulators_interpreter), "import rich"),
        (parsed(strange_to_the_emulators_interpreter), "from emulator.mqtt import sql"),
        (lambda source: upward_imports(ast.parse(source), "fleet"), "from local.trial import run"),
        (lambda source: upward_imports(ast.parse(source), "view"), "from local.fleet import rules"),
        (lambda source: upward_imports(ast.parse(source), "trial"), "from local import commands"),
        (parsed(missing_from_layer), "import httpx"),
        (lambda source: circles({"p.a": source, "p.b": "from p.a import f"}), "from p import b"),
        (lambda source: circles({"p.a": source, "p.b": "import p.a"}), "def f():\n  import p.b"),
        (lambda source: circles({"p": source, "p.a": "from p import b"}), "from p.a import f"),
        (parsed(long_functions), "def f():\n" + "  pass\n" * LONGEST_FUNCTION_LINES),
        (long_lines, f"Description: {'long ' * 30}"),
        (lambda template: unpaired_folders(template, set()), FUNCTION % "CodeUri: functions/gone"),
        (lambda template: unpaired_folders(template, {"functions/new"}), "Resources: {}"),
        (lambda pattern: unlike_the_rules(FILTERED % pattern, RULES % 38), COLDER),
        (refused_nulls, TABLE % "{StorageDescriptor: [{Parameters: null}]}"),
        (lambda handler: unlike_the_plan(MAP, handler), "PARTS_AT_ONCE = 5"),
        (lambda words: untrue(words, lambda _: "--for"), "`make tea`"),
        (lambda words: untrue(words, lambda _: "--for"), '```sh\nmake run ARGS="--four 30s"\n```'),
        (lambda words: untrue(words, lambda _: ""), "`python -m local fly`"),
        (lambda words: untrue(words, lambda _: ""), "`functions/gone`"),
        (lambda words: untrue(words, lambda _: ""), "```\ncat docs/gone.md\n```"),
        (lambda words: untrue(words, lambda _: ""), "[why](docs/gone.md)"),
        (unfit, "# TODO: later"),
        (unfit, "see /home/someone/notes"),
        (unfit, "arn:aws:sns:eu-west-1:999988887777:notices"),
        (unfit, "--extra-index-url https://packages.example/simple"),
    ],
)
def test_each_rule_can_fail(rule: Callable[[str], list[str]], offence: str) -> None:
    assert rule(offence) != []
