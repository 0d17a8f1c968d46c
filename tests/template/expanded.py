"""The templates as CloudFormation gets them: expanded by SAM's translator, which AWS runs, too."""

import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from tests.template import TEMPLATE

ROOT = TEMPLATE.parent
SAM = "AWS::Serverless-2016-10-31"
REGION = "eu-west-1"
Template = dict[str, Any]

# What `sam package` uploads, and the bucket that this stands for: s3://code/functions/alert
UPLOADED = {
    "AWS::Serverless::Function": "CodeUri",
    "AWS::Serverless::LayerVersion": "ContentUri",
    "AWS::Serverless::StateMachine": "DefinitionUri",
}
CODE = "s3://code/"
# At its end the translator says, where nobody listens to its log, that nobody took its metrics.
logging.getLogger("samtranslator").addHandler(logging.NullHandler())


@cache
def templates() -> dict[str, Template]:
    """template.yaml and stacks/*.yaml by path, expanded, with functions in their long form.

    They are shared: who changes one changes a copy.
    """
    paths = [TEMPLATE, *sorted(ROOT.glob("stacks/*.yaml"))]
    return {str(path.relative_to(ROOT)): expanded(path) for path in paths}


def expanded(path: Path) -> Template:
    """One template; plain CloudFormation is as it was. Raises SAM's InvalidDocumentException."""
    template: Template = yaml.load(path.read_text("utf-8"), FunctionsLoader)  # noqa: S506 - it is safe
    transforms = template.get("Transform", [])
    if SAM not in (transforms if isinstance(transforms, list) else [transforms]):
        return template
    for logical_id, resource in template["Resources"].items():
        if logical_id.startswith("Fn::ForEach"):
            raise NotImplementedError(f"{path}: {logical_id} is not expanded here")
        uploaded = UPLOADED.get(resource["Type"])
        if uploaded and uploaded in resource["Properties"]:
            local = resource["Properties"][uploaded]
            resource["Properties"][uploaded] = CODE + repository_path(path, local)
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=REGION))
    out = translator.translate(template, {}, get_managed_policy_map=dict)
    without_aliases: Template = json.loads(json.dumps(out))  # YAML's aliases are one object, shared
    return without_aliases


def repository_path(template: Path, local: str) -> str:
    """A path that a template names, from the repository's root: ../functions/replay/ is one."""
    return os.path.relpath(template.parent / local, ROOT)


class FunctionsLoader(yaml.CSafeLoader):
    """YAML with CloudFormation's tags in their long form: `!Ref X` is {"Ref": "X"}."""


def long_form(loader: yaml.CSafeLoader, tag: str, node: yaml.Node) -> Any:
    name = tag if tag in {"Ref", "Condition"} else f"Fn::{tag}"
    if isinstance(node, yaml.MappingNode):
        return {name: loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: node.value.split(".", 1) if tag == "GetAtt" else node.value}


FunctionsLoader.add_multi_constructor("!", long_form)
