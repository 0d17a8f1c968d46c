"""Deploys another consumer of a stream: a function, its role, and its mapping."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from local.deployment import client, host_architecture, host_python
from local.instance import State

READ_STREAM = ("GetRecords", "GetShardIterator", "ListShards", "DescribeStream")
TIMEOUT_SECONDS = 30
Statement = dict[str, Any]


def create_consumer(
    state: State,
    name: str,
    stream_arn: str,
    files: Mapping[str, str],
    mapping: Mapping[str, Any],
    may_also: Sequence[Statement] = (),
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Deploy a function that gets a stream's records; return its event source mapping.

    `files` has its package's files by name; the first one defines `handler`. Its role may read the
    stream, and is allowed the statements in `may_also` ({Action, Resource}).
    """
    lambdas = client(state, "lambda")
    module = next(iter(files)).removesuffix(".py")
    lambdas.create_function(
        FunctionName=name,
        Runtime=f"python{host_python()}",
        Architectures=[host_architecture()],
        Role=create_role(state, name, stream_arn, may_also),
        Handler=f"{module}.handler",
        Code={"ZipFile": zipped(files)},
        Timeout=TIMEOUT_SECONDS,
        Environment={"Variables": dict(variables or {})},
    )
    created: dict[str, Any] = lambdas.create_event_source_mapping(
        FunctionName=name,
        EventSourceArn=stream_arn,
        **({"StartingPosition": "TRIM_HORIZON"} | dict(mapping)),
    )
    return created


def create_role(state: State, name: str, stream_arn: str, may_also: Sequence[Statement]) -> str:
    """Create a function's role; return its ARN."""
    iam = client(state, "iam")
    trust = {"Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=allowing([trust]))["Role"]
    read = {"Action": [f"kinesis:{action}" for action in READ_STREAM], "Resource": stream_arn}
    document = allowing([read, *may_also])
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=document)
    arn: str = role["Arn"]
    return arn


def allowing(statements: Sequence[Statement]) -> str:
    """Return a policy document that allows these statements and nothing else."""
    allowed = [{"Effect": "Allow"} | statement for statement in statements]
    return json.dumps({"Version": "2012-10-17", "Statement": allowed})


def zipped(files: Mapping[str, str]) -> bytes:
    """Return text files as a ZIP package."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return package.getvalue()


def stream_arn_of(state: State, name: str) -> str:
    """Return the ARN of a stream."""
    answer = client(state, "kinesis").describe_stream_summary(StreamName=name)
    arn: str = answer["StreamDescriptionSummary"]["StreamARN"]
    return arn
