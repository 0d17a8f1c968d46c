"""The template by which what a deleted stack has left is imported."""

from typing import Any

import pytest

from ops.errors import OpsError
from ops.retained import Deleted, Retained, import_of, next_parameters

ARN = "arn:aws:cloudformation:eu-west-1:111122223333:stack/telemetry-prod/0a1b"
KEY = Retained("AWS::KMS::Key", "mrk-1", {"Arn": "arn:aws:kms:eu-west-1:111122223333:key/mrk-1"})
BUCKET = Retained("AWS::S3::Bucket", "my-bucket", {})
PARAMETERS = {"Name": "prod", "Days": "0", "Replica": "", "Protect": "true"}
CONDITIONS = {
    "HasReplica": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Replica"}, ""]}]},
    "HasDays": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Days"}, 0]}]},
    "IsProtected": {"Fn::Equals": [{"Ref": "Protect"}, True]},
    "Both": {"Fn::And": [{"Condition": "IsProtected"}, {"Condition": "HasDays"}]},
    "Either": {"Fn::Or": [{"Condition": "IsProtected"}, {"Condition": "HasDays"}]},
}


def deleted(properties: dict[str, Any], **changes: Any) -> Deleted:
    """A stack that has left a key, and a bucket with these properties."""
    template = {
        "Transform": "AWS::Serverless-2016-10-31",
        "Parameters": {name: {"Type": "String"} for name in PARAMETERS},
        "Conditions": CONDITIONS,
        "Resources": {
            "Key": {"Type": "AWS::KMS::Key", "DeletionPolicy": "RetainExceptOnCreate"},
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "DependsOn": "Queue",
                "DeletionPolicy": "RetainExceptOnCreate",
                "UpdateReplacePolicy": "Retain",
                "Metadata": {"SamResourceId": "Bucket"},
                "Properties": properties,
            },
            "Queue": {"Type": "AWS::SQS::Queue"},
        },
        "Outputs": {"Bucket": {"Value": {"Ref": "Bucket"}}},
    }
    known: dict[str, Any] = {
        "arn": ARN,
        "template": template,
        "parameters": PARAMETERS,
        "outputs": {},
        "retained": {"Key": KEY, "Bucket": BUCKET},
    }
    return Deleted(**known | changes)


def property_of(expression: Any) -> Any:
    """What a property of the bucket is in the import; None where it isn't there."""
    resources = import_of(deleted({"It": expression})).template["Resources"]
    return resources["Bucket"]["Properties"].get("It")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (7, 7),
        (True, True),
        ({}, {}),
        ({"Ref": "Name"}, "prod"),
        ({"Ref": "Key"}, "mrk-1"),
        ({"Ref": "AWS::Region"}, "eu-west-1"),
        ({"Ref": "AWS::AccountId"}, "111122223333"),
        ({"Ref": "AWS::StackName"}, "telemetry-prod"),
        ({"Ref": "AWS::URLSuffix"}, "amazonaws.com"),
        ({"Fn::GetAtt": ["Key", "Arn"]}, KEY.attributes["Arn"]),
        ({"Fn::GetAtt": "Key.Arn"}, KEY.attributes["Arn"]),
        ({"Fn::Sub": "${Name}-a-${AWS::Region}"}, "prod-a-eu-west-1"),
        ({"Fn::Sub": "${Key.Arn}!"}, KEY.attributes["Arn"] + "!"),
        ({"Fn::Sub": "${!Name}"}, "${Name}"),
        ({"Fn::Sub": ["${It}-${Name}", {"It": {"Ref": "Key"}}]}, "mrk-1-prod"),
        ({"Fn::If": ["HasReplica", "yes", "no"]}, "no"),
        ({"Fn::If": ["HasDays", "yes", "no"]}, "no"),
        ({"Fn::If": ["IsProtected", "yes", "no"]}, "yes"),
        ({"Fn::If": ["Both", "yes", "no"]}, "no"),
        ({"Fn::If": ["Either", "yes", "no"]}, "yes"),
        ({"Fn::If": ["HasReplica", {"Ref": "Queue"}, "no"]}, "no"),
        ({"Fn::If": ["HasDays", 1, {"Ref": "AWS::NoValue"}]}, None),
        ([1, {"Fn::If": ["HasDays", 2, {"Ref": "AWS::NoValue"}]}, 3], [1, 3]),
        ({"A": {"Ref": "AWS::NoValue"}, "B": {"Ref": "Days"}}, {"B": "0"}),
    ],
)
def test_a_property_is_what_the_deleted_stack_had(expression: Any, value: Any) -> None:
    assert property_of(expression) == value


def test_an_import_has_what_was_left_by_name_and_nothing_else() -> None:
    made = import_of(deleted({"BucketName": {"Fn::Sub": "${Name}-bucket"}}))
    policies = {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "prod-bucket"}}
    assert made.template == {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "Key": {"Type": "AWS::KMS::Key", "Properties": {}} | policies,
            "Bucket": bucket | policies,
        },
    }
    assert made.resources == [
        {
            "ResourceType": "AWS::KMS::Key",
            "LogicalResourceId": "Key",
            "ResourceIdentifier": {"KeyId": "mrk-1"},
        },
        {
            "ResourceType": "AWS::S3::Bucket",
            "LogicalResourceId": "Bucket",
            "ResourceIdentifier": {"BucketName": "my-bucket"},
        },
    ]
    assert made.left_out == {}


def test_a_property_that_refers_to_what_is_gone_is_left_out_whole_and_told_of() -> None:
    rules = [{"Event": "s3:ObjectCreated:*", "Queue": {"Fn::GetAtt": ["Queue", "Arn"]}}]
    properties = {"Notifications": {"Queues": rules}, "BucketName": "my-bucket"}
    made = import_of(deleted(properties))
    assert made.template["Resources"]["Bucket"]["Properties"] == {"BucketName": "my-bucket"}
    assert made.left_out == {"Bucket.Notifications": "Queue"}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ({"Fn::ImportValue": "x"}, "Bucket.It: adopt doesn't know Fn::ImportValue"),
        ({"Fn::GetAtt": ["Key", "Alias"]}, "Bucket.It: adopt doesn't know Key.Alias"),
    ],
)
def test_what_cant_be_put_in_is_named(expression: Any, reason: str) -> None:
    with pytest.raises(OpsError, match=reason):
        property_of(expression)


def test_a_type_that_an_import_names_in_an_unknown_way_is_refused() -> None:
    stream = Retained("AWS::Kinesis::Stream", "prod-readings", {})
    with pytest.raises(OpsError, match=r"Stream: adopt doesn't know how .* AWS::Kinesis::Stream"):
        import_of(deleted({}, retained={"Stream": stream}))


def test_the_next_deployment_has_the_parameters_of_the_last_and_its_schema_ids() -> None:
    ids = "11111111-2222-3333-4444-555555555555=1"
    stack = deleted(
        {},
        parameters=PARAMETERS | {"OtherSchemaIds": ""},
        outputs={"ReadingSchemaIds": ids},
    )
    expected = {"Name": "prod", "Days": "0", "Protect": "true", "OtherSchemaIds": ids}
    assert next_parameters(stack) == expected


def test_a_template_without_that_parameter_gets_none() -> None:
    stack = deleted({}, outputs={"ReadingSchemaIds": "11111111-2222-3333-4444-555555555555=1"})
    assert next_parameters(stack) == {"Name": "prod", "Days": "0", "Protect": "true"}
