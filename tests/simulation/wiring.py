"""Wires the pipeline's functions as their `wired()` does, but to simulated clients and clocks."""

import functools
import itertools
from typing import Any

from telemetry.aws.alerts import KEY as ALERT_KEY
from telemetry.aws.alerts import AlertReader, Alerts
from telemetry.aws.claims import Claims
from telemetry.aws.failures import Failures
from telemetry.aws.functions import Functions
from telemetry.aws.generations import Generations
from telemetry.aws.items import CompareAndSet, DynamoItems
from telemetry.aws.overflow import Overflow
from telemetry.aws.pace import Pace
from telemetry.aws.publishers import Bus, Topic
from telemetry.aws.quarantine import Appender, Quarantine
from telemetry.aws.queue import Queue
from telemetry.aws.schemas import Schemas
from telemetry.aws.stream import Stream
from telemetry.aws.windows import KEY as WINDOW_KEY
from telemetry.aws.windows import WindowReader, Windows
from telemetry.domain.rule import Rule, shipped_rules
from telemetry.domain.schema import versions

from functions.aggregate import handler as aggregate
from functions.alert import handler as alert
from functions.dispatch import handler as dispatch
from functions.drain import handler as drain
from functions.ingest import handler as ingest
from functions.notify import handler as notify
from functions.redrive import handler as redrive
from functions.sweep import handler as sweep
from tests.fakes import schema_id
from tests.simulation.functions import Build, Environment, Handler
from tests.simulation.judge import RETENTION_MS, THAWING
from tests.simulation.options import Options
from tests.simulation.services import ALERTS, FAILURES, STACK, WINDOWS

Json = dict[str, Any]
shipped = functools.cache(shipped_rules)


def rules_of(options: Options) -> tuple[Rule, ...]:
    """Return the deployed rules: the shipped ones, or a freezer's."""
    return (
        (Rule(**THAWING._asdict(), metric="temperature", severity="critical"),)
        if (options.freezers)
        else shipped()
    )


def ingesting(of: Environment) -> Handler:
    stream = stream_for(of)
    overflow = Overflow(Queue(of.sqs, "overflow"))
    names = itertools.count()
    quarantine = Appender(of.s3, FAILURES, lambda: f"{of.name.replace('/', '-')}-{next(names)}")
    schemas = schemas_for(of)

    def handle(event: Json) -> Any:
        if "httpMethod" in event:
            return ingest.run(event, of.clock_ms(), RETENTION_MS, stream, overflow, schemas)
        ingest.run_message(event, RETENTION_MS, stream, overflow, quarantine, schemas)
        return None

    return handle


def stream_for(of: Environment) -> Stream:
    is_packing = of.conditions.options.packs
    return Stream(of.kinesis, "readings", of.sleep, of.seconds, is_packing)


def schemas_for(of: Environment) -> Schemas:
    """Glue has the first and the newest version; the other one is in the package."""
    known = {schema_id(2): versions("reading")[1]}
    return Schemas(lambda: of.glue, STACK, known, of.seconds)


def draining(of: Environment) -> Handler:
    stream = stream_for(of)
    quarantine, schemas = Quarantine(of.s3, FAILURES), schemas_for(of)
    return lambda event: drain.run(event, stream, quarantine, RETENTION_MS, schemas)


def aggregating(of: Environment) -> Handler:
    items, region = DynamoItems(of.dynamodb, WINDOWS, WINDOW_KEY), of.services.name
    generations = Generations(of.dynamodb, WINDOWS, region, items, of.seconds)
    windows = Windows(items, region, RETENTION_MS, generations.written)
    simulate(windows._states, of)
    quarantine = Quarantine(of.s3, FAILURES)
    stream, pace = stream_for(of), Pace(of.seconds, of.sleep)
    return lambda event: aggregate.run(event, of.clock_ms(), windows, quarantine, stream, pace)


def simulate(states: CompareAndSet[Any, Any, Any], of: Environment) -> None:
    """Let caches wait and forget in virtual time, as the options say."""
    states._sleep, states._clock = of.sleep, of.seconds
    if of.conditions.options.forgets:
        states._remembered = 0


def alerts_for(of: Environment) -> Alerts:
    items = DynamoItems(of.dynamodb, ALERTS, ALERT_KEY)
    severities = {rule.name: rule.severity for rule in rules_of(of.conditions.options)}
    alerts = Alerts(items, of.services.name, severities)
    simulate(alerts._states, of)
    return alerts


def alerting(of: Environment) -> Handler:
    alerts, rules = alerts_for(of), rules_of(of.conditions.options)
    quarantine = Quarantine(of.s3, FAILURES)
    return lambda event: alert.run(event, rules, alerts, RETENTION_MS, quarantine)


def sweeping(of: Environment) -> Handler:
    open_episodes = functools.partial(AlertReader(of.dynamodb, ALERTS).open_in, of.services.name)
    windows, alerts = WindowReader(of.dynamodb, WINDOWS, of.seconds), alerts_for(of)
    rules = rules_of(of.conditions.options)
    return lambda _event: sweep.run(
        of.clock_ms(), rules, open_episodes, windows, alerts, of.remaining_ms
    )


def dispatching(of: Environment) -> Handler:
    queue, quarantine = Queue(of.sqs, "notices"), Quarantine(of.s3, FAILURES)
    return lambda event: dispatch.run(event, queue, quarantine)


def notifying(of: Environment) -> Handler:
    claims = Claims(of.dynamodb, ALERTS)
    ways = (Topic(of.sns, "topic"), Bus(of.events, "bus"))
    return lambda event: notify.run(event, of.clock_ms() // 1000, claims, ways)


def redriving(of: Environment) -> Handler:
    failures, quarantine = Failures(of.s3, FAILURES, STACK), Quarantine(of.s3, FAILURES)
    functions = Functions(of.aws_lambda, STACK)
    announcements = Queue(of.sqs, FAILURES)
    dead_letters, notices = Queue(of.sqs, "dead-letters"), Queue(of.sqs, "notices")
    return lambda event: redrive.run(
        event, failures, functions, quarantine, announcements, dead_letters, notices, of.seconds
    )


BUILDS: dict[str, Build] = {
    "ingest": ingesting,
    "drain": draining,
    "aggregate": aggregating,
    "alert": alerting,
    "sweep": sweeping,
    "dispatch": dispatching,
    "notify": notifying,
    "redrive": redriving,
}
