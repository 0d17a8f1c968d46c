"""The rendering that other tests build on."""

from typing import Any

import pytest

from tests.template.rendered import deployed

BUCKET = "AWS::S3::Bucket"
ROOT: dict[str, Any] = {
    "Parameters": {"Days": {"Type": "Number", "Default": 0}, "Name": {"Type": "String"}},
    "Conditions": {"HasDays": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Days"}, 0]}]}},
    "Resources": {
        "Mine": {
            "Type": BUCKET,
            "Properties": {"BucketName": {"Fn::Sub": "${AWS::StackName}-mine"}},
        },
        "Kept": {"Type": BUCKET, "Condition": "HasDays"},
        "Inner": {
            "Type": "AWS::CloudFormation::Stack",
            "Properties": {
                "TemplateURL": "stacks/inner.yaml",
                "Parameters": {"Bucket": {"Fn::GetAtt": ["Mine", "Arn"]}},
            },
        },
        "Rule": {"Type": "X", "Properties": {"At": {"Fn::GetAtt": ["Inner", "Outputs.Url"]}}},
    },
}
INNER: dict[str, Any] = {
    "Parameters": {"Bucket": {"Type": "String"}},
    "Resources": {
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Policy": {"Type": "X", "Properties": {"On": {"Fn::Sub": "${Bucket}/*"}, "Not": "${!x}"}},
    },
    "Outputs": {"Url": {"Value": {"Ref": "Queue"}}},
}
STACKS = {"template.yaml": ROOT, "stacks/inner.yaml": INNER}


def test_a_nested_stack_has_the_parameters_that_the_root_gives_it_and_the_root_its_outputs() -> (
    None
):
    found = {each.logical_id: each for each in deployed(STACKS)}
    assert found["Policy"].properties["On"] == "arn:aws:s3:::telemetry-mine/*"
    queue = "telemetry-Inner-1A2B3C4D5E6F-Queue-1A2B3C4D5E6F"
    assert found["Rule"].properties["At"].endswith(f"/111122223333/{queue}")
    assert found["Queue"].stack == "stacks/inner.yaml"


def test_what_is_optional_is_switched_on() -> None:
    assert "Kept" in {each.logical_id for each in deployed(STACKS)}


def test_a_resource_is_found_by_its_name_its_ref_and_its_arn() -> None:
    made = deployed(STACKS)
    (queue,) = made.of("AWS::SQS::Queue")
    assert {made.arn("sqs", each) for each in (queue.name, queue.ref, queue.arn)} == {queue.arn}
    assert made.arn("sqs", "telemetry-mine") is None


def test_a_function_that_is_not_known_is_told_of() -> None:
    unknown = {"Resources": {"A": {"Type": "X", "Properties": {"B": {"Fn::Cidr": []}}}}}
    with pytest.raises(ValueError, match="Fn::Cidr is not in FUNCTIONS"):
        deployed({"template.yaml": unknown})
