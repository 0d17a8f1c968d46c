"""Posts the readings of devices: batches over a bounded number of kept-alive connections.

The device client's code (`telemetry_client`) decides what an answer means and how long to wait.
This module adds what hundreds of devices in one process need. Readings are sent again until they
are taken or given up; given-up readings may be stored or not. The ledger records every result.
"""

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

import httpx
from telemetry_client.answers import Answer, Remedy, Verdict, judge
from telemetry_client.pace import Pace, PaceOptions

from local.api import error_message
from local.errors import ApiFailed
from local.fleet import firmware
from local.fleet.firmware import SchemaIds
from local.fleet.ledger import Ledger
from local.fleet.over_mqtt import MqttDevices
from local.fleet.reading import Reading, Source

BATCH_MAX = 500
TIMEOUT_SECONDS = 30.0
PACE = PaceOptions(first_s=0.3, most_s=5.0)
DUE_MAX = 5000
IDLE_SECONDS_MAX = 0.25


@dataclass(frozen=True)
class PostingOptions:
    """Options of posts."""

    batch: int = BATCH_MAX
    """Maximum of readings in a request."""
    connections: int = 2
    linger_seconds: float = 1.0
    """Maximum time that a reading waits for others to fill its batch."""
    is_gateway: bool = True
    """Whether one gateway posts for all devices, or each device for itself."""
    mqtt: float = 0.0
    """Share of the devices that publish over MQTT instead."""


class Writer(NamedTuple):
    """The subject whose token posts, and its format."""

    subject: str
    version: int | None
    """Version of the reading schema, for Avro. None: JSON."""


@dataclass(frozen=True)
class Batch:
    """Readings for one request."""

    path: str
    token: str
    readings: list[Reading]
    version: int | None
    """Version of the reading schema, for Avro. None: JSON."""


class Posting:
    """Posts the readings of a source when they are due."""

    def __init__(
        self,
        api_url: str,
        tokens: Mapping[str, str],
        ledger: Ledger,
        options: PostingOptions,
        transport: httpx.AsyncBaseTransport | None = None,
        mqtt: MqttDevices | None = None,
        schema_ids: SchemaIds | None = None,
    ) -> None:
        """Post to `api_url` with the tokens by subject; the gateway's subject is `gateway`.

        Readings of devices in `mqtt` go over MQTT. Devices that write Avro need `schema_ids`.
        """
        self.mqtt = mqtt
        self._schema_ids = schema_ids or {}
        self._tokens = tokens
        self._ledger = ledger
        self._options = options
        self._queue: asyncio.Queue[Batch] = asyncio.Queue(2 * options.connections)
        self._random = random.Random(0)
        self._gives_up = asyncio.Event()
        self.failure: ApiFailed | None = None
        self.first_post_at: float | None = None
        self.last_answer_at: float | None = None
        limits = httpx.Limits(
            max_connections=options.connections, max_keepalive_connections=options.connections
        )
        self._http = httpx.AsyncClient(
            base_url=api_url,
            limits=limits,
            timeout=TIMEOUT_SECONDS,
            transport=transport,
            trust_env=False,
        )

    async def run(self, source: Source, stop: asyncio.Event, now_ms: Callable[[], int]) -> None:
        """Post due readings until the source ends or `stop` is set; then post all that remain."""
        workers = [
            asyncio.create_task(self._post_batches()) for _ in range(self._options.connections)
        ]
        try:
            if self.mqtt is not None:
                await self.mqtt.start(self._ledger)
            await self._take(source, stop, now_ms)
            await self._queue.join()
            if self.mqtt is not None:
                await self._settle(self.mqtt)
        finally:
            if self.mqtt is not None:
                self.mqtt.close()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._http.aclose()

    async def _settle(self, mqtt: MqttDevices) -> None:
        """Wait until the broker has acknowledged all messages."""
        await mqtt.settle(self._gives_up)
        answers = filter(None, (self.last_answer_at, mqtt.last_answer_at))
        self.last_answer_at = max(answers, default=None)

    def give_up(self) -> None:
        """Stop sending readings again."""
        self._gives_up.set()

    async def _take(self, source: Source, stop: asyncio.Event, now_ms: Callable[[], int]) -> None:
        pending: dict[Writer, list[Reading]] = defaultdict(list)
        oldest: dict[Writer, float] = {}
        while not stop.is_set() and self.failure is None:
            ready = source.take_due(now_ms(), DUE_MAX)
            await self._add(pending, oldest, ready)
            next_ms = source.next_due_ms()
            if next_ms is None:
                break
            if not ready:
                pause = min(IDLE_SECONDS_MAX, max(0.001, (next_ms - now_ms()) / 1000))
                await wait_until(stop, pause)
        await self._add(pending, oldest, source.take_remaining())
        for key in list(pending):
            await self._send(key, pending.pop(key))

    async def _add(
        self,
        pending: dict[Writer, list[Reading]],
        oldest: dict[Writer, float],
        ready: list[Reading],
    ) -> None:
        """Sort readings by their writer; send batches that are full or have waited long enough."""
        now = time.monotonic()
        for reading in ready:
            if self.mqtt is not None and reading.device_id in self.mqtt.devices:
                self.first_post_at = self.first_post_at or now
                await self.mqtt.send(reading)
                continue
            subject = "gateway" if self._options.is_gateway else reading.device_id
            key = Writer(subject, reading.version)
            oldest.setdefault(key, now)
            pending[key].append(reading)
            if len(pending[key]) >= self._options.batch:
                oldest.pop(key)
                await self._send(key, pending.pop(key))
        for key in [
            key for key, since in oldest.items() if now - since >= self._options.linger_seconds
        ]:
            oldest.pop(key)
            await self._send(key, pending.pop(key))

    async def _send(self, key: Writer, readings: list[Reading]) -> None:
        path = "/readings" if self._options.is_gateway else f"/devices/{key.subject}/readings"
        if self.failure is None:
            await self._queue.put(Batch(path, self._tokens[key.subject], readings, key.version))

    async def _post_batches(self) -> None:
        while True:
            batch = await self._queue.get()
            try:
                if self.failure is None:
                    await self._post_until_taken(batch)
            except ApiFailed as failure:
                self.failure = failure
            finally:
                self._queue.task_done()

    async def _post_until_taken(self, batch: Batch) -> None:
        pending = batch.readings
        pace = Pace(self._options.batch, PACE, self._random)
        while pending:
            self.first_post_at = self.first_post_at or time.monotonic()
            verdict = await self._post(batch, pending)
            note(self._ledger, pending, verdict)
            pause = pace.after(verdict, len(pending))
            pending = [pending[index] for index in verdict.again]
            if not pending:
                return
            if self._gives_up.is_set():
                self._ledger.give_up(pending)
                return
            self._ledger.counts.resent += len(pending)
            await wait_until(self._gives_up, pause)

    async def _post(self, batch: Batch, readings: list[Reading]) -> Verdict:
        """Send once; raise ApiFailed for an answer that no retry changes, such as 401."""
        counts = self._ledger.counts
        counts.posted += len(readings)
        counts.requests += 1
        content_type, body = self._written(readings, batch.version)
        try:
            headers = {"Authorization": f"Bearer {batch.token}", "Content-Type": content_type}
            response = await self._http.post(batch.path, content=body, headers=headers)
        except httpx.TransportError:
            return judge(None, len(readings))
        self.last_answer_at = time.monotonic()
        answer = Answer(response.status_code, response.content, response.headers.get("Retry-After"))
        verdict = judge(answer, len(readings), now_s=time.time())
        if verdict.remedy in {Remedy.PERSON, Remedy.SMALLER}:
            raise ApiFailed(f"POST {batch.path}", response.status_code, error_message(response))
        return verdict

    def _written(self, readings: list[Reading], version: int | None) -> tuple[str, bytes]:
        """Return the readings as a request's content type and body."""
        if version is None:
            documents = [reading.body() for reading in readings]
            return "application/json", json.dumps(documents, separators=(",", ":")).encode()
        body = firmware.encode(readings, version, self._schema_ids[version])
        return firmware.CONTENT_TYPE, body


def note(ledger: Ledger, readings: list[Reading], verdict: Verdict) -> None:
    """Record the results of readings, from the verdict on an answer, in the ledger."""
    refused: dict[int, set[str | None]] = defaultdict(set)
    for each in verdict.partly:
        refused[each.index].add(each.field)
        ledger.refuse_metric(f"{each.field}: {each.reason}")
    ledger.accept(without(readings[index], refused[index]) for index in verdict.taken)
    for each in verdict.rejected:
        ledger.reject(f"{each.field}: {each.reason}")


def without(reading: Reading, refused: Set[str | None]) -> Reading:
    """Return a reading without the metrics that the pipeline refused."""
    valid = {name: value for name, value in reading.metrics.items() if name not in refused}
    return reading._replace(metrics=valid)


async def wait_until(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most for `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
