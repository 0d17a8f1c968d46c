"""Gaps of the embedded AWS, closed: permissions on a table's stream, trust, and transport.

On AWS a role that may read one table's stream may read no other. The emulator (1.5.33) finds no
resource in the requests of DynamoDB streams, so a permission that names the stream allowed nothing.
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
    """Make the emulator's module `ministack.core.iam_actions` find the stream in a request."""
    resource_of = iam_actions.extract_resource_arn

    def stream_or_resource(
        service: str, method: str, path: str, headers: Any, body: bytes, *rest: Any
    ) -> str:
        stream = stream_of(body) if service == STREAMS else None
        found: str = stream or resource_of(service, method, path, headers, body, *rest)
        return found

    def stream_of(body: bytes) -> str | None:
        """Return the stream that a request is about; that of its iterator, if it has one."""
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
    """Make the emulator's `ministack.core.iam_evaluator` tell a trust policy aws:SourceAccount.

    A service that takes a role on says for which account it does. Services here take roles on as
    the account's root, and the emulator tells nothing of the kind.
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
    """Make the emulator's `ministack.core.iam_evaluator` tell policies that a request came by TLS.

    SDKs speak TLS to AWS. Here they speak HTTP on loopback in its place, and a policy that refuses
    requests without TLS (aws:SecureTransport) would refuse all of them.
    """
    resolve = iam_evaluator._resolve_condition_key

    def resolve_as_over_tls(key: str, context: Any) -> Any:
        return "true" if key.lower() == "aws:securetransport" else resolve(key, context)

    iam_evaluator._resolve_condition_key = resolve_as_over_tls
