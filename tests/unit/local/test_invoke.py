"""The copies of built templates, by which a function in a container reaches its AWS."""

import json
from pathlib import Path
from typing import Any

from local.invoke import with_endpoint_declared

FUNCTION = {
    "Type": "AWS::Serverless::Function",
    "Properties": {"Environment": {"Variables": {"A": "1"}}},
}


def written(path: Path, **resources: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"Resources": resources}), "utf-8")
    return path


def variables(template: Path, function: str) -> Any:
    resources = json.loads(template.read_text("utf-8"))["Resources"]
    return resources[function]["Properties"]["Environment"]["Variables"]


def nested(location: str, **parameters: Any) -> dict[str, Any]:
    properties = {"TemplateURL": location, "Parameters": parameters}
    return {"Type": "AWS::CloudFormation::Stack", "Properties": properties}


def test_a_functions_endpoint_is_declared_in_a_copy_of_its_template(tmp_path: Path) -> None:
    built = written(tmp_path / "template.yaml", Fn=FUNCTION, Other=FUNCTION)
    copy = with_endpoint_declared(built, "Fn")
    assert variables(copy, "Fn") == {"A": "1", "AWS_ENDPOINT_URL": ""}
    assert variables(copy, "Other") == variables(built, "Fn") == {"A": "1"}


def test_a_nested_functions_endpoint_and_layer_are_where_the_copy_of_the_root_leads(
    tmp_path: Path,
) -> None:
    inner = written(tmp_path / "Inner" / "template.yaml", Fn=FUNCTION)
    parameters = {"Layer": {"Type": "String"}, "Name": {"Type": "String"}}
    inner.write_text(json.dumps(json.loads(inner.read_text()) | {"Parameters": parameters}))
    written(tmp_path / "Next" / "template.yaml", Topic={"Type": "AWS::SNS::Topic"})
    root = {
        "Code": {"Type": "AWS::Serverless::LayerVersion", "Properties": {"ContentUri": "Code"}},
        "Inner": nested("Inner/template.yaml", Layer={"Ref": "Code"}, Name={"Ref": "Name"}),
        "Next": nested("Next/template.yaml"),
    }
    copy = with_endpoint_declared(written(tmp_path / "template.yaml", **root), "Fn")
    found = json.loads(copy.read_text("utf-8"))["Resources"]
    assert (found["Next"], found["Code"]) == (root["Next"], root["Code"])
    assert found["Inner"]["Properties"]["Parameters"] == {"Name": {"Ref": "Name"}}
    own = tmp_path / found["Inner"]["Properties"]["TemplateURL"]
    assert variables(own, "Fn") == {"A": "1", "AWS_ENDPOINT_URL": ""}
    copied = json.loads(own.read_text("utf-8"))
    assert copied["Parameters"] == {"Name": {"Type": "String"}}
    assert copied["Resources"]["Layer"]["Properties"] == {"ContentUri": str(tmp_path / "Code")}
