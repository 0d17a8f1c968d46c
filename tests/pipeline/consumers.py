"""Functions of a test's own, each with a stream, a role and an event source mapping."""

import io
import json
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from local import deployment
from local.instance import Instance
from local.poison import policy

CONSUMER = Path(__file__).with_name("noting.py")


class Consumer:
    """A function that notes what it gets, and fails as it is told (tests/pipeline/noting.py)."""

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
        summary = self.kinesis.describe_stream_summary(StreamName=name)
        self.stream_arn = summary["StreamDescriptionSummary"]["StreamARN"]
        told = {"fails_on": list(fails_on), "seconds": seconds, "log": str(self._log)}
        self.lambdas.create_function(
            FunctionName=name,
            Runtime=f"python{deployment.host_python()}",
            Role=self._create_role(mapping.get("DestinationConfig", {})),
            Handler="noting.handler",
            Code={"ZipFile": package({"told.json": json.dumps(told)})},
            Timeout=30,
        )
        created = self.lambdas.create_event_source_mapping(
            FunctionName=name,
            EventSourceArn=self.stream_arn,
            **({"StartingPosition": "TRIM_HORIZON"} | mapping),
        )
        self.created = created
        self.mapping_id: str = created["UUID"]

    def _create_role(self, destination: dict[str, Any]) -> str:
        """Create a role that may read the stream and write to the destination alone."""
        iam = deployment.client(self._state, "iam")
        principal = {"Service": "lambda.amazonaws.com"}
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": principal}
        found = iam.create_role(RoleName=self.name, AssumeRolePolicyDocument=policy([trust]))
        read = ["GetRecords", "GetShardIterator", "ListShards", "DescribeStream"]
        actions = [f"kinesis:{action}" for action in read]
        allowed = [{"Effect": "Allow", "Action": actions, "Resource": self.stream_arn}]
        if target := destination.get("OnFailure", {}).get("Destination"):
            write = ["sqs:SendMessage", "sns:Publish", "s3:PutObject"]
            allowed.append(
                {"Effect": "Allow", "Action": write, "Resource": [target, f"{target}/*"]}
            )
        iam.put_role_policy(
            RoleName=self.name, PolicyName=self.name, PolicyDocument=policy(allowed)
        )
        arn: str = found["Role"]["Arn"]
        return arn

    def put(self, numbers: Iterable[int], keys: int = 40) -> None:
        """Put numbers on the stream, spread over partition keys."""
        records = [{"Data": str(n).encode(), "PartitionKey": f"key-{n % keys}"} for n in numbers]
        answer = self.kinesis.put_records(StreamName=self.name, Records=records)
        assert answer["FailedRecordCount"] == 0

    @property
    def batches(self) -> list[dict[str, Any]]:
        """What the function got, in the order in which it was done with it."""
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
        """The numbers delivered, in order."""
        return [number for _, number in self.deliveries]

    def mapping(self) -> dict[str, Any]:
        """What the API says of the mapping."""
        found: dict[str, Any] = self.lambdas.get_event_source_mapping(UUID=self.mapping_id)
        return found

    def remove(self) -> None:
        """Delete the mapping, so that it is in nobody's way."""
        with suppress(self.lambdas.exceptions.ResourceNotFoundException):
            self.lambdas.delete_event_source_mapping(UUID=self.mapping_id)


def package(files: dict[str, str]) -> bytes:
    """The function's package, with these files beside it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.write(CONSUMER, CONSUMER.name)
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()
