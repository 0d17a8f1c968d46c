"""Closes gaps of the embedded AWS: permissions on a table's stream, trust, and transport.

On AWS a permission on one table's stream allows no other. The emulator (1.5.33) finds no resource
in requests to DynamoDB streams, so a permission that names a stream allowed nothing.
"""

import dataclasses
import json
from typing import Any

STREAMS = "dynamodbstreams"


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    know_table_streams(modules.core("iam_actions"), modules.service("dynamodb_streams"))
    say_for_which_account(modules.core("iam_evaluator"))
    stand_for_tls(modules.core("iam_evaluator"))


def know_table_streams(iam_actions: Any, dynamodb_streams: Any) -> None:
    """Make `ministack.core.iam_actions` find the stream in a request."""
    resource_of = iam_actions.extract_resource_arn

    def stream_or_resource(
        service: str, method: str, path: str, headers: Any, body: bytes, *rest: Any
    ) -> str:
        stream = stream_of(body) if service == STREAMS else None
        found: str = stream or resource_of(service, method, path, headers, body, *rest)
        return found

    def stream_of(body: bytes) -> str | None:
        """Return the stream that a request names, or that its iterator belongs to."""
        try:
            request = json.loads(body)
        except ValueError:
            return None
        if not isinstance(request, dict):
            return None
        iterator = dynamodb_streams._decode_iterator(str(request.get("ShardIterator", "")))
        stream = iterator.get("arn") if iterator else request.get("StreamArn")
        return stream if isinstance(stream, str) else None

    iam_actions.extract_resource_arn = stream_or_resource


def say_for_which_account(iam_evaluator: Any) -> None:
    """Make `ministack.core.iam_evaluator` give aws:SourceAccount to trust policies.

    On AWS a service that assumes a role says for which account it acts. Services here assume roles
    as the account's root, and the emulator passes no such key.
    """
    evaluate = iam_evaluator.evaluate_trust_policy

    def evaluate_for_account(document: Any, caller_arn: str, context: Any = None) -> bool:
        if context is not None and caller_arn.endswith(":root"):
            account = {"aws:sourceaccount": context.principal_account}
            known = {**account, **context.service_context}
            context = dataclasses.replace(context, service_context=known)
        allowed: bool = evaluate(document, caller_arn, context)
        return allowed

    iam_evaluator.evaluate_trust_policy = evaluate_for_account


def stand_for_tls(iam_evaluator: Any) -> None:
    """Make `ministack.core.iam_evaluator` treat every request as sent by TLS.

    SDKs call AWS by TLS. Here they call by HTTP on loopback instead, and a policy that refuses
    requests without TLS (aws:SecureTransport) would refuse all of them.
    """
    resolve = iam_evaluator._resolve_condition_key

    def resolve_as_over_tls(key: str, context: Any) -> Any:
        return "true" if key.lower() == "aws:securetransport" else resolve(key, context)

    iam_evaluator._resolve_condition_key = resolve_as_over_tls
