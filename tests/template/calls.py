"""What each call that the code makes asks of IAM, in AWS's names.

A call whose name differs from its permission, or that asks for more than one, has AWS's page beside
it. The others are in the Service Authorization Reference, whose page for a service `policies.page`
tells: https://docs.aws.amazon.com/service-authorization/latest/reference/
"""

from typing import NamedTuple


class Asks(NamedTuple):
    """A permission that a call asks for.

    It depends on words of the code (`code.Use.words`): `when` must be there, `unless` must not.
    `below` is the part that it is for of what the code names; `anywhere`: AWS looks at no resource.
    """

    action: str
    when: str = ""
    unless: str = ""
    below: str = ""
    anywhere: bool = False


# DynamoDB Developer Guide, "IAM security policies with PartiQL for DynamoDB":
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ql-iam.html
PARTIQL = (
    Asks("dynamodb:PartiQLInsert", when="INSERT"),
    Asks("dynamodb:PartiQLUpdate", when="UPDATE"),
    Asks("dynamodb:PartiQLDelete", when="DELETE"),
    Asks("dynamodb:PartiQLSelect", when="SELECT"),
)
# "Using IAM with DynamoDB transactions":
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
TRANSACTION = (
    Asks("dynamodb:PutItem", when="Put"),
    Asks("dynamodb:UpdateItem", when="Update"),
    Asks("dynamodb:DeleteItem", when="Delete"),
    Asks("dynamodb:ConditionCheckItem", when="ConditionCheck"),
)

CALLS: dict[str, tuple[Asks, ...]] = {
    "cloudwatch.get_metric_data": (Asks("cloudwatch:GetMetricData"),),
    "dynamodb.batch_execute_statement": PARTIQL,
    "dynamodb.batch_get_item": (Asks("dynamodb:BatchGetItem"),),
    "dynamodb.batch_write_item": (Asks("dynamodb:BatchWriteItem"),),
    "dynamodb.delete_item": (Asks("dynamodb:DeleteItem"),),
    "dynamodb.get_item": (Asks("dynamodb:GetItem"),),
    "dynamodb.put_item": (Asks("dynamodb:PutItem"),),
    "dynamodb.query": (
        Asks("dynamodb:Query", unless="IndexName"),
        Asks("dynamodb:Query", when="IndexName", below="/index/*"),
    ),
    "dynamodb.scan": (Asks("dynamodb:Scan"),),
    "dynamodb.transact_write_items": TRANSACTION,
    "dynamodb.update_item": (Asks("dynamodb:UpdateItem"),),
    "events.put_events": (Asks("events:PutEvents"),),
    # By a version's id Glue knows no registry to check (IAM examples for deserializers):
    # https://docs.aws.amazon.com/glue/latest/dg/schema-registry-gs.html
    "glue.get_schema_version": (Asks("glue:GetSchemaVersion", anywhere=True),),
    "kinesis.put_records": (Asks("kinesis:PutRecords"),),
    # https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
    "lambda.invoke": (Asks("lambda:InvokeFunction"),),
    "s3.delete_object": (Asks("s3:DeleteObject"),),
    # Without ListBucket a key that isn't there is a 403, not NoSuchKey:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
    "s3.get_object": (Asks("s3:GetObject"), Asks("s3:ListBucket", when="NoSuchKey")),
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    "s3.list_objects_v2": (Asks("s3:ListBucket"),),
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    "s3.put_object": (Asks("s3:PutObject"), Asks("s3:GetObject", when="IfMatch")),
    "secretsmanager.get_secret_value": (Asks("secretsmanager:GetSecretValue"),),
    "sns.publish": (Asks("sns:Publish"),),
    "sqs.change_message_visibility": (Asks("sqs:ChangeMessageVisibility"),),
    "sqs.delete_message": (Asks("sqs:DeleteMessage"),),
    "sqs.receive_message": (Asks("sqs:ReceiveMessage"),),
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
    "sqs.send_message_batch": (Asks("sqs:SendMessage"),),
}
