"""One region of the pipeline: its background work, and its operators."""

import asyncio
import contextlib
import functools
import io
import json
from argparse import Namespace
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from telemetry.domain.rule import filter_pattern

from emulator.mappings.engine import Engine
from emulator.mappings.memory import MemoryCheckpoints
from emulator.mappings.model import Answer, Mapping, Record
from emulator.mappings.ports import NotInvoked, OutsideProblem, Ports
from ops import quarantine as operators_quarantine
from ops import redrive as operators_redrive
from ops.target import Target
from tests.simulation import judge
from tests.simulation.clients import Clients
from tests.simulation.conditions import Conditions, owner
from tests.simulation.events import Events
from tests.simulation.functions import Lambda
from tests.simulation.iot import Iot, plain_topic
from tests.simulation.judge import Judged
from tests.simulation.processes import running
from tests.simulation.queues import Message, Queue
from tests.simulation.services import FAILURES, STACK, Services
from tests.simulation.tables import Table
from tests.simulation.wiring import BUILDS, rules_of
from tests.template import filter_patterns

T = TypeVar("T")
Json = dict[str, Any]
QUEUE_POLL_SECONDS = 1.0
SWEEP_SECONDS = 60.0
IMPATIENT_SECONDS = 3

patterns = functools.cache(filter_patterns)


def is_through(saved: str | None, last: Record) -> bool:
    """Return whether a shard's checkpoints have reached its last record."""
    if saved is None:
        return False
    position = json.loads(saved)
    done = position["lanes"]
    return bool(done) and all(lane is not None and int(lane) >= int(last.sequence) for lane in done)


def is_killing(line: Json) -> bool:
    """Return whether a record is in quarantine because its function died or hung."""
    reason: str = line["reason"]
    return reason.startswith(("Runtime.ExitError", "Sandbox.Timedout"))


class Operator(Clients):
    """A person's clients: their calls don't fail and take no time."""

    def call(self, service: str, operation: str, does: Callable[[], T]) -> T:  # noqa: ARG002
        return does()

    def connect(self, service: str) -> Any:
        return self.aws_lambda if service == "lambda" else getattr(self, service)


class Region(Services):
    """A region: its services and background work."""

    def __init__(self, conditions: Conditions, name: str, tables: dict[str, Table]) -> None:
        super().__init__(conditions, name, tables)
        self.lambda_ = Lambda(self, dict(BUILDS))
        self.events = Events(self, self.lambda_)
        self.iot = Iot(self, self.events)
        self.checkpoints = MemoryCheckpoints()
        self.redriven_at = 0
        """How many invocations there had been when all was redriven, and nothing released."""
        self.healthy_held: list[Json] = []
        """What operators found in quarantine that no fault of a process explains."""
        self.given_up: Counter[str] = Counter()
        """Readings in batches that mappings gave up, by function, as they are counted."""

    # What goes on by itself

    def start(self) -> None:
        """Start the mappings, the queues' pollers and the schedule."""
        self.start_engine()
        self._pollers = [
            self.conditions.begin(self._poll("overflow", "drain", 2)),
            self.conditions.begin(self._poll("notices", "notify", 10)),
            self.conditions.begin(self._sweep()),
        ]

    def start_engine(self) -> None:
        """Start the mappings' engine on the existing checkpoints."""
        ports = Ports(
            lambda mapping: self.alerts_stream if mapping.service == "dynamodb" else self.stream,
            self,
            self,
            self.checkpoints,
            self.conditions.now_ms,
            self.conditions.engine_chance,
        )
        token = owner.set(self._engine_owner)
        try:
            self.conditions.begin(Engine(ports, self._list_mappings).run())
        finally:
            owner.reset(token)

    def kill_engine(self) -> None:
        """End the engine as SIGKILL does; functions that it invoked run on."""
        self.checkpoints = self.checkpoints.copy()
        for task in list(self.conditions.tasks.get(self._engine_owner, {})):
            task.cancel()

    def lose(self) -> None:
        """Lose the region, with all data that it hadn't replicated."""
        self.is_lost = True
        self.kill_engine()
        for task in self._pollers:
            task.cancel()

    @property
    def _engine_owner(self) -> str:
        return f"engine/{self.name}"

    async def _list_mappings(self) -> list[Mapping]:
        return self.mappings

    @functools.cached_property
    def mappings(self) -> list[Mapping]:
        """Return the template's mappings, with the options' settings."""
        options = self.conditions.options
        stream = f"arn:aws:kinesis:{self.name}:123456789012:stream/readings"
        changes = f"arn:aws:dynamodb:{self.name}:123456789012:table/alerts/stream/1"
        arn = f"arn:aws:lambda:{self.name}:123456789012:function:{STACK}-{{}}".format
        shared: Json = {
            "retries_max": options.retries_max,
            "age_seconds_max": options.age_seconds_max,
            "bisects": options.bisects,
            "reports_item_failures": True,
            "destination_arn": f"arn:aws:s3:::{FAILURES}",
            "batch_size": options.batch_size,
        }
        of_stream: Json = {"parallelization_factor": options.lanes, "source_arn": stream}
        window = {"batching_window_seconds": options.batching_window_seconds}
        breaches = tuple(patterns("AlertFunction", "Breaches"))
        if options.freezers:
            breaches = tuple(map(json.dumps, filter_pattern(rules_of(options))))
        changed = patterns("DispatchFunction", "Changes")
        own = tuple(each.replace("${AWS::Region}", self.name) for each in changed)
        return [
            Mapping("m1", function_arn=arn("aggregate"), **(shared | of_stream | window)),
            Mapping("m2", function_arn=arn("alert"), patterns=breaches, **(shared | of_stream)),
            Mapping("m3", changes, function_arn=arn("dispatch"), patterns=own, **shared),
        ]

    def behind(self) -> str:
        """Yield the work that mappings still have to read or deliver, as text."""
        for mapping in self.mappings:
            source = self.alerts_stream if mapping.service == "dynamodb" else self.stream
            saved = self.checkpoints.load(mapping.uuid)
            for shard in source.by_id.values():
                if shard.records and not is_through(saved.get(shard.shard_id), shard.records[-1]):
                    return f"{self.name}: {mapping.function_arn} is behind in {shard.shard_id}"
        return ""

    def quarantined(self) -> Iterator[Json]:
        """Return the lines in quarantine, each with its bytes as `data`."""
        for key, body in sorted(self.buckets[FAILURES].objects.items()):
            if key.startswith("quarantine/"):
                for line in map(json.loads, body.splitlines()):
                    yield line | {"data": b64decode(line["data"])}

    async def operate(self) -> None:
        """Redrive until nothing is left, then release the records that are valid by now."""
        self.conditions.is_mended = True
        self.healthy_held += [
            line for line in self.quarantined() if self.is_right(line) and not is_killing(line)
        ]
        target = Target(
            STACK,
            {
                "Name": STACK,
                "RedriveFunctionName": "redrive",
                "FailuresBucket": FAILURES,
                "StreamName": "readings",
                "OverflowUrl": "overflow",
            },
            Operator(self, self.lambda_.invoke).connect,
        )
        silent = Console(file=io.StringIO())
        code = await running(lambda: operators_redrive.redrive(Namespace(), target, silent))
        self.conditions.history.note(f"{self.name}/operator", "redrives, and is told", code)
        self.redriven_at = self.redriven_at or len(self.lambda_.invocations)
        names = sorted({line["name"] for line in self.quarantined() if self.is_released(line)})
        if names:
            asked = Namespace(names=names, all=False, device=None, reason=None, wait=0)
            code = await running(lambda: operators_quarantine.release(asked, target, silent))
            self.conditions.history.note(f"{self.name}/operator", f"releases {len(names)}:", code)

    def is_right(self, line: Json) -> bool:
        """Return whether a quarantined line can be stored now."""
        if line["source"] == "mqtt":
            event = json.loads(line["data"])
            return all(each.is_whole for each in self.judged(event, event["received_at"]))
        if line["source"] != "kinesis":
            return bool(line["source"] == "dynamodb")
        is_full = line["reason"].startswith("window_full")
        return not is_full and judge.is_whole_in(line["data"], line["arrived_at_ms"])

    def is_released(self, line: Json) -> bool:
        """Return whether an operator releases a line; for MQTT also one that is still bad."""
        return line["source"] == "mqtt" or self.is_right(line)

    def judged(self, event: Json, at_ms: int) -> list[Judged]:
        """Return the valid part of each document in a message that came at some time.

        A message that nobody can read is one document, and no reading.
        """
        documents = self.iot.meaning(event["topic"], b64decode(event["body"]))
        if documents is None:
            return [Judged({}, is_whole=False)]
        device_id = plain_topic(event["topic"]).split("/")[1]
        return judge.judged(documents, device_id, at_ms)

    # The engine's sink and destination

    async def invoke(self, function_arn: str, event: Json) -> Answer:
        stage = function_arn.split(":")[6].removeprefix(f"{STACK}-")
        answer, invocation = await self.lambda_.invoked(stage, event)
        invocation.is_heard = answer.function_error is None
        if invocation.is_heard and answer.payload["batchItemFailures"]:
            self.conditions.hits["partial answer"] += 1
        return answer

    def _counted(self, record: Json) -> int:
        """Return as how many readings a record counts; what comes again counts only then."""
        if "kinesis" not in record:
            return 1
        data = b64decode(record["kinesis"]["data"])
        arrived_at_ms = round(record["kinesis"]["approximateArrivalTimestamp"] * 1000)
        rule = judge.THAWING if self.conditions.options.freezers else judge.HOT
        return sum(
            not judge.is_passed_over(data, single, arrived_at_ms, rule)
            for single in judge.apart(data)
        )

    async def send(self, mapping: Mapping, key: str, document: Json) -> None:  # noqa: ARG002
        """Store the records that a mapping has given up."""
        if self.conditions.is_out("s3", self.name) or self.conditions.happens("call_fails"):
            raise OutsideProblem("the bucket is away")
        self.conditions.history.note(self.name, "given up", key)
        self.conditions.hits["given up"] += 1
        stage = document["requestContext"]["functionArn"].split("-")[-1]
        self.given_up[stage] += sum(map(self._counted, json.loads(document["payload"])["Records"]))
        self.buckets[FAILURES].put(key, json.dumps(document).encode())

    # Queues

    async def _poll(self, name: str, function: str, concurrency: int) -> None:
        """Deliver a queue's messages, as Lambda's poller does."""
        queue, working = self.queues[name], set[asyncio.Task[None]]()
        while True:
            if not queue.messages:
                queue.arrived.clear()
                await queue.arrived.wait()
            while len(working) < concurrency:
                impatient = self.conditions.happens("impatience")
                messages = queue.receive(10, IMPATIENT_SECONDS if impatient else None)
                if not messages:
                    break
                for message in messages:
                    if self.conditions.happens("duplicate"):
                        message.visible_at_ms = self.conditions.now_ms()
                task = self.conditions.begin(self._work(queue, function, messages))
                working.add(task)
                task.add_done_callback(working.discard)
            await asyncio.sleep(QUEUE_POLL_SECONDS)

    async def _work(self, queue: Queue, function: str, messages: list[Message]) -> None:
        receipts = {message.message_id: message.receipt for message in messages}
        records = [
            {
                "messageId": each.message_id,
                "receiptHandle": each.receipt,
                "body": each.body,
                "attributes": {"SentTimestamp": str(each.sent_at_ms)},
            }
            for each in messages
        ]
        try:
            answer = await self.lambda_.invoke(function, {"Records": records})
        except NotInvoked:
            return
        if answer.function_error is not None:
            return
        failed = {each["itemIdentifier"] for each in answer.payload["batchItemFailures"]}
        for message_id, receipt in receipts.items():
            if message_id not in failed:
                queue.delete(receipt)

    async def _sweep(self) -> None:
        """Invoke sweep at each full minute, even if the one before hasn't ended."""
        while True:
            past_seconds = self.conditions.now_ms() / 1000 % SWEEP_SECONDS
            await asyncio.sleep(SWEEP_SECONDS - past_seconds)
            self.conditions.begin(self._sweep_once())

    async def _sweep_once(self) -> None:
        with contextlib.suppress(NotInvoked):
            await self.lambda_.invoke("sweep", {})
