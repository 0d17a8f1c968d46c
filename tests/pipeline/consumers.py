"""Functions of the tests' own, each with a stream, a role and an event source mapping."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from local import deployment
from local.instance import Instance
from local.trial.consumer import create_consumer, stream_arn_of

NOTING = Path(__file__).with_name("noting.py")


class Consumer:
    """A function that records its batches, and fails as told (tests/pipeline/noting.py)."""

    def __init__(
        self,
        instance: Instance,
        name: str,
        shards: int = 1,
        fails_on: Iterable[int] = (),
        seconds: float = 0.0,
        **mapping: Any,
    ) -> None:
        """Create a stream, the function, its role, and a mapping of these settings."""
        self.name = name
        self._state = instance.load()
        self._log = instance.folder / f"{name}.jsonl"
        self.kinesis = deployment.client(self._state, "kinesis")
        self.lambdas = deployment.client(self._state, "lambda")
        self.kinesis.create_stream(StreamName=name, ShardCount=shards)
        told = {"fails_on": list(fails_on), "seconds": seconds, "log": str(self._log)}
        self.created = create_consumer(
            self._state,
            name,
            stream_arn_of(self._state, name),
            files={NOTING.name: NOTING.read_text("utf-8"), "told.json": json.dumps(told)},
            mapping=mapping,
            may_also=writing_to(mapping.get("DestinationConfig", {})),
        )
        self.mapping_id: str = self.created["UUID"]

    def put(self, numbers: Iterable[int], keys: int = 40) -> None:
        """Put numbers on the stream, spread over partition keys."""
        records = [{"Data": str(n).encode(), "PartitionKey": f"key-{n % keys}"} for n in numbers]
        answer = self.kinesis.put_records(StreamName=self.name, Records=records)
        assert answer["FailedRecordCount"] == 0

    @property
    def batches(self) -> list[dict[str, Any]]:
        """The function's batches, in the order in which it finished them."""
        lines = self._log.read_text("utf-8").splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def deliveries(self) -> list[tuple[str, int]]:
        """The records of all batches that didn't fail: partition key and number."""
        return [
            (key, number)
            for batch in self.batches
            if not batch["failed"]
            for key, number in batch["records"]
        ]

    @property
    def numbers(self) -> list[int]:
        """The delivered numbers, in order."""
        return [number for _, number in self.deliveries]

    def mapping(self) -> dict[str, Any]:
        """The mapping, from the API."""
        found: dict[str, Any] = self.lambdas.get_event_source_mapping(UUID=self.mapping_id)
        return found

    def remove(self) -> None:
        """Delete the mapping, so that it doesn't disturb other tests."""
        with suppress(self.lambdas.exceptions.ResourceNotFoundException):
            self.lambdas.delete_event_source_mapping(UUID=self.mapping_id)


def writing_to(destination: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the permissions that a role needs for a mapping's failure destination, if any."""
    target = destination.get("OnFailure", {}).get("Destination")
    write = ["sqs:SendMessage", "sns:Publish", "s3:PutObject"]
    return [{"Action": write, "Resource": [target, f"{target}/*"]}] if target else []
