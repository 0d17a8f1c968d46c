"""template.yaml as data, for tests that hold code or simulation to it."""

from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parent.parent / "template.yaml"


class TemplateLoader(yaml.SafeLoader):
    """YAML without CloudFormation's tags: `!Ref X` is "X"."""


def untagged(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


TemplateLoader.add_multi_constructor("!", untagged)


def parsed_template(template: str) -> dict[str, Any]:
    """All of a template."""
    document: dict[str, Any] = yaml.load(template, TemplateLoader)  # noqa: S506 - it is a SafeLoader
    return document


def resources(template: str, kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the template's resources of one type, by logical id."""
    return {
        name: resource["Properties"]
        for name, resource in parsed_template(template)["Resources"].items()
        if resource["Type"] == kind
    }


def filter_patterns(function: str, event: str) -> list[str]:
    """The filters of a function's event source mapping, as the template has them."""
    functions = resources(TEMPLATE.read_text("utf-8"), "AWS::Serverless::Function")
    criteria = functions[function]["Events"][event]["Properties"].get("FilterCriteria", {})
    return [each["Pattern"] for each in criteria.get("Filters", [])]
