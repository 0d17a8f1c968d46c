"""Lambda: functions as processes in environments that stay warm, die, hang, and run twice."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from botocore.exceptions import ClientError, ReadTimeoutError
from greenlet import getcurrent, greenlet
from telemetry.domain.accounting import Metric

from emulator.mappings.model import Answer
from emulator.mappings.ports import NotInvoked
from tests.simulation.clients import Clients, Invoke
from tests.simulation.conditions import owner
from tests.simulation.processes import Crash, running, wait
from tests.simulation.services import Services
from tests.template import timeout_seconds

T = TypeVar("T")
Json = dict[str, Any]
Handler = Callable[[Json], Any]
Counts = Counter[tuple[Metric, int | None]]
Build = Callable[["Environment"], Handler]

CALL_SECONDS = (0.001, 0.004, 0.03)
SLOW_SECONDS = (0.5, 4.0)
START_SECONDS = (0.5, 4.0)
# Which functions a poison record kills.
MORTAL = {"aggregate", "alert"}

_environments: "WeakKeyDictionary[greenlet, Environment]" = WeakKeyDictionary()


@dataclass
class Invocation:
    """One run of a function, with all that is recorded about it."""

    serial: int
    function: str
    event: Json
    deadline_ms: int = 0
    counts: Counts = field(default_factory=Counter)
    """What it counted and wrote, by metric and minute: all of it if it came to its end."""
    answer: Any = None
    """What it returned, if it came to that."""
    has_ended: bool = False
    """Whether it came to that."""
    is_heard: bool = False
    """Whether the mapping that invoked it went on by its answer."""
    is_given_up: bool = False
    """Whether Lambda has given it up: dead, or timed out, and maybe still at work."""
    ended_at_ms: int = 0
    """When it came to its end."""
    keys: list[tuple[bytes, str]] = field(default_factory=list)
    """The records that it tried to put on the stream, at each attempt, with their keys."""
    unsure: Counter[str] = field(default_factory=Counter)
    """Calls that were refused, or whose answer was lost, by operation."""


class Environment(Clients):
    """One execution environment: its code's clients, each call of which may go wrong."""

    def __init__(self, services: Services, invoke: Invoke, invocation: Invocation) -> None:
        super().__init__(services, invoke)
        self.function = invocation.function
        self.name = f"{services.name}/{self.function}/{invocation.serial}"
        self.is_dead = False
        self.begin(invocation)
        self._skew_ms = self.conditions.drawn_skew_ms()

    def begin(self, invocation: Invocation) -> None:
        """Run for this invocation from now on."""
        self.invocation = invocation
        self.counts: Counts = Counter()

    @staticmethod
    def current() -> "Environment | None":
        """Return the environment whose code is running now."""
        return _environments.get(getcurrent())

    def write_counts(self) -> None:
        self.invocation.counts.update(self.counts)
        self.counts.clear()

    def note_key(self, data: bytes, key: str) -> None:
        self.invocation.keys.append((data, key))

    def clock_ms(self) -> int:
        return self.conditions.now_ms() + self._skew_ms

    def remaining_ms(self) -> int:
        """Return the rest of the function's time."""
        return self.invocation.deadline_ms - self.conditions.now_ms()

    def sleep(self, seconds: float) -> None:
        wait(asyncio.sleep(seconds))

    def seconds(self) -> float:
        return self.clock_ms() / 1000

    def die(self, why: str) -> Crash:
        self.is_dead = True
        self.conditions.history.note(self.name, "dies", why)
        return Crash(why)

    def call(self, service: str, operation: str, does: Callable[[], T]) -> T:
        """Call a service, with the faults that may come in between."""
        conditions = self.conditions
        wait(asyncio.sleep(conditions.chance.choice(CALL_SECONDS)))
        if conditions.happens("slow_call"):
            wait(asyncio.sleep(conditions.chance.uniform(*SLOW_SECONDS)))
        self._check_region()
        if conditions.happens("stall"):
            hangs = timeout_seconds(self.function) * conditions.chance.uniform(1.0, 3.0)
            conditions.history.note(self.name, f"{operation} hangs for {hangs:.0f} s")
            wait(asyncio.sleep(hangs))
            self._check_region()
        if conditions.happens("crash_before"):
            raise self.die(f"before {operation}")
        if conditions.is_out(service, self.services.name) or conditions.happens("call_fails"):
            conditions.history.note(self.name, operation, "is refused")
            self.invocation.unsure[operation] += 1
            error = {"Error": {"Code": "ServiceUnavailable", "Message": "simulated"}}
            raise ClientError(error, operation)  # type: ignore[arg-type]
        answer = does()
        if self.invocation.is_given_up:
            conditions.hits["zombie's call"] += 1
        if conditions.happens("crash_after"):
            raise self.die(f"after {operation}")
        if conditions.happens("answer_lost"):
            conditions.history.note(self.name, operation, "takes place, its answer is lost")
            self.invocation.unsure["lost answer"] += 1
            raise ReadTimeoutError(endpoint_url=service)
        return answer

    def _check_region(self) -> None:
        if self.services.is_lost:
            self.is_dead = True
            raise Crash("the region is lost")


@dataclass
class Lambda:
    """The functions of one region."""

    services: Services
    builds: dict[str, Build]
    invocations: list[Invocation] = field(default_factory=list)
    raised: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What functions raised, by function and type."""
    at_work: set[int] = field(default_factory=set)
    _idle: dict[str, list[tuple[Environment, Handler]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _serial: int = 0

    async def invoke(self, function: str, event: Json, is_twin: bool = False) -> Answer:
        """Run a function; wait for its answer, at most for its timeout."""
        return (await self.invoked(function, event, is_twin))[0]

    async def invoked(
        self, function: str, event: Json, is_twin: bool = False
    ) -> "tuple[Answer, Invocation]":
        """Run a function as `invoke` does; return the Invocation."""
        conditions = self.services.conditions
        if self.services.is_lost:
            raise NotInvoked("the region is lost")
        if conditions.happens("throttle"):
            raise NotInvoked("Rate exceeded")
        if not is_twin and "httpMethod" not in event and conditions.happens("twin"):
            self._in_background(self._twin(function, event))
        self._serial += 1
        serial = self._serial
        invocation = Invocation(serial, function, event)
        self.invocations.append(invocation)
        conditions.history.note(self._name(serial, function), told(event))
        task = self._in_background(self._run(function, event, invocation))
        await asyncio.wait({task}, timeout=timeout_seconds(function))
        if not task.done():
            invocation.is_given_up = True
            conditions.history.note(self._name(serial, function), "has timed out, and goes on")
            payload = {"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out"}
            return Answer(payload, "Unhandled", f"request-{serial}"), invocation
        answer: Answer = task.result()
        return answer, invocation

    async def _twin(self, function: str, event: Json) -> None:
        with contextlib.suppress(NotInvoked):
            await self.invoke(function, event, is_twin=True)

    async def _run(self, function: str, event: Json, invocation: Invocation) -> Answer:
        conditions = self.services.conditions
        name = self._name(invocation.serial, function)
        if self._idle[function]:
            environment, handler = self._idle[function].pop()
            environment.begin(invocation)
        else:
            if conditions.happens("slow_start"):
                await asyncio.sleep(conditions.chance.uniform(*START_SECONDS))
            environment = Environment(self.services, self.invoke, invocation)
            handler = self.builds[function](environment)
        invocation.deadline_ms = conditions.now_ms() + int(timeout_seconds(function) * 1000)
        self.at_work.add(invocation.serial)
        try:
            payload = await running(lambda: self._mortal(environment, handler, event))
        except Crash as crash:
            invocation.is_given_up = True
            payload = {"errorType": "Runtime.ExitError", "errorMessage": str(crash)}
            answer = Answer(payload, "Unhandled", f"request-{invocation.serial}")
        except Exception as error:  # noqa: BLE001 - whatever a function raises is its failure
            payload = {"errorType": type(error).__name__, "errorMessage": str(error)}
            conditions.history.note(name, "raises", type(error).__name__, error)
            self.raised[function, type(error).__name__] += 1
            answer = Answer(payload, "Unhandled", f"request-{invocation.serial}")
            environment.write_counts()
        else:
            environment.write_counts()
            invocation.answer, invocation.has_ended = payload, True
            invocation.ended_at_ms = conditions.now_ms()
            conditions.history.note(name, "answers", shortened(payload))
            answer = Answer(payload, None, f"request-{invocation.serial}")
        finally:
            self.at_work.discard(invocation.serial)
        if not environment.is_dead:
            self._idle[function].append((environment, handler))
        return answer

    def _mortal(self, environment: Environment, handler: Handler, event: Json) -> Any:
        """Run the handler, unless a record of the event kills it."""
        conditions = self.services.conditions
        if environment.function in MORTAL and not conditions.is_mended:
            for record in event["Records"]:
                if conditions.is_killing(record["kinesis"]["data"]):
                    raise environment.die("of poison")
        _environments[getcurrent()] = environment
        return handler(event)

    def _in_background(self, work: Any) -> "asyncio.Task[Any]":
        token = owner.set("lambda")
        try:
            return asyncio.create_task(work)
        finally:
            owner.reset(token)

    def _name(self, serial: int, function: str) -> str:
        return f"{self.services.name}/{function}#{serial}"


def told(event: Json) -> str:
    """Return a short text about an event's content."""
    records = event.get("Records")
    if not isinstance(records, list):
        return str(event.get("resource") or event.get("topic", ""))
    ids = [record.get("eventID") or record.get("messageId") for record in records]
    numbers = [str(each)[-6:] for each in ids]
    return f"gets {len(ids)}: {', '.join(numbers[:8])}{'…' * (len(numbers) > 8)}"


def shortened(payload: Any) -> str:
    text = str(payload)
    return text if len(text) <= 200 else text[:200] + "…"
