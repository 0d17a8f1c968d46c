"""More bugs to plant: at the edges of values and times, between regions, and in reads.

Each was once missed by the simulation, or is of that kind.
"""

import contextlib
import json
from collections import Counter
from typing import Any
from unittest.mock import patch

from telemetry.aws import alerts as alerts_module
from telemetry.aws import influx_api, mqtt, windows
from telemetry.aws import stream as stream_module
from telemetry.domain import admission, validation
from telemetry.domain import episode as episode_module
from telemetry.domain import pack as packs
from telemetry.domain import reading as readings_of
from telemetry.domain import window as window_module
from telemetry.domain.episode import Changed, Episode, join
from telemetry.domain.influx_mapping import translate
from telemetry.domain.times import MINUTE_MS, from_iso, to_iso_minute
from telemetry.errors import Rejected

from functions.dispatch import handler as dispatch
from functions.query import handler as query
from functions.redrive import handler as redrive
from functions.sweep import handler as sweep
from tests.simulation import answers, oracle
from tests.simulation.bugs import breaks

# Values


@breaks(oracle.windows_are_the_sets_of_readings, seed=2)
def larger_magnitude_wins(planted: contextlib.ExitStack) -> None:
    """Of two values of one instant the one further from 0 is kept."""

    def by_magnitude(a: Any, b: Any) -> Any:
        names = a.keys() | b.keys()
        pairs = {name: [each[name] for each in (a, b) if name in each] for name in names}
        return {name: max(values, key=abs) for name, values in pairs.items()}, 0

    planted.enter_context(patch.object(window_module, "_merge_metrics", by_magnitude))


@breaks(oracle.episodes_join_their_breaches, seed=2)
def peak_of_the_larger_magnitude(planted: contextlib.ExitStack) -> None:
    """An episode's peak is the breach's value furthest from 0."""
    real = episode_module._extend

    def extend(episode: Episode, breach: Any) -> Episode:
        return real(episode, breach)._replace(peak=max(episode.peak, breach.value, key=abs))

    planted.enter_context(patch.object(episode_module, "_extend", extend))


@breaks(oracle.windows_are_the_sets_of_readings, seed=8)
def two_zeros(planted: contextlib.ExitStack) -> None:
    """-0.0 is stored as it came, so equal windows have different bytes."""
    real = validation._parsed

    def as_it_came(model: Any, *more: Any) -> Any:
        parsed = real(model, *more)
        metrics = {name: model.__dict__[name] for name in parsed.reading.metrics}
        return parsed._replace(reading=parsed.reading._replace(metrics=metrics))

    planted.enter_context(patch.object(validation, "_parsed", as_it_came))


@breaks(oracle.streams_have_what_devices_sent, seed=3)
def fifteen_digits(planted: contextlib.ExitStack) -> None:
    """Values are written with fewer digits than a double has."""
    real = packs.encode

    def rounded(reading: Any) -> Any:
        metrics = {name: float(f"{value:.15g}") for name, value in reading.metrics.items()}
        return reading._replace(metrics=metrics)

    planted.enter_context(
        patch.object(packs, "encode", lambda readings: real(list(map(rounded, readings))))
    )


@breaks(oracle.the_bad_are_refused, seed=3)
def the_largest_value_refused(planted: contextlib.ExitStack) -> None:
    """The end of a metric's range is refused."""

    def within(*document: Any) -> Any:
        parsed = validation.parse(*document)
        for name, value in parsed.reading.metrics.items():
            if value == readings_of.FIELDS[name]["maximum"]:
                raise Rejected("is too large", field=name, value=value)
        return parsed

    planted.enter_context(patch.object(admission, "parse", within))


# Times


@breaks(oracle.quarantine_has_what_cannot_be_stored, seed=3)
def the_last_moment_refused(planted: contextlib.ExitStack) -> None:
    """A reading that is exactly as far ahead as allowed is refused."""
    real = readings_of.check_time

    def strict(reading: Any, now_ms: int, retention_ms: int, *more: Any) -> None:
        real(reading, now_ms - 1, retention_ms, *more)

    planted.enter_context(patch.object(stream_module, "check_time", strict))


@breaks(oracle.quarantine_has_what_cannot_be_stored, seed=13)
def the_oldest_moment_refused(planted: contextlib.ExitStack) -> None:
    """A reading that is exactly as old as allowed is refused."""
    real = readings_of.check_time

    def strict(reading: Any, now_ms: int, retention_ms: int, *more: Any) -> None:
        real(reading, now_ms, retention_ms - 1, *more)

    planted.enter_context(patch.object(stream_module, "check_time", strict))


@breaks(oracle.episodes_are_cleared_in_time, seed=5)
def settled_a_moment_late(planted: contextlib.ExitStack) -> None:
    """A recovery that is exactly old enough waits for the next sweep."""
    real = episode_module.recovery

    def late(values: Any, clears_below: float, last_breach_ms: int, now_ms: int) -> int | None:
        return real(values, clears_below, last_breach_ms, now_ms - 1)

    planted.enter_context(patch.object(sweep, "recovery", late))


@breaks(oracle.episodes_join_their_breaches, seed=31)
def cleared_at_the_very_threshold(planted: contextlib.ExitStack) -> None:
    """A value equal to the clear threshold counts as below it."""
    real = episode_module.recovery

    def touching(values: Any, clears_below: float, *more: int) -> int | None:
        return real(((at_ms, value - 1e-9) for at_ms, value in values), clears_below, *more)

    planted.enter_context(patch.object(sweep, "recovery", touching))


@breaks(oracle.episodes_join_their_breaches, seed=3)
def joined_at_the_very_clear(planted: contextlib.ExitStack) -> None:
    """A breach at the instant of an episode's clear joins the next episode."""

    def lenient(episode: Episode | None, breaches: Any) -> Changed:
        if episode is None or episode.since_ms is None:
            return join(episode, breaches)
        changed = join(episode._replace(since_ms=episode.since_ms - 1), breaches)
        state = changed.state and changed.state._replace(since_ms=episode.since_ms)
        is_same = state == episode
        return Changed(episode if is_same else state, "" if is_same else changed.change)

    planted.enter_context(patch.object(alerts_module, "join", lenient))


@breaks(oracle.episodes_join_their_breaches, seed=8)
def reopened_at_the_very_clear(planted: contextlib.ExitStack) -> None:
    """A breach at the instant of the clear opens another episode."""

    def hasty(episode: Episode | None, breaches: Any) -> Changed:
        before = episode
        for breach in breaches:
            if episode and episode.cleared_ms == breach.at_ms:
                number = episode.number + 1
                episode = episode_module._start(number, breach, episode.cleared_ms)
            else:
                episode = join(episode, [breach]).state
        is_new = episode is not None and (before is None or episode.number > before.number)
        if episode == before:
            return Changed(before, "")
        return Changed(episode, "opened" if is_new else "extended")

    planted.enter_context(patch.object(alerts_module, "join", hasty))


@breaks(oracle.windows_go_when_their_time_is_over)
def milliseconds_taken_for_seconds(planted: contextlib.ExitStack) -> None:
    """Windows expire in some fifty thousand years."""
    real = windows.expires_at
    planted.enter_context(patch.object(windows, "expires_at", lambda *at: real(*at) * 1000))


@breaks(oracle.streams_have_what_devices_sent, seed=3)
def nanoseconds_through_a_float(planted: contextlib.ExitStack) -> None:
    """InfluxDB's nanoseconds lose their last digits, and sometimes a millisecond."""

    def rounded(points: Any, *more: Any) -> Any:
        return translate(
            [each._replace(time_ns=int(float(each.time_ns))) for each in points], *more
        )

    planted.enter_context(patch.object(influx_api, "translate", rounded))


# What is left, and where


@breaks(oracle.windows_are_the_sets_of_readings, seed=3)
def a_record_dropped_when_time_is_up(planted: contextlib.ExitStack) -> None:
    """A redrive that is cut off in a batch forgets the first untried record."""
    real = redrive.Batches._retry

    def dropping(self: Any, failure: Any) -> list[Any]:
        untried: list[int] = []
        leave = self._leave

        def noted(records: int, why: str | None = None) -> None:
            untried.extend([records] if why is None else [])
            leave(records, why)

        with patch.object(self, "_leave", noted):
            left = real(self, failure)
        for records in untried:
            del left[-records]
        return left

    planted.enter_context(patch.object(redrive.Batches, "_retry", dropping))


@breaks(oracle.notices_go_out_once, seed=6)
def resumed_from_the_last_notice(planted: contextlib.ExitStack) -> None:
    """The answer names the last of several unqueued notices; those before it are lost."""
    planted.enter_context(patch.object(dispatch, "min", max, create=True))


@breaks(oracle.windows_are_the_sets_of_readings, seed=9)
def one_reading_too_many(planted: contextlib.ExitStack) -> None:
    """A full window takes one more."""
    real = window_module.add_readings

    def generous(window: Any, readings: Any) -> Any:
        with patch.object(window_module, "MAX_READINGS", window_module.MAX_READINGS + 1):
            return real(window, readings)

    planted.enter_context(patch.object(windows, "add_readings", generous))


@breaks(oracle.records_have_their_devices_key, seed=23)
def salted_by_the_whole_batch(planted: contextlib.ExitStack) -> None:
    """A device's key depends on the readings of other devices in its batch."""

    def entries(records: Any) -> list[dict[str, Any]]:
        made = []
        for place, (device_id, data) in enumerate(records):
            salt = place // stream_module.RECORDS_A_KEY
            key = f"{device_id}/{salt}" if salt else device_id
            made.append({"Data": data, "PartitionKey": key})
        return made

    planted.enter_context(patch.object(stream_module, "_entries", entries))


@breaks(oracle.what_is_acknowledged_is_there, seed=23)
def basic_ingest_a_level_off(planted: contextlib.ExitStack) -> None:
    """Drain reads a Basic Ingest topic one level off."""
    real = mqtt._of_error

    def shifted(document: Any, sent_at_ms: int | None) -> Any:
        message = real(document, sent_at_ms)
        is_off = document["topic"].startswith(mqtt.BASIC_INGEST)
        return message._replace(device_id="batch") if is_off else message

    planted.enter_context(patch.object(mqtt, "_of_error", shifted))


@breaks(oracle.each_sweep_sees_every_open_episode, seed=1)
def a_bucket_is_not_swept(planted: contextlib.ExitStack) -> None:
    """A sweep reads fifteen of the sixteen buckets; the next sweep, another fifteen."""
    real = alerts_module.AlertReader.open_in

    def fewer(self: Any, region: str, first_bucket: int) -> Any:
        last = (first_bucket + alerts_module.BUCKETS - 1) % alerts_module.BUCKETS
        for listed in real(self, region, first_bucket):
            if listed.key is None or alerts_module._bucket(listed.key.device_id) != last:
                yield listed

    planted.enter_context(patch.object(alerts_module.AlertReader, "open_in", fewer))


# What is read


@breaks(answers.windows_are_told, seed=6)
def regions_overwrite_each_other(planted: contextlib.ExitStack) -> None:
    """If two regions have an instant, a reader sees one region's metrics and values."""
    planted.enter_context(patch.object(windows, "merge", lambda a, b: {**a, **b}))


@breaks(answers.windows_are_told)
def the_last_is_the_last_that_came(planted: contextlib.ExitStack) -> None:
    """A window's last value is that of the region that is read last."""
    planted.enter_context(patch.object(window_module, "sorted", list, create=True))


@breaks(answers.windows_are_told, seed=2)
def the_next_page_skips_a_minute(planted: contextlib.ExitStack) -> None:
    """The next page begins a minute late."""
    route = "/devices/{device_id}/windows"
    real = query.ROUTES[route]

    def skipping(*arguments: Any) -> Any:
        answer = real(*arguments)
        body = json.loads(answer["body"])
        if body.get("next"):
            body["next"] = to_iso_minute(from_iso(body["next"]) + MINUTE_MS)
        return answer | {"body": json.dumps(body)}

    planted.enter_context(patch.dict(query.ROUTES, {route: skipping}))


@breaks(answers.devices_are_told, seed=30)
def the_latest_is_the_last_that_came(planted: contextlib.ExitStack) -> None:
    """A device's latest reading is that of the region that is read last."""
    planted.enter_context(patch.object(query, "max", lambda window: list(window)[-1], create=True))


@breaks(answers.alerts_are_told)
def a_bucket_is_not_listed(planted: contextlib.ExitStack) -> None:
    """Alerts are listed from fifteen of the sixteen buckets."""
    real = alerts_module.AlertReader.list_page

    def fewer(self: Any, *asked: Any) -> Any:
        with patch.object(alerts_module, "BUCKETS", alerts_module.BUCKETS - 1):
            return real(self, *asked)

    planted.enter_context(patch.object(alerts_module.AlertReader, "list_page", fewer))


@breaks(answers.alerts_are_told, seed=1)
def a_cursor_without_its_place(planted: contextlib.ExitStack) -> None:
    """A cursor has the bucket, but not the place in it."""
    real = alerts_module._to_cursor
    planted.enter_context(
        patch.object(
            alerts_module, "_to_cursor", lambda status, bucket, _start: real(status, bucket, None)
        )
    )


@breaks(answers.alerts_are_told, seed=16)
def a_devices_alerts_of_one_region(planted: contextlib.ExitStack) -> None:
    """If several regions have an episode of a device and rule, only one is listed."""
    real = alerts_module.AlertReader._query

    def one_each(self: Any, *asked: Any) -> Any:
        items, start = real(self, *asked)
        seen = Counter[tuple[str, str]]()
        kept = []
        for item in items:
            key = (item["device_id"]["S"], item["rule"]["S"])
            seen[key] += 1
            kept += [item] if seen[key] == 1 else []
        return kept, start

    planted.enter_context(patch.object(alerts_module.AlertReader, "_query", one_each))
