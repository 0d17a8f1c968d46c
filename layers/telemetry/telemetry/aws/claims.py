"""Claims: which notices went out, so that a repeated delivery doesn't send them again.

A claim is an item of the alerts table beside the episodes (no `change`, so the table's stream
filter passes over it). It is taken with a lease before the notice is sent and marked done after:
two deliveries at once can't both send, and a sender that dies is replaced when its lease is over.
What can't be ruled out is a crash between sending and marking; the notice then goes out once
more, under the same notice_id.
"""

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.errors import Unavailable

RETENTION_SECONDS = 30 * 86_400  # far beyond any redelivery: queues keep messages 14 days


class Claims:
    """Claims on (device_id, what is sent) in the alerts table."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def take(self, device_id: str, name: str, now_seconds: int, lease_seconds: int) -> str:
        """`taken`: send now. `done`: it was sent. `held`: somebody is sending, ask later.

        Raises Unavailable.
        """
        try:
            self._dynamodb.put_item(
                TableName=self._table,
                Item={
                    **self._key(device_id, name),
                    "state": {"S": "leased"},
                    "leased_until": {"N": str(now_seconds + lease_seconds)},
                    "expires_at": {"N": str(now_seconds + RETENTION_SECONDS)},
                },
                ConditionExpression="attribute_not_exists(device_id)"
                " OR (#state = :leased AND leased_until < :now)",
                ExpressionAttributeNames={"#state": "state"},
                ExpressionAttributeValues={
                    ":leased": {"S": "leased"},
                    ":now": {"N": str(now_seconds)},
                },
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise Unavailable(f"no claim on {name}: {error}") from error
            answer: dict[str, Any] = dict(error.response)  # its type doesn't know of Item
            item = answer.get("Item", {})
            return "done" if item.get("state", {}).get("S") == "done" else "held"
        except BotoCoreError as error:
            raise Unavailable(f"no claim on {name}: {error}") from error
        return "taken"

    def done(self, device_id: str, name: str) -> None:
        """It was sent: never again. Raises Unavailable."""
        try:
            self._dynamodb.update_item(
                TableName=self._table,
                Key=self._key(device_id, name),
                UpdateExpression="SET #state = :done",
                ExpressionAttributeNames={"#state": "state"},
                ExpressionAttributeValues={":done": {"S": "done"}},
            )
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"{name} was sent, and is not marked so: {error}") from error

    @staticmethod
    def _key(device_id: str, name: str) -> dict[str, Any]:
        return {"device_id": {"S": device_id}, "rule_region": {"S": f"claim#{name}"}}
