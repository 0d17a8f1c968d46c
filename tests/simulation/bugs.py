"""Bugs to plant: mistakes of people who don't think of one of the faults.

Each replaces a correct part of the real code, and names the invariant that must fail. A test shows
that each bug is found within 160 seeds. If one isn't, the simulation is too weak.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

from telemetry.aws import alerts as alerts_module
from telemetry.aws import functions as functions_module
from telemetry.aws import mqtt, windows
from telemetry.aws import stream as stream_module
from telemetry.aws.alerts import to_notice
from telemetry.aws.claims import Claims
from telemetry.aws.items import (
    CONFLICTS,
    CompareAndSet,
    Conflict,
    DynamoItems,
    Failed,
    Write,
    Written,
)
from telemetry.aws.overflow import Overflow
from telemetry.aws.quarantine import Quarantine, entry_of_record
from telemetry.aws.queue import Queue
from telemetry.aws.schemas import Schemas
from telemetry.aws.stream import Stream
from telemetry.domain import admission, validation
from telemetry.domain import episode as episode_module
from telemetry.domain import window as window_module
from telemetry.domain.episode import Changed, Episode, join
from telemetry.domain.schema import versions
from telemetry.domain.window import Addition, Fate
from telemetry.errors import Unavailable

from emulator.mappings import lane, policy
from emulator.mappings.lane import Lane
from emulator.mappings.model import Batch, Mapping
from emulator.mqtt import sql
from functions.aggregate import handler as aggregate
from functions.alert import handler as alert
from functions.dispatch import handler as dispatch
from functions.drain import handler as drain
from functions.ingest import handler as ingest
from functions.notify import handler as notify
from functions.redrive import handler as redrive
from functions.sweep import handler as sweep
from tests.fakes import schema_id
from tests.simulation import events as events_module
from tests.simulation import iot as iot_module
from tests.simulation import oracle, wiring
from tests.simulation import region as region_module
from tests.simulation.functions import Environment, Handler
from tests.simulation.judge import RETENTION_MS
from tests.simulation.services import FAILURES
from tests.simulation.world import World

Plant = Callable[[contextlib.ExitStack], None]


class Bug(NamedTuple):
    """How to plant a bug, the invariant that must find it, and a seed in which it does."""

    plant: Plant
    breaks: str
    seed: int


BUGS: dict[str, Bug] = {}


def breaks(invariant: Callable[[World], oracle.Found], seed: int = 0) -> Callable[[Plant], Plant]:
    """Register a bug under its function's name, with the invariant that must fail.

    `seed` is one in which it fails. It is tried first, only to save time: a change of the
    simulation or of the code may make it another seed.
    """

    def keep(plant: Plant) -> Plant:
        BUGS[plant.__name__] = Bug(plant, invariant.__name__, seed)
        return plant

    return keep


@breaks(oracle.windows_are_the_sets_of_readings, seed=9)
def blind_write(planted: contextlib.ExitStack) -> None:
    """An item is overwritten at any version: compare-and-set without the compare."""
    real = DynamoItems._statement

    def blind(self: DynamoItems, write: Write) -> dict[str, Any]:
        statement = real(self, write)
        if write.expected:
            statement["Statement"] = statement["Statement"].replace(' AND "version" = ?', "")
            statement["Parameters"].pop()
        return statement

    planted.enter_context(patch.object(DynamoItems, "_statement", blind))


@breaks(oracle.windows_are_the_sets_of_readings)
def running_sums(planted: contextlib.ExitStack) -> None:
    """A window counts each reading that it is given: a repeated reading counts again."""

    def counting(window: Any, readings: Any) -> Addition:
        window = dict(window or {})
        fates = []
        for reading in readings:
            while reading.recorded_at_ms % 60_000 in window:
                reading = reading._replace(recorded_at_ms=reading.recorded_at_ms + 1)  # noqa: PLW2901
            window[reading.recorded_at_ms % 60_000] = reading.metrics
            fates.append(Fate.STORED)
        return Addition(window, fates, 0)

    planted.enter_context(patch.object(windows, "add_readings", counting))


@breaks(oracle.what_is_acknowledged_is_there, seed=3)
def acknowledged_before_written(planted: contextlib.ExitStack) -> None:
    """Devices get "accepted" before the stream has the readings."""
    real = Stream.put

    def hopeful(self: Stream, readings: Any) -> list[Any]:
        real(self, readings)
        return []

    planted.enter_context(patch.object(Stream, "put", hopeful))


@breaks(oracle.what_is_acknowledged_is_there, seed=28)
def overflow_ignored(planted: contextlib.ExitStack) -> None:
    """Readings that the overflow queue refuses are acknowledged all the same."""
    real = Overflow.put

    def careless(self: Overflow, readings: Any) -> list[Any]:
        real(self, readings)
        return []

    planted.enter_context(patch.object(Overflow, "put", careless))


@breaks(oracle.each_record_is_counted_once, seed=3)
def advance_before_delivery(planted: contextlib.ExitStack) -> None:
    """A shard's checkpoint is the last read record, not the last delivered one."""

    def ahead(self: Lane, read: str | None) -> str | None:
        return lane.later(self._done, read)

    planted.enter_context(patch.object(Lane, "position", ahead))


@breaks(oracle.notices_go_out_once, seed=2)
def no_outbox(planted: contextlib.ExitStack) -> None:
    """`alert` queues the notice after writing the episode: two writes with a gap between them."""

    def alerting(of: Environment) -> Handler:
        alerts, queue = wiring.alerts_for(of), Queue(of.sqs, "notices")
        real = alerts.join

        def and_tell(breaches: Any, unreadable: Any = None) -> dict[Any, Changed]:
            joined = real(breaches, unreadable)
            opened = [key for key, result in joined.items() if result.change == "opened"]
            items = [alerts._to_item(key, joined[key]) for key in opened]
            queue.send([json.dumps(to_notice(item)._asdict()) for item in items])
            return joined

        alerts.join = and_tell  # type: ignore[method-assign]
        rules, quarantine = wiring.rules_of(of.conditions.options), Quarantine(of.s3, FAILURES)
        return lambda event: alert.run(event, rules, alerts, RETENTION_MS, quarantine)

    def dispatching(of: Environment) -> Handler:
        real = wiring.dispatching(of)

        def only_clears(event: Any) -> Any:
            records = [
                record
                for record in event["Records"]
                if record["dynamodb"]["NewImage"]["change"]["S"] == "cleared"
            ]
            return real({"Records": records}) if records else {"batchItemFailures": []}

        return only_clears

    builds = {"alert": alerting, "dispatch": dispatching}
    planted.enter_context(patch.dict(wiring.BUILDS, builds))


@breaks(oracle.notices_go_out_once)
def every_regions_items(planted: contextlib.ExitStack) -> None:
    """A region acts on the items that other regions wrote: each sends the notice."""
    real = region_module.patterns

    def anybodys(function: str, event: str) -> list[str]:
        return [
            each.replace('"region":{"S":["${AWS::Region}"]},', "") for each in real(function, event)
        ]

    planted.enter_context(patch.object(region_module, "patterns", anybodys))


@breaks(oracle.windows_are_the_sets_of_readings)
def one_item_for_all_regions(planted: contextlib.ExitStack) -> None:
    """Regions write the same items: the last writer wins, the other's readings are lost."""
    real = windows.Windows._to_item

    def to_item(self: windows.Windows, key: Any, addition: Any) -> Any:
        self._region = "eu-west-1"
        return real(self, key, addition)

    planted.enter_context(patch.object(windows.Windows, "_to_item", to_item))


@breaks(oracle.quarantine_has_what_cannot_be_stored, seed=3)
def quarantine_failure_swallowed(planted: contextlib.ExitStack) -> None:
    """Records that the quarantine refuses count as done."""
    real = Quarantine.put

    def careless(self: Quarantine, *rejected: Any) -> list[Any]:
        real(self, *rejected)
        return []

    planted.enter_context(patch.object(Quarantine, "put", careless))


@breaks(oracle.episodes_follow_each_other, seed=6)
def reopened_by_a_late_breach(planted: contextlib.ExitStack) -> None:
    """A breach opens a new episode if the last one is cleared, even a very late breach."""

    def forgetful(episode: Episode | None, breaches: Any) -> Changed:
        breaches = list(breaches)
        if episode is not None and not episode.is_open and breaches:
            started = join(None, breaches).state
            assert started is not None
            since_ms = min(started.first_breach_ms - 1, episode.cleared_ms or 0)
            opened = started._replace(number=episode.number + 1, since_ms=since_ms)
            return Changed(opened, "opened")
        return join(episode, breaches)

    planted.enter_context(patch.object(alerts_module, "join", forgetful))


@breaks(oracle.each_record_is_counted_once, seed=2)
def failures_not_reported(planted: contextlib.ExitStack) -> None:
    """The answer to the mapping doesn't name the records that couldn't be written."""
    everything: dict[str, Any] = {"batchItemFailures": []}
    planted.enter_context(
        patch.object(stream_module, "resume_from", lambda _records, _failed: everything)
    )


@breaks(oracle.each_record_is_counted_once, seed=3)
def resumed_from_the_last_failure(planted: contextlib.ExitStack) -> None:
    """The answer names the last of several failed records; the ones before it are lost."""
    real = stream_module.resume_from

    def from_last(records: Any, failed: Any) -> dict[str, Any]:
        places = {record.sequence_number: place for place, record in enumerate(records)}
        last = sorted(failed, key=lambda number: places[number])[-1:]
        return real(records, last)

    planted.enter_context(patch.object(stream_module, "resume_from", from_last))


@breaks(oracle.windows_are_the_sets_of_readings, seed=2)
def unsure_is_written(planted: contextlib.ExitStack) -> None:
    """A write without an answer counts as done."""
    real = DynamoItems.write

    def sure(self: DynamoItems, writes: Any) -> list[Any]:
        return [Written() if isinstance(each, Failed) else each for each in real(self, writes)]

    planted.enter_context(patch.object(DynamoItems, "write", sure))


@breaks(oracle.windows_are_the_sets_of_readings)
def half_a_batch_dropped(planted: contextlib.ExitStack) -> None:
    """A batch is bisected, but only one half is retried."""
    real = policy.after

    def halved(batch: Batch, failed_at: int | None, mapping: Mapping) -> policy.Step:
        step = real(batch, failed_at, mapping)
        if len(step.rest) == 2:
            return policy.Step(done=len(step.rest[0].records), rest=step.rest[1:])
        return step

    planted.enter_context(patch.object(policy, "after", halved))


@breaks(oracle.notices_go_out_once, seed=6)
def no_claim(planted: contextlib.ExitStack) -> None:
    """A notice is sent at each delivery by the queue."""
    planted.enter_context(patch.object(Claims, "take", lambda *_arguments: "taken"))


@breaks(oracle.notices_go_out_once, seed=2)
def noted_before_sent(planted: contextlib.ExitStack) -> None:
    """A notice is marked as sent before it is."""

    def hasty(notice: Any, publisher: Any, claims: Claims, now_seconds: int) -> int:
        name = f"{notice.notice_id}/{publisher.name}"
        if claims.take(notice.device_id, name, now_seconds, notify.LEASE_SECONDS) != "taken":
            return 0
        claims.done(notice.device_id, name)
        publisher.publish(notice)
        return 1

    planted.enter_context(patch.object(notify, "_publish_once", hasty))


@breaks(oracle.streams_have_what_devices_sent, seed=2)
def identity_by_arrival(planted: contextlib.ExitStack) -> None:
    """A reading's instant is its arrival, so a repeated reading counts as another."""
    real = admission.admit

    def stamped(documents: Any, poster: Any, now_ms: int, *more: Any) -> Any:
        admitted = real(documents, poster, now_ms, *more)
        readings = [
            reading._replace(recorded_at_ms=now_ms + place)
            for place, reading in enumerate(admitted.readings)
        ]
        return admitted._replace(readings=readings)

    planted.enter_context(patch.object(ingest, "admit", stamped))


@breaks(oracle.windows_are_the_sets_of_readings, seed=2)
def last_value_wins(planted: contextlib.ExitStack) -> None:
    """Of two values for one instant the later one is kept, so the order decides."""
    planted.enter_context(
        patch.object(window_module, "_merge_metrics", lambda a, b: ({**a, **b}, 0))
    )


@breaks(oracle.windows_are_the_sets_of_readings, seed=2)
def a_contested_value_is_forgotten(planted: contextlib.ExitStack) -> None:
    """A window doesn't record that a value had a different rival."""
    real = window_module._merge_metrics

    def forgetful(a: Any, b: Any) -> Any:
        merged, disagreeing = real(a, b)
        return {name: float(value) for name, value in merged.items()}, disagreeing

    planted.enter_context(patch.object(window_module, "_merge_metrics", forgetful))


@breaks(oracle.the_bad_are_refused, seed=6)
def values_of_one_instant_are_all_accepted(planted: contextlib.ExitStack) -> None:
    """A request with two values of one instant is accepted whole; one of them is lost."""

    def trusting(readings: Any, _places: Any) -> Any:
        return [validation.Parsed(reading) for reading in readings]

    planted.enter_context(patch.object(admission, "resolve_conflicts", trusting))


@breaks(oracle.windows_are_the_sets_of_readings, seed=21)
def a_bad_metric_takes_the_good_ones_with_it(planted: contextlib.ExitStack) -> None:
    """A record on the stream with an invalid metric isn't taken as a reading."""
    real = validation.decode

    def strict(data: bytes) -> Any:
        parsed = real(data)
        if parsed.refused:
            raise parsed.refused[0]
        return parsed

    planted.enter_context(patch.object(validation, "decode", strict))


@breaks(oracle.quarantine_has_what_cannot_be_stored, seed=4)
def what_is_refused_of_a_record_is_dropped(planted: contextlib.ExitStack) -> None:
    """A record of which only metrics are refused isn't quarantined."""
    planted.enter_context(patch.object(aggregate, "_first_of_each_device", lambda _records: []))


@breaks(oracle.episodes_join_their_breaches, seed=45)
def cleared_whatever_came(planted: contextlib.ExitStack) -> None:
    """An episode is cleared although a later breach has joined it meanwhile."""

    def anyhow(episode: Episode | None, at_ms: int) -> Changed:
        if episode is None or not episode.is_open:
            return Changed(episode, "")
        return Changed(episode._replace(cleared_ms=at_ms), "cleared")

    planted.enter_context(patch.object(alerts_module, "clear", anyhow))


@breaks(oracle.windows_are_the_sets_of_readings, seed=1)
def forgotten_cache(planted: contextlib.ExitStack) -> None:
    """A conflict is answered by writing the old state again, at the new version."""
    real = CompareAndSet._remember

    def stubborn(self: Any, key: Any, state: Any, version: int) -> None:
        known = self._known.get(key)
        real(self, key, known[0] if known else state, version)

    planted.enter_context(patch.object(CompareAndSet, "_remember", stubborn))


@breaks(oracle.notices_go_out_once)
def a_clear_goes_unnoticed(planted: contextlib.ExitStack) -> None:
    """The outbox's filter lets only openings through."""
    real = region_module.patterns

    def openings(function: str, event: str) -> list[str]:
        return [each.replace('"opened","cleared"', '"opened"') for each in real(function, event)]

    planted.enter_context(patch.object(region_module, "patterns", openings))


@breaks(oracle.nobody_writes_anothers_data, seed=2)
def anothers_readings_taken(planted: contextlib.ExitStack) -> None:
    """A document may name another device than the poster."""
    real = validation.parse

    def trusting(raw: Any, device_id: str | None = None) -> Any:
        if isinstance(raw, dict) and "device_id" in raw:
            device_id = None
        return real(raw, device_id)

    planted.enter_context(patch.object(admission, "parse", trusting))


@breaks(oracle.each_record_is_counted_once, seed=2)
def counted_beyond_the_checkpoint(planted: contextlib.ExitStack) -> None:
    """A repeated delivery is counted again."""
    planted.enter_context(patch.object(aggregate, "_until_first", lambda _failed, ended: ended))


@breaks(oracle.nothing_is_unaccounted, seed=6)
def counted_by_nobody(planted: contextlib.ExitStack) -> None:
    """Records that a redrive quarantines are missing in the balance."""
    planted.enter_context(patch.object(redrive, "_count_settled", lambda _records: None))


@breaks(oracle.windows_are_the_sets_of_readings, seed=3)
def redriven_is_deleted(planted: contextlib.ExitStack) -> None:
    """A redrive deletes a batch after its try, although a retry could succeed."""
    real = redrive.Batches._retry

    def hopeful(self: redrive.Batches, failure: Any) -> list[Any]:
        real(self, failure)
        return []

    planted.enter_context(patch.object(redrive.Batches, "_retry", hopeful))


@breaks(oracle.streams_have_what_devices_sent, seed=1)
def changed_on_the_way(planted: contextlib.ExitStack) -> None:
    """Ingest puts another value on the stream than the device sent."""
    real = admission.admit

    def warmer(*arguments: Any) -> Any:
        admitted = real(*arguments)
        readings = [
            reading._replace(metrics={n: v + 0.5 for n, v in reading.metrics.items()})
            for reading in admitted.readings
        ]
        return admitted._replace(readings=readings)

    planted.enter_context(patch.object(ingest, "admit", warmer))


@breaks(oracle.only_what_is_bad_is_quarantined, seed=3)
def impatience_quarantined(planted: contextlib.ExitStack) -> None:
    """A redrive takes every error for a fault of the record."""
    real = functions_module.judge

    def harsh(error: str | None, payload: bytes) -> Any:
        verdict = real(error, payload)
        return verdict._replace(outcome="never") if verdict.outcome == "later" else verdict

    planted.enter_context(patch.object(functions_module, "judge", harsh))


@breaks(oracle.what_is_accepted_is_counted)
def accepted_uncounted(planted: contextlib.ExitStack) -> None:
    """Ingest doesn't count accepted readings, so that no loss shows in the balance."""
    planted.enter_context(patch.object(ingest, "count_at", lambda *_at, **_amounts: None))


@breaks(oracle.notices_go_out_once, seed=2)
def dead_letters_dropped(planted: contextlib.ExitStack) -> None:
    """A redrive deletes dead letters without sending them back."""

    def dropping(dead: Queue, *_more: Any) -> None:
        for message in dead.receive():
            dead.delete(message)

    planted.enter_context(patch.object(redrive, "_send_back", dropping))


@breaks(oracle.windows_go_when_their_time_is_over)
def windows_that_expire_at_once(planted: contextlib.ExitStack) -> None:
    """A window's expiry is wrong."""
    planted.enter_context(patch.object(windows, "expires_at", lambda *_arguments: 0))


@breaks(oracle.notices_say_what_changed)
def a_notice_of_somebody_else(planted: contextlib.ExitStack) -> None:
    """A notice has the right name and another episode's content."""
    real = alerts_module.to_notice

    def wrong(item: Any) -> Any:
        return real(item)._replace(peak=0.0)

    planted.enter_context(patch.object(dispatch, "to_notice", wrong))


@breaks(oracle.episodes_follow_each_other, seed=5)
def since_its_own_breach(planted: contextlib.ExitStack) -> None:
    """An episode begins with its first known breach; late breaches before it are lost."""

    def started(number: int, breach: Any, since_ms: int | None) -> Episode:
        since_ms = None if since_ms is None else breach.at_ms - 1
        return Episode(number, breach.at_ms, breach.at_ms, breach.value, breach.trace_id, since_ms)

    planted.enter_context(patch.object(episode_module, "_start", started))


@breaks(oracle.functions_raise_what_they_mean_to, seed=3)
def conflicts_always_bring_the_item(planted: contextlib.ExitStack) -> None:
    """The code fails if a refused condition doesn't return the item; a retry hides it."""
    real = DynamoItems._outcome

    def trusting(self: DynamoItems, write: Write, response: dict[str, Any]) -> Any:
        if response.get("Error", {}).get("Code") in CONFLICTS:
            return Conflict(response["Error"]["Item"])
        return real(self, write, response)

    planted.enter_context(patch.object(DynamoItems, "_outcome", trusting))


@breaks(oracle.episodes_join_their_breaches, seed=1)
def cleared_at_the_last_recovery(planted: contextlib.ExitStack) -> None:
    """An episode ends at the device's last calm reading, not at the first."""

    def latest(values: Any, clears_below: float, last_breach_ms: int, now_ms: int) -> int | None:
        until_ms = now_ms - episode_module.SETTLE_MS
        below = (at_ms for at_ms, value in values if value < clears_below)
        return max((at_ms for at_ms in below if last_breach_ms < at_ms <= until_ms), default=None)

    planted.enter_context(patch.object(sweep, "recovery", latest))


@breaks(oracle.notices_go_out_once, seed=21)
def a_claim_of_no_time(planted: contextlib.ExitStack) -> None:
    """A claim expires at once, so two simultaneous deliveries both send."""
    planted.enter_context(patch.object(notify, "LEASE_SECONDS", -60))


@breaks(oracle.what_is_accepted_is_counted)
def what_others_bring_is_uncounted(planted: contextlib.ExitStack) -> None:
    """Readings of another producer are missing among the balance's incomes."""
    planted.enter_context(patch.object(stream_module.Record, "bypassed_ingest", False))


@breaks(oracle.episodes_open_and_clear_once, seed=30)
def a_late_answer_is_believed(planted: contextlib.ExitStack) -> None:
    """An inconsistent read replaces a state that is known to be newer."""

    def credulous(self: Any, key: Any, state: Any, version: int) -> None:
        known = self._known.get(key)
        self._remember(key, state, max(version, known[1] if known else 0))

    planted.enter_context(patch.object(CompareAndSet, "learn", credulous))


# MQTT and formats


@breaks(oracle.what_is_acknowledged_is_there, seed=19)
def iots_documents_dropped(planted: contextlib.ExitStack) -> None:
    """Drain knows overflowed readings only, and drops IoT's error documents."""
    real = drain.contents

    def only_its_own(message: Any, *more: Any) -> Any:
        return ([], []) if "base64OriginalPayload" in message["body"] else real(message, *more)

    planted.enter_context(patch.object(drain, "contents", only_its_own))


@breaks(oracle.what_is_acknowledged_is_there, seed=3)
def a_failed_event_is_lost(planted: contextlib.ExitStack) -> None:
    """An asynchronous event that Lambda gave up goes nowhere."""
    nowhere = events_module.Asynchronous(retries=2, destination=None)
    planted.enter_context(patch.object(events_module, "asynchronous", lambda _function: nowhere))


@breaks(oracle.what_is_acknowledged_is_there, seed=24)
def a_message_is_done_without_its_readings(planted: contextlib.ExitStack) -> None:
    """Ingest doesn't raise if it can't store a message, so Lambda doesn't retry."""
    real = ingest.run_message

    def calm(*arguments: Any) -> None:
        with contextlib.suppress(Unavailable):
            real(*arguments)

    planted.enter_context(patch.object(ingest, "run_message", calm))


@breaks(oracle.what_is_acknowledged_is_there, seed=3)
def an_error_document_without_a_time(planted: contextlib.ExitStack) -> None:
    """Drain doesn't know a message's arrival, and takes its document for unreadable lines."""
    planted.enter_context(patch.object(drain, "sent_at_ms", lambda _message: None))


@breaks(oracle.nothing_is_unaccounted, seed=2)
def counted_as_mqtt_too(planted: contextlib.ExitStack) -> None:
    """Ingest counts a message's readings, and marks them as uncounted."""
    real = mqtt.take

    def marked(*arguments: Any) -> Any:
        taken = real(*arguments)
        return taken._replace(readings=mqtt.uncounted(taken.readings))

    planted.enter_context(patch.object(mqtt, "take", marked))


@breaks(oracle.what_is_accepted_is_counted, seed=3)
def drained_unmarked(planted: contextlib.ExitStack) -> None:
    """Drain writes readings of an error document as if ingest had counted them."""
    planted.enter_context(patch.object(mqtt, "uncounted", list))


@breaks(oracle.streams_have_what_devices_sent, seed=21)
def the_payload_names_the_device(planted: contextlib.ExitStack) -> None:
    """A field of the payload overrides the rule's field, and no condition excludes it."""
    conditions = (" AND isUndefined(device_id) = true", " OR isUndefined(device_id) = false")
    real_parse, real_set_field = sql.parse, sql.set_field

    def careless(text: str) -> Any:
        for condition in conditions:
            text = text.replace(condition, "")
        return real_parse(text)

    def theirs(result: dict[str, Any], name: tuple[str, ...], value: Any) -> None:
        if name[0] not in result:
            real_set_field(result, name, value)

    planted.enter_context(patch.object(sql, "parse", careless))
    planted.enter_context(patch.object(sql, "set_field", theirs))
    trusting = iot_module.rules.__wrapped__()
    planted.enter_context(patch.object(iot_module, "rules", lambda: trusting))


@breaks(oracle.streams_have_what_devices_sent, seed=2)
def identity_by_delivery(planted: contextlib.ExitStack) -> None:
    """A message's reading has its delivery's instant: a repeated publication is another one."""
    real = mqtt.take

    def stamped(message: Any, *more: Any) -> Any:
        taken = real(message, *more)
        readings = [
            reading._replace(recorded_at_ms=message.received_at_ms + place)
            for place, reading in enumerate(taken.readings)
        ]
        return taken._replace(readings=readings)

    planted.enter_context(patch.object(mqtt, "take", stamped))


@breaks(oracle.streams_have_what_devices_sent, seed=5)
def old_avro_read_by_place(planted: contextlib.ExitStack) -> None:
    """Records of the first version's devices are read with the newest version's metrics."""
    real, shifted = Schemas.writer, {"temperature": "humidity", "humidity": "pressure"}
    first = versions("reading")[0]
    fields = [
        {**field, "name": shifted.get(field["name"], field["name"])} for field in first["fields"]
    ]
    wrong = {**first, "fields": fields}

    def writer(self: Schemas, asked: Any) -> Any:
        return wrong if asked == schema_id(1) else real(self, asked)

    planted.enter_context(patch.object(Schemas, "writer", writer))


@breaks(oracle.only_what_is_bad_is_quarantined, seed=26)
def a_registry_that_is_away_knows_nothing(planted: contextlib.ExitStack) -> None:
    """A failed call of the schema registry counts as "no such schema"."""
    real = Schemas._ask

    def hasty(self: Schemas, asked: Any) -> Any:
        try:
            return real(self, asked)
        except Unavailable:
            return None

    planted.enter_context(patch.object(Schemas, "_ask", hasty))


@breaks(oracle.bad_records_are_quarantined_once, seed=2)
def quarantined_by_alert_too(planted: contextlib.ExitStack) -> None:
    """Each consumer quarantines bad records."""
    real = wiring.alerting

    def alerting(of: Environment) -> Handler:
        handle, quarantine = real(of), Quarantine(of.s3, FAILURES)

        def and_put_aside(event: Any) -> Any:
            records = stream_module.checked(stream_module.decode(event), RETENTION_MS)
            rejected = [(each, each.rejected) for each in records if each.rejected]
            quarantine.keep([entry_of_record(each, "alert", why) for each, why in rejected])
            return handle(event)

        return and_put_aside

    planted.enter_context(patch.dict(wiring.BUILDS, {"alert": alerting}))


@breaks(oracle.bad_messages_are_quarantined_once, seed=2)
def a_name_for_each_delivery(planted: contextlib.ExitStack) -> None:
    """A message's bad content is quarantined under another name at each delivery."""
    real, numbers = mqtt._entry, itertools.count()

    def numbered(message: Any, *more: Any) -> Any:
        entry = real(message, *more)
        return entry._replace(name=f"{entry.name}:{next(numbers)}")

    planted.enter_context(patch.object(mqtt, "_entry", numbered))


@breaks(oracle.bad_messages_are_quarantined_once, seed=2)
def what_a_message_has_wrong_is_dropped(planted: contextlib.ExitStack) -> None:
    """A message's bad documents are dropped."""
    real = mqtt.take

    def silent(*arguments: Any) -> Any:
        return real(*arguments)._replace(refused=0, entries=[])

    planted.enter_context(patch.object(mqtt, "take", silent))


@breaks(oracle.windows_are_the_sets_of_readings, seed=3)
def without_a_stamp_any_time_will_do(planted: contextlib.ExitStack) -> None:
    """Readings that bypassed ingest get its time checks only if a rule has stamped them."""
    real = stream_module._checked

    def lenient(record: Any, retention_ms: int) -> Any:
        if record.reading is None or record.reading.received_at_ms is None:
            return record
        return real(record, retention_ms)

    planted.enter_context(patch.object(stream_module, "_checked", lenient))


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant a bug while the block runs; none without a name."""
    with contextlib.ExitStack() as stack:
        if name:
            BUGS[name].plant(stack)
        yield
