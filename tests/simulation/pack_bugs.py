"""More bugs to plant: in packs, where one record has many readings."""

import contextlib
import itertools
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from telemetry.aws import stream as stream_module
from telemetry.domain import pack as packs
from telemetry.domain.pack import Pack
from telemetry.domain.validation import NothingMeasured
from telemetry.errors import Rejected

from functions.aggregate import handler as aggregate
from functions.alert import handler as alert
from functions.redrive import handler as redrive
from tests.simulation import oracle
from tests.simulation.bugs import breaks


def decoded_for_alert(planted: contextlib.ExitStack, decode: Any) -> None:
    """Let alert decode its events in another way than aggregate."""
    names = {name: getattr(stream_module, name) for name in ("checked", "resume_from")}
    planted.enter_context(patch.object(alert, "stream", SimpleNamespace(**names, decode=decode)))


@breaks(oracle.episodes_join_their_breaches)
def only_the_first_reading_of_a_pack_alerts(planted: contextlib.ExitStack) -> None:
    """Alert evaluates a record's first reading and passes over the others of its pack."""

    def first_each(event: Any) -> list[Any]:
        return [each for each in stream_module.decode(event) if each.place == 0]

    decoded_for_alert(planted, first_each)


@breaks(oracle.episodes_join_their_breaches, seed=2)
def the_extremes_are_what_alerts(planted: contextlib.ExitStack) -> None:
    """Alert takes a value rounded as those on top for the reading's own."""

    def rounded(reading: Any) -> Any:
        values = {name: packs.rounded_up(value) for name, value in reading.metrics.items()}
        return reading._replace(metrics=values)

    def decode(event: Any) -> list[Any]:
        return [
            each._replace(reading=rounded(each.reading)) if each.reading else each
            for each in stream_module.decode(event)
        ]

    decoded_for_alert(planted, decode)


@breaks(oracle.windows_are_the_sets_of_readings, seed=3)
def extremes_rounded_to_nearest(planted: contextlib.ExitStack) -> None:
    """The value on top may be below the highest one, so that a filter misses it."""
    planted.enter_context(patch.object(packs, "rounded_up", lambda value: round(value, 6) + 0.0))


@breaks(oracle.episodes_join_their_breaches, seed=3)
def extremes_rounded_and_not_compared(planted: contextlib.ExitStack) -> None:
    """The same, and consumers don't compare the extremes with the columns."""
    planted.enter_context(patch.object(packs, "rounded_up", lambda value: round(value, 6) + 0.0))
    planted.enter_context(patch.object(packs, "_is_within", lambda *_values: True))


@breaks(oracle.windows_are_the_sets_of_readings, seed=2)
def a_bad_reading_takes_its_pack_along(planted: contextlib.ExitStack) -> None:
    """A pack with a bad reading is rejected as a whole."""
    real = packs._judged

    def whole(data: bytes) -> Pack | None:
        found = real(data)
        for outcome in found.outcomes if found else ():
            if isinstance(outcome, Rejected) and not isinstance(outcome, NothingMeasured):
                raise outcome
        return found

    planted.enter_context(patch.object(packs, "_judged", whole))


@breaks(oracle.windows_are_the_sets_of_readings, seed=2)
def columns_shifted(planted: contextlib.ExitStack) -> None:
    """Where a reading lacks a metric, the values after it move up."""
    real = packs._transposed

    def shifted(data: bytes, top: Any, after_ms: Any, columns: Any, full: bool) -> Pack | None:
        moved = {
            name: sorted(column, key=lambda value: value is None)
            for name, column in columns.items()
        }
        return real(data, top, after_ms, moved, full)

    planted.enter_context(patch.object(packs, "_transposed", shifted))


@breaks(oracle.streams_have_what_devices_sent)
def after_the_first_and_not_the_earliest(planted: contextlib.ExitStack) -> None:
    """Times count from the first reading, and those before it are taken for those after it."""
    real = packs.encode

    def forward(readings: Any) -> bytes:
        first_ms = readings[0].recorded_at_ms
        return real(
            [
                each._replace(recorded_at_ms=first_ms + abs(each.recorded_at_ms - first_ms))
                for each in readings
            ]
        )

    planted.enter_context(patch.object(packs, "encode", forward))


@breaks(oracle.what_is_acknowledged_is_there)
def one_reading_an_instant_in_a_pack(planted: contextlib.ExitStack) -> None:
    """Of two readings of an instant, a pack keeps the last."""
    real = packs.encode

    def distinct(readings: Any) -> bytes:
        return real(list({each.recorded_at_ms: each for each in readings}.values()))

    planted.enter_context(patch.object(packs, "encode", distinct))


@breaks(oracle.quarantine_has_what_cannot_be_stored, seed=2)
def one_name_for_all_of_a_pack(planted: contextlib.ExitStack) -> None:
    """The readings of a pack have one name in quarantine, so one hides the others."""
    name = property(lambda self: f"{self.shard_id}:{self.sequence_number}")
    planted.enter_context(patch.object(stream_module.Record, "name", name))


@breaks(oracle.quarantine_has_what_cannot_be_stored, seed=2)
def a_bad_reading_with_its_whole_pack(planted: contextlib.ExitStack) -> None:
    """A bad reading's whole record goes to quarantine, with the good readings in it."""
    planted.enter_context(
        patch.object(stream_module.Record, "data", property(lambda self: self.whole))
    )


@breaks(oracle.each_record_is_counted_once, seed=52)
def a_part_of_a_pack_is_counted(planted: contextlib.ExitStack) -> None:
    """Readings before the failed one of their pack are counted, and once more when it comes."""

    def before(failed: Any, outcomes: Any) -> list[Any]:
        stop = {(record.sequence_number, record.place) for record in failed}
        return list(
            itertools.takewhile(
                lambda each: (each[0].sequence_number, each[0].place) not in stop, outcomes
            )
        )

    planted.enter_context(patch.object(aggregate, "_until_first", before))


@breaks(oracle.quarantine_has_what_cannot_be_stored, seed=6)
def a_pack_put_aside_whole(planted: contextlib.ExitStack) -> None:
    """A redrive puts a pack aside whole for the one reading that kills its function."""
    planted.enter_context(patch.object(redrive, "apart", lambda _given: []))


@breaks(oracle.what_is_acknowledged_is_there, seed=23)
def a_zero_is_no_value(planted: contextlib.ExitStack) -> None:
    """A pack's column has null where a reading has 0."""
    real = packs.encode

    def without_zeros(reading: Any) -> Any:
        kept = {name: value for name, value in reading.metrics.items() if value}
        return reading._replace(metrics=kept or reading.metrics)

    def encode(readings: Any) -> bytes:
        return real(list(map(without_zeros, readings)) if len(readings) > 1 else readings)

    planted.enter_context(patch.object(packs, "encode", encode))


@breaks(oracle.nothing_is_unaccounted)
def a_pack_lacks_its_stamps(planted: contextlib.ExitStack) -> None:
    """A pack doesn't say when its readings were received, so they count as another producer's."""
    real = stream_module.Stream.put

    def unstamped(self: Any, readings: Any) -> list[Any]:
        return real(self, [each._replace(received_at_ms=None) for each in readings])

    planted.enter_context(patch.object(stream_module.Stream, "put", unstamped))


@breaks(oracle.streams_have_what_devices_sent, seed=13)
def one_pack_for_a_request_of_several_devices(planted: contextlib.ExitStack) -> None:
    """The readings of a request are packed together whatever their device."""
    real = packs.pack

    def by_request(readings: Any, is_packing: bool = True) -> list[Any]:
        if not is_packing or not readings:
            return real(readings, is_packing)
        of_one = [each._replace(device_id=readings[0].device_id) for each in readings]
        return [packs.Packed(list(readings), packs.encode(of_one))]

    planted.enter_context(patch.object(packs, "pack", by_request))


@breaks(oracle.episodes_join_their_breaches, seed=3)
def breaches_that_filters_cannot_see_are_only_stored(planted: contextlib.ExitStack) -> None:
    """Aggregate stores a breach whose digits no filter compares, and puts it nowhere else."""
    planted.enter_context(patch.object(stream_module, "is_unseen", lambda *_arguments: False))


@breaks(oracle.each_record_is_counted_once, seed=3)
def what_comes_again_is_counted_twice(planted: contextlib.ExitStack) -> None:
    """Aggregate counts a breach when it puts it on the stream again, and when that comes."""
    real = aggregate._count_by_minute

    def at_once(outcomes: Any) -> None:
        real([(record._replace(again=None), metric) for record, metric in outcomes])

    planted.enter_context(patch.object(aggregate, "_count_by_minute", at_once))


@breaks(oracle.what_filters_pass_over_comes_again, seed=270)
def a_breach_that_could_not_be_put_is_done(planted: contextlib.ExitStack) -> None:
    """Aggregate acknowledges a breach that the stream didn't take when it came again."""
    real = aggregate._put_back

    def done(*arguments: Any) -> Any:
        return [record for record in real(*arguments) if record.again is None]

    planted.enter_context(patch.object(aggregate, "_put_back", done))
