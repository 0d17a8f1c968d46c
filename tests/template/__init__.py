"""The templates as data, for tests that hold code or simulation to them."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parent.parent.parent / "template.yaml"
STACKS = TEMPLATE.with_name("stacks")


class TemplateLoader(yaml.CSafeLoader):
    """YAML without CloudFormation's tags: `!Ref X` is "X"."""


def untagged(loader: yaml.CSafeLoader, _tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


TemplateLoader.add_multi_constructor("!", untagged)


def resources(template: str, kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the template's resources of one type, by logical id."""
    return {
        name: resource["Properties"]
        for name, resource in loaded(template)["Resources"].items()
        if resource["Type"] == kind
    }


@cache
def loaded(template: str) -> Any:
    """The whole of it."""
    return yaml.load(template, TemplateLoader)  # noqa: S506 - it is a SafeLoader


def texts() -> tuple[str, ...]:
    """The root template and the nested ones."""
    return tuple(path.read_text("utf-8") for path in (TEMPLATE, *sorted(STACKS.glob("*.yaml"))))


def everywhere(kind: str) -> dict[str, dict[str, Any]]:
    """The same of all templates: a logical id is there once."""
    return {name: each for text in texts() for name, each in resources(text, kind).items()}


@cache
def timeout_seconds(stage: str) -> float:
    """How long a stage's function may run: its own time, or what all have."""
    usual = loaded(TEMPLATE.read_text("utf-8"))["Globals"]["Function"]["Timeout"]
    function = everywhere("AWS::Serverless::Function")[f"{stage.title()}Function"]
    return float(function.get("Timeout", usual))


def filter_patterns(function: str, event: str) -> list[str]:
    """The filters of a function's event source mapping, as the template has them."""
    functions = everywhere("AWS::Serverless::Function")
    criteria = functions[function]["Events"][event]["Properties"].get("FilterCriteria", {})
    return [each["Pattern"] for each in criteria.get("Filters", [])]
