"""Closes a gap of the embedded AWS: a stack can't create a resource whose name exists already.

CloudFormation fails the creation of a resource whose name is in use
("… already exists", https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/troubleshooting.html,
and the error code AlreadyExists of
https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-test-contract-errors.html).
That holds for a bucket's policy, too, although PutBucketPolicy would replace it
(aws-cloudformation/cloudformation-coverage-roadmap, issue 1068; aws-samples/aws-cdk-examples, issue
1022). The emulator (1.5.33) replaces existing resources of many types with empty ones. So a second
deployment beside retained tables succeeded and emptied them.
"""

from collections.abc import Callable
from typing import Any

BY_NAME = {
    "AWS::CloudWatch::Alarm": ("AlarmName", "cloudwatch", "_alarms"),
    "AWS::DynamoDB::GlobalTable": ("TableName", "dynamodb", "_tables"),
    "AWS::DynamoDB::Table": ("TableName", "dynamodb", "_tables"),
    "AWS::IAM::Role": ("RoleName", "iam", "_roles"),
    "AWS::IoT::TopicRule": ("RuleName", "iot", "_topic_rules"),
    "AWS::Kinesis::Stream": ("Name", "kinesis", "_streams"),
    "AWS::Lambda::Function": ("FunctionName", "lambda_svc", "_functions"),
    "AWS::Logs::LogGroup": ("LogGroupName", "cloudwatch_logs", "_log_groups"),
    "AWS::S3::BucketPolicy": ("Bucket", "s3", "_bucket_policies"),
    "AWS::SQS::Queue": ("QueueName", "sqs", "_queue_name_to_url"),
    "AWS::SecretsManager::Secret": ("Name", "secretsmanager", "_secrets"),
}
"""By type: the property with a resource's name, and the place of the emulator's resources."""
BY_ARN = {
    "AWS::KMS::Alias": ("AliasName", "kms", "_aliases", "kms", ""),
    "AWS::SNS::Topic": ("TopicName", "sns", "_topics", "sns", ""),
    "AWS::StepFunctions::StateMachine": (
        "StateMachineName", "stepfunctions", "_state_machines", "states", "stateMachine:",
    ),
}  # fmt: skip
"""The same for resources stored by ARN, with the ARN's service and the part before the name."""
ALREADY_EXISTS = "Resource of type '{kind}' with identifier '{name}' already exists."
ALREADY_EXISTS_BY_TYPE = {
    "AWS::S3::BucketPolicy": "The bucket policy already exists on bucket {name}."
}

Document = dict[str, Any]
Exists = Callable[[str, Document], str | None]
"""Return the name of an existing resource of a type with these properties, or None."""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    stacks = modules.service("cloudformation.stacks")
    refuse_existing(stacks, existence_test(modules))


def refuse_existing(stacks: Any, exists: Exists) -> None:
    """Make `ministack.services.cloudformation.stacks` refuse a name that exists already."""
    provision = stacks._provision_resource

    def provision_unless_there(
        kind: str, logical_id: str, properties: Document, stack_name: str
    ) -> Any:
        name = exists(kind, properties)
        if name is not None:
            message = ALREADY_EXISTS_BY_TYPE.get(kind, ALREADY_EXISTS).format(kind=kind, name=name)
            raise ValueError(f"{message} (HandlerErrorCode: AlreadyExists)")
        return provision(kind, logical_id, properties, stack_name)

    stacks._provision_resource = provision_unless_there


def existence_test(modules: Any) -> Exists:
    """Return a function that looks up existing resources."""
    responses = modules.core("responses")

    def exists(kind: str, properties: Document) -> str | None:
        if kind in BY_NAME:
            key, service, store = BY_NAME[kind]
            name = identifier = properties.get(key)
        elif kind in BY_ARN:
            key, service, store, namespace, before = BY_ARN[kind]
            name = properties.get(key)
            where = f"{responses.get_region()}:{responses.get_account_id()}"
            identifier = f"arn:aws:{namespace}:{where}:{before}{name}"
        else:
            return None
        is_there = name and identifier in getattr(modules.service(service), store)
        return str(name) if is_there else None

    return exists
