"""Checks the query API's answers at the end against the tables' items, page by page.

It shares no code with the functions except the encoding of windows. Its invariants have the form of
those in `oracle.py`.
"""

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from telemetry.aws.alerts import AlertReader
from telemetry.aws.windows import WindowReader
from telemetry.domain.window import Contested, decode

from functions.query import handler as query
from tests.simulation.oracle import MINUTE_MS, Found, iso, kept, minute_ms_of
from tests.simulation.region import Operator, Region
from tests.simulation.services import ALERTS, WINDOWS
from tests.simulation.world import World

Json = dict[str, Any]
METRICS = ("temperature", "humidity", "pressure", "battery")


class Value(NamedTuple):
    """The largest value of a metric at an instant, and whether other values were sent."""

    value: float
    is_contested: bool


Instants = dict[int, dict[str, Value]]
"""A device's readings by instant."""
LIMITS = (1, 2, 3, 5, 7, 13)
SPANS = 2
"""Number of parts of a device's time that are queried besides all of it."""
METERS = 3
"""Maximum of the other producer's devices that are queried: heat waves bring many."""
PAGES_MAX = 2_000
IDLE_MINUTES = 60
NOBODY = "nobody"
LATER_MS = 24 * 3_600_000


class Api:
    """The query function of a region whose tables no longer change."""

    def __init__(self, world: World, region: Region) -> None:
        client = Operator(region, region.lambda_.invoke)
        self._now_ms = world.conditions.now_ms()
        self._windows = WindowReader(client.dynamodb, WINDOWS, lambda: self._now_ms / 1000)
        self._alerts = AlertReader(client.dynamodb, ALERTS)

    def get(self, resource: str, device_id: str = "", **asked: Any) -> tuple[int, Any]:
        """Return an answer's status and body."""
        event = {
            "httpMethod": "GET",
            "resource": resource,
            "pathParameters": {"device_id": device_id} if device_id else None,
            "queryStringParameters": {
                name.rstrip("_"): str(value) for name, value in asked.items()
            },
            "requestContext": {},
        }
        answer = query.run(event, self._now_ms, self._windows, self._alerts)
        return answer["statusCode"], json.loads(answer["body"])


def chance_of(world: World, region: Region) -> random.Random:
    """Return random numbers by the seed: they choose the queries."""
    return random.Random(f"{world.conditions.seed}/queries/{region.name}")


def instants(world: World, region: Region) -> dict[str, Instants]:
    """Return a region's instants by device, from all regions' windows merged."""
    found: dict[str, Instants] = defaultdict(lambda: defaultdict(dict))
    for item in world.tables[WINDOWS].replicas[region.name].items.values():
        device_id, minute_ms, _ = minute_ms_of(item)
        for offset, metrics in decode(item["readings"]["B"]).items():
            merged = found[device_id][minute_ms + offset]
            for name, value in metrics.items():
                here = Value(float(value), isinstance(value, Contested))
                merged[name] = larger(here, merged.get(name, here))
    return found


def larger(a: Value, b: Value) -> Value:
    """Return the merged value of two regions' values for a metric and instant."""
    is_contested = a.is_contested or b.is_contested or a.value != b.value
    return Value(max(a.value, b.value), is_contested)


def asked_for(world: World, found: dict[str, Instants], chance: random.Random) -> list[str]:
    """Return the devices to query: all own ones, and some of the other producer's."""
    own = [device.device_id for device in world.devices]
    others = sorted(found.keys() - set(own))
    return own + chance.sample(others, min(METERS, len(others)))


def windows_are_told(world: World) -> Found:
    """GET windows returns each minute of each device once, in order, for any page size."""
    for region in kept(world):
        api, chance = Api(world, region), chance_of(world, region)
        found = instants(world, region)
        for device_id in asked_for(world, found, chance):
            minutes = statistics_of(found[device_id])
            span = (0, world.conditions.now_ms() + LATER_MS)
            for from_ms, to_ms in (span, *spans(sorted(minutes), chance)):
                expected = [
                    minutes[at_ms]
                    for at_ms in sorted(minutes)
                    if from_ms - from_ms % MINUTE_MS <= at_ms < to_ms
                ]
                limit = chance.choice(LIMITS)
                told = list(pages_of_windows(api, device_id, from_ms, to_ms, limit))
                where = f"{region.name} {device_id} from {from_ms} to {to_ms} by {limit}"
                yield from different(where, expected, [each for page in told for each in page])
                if any(len(page) != limit for page in told[:-1]):
                    yield f"{where}: pages of {[len(page) for page in told]}"
        if api.get("/devices/{device_id}/windows", NOBODY)[1].get("windows") != []:
            yield f"{region.name}: windows of {NOBODY}"


def spans(minutes: list[int], chance: random.Random) -> Iterator[tuple[int, int]]:
    """Return parts of a device's time that begin and end at a full minute or 1 ms beside it."""
    for _ in range(SPANS if minutes else 0):
        ends = [chance.choice(minutes) + chance.choice([-1, 0, 1, MINUTE_MS]) for _ in "ab"]
        yield min(ends), max(ends)


def pages_of_windows(
    api: Api, device_id: str, from_ms: int, to_ms: int, limit: int
) -> Iterator[list[Json]]:
    """Return the windows of each page, up to the page without a next one."""
    start: Any = from_ms
    for _ in range(PAGES_MAX):
        asked = {"from_": start, "to": to_ms, "limit": limit}
        _, body = api.get("/devices/{device_id}/windows", device_id, **asked)
        yield body["windows"]
        start = body["next"]
        if start is None:
            return


def statistics_of(found: Instants) -> dict[int, Json]:
    """Return a device's minutes as the API must return them."""
    minutes: dict[int, Instants] = defaultdict(dict)
    for at_ms in sorted(found):
        minutes[at_ms - at_ms % MINUTE_MS][at_ms] = found[at_ms]
    return {minute_ms: statistics(minute_ms, of) for minute_ms, of in minutes.items()}


def statistics(minute_ms: int, readings: Instants) -> Json:
    """Return one minute's window, from its readings in order of their instants."""
    columns: dict[str, list[float]] = defaultdict(list)
    for metrics in readings.values():
        for name, each in metrics.items():
            columns[name].append(each.value)
    return {
        "minute": minute_text(minute_ms),
        "count": len(readings),
        "conflicting": conflicting(readings),
        "metrics": {name: statistics_of_metric(values) for name, values in columns.items()},
    }


def minute_text(minute_ms: int) -> str:
    return iso(str(minute_ms)).replace(".000Z", "Z")


def conflicting(readings: Instants) -> int:
    """Return the number of values for which another value of the same instant was sent."""
    return sum(each.is_contested for metrics in readings.values() for each in metrics.values())


def statistics_of_metric(values: list[float]) -> Json:
    """Return a metric's statistics by exact arithmetic."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    return {
        "count": len(values),
        "mean": float(mean),
        "min": min(values),
        "max": max(values),
        "stddev": math.sqrt(variance),
        "last": values[-1],
    }


def different(where: str, expected: list[Json], told: list[Json]) -> Found:
    """Yield the differences between the returned windows and the expected ones."""
    if [each["minute"] for each in told] != [each["minute"] for each in expected]:
        yield f"{where}: {[each['minute'] for each in told]}"
        return
    for window, wanted in zip(told, expected, strict=True):
        if not is_close(window, wanted):
            yield f"{where}: {window}, not {wanted}"


def is_close(told: Any, wanted: Any) -> bool:
    """Return whether two answers are equal up to the rounding of floats."""
    if isinstance(wanted, dict):
        is_same = isinstance(told, dict) and told.keys() == wanted.keys()
        return is_same and all(is_close(told[name], wanted[name]) for name in wanted)
    if isinstance(wanted, float):
        return math.isclose(told, wanted, rel_tol=1e-12, abs_tol=1e-9)
    return bool(told == wanted)


def devices_are_told(world: World) -> Found:
    """GET of a device returns the answer of `described`; 404 for a device without readings."""
    for region in kept(world):
        api, found = Api(world, region), instants(world, region)
        for device_id in asked_for(world, found, chance_of(world, region)):
            status, body = api.get("/devices/{device_id}", device_id)
            wanted = described(device_id, found[device_id])
            if not wanted:
                if status != 404:
                    yield f"{region.name} {device_id}: {status} {body}, and it has no readings"
                continue
            told = {name: body.get(name) for name in wanted}
            if (status, told) != (200, wanted):
                yield f"{region.name} {device_id}: {status} {told}, not {wanted}"
        if api.get("/devices/{device_id}", NOBODY)[0] != 404:
            yield f"{region.name}: {NOBODY} is there"


def described(device_id: str, found: Instants) -> Json:
    """Return the expected answer about a device; None if it has no readings.

    The newest minutes are searched until each metric has a value, 60 minutes in a row bring no
    other metric, or to the oldest.
    """
    if not found:
        return {}
    latest_ms, searched = max(found), dict[int, Instants]()
    metrics: dict[str, Json] = {}
    idle = 0
    for minute_ms in sorted({at_ms - at_ms % MINUTE_MS for at_ms in found}, reverse=True):
        if idle == IDLE_MINUTES or metrics.keys() == set(METRICS):
            break
        known = len(metrics)
        searched[minute_ms] = {
            at_ms: found[at_ms] for at_ms in found if at_ms - at_ms % MINUTE_MS == minute_ms
        }
        for at_ms in sorted(searched[minute_ms], reverse=True):
            for name, each in found[at_ms].items():
                metrics.setdefault(name, {"value": each.value, "recorded_at": iso(str(at_ms))})
        idle = idle + 1 if len(metrics) == known else 0
    values = {name: each.value for name, each in found[latest_ms].items()}
    return {
        "device_id": device_id,
        "latest": {"recorded_at": iso(str(latest_ms))} | values,
        "metrics": metrics,
        "conflicting": sum(map(conflicting, searched.values())),
        "searched": {
            "complete": idle < IDLE_MINUTES,
            "back_to": minute_text(min(searched)),
            "windows": len(searched),
        },
    }


def alerts_are_told(world: World) -> Found:
    """GET alerts returns each episode of a status once; in a bucket the longest open is first."""
    for region in kept(world):
        api, chance = Api(world, region), chance_of(world, region)
        items = world.tables[ALERTS].replicas[region.name].items.values()
        episodes = [item for item in items if "change" in item]
        for status in ("open", "cleared"):
            expected = [alert(item) for item in episodes if status_of(item) == status]
            limit = chance.choice((*LIMITS, 40))
            told: list[Json] = []
            for page in pages_of_alerts(api, status, limit):
                if len(page) > limit:
                    yield f"{region.name} {status} by {limit}: a page of {len(page)}"
                told += page
            where = f"{region.name} {status} by {limit}"
            if sorted(map(key_of, told)) != sorted(map(key_of, expected)):
                yield f"{where}: {sorted(map(key_of, told))}, not {sorted(map(key_of, expected))}"
            wanted = {key_of(each): each for each in expected}
            for each in told:
                if each != wanted.get(key_of(each)):
                    yield f"{where}: {each}, not {wanted.get(key_of(each))}"
            yield from disordered(where, told, episodes)


def pages_of_alerts(api: Api, status: str, limit: int) -> Iterator[list[Json]]:
    """Return the alerts of each page, up to the page without a cursor."""
    more: Json = {}
    for _ in range(PAGES_MAX):
        _, body = api.get("/alerts", status=status, limit=limit, **more)
        yield body["alerts"]
        if body["next"] is None:
            return
        more = {"cursor": body["next"]}


def disordered(where: str, told: list[Json], episodes: list[Any]) -> Found:
    """Yield alerts that come after one of their bucket that began later."""
    buckets = {key_of(alert(item)): item["status_bucket"]["S"] for item in episodes}
    last: dict[str, str] = {}
    for each in told:
        bucket = buckets[key_of(each)]
        if each["first_breach_at"] < last.get(bucket, ""):
            yield f"{where}: {key_of(each)} comes after {last[bucket]}"
        last[bucket] = each["first_breach_at"]


def key_of(told: Json) -> tuple[str, str, str]:
    """Return the key of the episode that an alert is about."""
    return told["device_id"], told["rule"], told["region"]


def status_of(item: Any) -> str:
    return "cleared" if "N" in item["cleared_ms"] else "open"


def alert(item: Any) -> Json:
    """Return an episode's item as the API must return it."""
    plain = {name: item[name]["S"] for name in ("device_id", "rule", "severity", "region")}
    return plain | {
        "episode": int(item["episode"]["N"]),
        "status": status_of(item),
        "first_breach_at": iso(item["first_breach_ms"]["N"]),
        "last_breach_at": iso(item["last_breach_ms"]["N"]),
        "cleared_at": time_of(item["cleared_ms"]),
        "ended_by": "recovery" if "N" in item["cleared_ms"] else None,
        "previous_cleared_at": time_of(item["since_ms"]),
        "peak": float(item["peak"]["N"]),
        "trace_id": item["trace_id"].get("S"),
    }


def time_of(value: Json) -> str | None:
    return iso(value["N"]) if "N" in value else None
