"""Injects a record that a function always fails on, and shows how a mapping isolates it.

The pipeline's functions quarantine bad records, so another consumer reads the same stream here. It
fails on one device's reading, which is a good one for the pipeline. Its mapping retries twice,
bisects batches, and sends the records that it gives up to the pipeline's bucket of failures.
"""

import contextlib
import json
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from local.deployment import client
from local.instance import Instance
from local.trial.consumer import create_consumer, stream_arn_of
from local.trial.pending import Stillness

DEVICE = "poison"
NAME = "poisoned"
RETRIES = 2
BATCH_SIZE = 100
WINDOW_SECONDS = 5
INJECT_AFTER_SECONDS = 6.0
PATIENCE_SECONDS = 180.0
LOOK_SECONDS = 0.5
POSTS_MAX = 10
CONSUMER = Path(__file__).with_name("mortal.py")
DELIVERIES = "deliveries.jsonl"


@dataclass(frozen=True)
class Isolation:
    """The fate of the poison record and of the records around it."""

    batch: int
    """Number of records in the largest batch that failed."""
    splits: int
    tries: int
    delivered: int
    """Number of other readings that were delivered."""
    expected: int | None
    """Least number of other readings; None if it isn't known."""
    repeated: int
    """Number of other records that were delivered more than once without an error."""
    documents: int
    """Number of documents of what this consumer gave up; one has the poison record."""
    is_payload_whole: bool
    is_announced: bool
    uncertain: int = 0
    """Number of further readings that there may be: unanswered requests, and repeated ones."""

    @property
    def expected_text(self) -> str:
        """The expected number of other readings, or its range."""
        least = self.expected or 0
        return f"{least} to {least + self.uncertain}" if self.uncertain else f"{least}"

    def problems(self) -> list[str]:
        """Return the problems, a line each."""
        most = math.ceil(math.log2(self.batch)) if self.batch else 0
        checks = {
            "the poison record never reached the consumer": self.batch == 0,
            f"it was isolated in {self.splits} splits, not {most} at most": self.splits > most,
            f"it was tried alone {self.tries} times, not {RETRIES + 1}": self.tries != RETRIES + 1,
            f"{self.delivered} other readings were delivered, not {self.expected_text}": (
                self.expected is not None
                and not self.expected <= self.delivered <= self.expected + self.uncertain
            ),
            f"{self.repeated} other records were delivered more than once": self.repeated > 0,
            f"the bucket has {self.documents} documents of given-up records, not 1": (
                self.documents != 1
            ),
            "its document hasn't the record": not self.is_payload_whole,
            "no message on the queue of failures announces it": not self.is_announced,
        }
        return [text for text, is_wrong in checks.items() if is_wrong]

    def summary(self) -> str:
        """Return the result as a line of text."""
        return (
            f"poison: isolated from a batch of {self.batch} in {self.splits} splits, tried alone "
            f"{self.tries} times, then kept in s3 and announced; {self.delivered:,} other readings "
            "delivered once each"
        )


class Poisoning:
    """Another consumer of the stream, which fails on one record."""

    def __init__(self, instance: Instance) -> None:
        """Take a deployed instance."""
        self._state = instance.load()
        self._log = instance.folder / DELIVERIES
        self._mapping_id = ""

    def begin(self, seconds: float | None) -> None:
        """Deploy the consumer and its mapping; send the poison a little later.

        `seconds` is how long devices post, if that is known: the poison is sent while they do.
        """
        outputs, name = self._state.outputs, f"{self._state.stack}-{NAME}"
        bucket = f"arn:aws:s3:::{outputs['FailuresBucket']}"
        mapping = create_consumer(
            self._state,
            name,
            stream_arn_of(self._state, outputs["StreamName"]),
            files={CONSUMER.name: CONSUMER.read_text("utf-8")},
            mapping={
                "BatchSize": BATCH_SIZE,
                "MaximumBatchingWindowInSeconds": WINDOW_SECONDS,
                "BisectBatchOnFunctionError": True,
                "MaximumRetryAttempts": RETRIES,
                "DestinationConfig": {"OnFailure": {"Destination": bucket}},
            },
            may_also=[
                {"Action": "s3:PutObject", "Resource": f"{bucket}/*"},
                {"Action": "s3:ListBucket", "Resource": bucket},
            ],
            variables={"DELIVERIES": str(self._log), "POISON": DEVICE},
        )
        self._mapping_id = mapping["UUID"]
        pause = min(INJECT_AFTER_SECONDS, seconds / 2 if seconds else INJECT_AFTER_SECONDS)
        later = threading.Timer(pause, self._inject)
        later.daemon = True
        later.start()

    def _inject(self) -> None:
        """Post a good reading of the device that the consumer fails on."""
        reading = {
            "device_id": DEVICE,
            "recorded_at": time.time_ns() // 1_000_000,
            "temperature": 21.5,
        }
        token = self._state.tokens["gateway"]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(trust_env=False, timeout=30, headers=headers) as http:
            for _ in range(POSTS_MAX):
                with contextlib.suppress(httpx.TransportError):
                    if http.post(f"{self._state.api_url}/readings", json=[reading]).is_success:
                        return
                time.sleep(LOOK_SECONDS)

    def end(self, expected: int | None = None, uncertain: int = 0) -> Isolation:
        """Wait until the poison is isolated and all other records are delivered; return the result.

        `expected` is the number of other readings on the stream, `uncertain` the number of further
        ones that there may be. The wait ends when the result hasn't changed for three minutes: that
        is long on a busy machine, too.
        """
        stillness, isolation = Stillness(), self._look(expected, uncertain)
        while isolation.problems() and stillness.seconds(isolation) < PATIENCE_SECONDS:
            time.sleep(LOOK_SECONDS)
            isolation = self._look(expected, uncertain)
        return isolation

    def remove(self) -> None:
        """Delete the consumer's mapping."""
        client(self._state, "lambda").delete_event_source_mapping(UUID=self._mapping_id)

    def _look(self, expected: int | None, uncertain: int) -> Isolation:
        lines = self._log.read_text("utf-8").splitlines() if self._log.exists() else []
        deliveries = [json.loads(line) for line in lines]
        died = [each for each in deliveries if each["died"]]
        delivered = Counter(
            sequence for each in deliveries if not each["died"] for sequence in each["records"]
        )
        readings = {name: count for each in deliveries for name, count in each["records"].items()}
        keys, payload = self._failure_documents()
        return Isolation(
            batch=max((len(each["records"]) for each in died), default=0),
            splits=sum(1 for each in died if len(each["records"]) > 1),
            tries=sum(1 for each in died if len(each["records"]) == 1),
            delivered=sum(readings[name] for name in delivered),
            expected=expected,
            repeated=sum(1 for times in delivered.values() if times > 1),
            documents=len(keys),
            is_payload_whole=[each["kinesis"]["partitionKey"] for each in payload] == [DEVICE],
            is_announced=len(keys) == 1 and self._is_announced(keys[0]),
            uncertain=uncertain,
        )

    def _failure_documents(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the keys of the consumer's documents in the bucket; if it is one, its records."""
        s3, bucket = client(self._state, "s3"), self._state.outputs["FailuresBucket"]
        prefix = f"aws/lambda/{self._mapping_id}/"
        objects = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        keys = [each["Key"] for each in objects]
        if len(keys) != 1:
            return keys, []
        document = json.loads(s3.get_object(Bucket=bucket, Key=keys[0])["Body"].read())
        records: list[dict[str, Any]] = json.loads(document["payload"])["Records"]
        return keys, records

    def _is_announced(self, key: str) -> bool:
        """Return whether a message on the queue of failures names the object; leave the message."""
        sqs, url = client(self._state, "sqs"), self._state.outputs["FailuresQueueUrl"]
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return any(key in message["Body"] for message in answer.get("Messages", []))
