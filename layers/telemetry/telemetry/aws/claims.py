"""Claims: records of sent notices, so that a repeated delivery doesn't send them again.

A claim is an item of the alerts table beside the episodes. It has no `change`, so the filter of the
table's stream passes over it. A sender takes a claim with a lease before it sends the notice, and
marks it done afterwards. So two concurrent deliveries can't both send, and another sender takes
over when the lease of a dead one ends. After a crash between sending and marking, the notice goes
out once more, under the same notice_id.
"""

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.errors import Unavailable

RETENTION_SECONDS = 30 * 86_400  # far beyond any redelivery: queues keep messages 14 days


class Claims:
    """Claims in the alerts table, by device and by the name of a notice and its publisher."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def take(self, device_id: str, name: str, now_seconds: int, lease_seconds: int) -> str:
        """Take a claim; raise Unavailable if the table doesn't answer.

        Return `taken`: send now; `done`: it was sent; `held`: another sender has it, try later.
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
        """Mark a notice as sent, so that it is never sent again; raise Unavailable."""
        try:
            self._dynamodb.update_item(
                TableName=self._table,
                Key=self._key(device_id, name),
                UpdateExpression="SET #state = :done",
                ExpressionAttributeNames={"#state": "state"},
                ExpressionAttributeValues={":done": {"S": "done"}},
            )
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"{name} was sent, but can't be marked as sent: {error}") from error

    @staticmethod
    def _key(device_id: str, name: str) -> dict[str, Any]:
        return {"device_id": {"S": device_id}, "rule_region": {"S": f"claim#{name}"}}
