"""The invariants of a course's end, from the devices' documents and the streams' records.

It shares no code with the pipeline except the encoding of windows, whose bytes it compares, and the
balance, which it checks. Each invariant is a function that yields the problems as text.
"""

import json
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from telemetry.domain.accounting import ACCEPTED, FOREIGN, SETTLED, STORED, Metric, unaccounted
from telemetry.domain.window import Contested, decode, encode

from tests.simulation import judge
from tests.simulation.devices import Device
from tests.simulation.functions import Invocation
from tests.simulation.iot import plain_topic
from tests.simulation.judge import RETENTION_MS
from tests.simulation.region import Region, is_killing
from tests.simulation.services import ALERTS, WINDOWS
from tests.simulation.ways import INFLUX
from tests.simulation.world import World
from tests.template import timeout_seconds

MINUTE_MS = 60_000
METRICS = judge.RANGES.keys()
WAYS = {"sns", "bus"}
EXPECTED_ERRORS = {"Unavailable", "ClientError", "ReadTimeoutError"}
SWEEP_SPARE_MS = 15_000
"""A sweep with less time left may have ended early."""
# A minute for what is out of order, one until the next sweep, and some for what they wait for.
NOTICED_GAP_MS = 150_000
REFUSED_KEPT = 10
# Faults that keep no reading from being stored in half a minute, and no sweep from its work.
PROMPT = {
    *("apart", "bad_body", "batch_size", "batching_window_seconds", "bisects", "flutter"),
    *("cursors_expire", "duplicate", "foreign", "forgets", "lanes", "lost_ack", "mute_conflict"),
    *("not_readings", "other_region", "redrive", "reshard", "restart", "send_fails", "twin"),
    *("elsewhere", "freezers", "gateway", "heat_wave", "odd_values", "records_a_key"),
    *("action_fails", "bad_message", "error_action_fails", "event_twice", "new_firmware"),
    *("other_way", "puback_lost"),
}

Metrics = dict[str, float]
Found = Iterator[str]


class Reading(NamedTuple):
    """A reading that got onto a stream."""

    place: tuple[str, str]
    device_id: str
    at_ms: int
    metrics: Metrics


_readings: "WeakKeyDictionary[Region, list[Reading]]" = WeakKeyDictionary()


def readings(region: Region) -> list[Reading]:
    """Return all readings that were ever put on a region's stream, in order."""
    found = _readings.get(region, [])
    if found:
        return found
    for shard_id, number, data, at_ms in region.stream.log:
        document = judge.reading_in(data, at_ms)
        if document is not None:
            place, metrics = (shard_id, number), metrics_of(document)
            found.append(Reading(place, document["device_id"], document["recorded_at"], metrics))
    _readings[region] = found
    return found


def passed_over(world: World, region: Region) -> set[tuple[str, str]]:
    """Return the places of breaches that filters may pass over; they come to the stream again."""
    stream = region.stream
    return {
        (shard_id, number)
        for shard_id, number, data, at_ms in stream.log
        if judge.is_passed_over(stream.records[shard_id, number], data, at_ms, rule_of(world))
    }


def sent(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return every document that a device or another producer meant to send, with its device."""
    for device in world.devices:
        for document in device.sent:
            yield device.device_id, document
        for document in device.sensors_sent:
            yield document["device_id"], document
    for document in world.foreign:
        yield document["device_id"], document


def metrics_of(document: dict[str, Any]) -> Metrics:
    """Return a document's metrics in a fixed order; -0.0 becomes 0.0."""
    return {name: document[name] + 0.0 for name in sorted(METRICS & document.keys())}


def rule_of(world: World) -> judge.Rule:
    """Return the deployed rule."""
    return judge.THAWING if world.conditions.options.freezers else judge.HOT


def is_breach(world: World, metrics: Metrics) -> bool:
    """Return whether a reading breaks the rule."""
    return "temperature" in metrics and metrics["temperature"] > rule_of(world).above


def is_calm(world: World, metrics: Metrics) -> bool:
    """Return whether a reading is below the clear threshold."""
    return "temperature" in metrics and metrics["temperature"] < rule_of(world).clears_below


def union(found: list[Reading]) -> dict[tuple[str, int], dict[int, Metrics]]:
    """Return the windows of readings: by device and minute, the metrics of each instant.

    Of several values the largest counts, marked as contested.
    """
    came: dict[tuple[str, int], dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
    for reading in found:
        for name, value in reading.metrics.items():
            came[reading.device_id, reading.at_ms][name].add(value)
    windows: dict[tuple[str, int], dict[int, Metrics]] = defaultdict(dict)
    for (device_id, at_ms), values in came.items():
        offset = at_ms % MINUTE_MS
        windows[device_id, at_ms - offset][offset] = {
            name: Contested(max(each)) if len(each) > 1 else max(each)
            for name, each in values.items()
        }
    return dict(windows)


def kept(world: World) -> list[Region]:
    """Return the regions that aren't lost."""
    return [region for region in world.regions.values() if not region.is_lost]


def minute_ms_of(item: Any) -> tuple[str, int, str]:
    """Return the device, minute and region of a window's item."""
    minute, region = item["minute_region"]["S"].split("#")
    at_ms = round(datetime.fromisoformat(minute).timestamp() * 1000)
    return item["device_id"]["S"], at_ms, region


# The invariants


def it_comes_to_rest(world: World) -> Found:
    """All pending work ends by itself."""
    if world.unsettled:
        yield f"after hours {world.unsettled}"


def functions_raise_what_they_mean_to(world: World) -> Found:
    """Functions raise only Unavailable or an error of AWS."""
    for region in world.regions.values():
        for (function, kind), times in sorted(region.lambda_.raised.items()):
            if kind not in EXPECTED_ERRORS:
                yield f"{region.name}/{function}: raised {kind} {times} times"


def queues_are_empty(world: World) -> Found:
    """No message waits for a function, or for an operator, who has redriven all."""
    for region in kept(world):
        for name in ("overflow", "notices", "dead-letters", "failures"):
            waiting = len(region.queues[name].messages)
            if waiting:
                yield f"{region.name}: {name} has {waiting} messages"
        for key in region.buckets["failures"].objects:
            if key.startswith("aws/lambda/"):
                yield f"{region.name}: {key} was not redriven"


def what_is_acknowledged_is_there(world: World) -> Found:
    """Each acknowledged reading (by an answer or a PUBACK) is in a window of some region.

    Exceptions: a message that IoT itself reports as lost, because its error action failed, too; and
    readings that a lost region had acknowledged, which are sent again and may be lost then.
    """
    stored = merged_windows(world)
    full = {reading.place for each in kept(world) for reading in overflowed(world, each)}
    excused = {
        (reading.device_id, reading.at_ms)
        for each in kept(world)
        for reading in readings(each)
        if reading.place in full
    }
    for device in world.devices:
        admitted = [
            document
            for message in device.published
            if message.is_lost
            for document in message.documents or []
        ]
        for region, document in acknowledged(device):
            if world.regions[region].is_lost and is_among(document, admitted):
                continue
            at_ms, wanted = document["recorded_at"], metrics_of(document)
            device_id = document.get("device_id", device.device_id)
            there = stored.get((device_id, at_ms), {})
            is_there = all(there.get(name, -1e9) >= wanted[name] for name in wanted)
            if not is_there and (device_id, at_ms) not in excused:
                yield f"{device_id} {at_ms}: {wanted} is acknowledged, {there} is stored"


def is_among(document: dict[str, Any], sent: list[Any]) -> bool:
    """Return whether a document was sent, or one with more metrics, as newer firmware sends it."""
    return any(isinstance(each, dict) and {**each, **document} == each for each in sent)


def acknowledged(device: Device) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the readings that a region acknowledged, by an answer or a PUBACK."""
    yield from device.acknowledged
    for message in device.published:
        if message.is_acknowledged and not message.is_lost:
            documents = message.documents or []
            found = judge.judged(documents, device.device_id, message.at_ms)
            for document, each in zip(documents, found, strict=True):
                if each.metrics:
                    yield message.region, {"recorded_at": document["recorded_at"], **each.metrics}


_merged: "WeakKeyDictionary[World, dict[tuple[str, int], Metrics]]" = WeakKeyDictionary()


def merged_windows(world: World) -> dict[tuple[str, int], Metrics]:
    """Return all regions' windows merged, by device and instant; the larger value wins."""
    if world in _merged:
        return _merged[world]
    stored: dict[tuple[str, int], Metrics] = defaultdict(dict)
    for item in world.tables[WINDOWS].replicas[kept(world)[0].name].items.values():
        device_id, minute_ms, _ = minute_ms_of(item)
        for offset, metrics in decode(item["readings"]["B"]).items():
            merged = stored[device_id, minute_ms + offset]
            for name, value in metrics.items():
                merged[name] = max(value, merged.get(name, value))
    _merged[world] = dict(stored)
    return _merged[world]


def own_windows(world: World, region: Region) -> dict[tuple[str, int], bytes]:
    """Return the bytes of the windows that a region has written, by device and minute."""
    found = {}
    for item in world.tables[WINDOWS].replicas[region.name].items.values():
        device_id, minute_ms, written_by = minute_ms_of(item)
        if written_by == region.name:
            found[device_id, minute_ms] = item["readings"]["B"]
    return found


def windows_are_the_sets_of_readings(world: World) -> Found:
    """Each region's windows have exactly the readings of its stream, byte for byte."""
    for region in kept(world):
        expected, found = union(readings(region)), own_windows(world, region)
        for key in sorted(expected.keys() | found.keys()):
            where = f"{region.name} {key}"
            if key not in found:
                yield f"{where}: no window, {len(expected[key])} readings"
            elif key not in expected:
                yield f"{where}: a window of no readings"
            elif len(expected[key]) > world.conditions.options.window_limit:
                yield from badly_filled(world, where, expected[key], found[key])
            elif found[key] != encode(expected[key]):
                yield f"{where}: {different(expected[key], decode(found[key]))}"


def badly_filled(world: World, where: str, expected: dict[int, Metrics], found: bytes) -> Found:
    """Yield full windows that have the wrong number of readings, or incomplete ones."""
    stored = decode(found)
    if len(stored) != world.conditions.options.window_limit:
        yield f"{where}: {len(stored)} readings in a full window"
    for offset, metrics in stored.items():
        if expected.get(offset) != metrics:
            yield f"{where}+{offset}: {metrics}, not {expected.get(offset)}"


def different(expected: dict[int, Metrics], stored: Any) -> str:
    """Yield the differences between two windows."""
    places = sorted(expected.keys() | stored.keys())
    differing = [each for each in places if expected.get(each) != stored.get(each)]
    return "; ".join(f"+{each}: {stored.get(each)}, not {expected.get(each)}" for each in differing)


def regions_agree(world: World) -> Found:
    """Every region has the same items; those of a lost region have reached the other whole."""
    if len(kept(world)) < len(world.regions):
        return
    for table in world.tables.values():
        first, *others = [replica.items for replica in table.replicas.values()]
        for other in others:
            for key in sorted(first.keys() | other.keys()):
                if first.get(key) != other.get(key):
                    yield f"{table.name} {key}: {first.get(key)} here, {other.get(key)} there"


def streams_have_what_devices_sent(world: World) -> Found:
    """Each reading on a stream is that of a document that its device sent, value by value.

    It is whole, except for values that contradict another one of its request.
    """
    meant: dict[tuple[str, int], list[Metrics]] = defaultdict(list)
    for device_id, document in sent(world):
        meant[device_id, document["recorded_at"]].append(metrics_of(document))
    for region in world.regions.values():
        for reading in readings(region):
            of_instant = meant[reading.device_id, reading.at_ms]
            if not any(reading.metrics.items() <= each.items() for each in of_instant):
                yield f"{region.name} {reading.place}: {reading} was sent by nobody"


def nobody_writes_anothers_data(world: World) -> Found:
    """A window has only values of its own device and minute; so does a lost region's window."""
    values: dict[tuple[str, int, str], set[float]] = defaultdict(set)
    for device_id, document in sent(world):
        for name, value in metrics_of(document).items():
            values[device_id, document["recorded_at"], name].add(value)
    for item in world.tables[WINDOWS].replicas[kept(world)[0].name].items.values():
        device_id, minute_ms, _ = minute_ms_of(item)
        for offset, metrics in decode(item["readings"]["B"]).items():
            for name, value in metrics.items():
                if value not in values[device_id, minute_ms + offset, name]:
                    yield f"{device_id} {minute_ms}+{offset}: {name} {value} was sent by nobody"


def windows_go_when_their_time_is_over(world: World) -> Found:
    """Each window expires once it is older than readings are accepted."""
    for item in world.tables[WINDOWS].replicas[kept(world)[0].name].items.values():
        _, minute_ms, _ = minute_ms_of(item)
        expected = (minute_ms + RETENTION_MS) // 1000
        if item["expires_at"] != {"N": str(expected)}:
            yield f"{item['minute_region']['S']}: expires at {item['expires_at']}, not {expected}"


def the_bad_are_refused(world: World) -> Found:
    """An answer refuses exactly the documents that aren't readings of the device."""
    for device in world.devices:
        yield from device.misjudged


# Quarantine and counts


def overflowed(world: World, region: Region) -> list[Reading]:
    """Return the readings that a region's full windows didn't take."""
    if world.conditions.options.window_limit > len(region.stream.log):
        return []
    stored = {
        (device_id, minute_ms + offset)
        for (device_id, minute_ms), window in own_windows(world, region).items()
        for offset in decode(window)
    }
    return [
        reading for reading in readings(region) if (reading.device_id, reading.at_ms) not in stored
    ]


def quarantine_has_what_cannot_be_stored(world: World) -> Found:
    """Each record that isn't stored is in quarantine with its bytes, and no other record is.

    Exceptions: of records with refused metrics, only ten of a device and batch must be there. A
    released reading may have found its window full, and come back from another place.
    """
    for region in kept(world):
        data = {(shard, number): data for shard, number, data, _ in region.stream.log}
        partly = partly_refused(region)
        found = {
            tuple(line["name"].split(":")): line["data"]
            for line in region.quarantined()
            if line["source"] == "kinesis"
        }
        good = {reading.place for reading in readings(region)}
        for place in sorted(found):
            if place not in data:
                yield f"{region.name} {place}: in quarantine, and no record: {found[place]!r}"
            elif not is_same(found[place], data[place], place in region.stream.of_packs):
                yield f"{region.name} {place}: {found[place]!r} in quarantine, not {data[place]!r}"
        unstored = {reading.place: reading for reading in overflowed(world, region)}
        held = {unstored[place][1:3] for place in found if place in unstored}
        for place in sorted(data):
            is_right = place in unstored or place not in good or place in partly
            if place in found and not is_right:
                yield f"{region.name} {place}: in quarantine, and stored"
            is_held = place in found or (place in unstored and unstored[place][1:3] in held)
            is_held = is_held or (place in partly and len(partly) > REFUSED_KEPT)
            if is_right and not is_held:
                yield f"{region.name} {place}: neither stored nor in quarantine: {data[place]!r}"


def is_same(found: bytes, data: bytes, is_of_pack: bool) -> bool:
    """Return whether a record's bytes are the same; of a pack's reading, its fields and values."""
    return json.loads(found) == json.loads(data) if is_of_pack else found == data


def partly_refused(region: Region) -> set[tuple[str, str]]:
    """Return the records that are readings with refused metrics."""
    return {
        (shard_id, number)
        for shard_id, number, data, at_ms in region.stream.log
        if judge.reading_in(data, at_ms) is not None and not judge.is_whole_in(data, at_ms)
    }


def bad_records_are_quarantined_once(world: World) -> Found:
    """Of the functions that see a record only aggregate quarantines it, under one name.

    A record that killed a function is an exception.
    """
    for region in kept(world):
        functions: dict[str, set[str]] = defaultdict(set)
        for line in region.quarantined():
            if line["source"] == "kinesis" and not is_killing(line):
                functions[line["name"]].add(line["function"])
            elif line["source"] not in {"kinesis", "mqtt", "dynamodb"}:
                yield f"{region.name} {line['name']}: from {line['source']}: {line['data']!r}"
        for name, by in sorted(functions.items()):
            if by != {"aggregate"}:
                yield f"{region.name} {name}: in quarantine by {sorted(by)}"


def bad_messages_are_quarantined_once(world: World) -> Found:
    """Each message with a refused part is in quarantine whole, under one name, and no other is.

    This holds for repeated deliveries, for each function, and after operators' releases.
    """
    for region in kept(world):
        names: dict[tuple[str, int, str], set[str]] = defaultdict(set)
        for line in region.quarantined():
            if line["source"] == "mqtt":
                event = json.loads(line["data"])
                names[event["topic"], event["received_at"], event["body"]].add(line["name"])
        expected = refused(region)
        for key in sorted(names.keys() | expected):
            if len(names[key]) != 1:
                yield f"{region.name} {key}: in quarantine as {sorted(names[key])}"
            elif key not in expected:
                yield f"{region.name} {key}: in quarantine, and nobody was to put it there"


def refused(region: Region) -> set[tuple[str, int, str]]:
    """Return the messages with a refused part: topic, arrival, bytes."""
    return {
        (event["topic"], at_ms, event["body"])
        for event, at_ms in messages(region)
        if not all(each.is_whole for each in region.judged(event, at_ms))
    }


def messages(region: Region) -> Iterator[tuple[dict[str, Any], int]]:
    """Return the MQTT messages that functions got, from rules or overflow queue, with arrivals."""
    for invocation in region.lambda_.invocations:
        event = invocation.event
        if is_message(invocation):
            yield event, event["received_at"]
        elif invocation.function == "drain":
            for record in event["Records"]:
                yield from overflowed_message(record)


def is_message(invocation: Invocation) -> bool:
    """Return whether a function was invoked with an MQTT message."""
    return invocation.function == "ingest" and "httpMethod" not in invocation.event


def overflowed_message(record: Any) -> Iterator[tuple[dict[str, Any], int]]:
    """Return the message in an overflow document, and its arrival; None for readings."""
    body = record["body"]
    if '"topic"' not in body:
        return
    document = json.loads(body)
    if "base64OriginalPayload" in document:
        event = {"topic": document["topic"], "body": document["base64OriginalPayload"]}
        yield event, int(record["attributes"]["SentTimestamp"])
    else:
        event = document.get("requestPayload", document)
        yield event, event["received_at"]


def only_what_is_bad_is_quarantined(world: World) -> Found:
    """Records that a retry can store are retried: no valid record waits for a release."""
    for region in kept(world):
        for line in region.healthy_held:
            yield f"{region.name} {line['name']}: in quarantine for {line['reason']}"


def what_is_accepted_is_counted(world: World) -> Found:
    """Ingest counts accepted readings, aggregate those of other producers and new ones."""
    for region in kept(world):
        for invocation in region.lambda_.invocations:
            if invocation.function == "ingest" and invocation.has_ended:
                told = accepted(region, invocation)
                counted = counts_of([invocation])[ACCEPTED].total()
                if told is not None and counted != told:
                    yield f"{region.name}: {counted} counted, {told} accepted"
        heard = [each for each in region.lambda_.invocations if each.is_heard]
        again = passed_over(world, region)
        foreign = sum(
            (shard_id, number) not in again and (b'"received_at"' not in data or b'"via":' in data)
            for shard_id, number, data, _ in region.stream.log
        )
        if not region.given_up["aggregate"] and counts_of(heard)[FOREIGN].total() != foreign:
            yield f"{region.name}: {counts_of(heard)[FOREIGN].total()} foreign, not {foreign}"
        yield from unmarked(region)
        if not world.conditions.options.faults:
            stored, new = counts_of(heard)[STORED].total(), len(set(instants(region)))
            if stored != new:
                yield f"{region.name}: {stored} counted as stored, {new} are new"


def unmarked(region: Region) -> Found:
    """Return the readings on the stream, from rules or drain, that lack a rule's marks."""
    by_drain, by_ingest = (
        {
            (plain_topic(event["topic"]).split("/")[1], at_ms)
            for event, at_ms in messages(region)
            if ("received_at" in event) is is_event
        }
        for is_event in (False, True)
    )
    came = by_drain - by_ingest  # nobody can tell them apart in one millisecond
    for shard_id, number, data, at_ms in region.stream.log:
        document = judge.reading_in(data, at_ms)
        if document is None:
            continue
        source = (document["device_id"], document.get("received_at"))
        is_by_rule = (shard_id, number) in region.iot.records
        if (source in came or is_by_rule) and not {"via", "received_at"} <= document.keys():
            yield f"{region.name} {shard_id} {number}: {data!r} is of no rule and no request"


def accepted(region: Region, invocation: Invocation) -> int | None:
    """Return the number of readings that ingest stored; None if its answer doesn't say."""
    if is_message(invocation):
        event = invocation.event
        return sum(bool(each.metrics) for each in region.judged(event, event["received_at"]))
    if invocation.event["resource"] == INFLUX:
        is_whole = invocation.answer["statusCode"] == 204
        return b64decode(invocation.event["body"]).count(b"\n") if is_whole else None
    told: int = json.loads(invocation.answer["body"]).get("accepted", 0)
    return told


def instants(region: Region) -> list[tuple[str, int]]:
    return [(reading.device_id, reading.at_ms) for reading in readings(region)]


def each_record_is_counted_once(world: World) -> Found:
    """Aggregate counted each completed record once: stored, duplicate or quarantined."""
    for region in kept(world):
        counted = sum(
            value
            for invocation in region.lambda_.invocations
            if invocation.is_heard and invocation.function == "aggregate"
            for (metric, _), value in invocation.counts.items()
            if metric in SETTLED
        )
        records = len(region.stream.log) - len(passed_over(world, region))
        expected = records - region.given_up["aggregate"]
        if counted != expected:
            yield f"{region.name}: {counted} stored, duplicate, quarantined of {expected} records"


def what_filters_pass_over_comes_again(world: World) -> Found:
    """Each breach that filters may pass over is on the stream once more, as they compare it."""
    for region in kept(world):
        again = passed_over(world, region)
        compared = {
            (reading.device_id, reading.at_ms, reading.metrics["temperature"])
            for reading in readings(region)
            if reading.place not in again and "temperature" in reading.metrics
        }
        for reading in readings(region):
            wanted = reading.device_id, reading.at_ms, reading.metrics.get("temperature")
            if reading.place in again and wanted not in compared:
                yield f"{region.name} {reading.place}: {reading} didn't come again"


def counts_of(invocations: list[Invocation]) -> dict[Metric, Counter[int]]:
    """Return the counts that these invocations wrote, by metric and minute."""
    counts: dict[Metric, Counter[int]] = defaultdict(Counter)
    for invocation in invocations:
        for (metric, minute_ms), value in invocation.counts.items():
            if minute_ms is not None:
                counts[metric][minute_ms] += value
    return counts


def nothing_is_unaccounted(world: World) -> Found:
    """Minute by minute, readings of ingest and others are stored or quarantined: no alarm rings."""
    for region in kept(world):
        for end in (region.redriven_at, None):
            missing = unaccounted(counts_of(region.lambda_.invocations[:end]))
            if missing:
                yield f"{region.name}: {missing} readings are unaccounted for"


# Episodes


def is_prompt(world: World) -> bool:
    """Return whether all faults let readings and sweeps be in time: then episodes are exact."""
    return world.conditions.options.faults.keys() <= PROMPT


def true_spells(world: World, region: Region, device_id: str, gap_ms: int = 0) -> int:
    """Return how often a device really heated up, from all its readings by event time.

    Breaches count as the region took them, recoveries as any region did. A spell that follows the
    last recovery by less than a gap belongs to the one before. An instant with a breach and a
    recovery is both the spell's last breach and its recovery: the order of arrival decides.
    """
    breaches = {
        reading.at_ms
        for reading in readings(region)
        if reading.device_id == device_id and is_breach(world, reading.metrics)
    }
    events = [(at_ms, False) for at_ms in breaches]
    events += [(at_ms, True) for at_ms in recoveries(world, device_id)]
    spells = 0
    recovered_ms: int | None = -(10**15)
    for at_ms, is_recovery in sorted(events):
        if not is_recovery:
            spells += recovered_ms is not None and at_ms - recovered_ms > gap_ms
            recovered_ms = None
        elif recovered_ms is None:
            recovered_ms = at_ms
    return spells


_recoveries: "WeakKeyDictionary[World, dict[str, set[int]]]" = WeakKeyDictionary()


def recoveries(world: World, device_id: str) -> set[int]:
    """Return the instants of a device's values below the clear threshold, by any value."""
    if world not in _recoveries:
        found: dict[str, set[int]] = defaultdict(set)
        for region in world.regions.values():
            for reading in readings(region):
                if is_calm(world, reading.metrics):
                    found[reading.device_id].add(reading.at_ms)
        _recoveries[world] = dict(found)
    return _recoveries[world].get(device_id, set())


def notices_sent(region: Region, way: str) -> Counter[str]:
    """Return how often each notice was sent one way, by its id."""
    return Counter(json.loads(body)["notice_id"] for body in region.published[way])


def own_episodes(world: World, region: Region) -> dict[str, Any]:
    """Return the items of a region's own episodes, by device."""
    items = world.tables[ALERTS].replicas[region.name].items.values()
    return {
        item["device_id"]["S"]: item
        for item in items
        if "change" in item and item["region"]["S"] == region.name
    }


def own_images(region: Region) -> Iterator[Any]:
    """Return the table stream's images of a region's own episodes, by device, in order."""
    return (after for _, after in own_changes(region))


def own_changes(region: Region) -> Iterator[tuple[int, Any]]:
    """Return the images of `own_images`, each with its time."""
    for at_ms, after in region.alerts_stream.log:
        if "change" in after and after["region"]["S"] == region.name:
            yield at_ms, after


def changes(region: Region) -> dict[str, list[tuple[int, str]]]:
    """Return the changes as (number, change), by device."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for image in own_images(region):
        change = (int(image["episode"]["N"]), image["change"]["S"])
        found[image["device_id"]["S"]].append(change)
    return dict(found)


def episodes_open_and_clear_once(world: World) -> Found:
    """Each episode has one opening, then at most one clear; numbers count up."""
    for region in kept(world):
        for device_id, told in changes(region).items():
            ends = [each for each in told if each[1] != "extended"]
            expected = [
                (number, change)
                for number in range(1, ends[-1][0] + 1 if ends else 1)
                for change in ("opened", "cleared")
            ][: len(ends)]
            if ends != expected:
                yield f"{region.name} {device_id}: {ends}"
            spells = true_spells(world, region, device_id)
            if ends and ends[-1][0] > spells:
                yield f"{region.name} {device_id}: {ends[-1][0]} episodes of {spells} spells"
            apart = true_spells(world, region, device_id, NOTICED_GAP_MS)
            if ends and is_prompt(world) and ends[-1][0] < apart:
                yield f"{region.name} {device_id}: {ends[-1][0]} episodes, not {apart}"


def episodes_join_their_breaches(world: World) -> Found:
    """The last episode has first, last and peak of the breaches since the clear before it."""
    for region in kept(world):
        episodes = own_episodes(world, region)
        breaches: dict[str, dict[int, float]] = defaultdict(dict)
        for reading in readings(region):
            if is_breach(world, reading.metrics):
                value = reading.metrics["temperature"]
                of_device = breaches[reading.device_id]
                of_device[reading.at_ms] = max(value, of_device.get(reading.at_ms, value))
        for device_id in sorted(breaches.keys() | episodes.keys()):
            item = episodes.get(device_id)
            if item is None:
                yield f"{region.name} {device_id}: breaches, and no episode"
                continue
            since_ms = int(item["since_ms"].get("N", -(10**15)))
            cleared_ms = int(item["cleared_ms"].get("N", 10**15))
            joined = {
                at_ms: value
                for at_ms, value in breaches[device_id].items()
                if since_ms < at_ms <= cleared_ms
            }
            found = tuple(item[name]["N"] for name in ("first_breach_ms", "last_breach_ms", "peak"))
            wanted: tuple[str, ...] = ()
            if joined:
                wanted = (str(min(joined)), str(max(joined)), repr(max(joined.values())))
            if found != wanted:
                yield f"{region.name} {device_id}: first, last, peak {found}, not {wanted}"
            if max(breaches[device_id], default=0) > cleared_ms:
                yield f"{region.name} {device_id}: breaches after the clear, and no episode of them"
            yield from badly_cleared(world, region, item)


def badly_cleared(world: World, region: Region, item: Any) -> Found:
    """Yield recovered devices' episodes that are open, or cleared later than possible."""
    device_id = item["device_id"]["S"]
    recovered = recoveries(world, device_id)
    cleared_ms, last_ms = item["cleared_ms"].get("N"), int(item["last_breach_ms"]["N"])
    if cleared_ms is not None and int(cleared_ms) not in recovered:
        yield f"{region.name} {device_id}: cleared at {cleared_ms}, which is no recovery"
    settled_ms = world.conditions.now_ms() - 180_000
    due = [at_ms for at_ms in union_recoveries(world, device_id) if last_ms < at_ms < settled_ms]
    if cleared_ms is None and due:
        yield f"{region.name} {device_id}: recovered at {min(due)}, and not cleared"
    elif is_prompt(world) and due and int(cleared_ms) != min(due):
        yield f"{region.name} {device_id}: cleared at {cleared_ms}, recovered at {min(due)}"


def union_recoveries(world: World, device_id: str) -> set[int]:
    """Return a device's recoveries by its windows, merged over regions."""
    return {
        at_ms
        for (of_device, at_ms), metrics in merged_windows(world).items()
        if of_device == device_id and is_calm(world, metrics)
    }


def episodes_follow_each_other(world: World) -> Found:
    """Each episode begins when the one before was cleared, or later."""
    for region in kept(world):
        last: dict[str, Any] = {}
        for after in own_images(region):
            before = last.get(after["device_id"]["S"])
            last[after["device_id"]["S"]] = after
            where = f"{region.name} {after['device_id']['S']} {after['episode']['N']}"
            if after["change"]["S"] == "opened":
                expected = before["cleared_ms"] if before else {"NULL": True}
                if after["since_ms"] != expected:
                    yield f"{where}: since {after['since_ms']}, cleared before at {expected}"
            elif before is None or after["since_ms"] != before["since_ms"]:
                yield f"{where}: its beginning has changed"


def each_sweep_sees_every_open_episode(world: World) -> Found:
    """A sweep with enough time saw all its region's episodes that were open all the while.

    Exceptions: inconsistent reads may have hidden one, or the table has refused a call.
    """
    if world.conditions.options.stale_read:
        return
    for region in kept(world):
        spans = open_spans(region)
        for invocation in region.lambda_.invocations:
            if invocation.function != "sweep" or not invocation.has_ended:
                continue
            began_ms = invocation.deadline_ms - int(timeout_seconds("sweep") * 1000)
            ended_ms = invocation.ended_at_ms
            if invocation.deadline_ms - ended_ms < SWEEP_SPARE_MS:
                continue
            if invocation.unsure:
                continue
            least = sum(opened < began_ms and ended_ms < closed for opened, closed in spans)
            most = sum(opened <= ended_ms and began_ms <= closed for opened, closed in spans)
            answer = invocation.answer
            if not least <= answer["seen"] <= most or "unreadable" in answer:
                where = f"{region.name}/sweep#{invocation.serial}"
                yield f"{where}: saw {answer} of {least} to {most} open episodes"


def open_spans(region: Region) -> list[tuple[int, int]]:
    """Return the spans of time in which each episode of a region was open in its table."""
    spans: list[tuple[int, int]] = []
    opened: dict[str, int] = {}
    for at_ms, image in own_changes(region):
        device_id = image["device_id"]["S"]
        if "N" not in image["cleared_ms"]:
            opened.setdefault(device_id, at_ms)
        elif device_id in opened:
            spans.append((opened.pop(device_id), at_ms))
    return spans + [(at_ms, 10**15) for at_ms in opened.values()]


def episodes_are_cleared_in_time(world: World) -> Found:
    """The first sweep for which an episode's recovery is old enough clears it.

    Sweeps are at each full minute; a recovery counts from one minute on, to the millisecond.
    """
    if not is_prompt(world):
        return
    for region in kept(world):
        for at_ms, image in own_changes(region):
            if image["change"]["S"] != "cleared":
                continue
            cleared_ms = int(image["cleared_ms"]["N"])
            sweep_ms = -(-(cleared_ms + MINUTE_MS) // MINUTE_MS) * MINUTE_MS
            if not sweep_ms <= at_ms < sweep_ms + MINUTE_MS:
                where = f"{region.name} {image['device_id']['S']}"
                yield f"{where}: recovered at {cleared_ms}, cleared at {at_ms}, not {sweep_ms}"


def records_have_their_devices_key(world: World) -> Found:
    """A record's key is its device; if a device sends many at once, the others have salted keys."""
    most = world.conditions.options.records_a_key
    for region in world.regions.values():
        for invocation in region.lambda_.invocations:
            keys: dict[str, Counter[str]] = defaultdict(Counter)
            for data, key in invocation.keys:
                device_id = json.loads(data)["device_id"]
                keys[device_id][key] += 1
            for device_id, found in keys.items():
                salts = -(-found.total() // most)
                allowed = {device_id} | {f"{device_id}/{salt}" for salt in range(1, salts)}
                if invocation.has_ended and not found.keys() <= allowed:
                    where = f"{region.name}/{invocation.function}#{invocation.serial}"
                    yield f"{where}: {found.total()} records of {device_id} under {dict(found)}"


def notices_say_what_changed(world: World) -> Found:
    """A notice has its episode's device, rule, region, number, breaches, peak and clear."""
    for region in kept(world):
        told = [notice_of(image) for image in own_images(region)]
        due = {notice["notice_id"]: notice for notice in told if notice["change"] != "extended"}
        for way in sorted(WAYS):
            for body in region.published[way]:
                found = json.loads(body)
                wanted = due.get(found["notice_id"], {})
                differing = sorted(name for name in wanted if found.get(name) != wanted[name])
                if differing:
                    yield f"{region.name} {way} {found['notice_id']}: {differing} differ"


def notice_of(item: Any) -> dict[str, Any]:
    """Return the notice that a change of the alerts table must send."""
    plain = {name: item[name]["S"] for name in ("device_id", "rule", "region", "severity")}
    number, change = int(item["episode"]["N"]), item["change"]["S"]
    cleared_ms = item["cleared_ms"].get("N")
    return plain | {
        "notice_id": "/".join([*list(plain.values())[:3], str(number), change]),
        "change": change,
        "episode": number,
        "peak": float(item["peak"]["N"]),
        "first_breach_at": iso(item["first_breach_ms"]["N"]),
        "last_breach_at": iso(item["last_breach_ms"]["N"]),
        "cleared_at": None if cleared_ms is None else iso(cleared_ms),
    }


def iso(text: str) -> str:
    """Return ms as ISO 8601."""
    seconds, ms = divmod(int(text), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}Z"


def notices_go_out_once(world: World) -> Found:
    """Each opening and each clear is sent once each way, and nothing else is.

    A notice may be sent again under its id if notify died or hung between sending and recording it,
    or couldn't record it.
    """
    for region in kept(world):
        due = {
            f"{device_id}/{rule_of(world).name}/{region.name}/{number}/{change}"
            for device_id, told in changes(region).items()
            for number, change in told
            if change != "extended"
        }
        excused = excuses(region)
        for way in sorted(WAYS):
            out = notices_sent(region, way)
            for name in sorted(due - out.keys()):
                yield f"{region.name} {way}: {name} never went out"
            for name in sorted(out.keys() - due):
                yield f"{region.name} {way}: {name} is of no change"
            for name, times in sorted(out.items()):
                if times - 1 > excused[name]:
                    yield f"{region.name} {way}: {name} went out {times} times, {excused[name]}"


def excuses(region: Region) -> Counter[str]:
    """Return how often each notice may have been sent again, by the invocations that had it."""
    excused: Counter[str] = Counter()
    for invocation in region.lambda_.invocations:
        if invocation.function == "notify":
            unsure = invocation.unsure["lost answer"] + invocation.unsure["UpdateItem"]
            for record in invocation.event["Records"]:
                name = json.loads(record["body"])["notice_id"]
                excused[name] += unsure + invocation.is_given_up
    return excused
