"""Rebuild stage: make this region's windows again from the archive, and switch to them.

The new windows are a generation of their own (domain/generation_pointer.py). The state machine runs
these tasks; each may be cut off, done twice or done late:

    begin    begin a new generation; after `settle_seconds` every writer writes both generations
    plan     list the parts of the archive that may have readings of windows
    fill     add each part's readings to the new generation, with aggregate's code
    check    compare each window of the current generation with the new one
    switch   make the new generation current: readers see it from now on
    settle   after `retire_seconds` no reader uses the old one, so writers stop writing it
    clean    delete the windows of generations that the pointer doesn't name

    give_up  instead of all these: keep the current generation; then settle and clean, too, since
             the rebuild may have been cut off after its switch

The switch loses nothing. Readings that came before the end of `settle_seconds` are in the current
generation, which `check` reads as a whole. Later readings are written to both (`Windows`). This
doesn't depend on a complete archive: if the archive lacks readings, `check` stops the rebuild,
keeps them or drops them, as the operator chooses. Expired windows don't count.
"""

import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from telemetry.aws import events
from telemetry.aws.archive_bucket import Archive, Line, Position
from telemetry.aws.chunks import chunks
from telemetry.aws.clients import client
from telemetry.aws.generations import CACHE_SECONDS, PARTITION, Generations
from telemetry.aws.items import Attributes, DynamoItems, Items
from telemetry.aws.observe import count, log, observed
from telemetry.aws.pace import Pace
from telemetry.aws.window_scan import WindowTable, key_of, to_key
from telemetry.aws.windows import (
    KEY,
    Windows,
    expires_at,
    minute_region,
    parse_minute_region,
    to_window,
)
from telemetry.domain import generation_pointer
from telemetry.domain.archive_layout import MARGIN_MS, received_at_ms, to_parts
from telemetry.domain.bundle import content
from telemetry.domain.reading import FUTURE_LIMIT_MS, Reading, check_time
from telemetry.domain.times import minute_of
from telemetry.domain.window import Fate, is_within
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import RebuildSettings

SEGMENTS = 8
PAGE_LINES = 1000
PAGE_WEIGHT = 5_000_000  # about 10,000 readings
SLACK_SECONDS = 5  # between clocks
QUERY_SECONDS = 25  # how long a query may use the pointer that it began with
SEEN_SECONDS = math.ceil(CACHE_SECONDS) + SLACK_SECONDS  # until every function has a new pointer
RETIRE_SECONDS = SEEN_SECONDS + QUERY_SECONDS
REFUSE, KEEP, DROP = "refuse", "keep", "drop"  # what to do with readings that the archive lacks
# `check` looks again, because a reading that is being written may be in only one generation yet.
LOOKS, LOOK_SECONDS = 10, 1.0


class Region(NamedTuple):
    """The region's stores, and the settings of the tasks."""

    name: str
    retention_ms: int
    buffer_seconds: int  # how long Firehose keeps records before it writes them
    archive: Archive
    generations: Generations
    items: Items
    table: WindowTable
    pace: Pace

    def windows(self, generation: int) -> Windows:
        """Return the windows of one generation."""
        return Windows(self.items, self.name, self.retention_ms, lambda: (generation,))


def run(event: dict[str, Any], now_ms: int, region: Region) -> dict[str, Any]:
    """Return a task's answer; a long task's is the event with the next token, None at the end."""
    region.pace.begin()
    return TASKS[event["task"]](event, now_ms, region)


def begin(event: dict[str, Any], _now_ms: int, region: Region) -> dict[str, Any]:
    """Begin a generation, or go on with the one that is being built."""
    missing, anew = event.get("missing", REFUSE), event.get("anew", False)
    if missing not in (REFUSE, KEEP, DROP):
        raise Rejected(f"is none of {REFUSE}, {KEEP}, {DROP}", field="missing", value=missing)
    pointer = region.generations.change(lambda pointer: generation_pointer.begin(pointer, anew))
    log.info("generation begun", extra=pointer._asdict())
    return {
        "generation": pointer.building,
        "missing": missing,
        "segments": list(range(SEGMENTS)),
        # then every writer writes both generations, and Firehose has archived the readings before
        "settle_seconds": SEEN_SECONDS + 2 * region.buffer_seconds,
        "retire_seconds": RETIRE_SECONDS,
    }


def plan(event: dict[str, Any], now_ms: int, region: Region) -> dict[str, Any]:
    """Return the parts of the archive that may have readings of unexpired windows."""
    oldest_ms = now_ms - region.retention_ms - FUTURE_LIMIT_MS - MARGIN_MS
    parts = to_parts(region.archive.partitions(max(0, oldest_ms), now_ms + 1))
    return {**event["rebuild"], "parts": parts, "as_of_ms": now_ms}


def fill(event: dict[str, Any], now_ms: int, region: Region) -> dict[str, Any]:
    """Add a part's readings, from the token on, to the new generation."""
    windows = region.windows(_being_built(event, region))
    position = Position(*(event["token"] or Position()))
    lines = region.archive.lines(event["part"], position, event["as_of_ms"])
    filled, is_done = 0, True
    found = ((content(line.data).readings, line) for line in lines)
    for page in chunks(found, _weight, PAGE_LINES, PAGE_WEIGHT):
        readings = [
            reading
            for of_line, _ in page
            for reading in of_line
            if _is_kept(reading, event["part"], now_ms, region)
        ]
        if None in windows.add(readings).fates:
            raise Unavailable("the windows table doesn't take the readings")
        filled, position = filled + len(readings), page[-1][1].position
        if region.pace.is_over:
            is_done = False
            break
    count(ReadingsRebuilt=filled)
    return {**event, "token": None if is_done else position, "done": event["done"] + filled}


def _weight(found: tuple[list[Reading], Line]) -> int:
    """Return about how many bytes of memory a line takes with its readings."""
    readings, line = found
    return len(line.data) + 500 * len(readings)


def _is_kept(reading: Reading, part: str, now_ms: int, region: Region) -> bool:
    """Return whether a reading passes `aggregate`'s time checks and its window hasn't expired."""
    try:
        check_time(reading, received_at_ms(reading, part), region.retention_ms)
    except Rejected:
        return False
    expiry = expires_at(minute_of(reading.recorded_at_ms), region.retention_ms)
    return expiry * 1000 > now_ms


def check(event: dict[str, Any], now_ms: int, region: Region) -> dict[str, Any]:
    """Compare a segment's windows with the new generation's, from the token on.

    Raise Rejected if readings are missing and the operator chose neither KEEP nor DROP.
    """
    built = _being_built(event, region)
    current = region.generations.read().current

    def page(items: list[Attributes]) -> int:
        old = [item for item in items if _is_of(item, region, {current}, now_ms)]
        if event["missing"] == KEEP:
            return _keep(old, region.windows(built))
        lacking = _lacking(old, region, built)
        if lacking and event["missing"] == REFUSE:
            raise _refused(lacking[0], built, current)
        return len(lacking)

    return _through(event, region, page)


def _refused(item: Attributes, built: int, current: int) -> Rejected:
    """Return the error with which a rebuild stops at a window, and the operator's choices."""
    device_id, minute = key_of(item)
    unreadable = _unreadable(item)
    if unreadable:
        reason = (
            f"the window of {device_id}, {minute} can't be read ({unreadable}), so it is unknown "
            f"whether generation {built} lacks any of its readings; {DROP} goes on without it"
        )
    else:
        reason = (
            f"generation {built} lacks readings that generation {current} has, as of "
            f"{device_id}, {minute}: the archive doesn't have them (yet). Run it again later, "
            f"or choose {KEEP} or {DROP}"
        )
    return Rejected(reason, field="missing", value=REFUSE)


def _unreadable(item: Attributes) -> Rejected | None:
    """Return why this code can't read a window, None if it can."""
    try:
        to_window(item)
    except Rejected as error:
        return error
    return None


def _keep(old: list[Attributes], windows: Windows) -> int:
    """Add old windows' readings to the new generation; return how many it didn't have."""
    for item in old:
        unreadable = _unreadable(item)
        if unreadable:
            device_id, minute = key_of(item)
            reason = f"the window of {device_id}, {minute} can't be read: {unreadable}"
            raise Rejected(f"{reason}; {DROP} goes on without it", field="missing", value=KEEP)
    readings = [reading for item in old for reading in _readings(item)]
    added = windows.add(readings)
    if None in added.fates:
        raise Unavailable("the windows table doesn't take the readings")
    if Fate.OVERFLOW in added.fates:
        full = readings[added.fates.index(Fate.OVERFLOW)]
        reason = f"the window of {full.device_id} at {full.recorded_at_ms} is full in the new one"
        raise Rejected(reason, field="missing", value=KEEP)
    return added.fates.count(Fate.STORED)


def _readings(item: Attributes) -> list[Reading]:
    """Return the readings in a window's item."""
    minute_ms, *_ = parse_minute_region(item["minute_region"]["S"])
    window = to_window(item)
    return [
        Reading(item["device_id"]["S"], minute_ms + offset, metrics)
        for offset, metrics in window.items()
    ]


def _lacking(old: list[Attributes], region: Region, built: int) -> list[Attributes]:
    """Return the old windows with readings that the new ones still lack after LOOKS looks."""
    for look in range(LOOKS):
        if look:
            region.pace.sleep(LOOK_SECONDS)
        keys = {key_of(item): _key_in(item, built) for item in old}
        found = region.table.get([to_key(*key) for key in keys.values()])
        old = [item for item in old if not _is_within(item, found.get(keys[key_of(item)]))]
        if not old:
            break
    return old


def _key_in(item: Attributes, generation: int) -> tuple[str, str]:
    """Return the key of the same window in another generation."""
    minute_ms, region, _ = parse_minute_region(item["minute_region"]["S"])
    return item["device_id"]["S"], minute_region(minute_ms, region, generation)


def _is_within(old: Attributes, new: Attributes | None) -> bool:
    """Return whether the new window has every value of the old one."""
    if new is None or _unreadable(old) or _unreadable(new):
        return False
    return is_within(to_window(old), to_window(new))


def switch(event: dict[str, Any], _now_ms: int, region: Region) -> dict[str, Any]:
    """Make the new generation the current one."""
    number = event["generation"]
    pointer = region.generations.change(lambda pointer: generation_pointer.switch(pointer, number))
    log.info("generation switched", extra=pointer._asdict())
    return {"generation": number}


def settle(event: dict[str, Any], _now_ms: int, region: Region) -> dict[str, Any]:
    """Stop writing the previous generation."""
    number = event["generation"]
    return region.generations.change(
        lambda pointer: generation_pointer.settle(pointer, number)
    )._asdict()


def give_up(_event: dict[str, Any], _now_ms: int, region: Region) -> dict[str, Any]:
    """Drop the generation that is being built, if any."""
    pointer = region.generations.change(generation_pointer.give_up)
    log.info("rebuild given up", extra=pointer._asdict())
    return {
        "generation": pointer.current,
        "segments": list(range(SEGMENTS)),
        "retire_seconds": 0 if pointer.retiring is None else RETIRE_SECONDS,
    }


def clean(event: dict[str, Any], _now_ms: int, region: Region) -> dict[str, Any]:
    """Delete a segment's windows of generations that aren't in the pointer, from the token on."""
    pointer = region.generations.read()
    gone = set(range(pointer.newest + 1)) - set(pointer.written)  # without generations begun since

    def page(items: list[Attributes]) -> int:
        old = [item for item in items if _is_of(item, region, gone)]
        region.table.delete([to_key(*key_of(item)) for item in old])
        return len(old)

    return _through(event, region, page)


def _through(
    event: dict[str, Any], region: Region, work: Callable[[list[Attributes]], int]
) -> dict[str, Any]:
    """Work on a segment's items by page, from the token on, until its end or until time is up."""
    done, after = event["done"], event["token"]
    while True:
        items, after = region.table.scan(event["segment"], SEGMENTS, after)
        done += work(items)
        if after is None or region.pace.is_over:
            return {**event, "token": after, "done": done}


def _is_of(item: Attributes, region: Region, generations: set[int], now_ms: int = 0) -> bool:
    """Return whether an item is an unexpired window of this region and one of the generations."""
    if item["device_id"]["S"] == PARTITION:
        return False
    _, name, generation = parse_minute_region(item["minute_region"]["S"])
    is_kept = int(item["expires_at"]["N"]) * 1000 > now_ms
    return name == region.name and generation in generations and is_kept


def _being_built(event: dict[str, Any], region: Region) -> int:
    """Return the generation that a task builds; raise Rejected if another was begun since."""
    number: int = event["generation"]
    generation_pointer.check_built(region.generations.read(), number)
    return number


Task = Callable[[dict[str, Any], int, Region], dict[str, Any]]
TASKS: dict[str, Task] = {
    task.__name__: task for task in (begin, plan, fill, check, switch, settle, give_up, clean)
}


@functools.cache
def wired() -> tuple[Region]:
    settings = RebuildSettings.read(os.environ)
    dynamodb, table = client("dynamodb"), settings.windows_table
    items = DynamoItems(dynamodb, table, KEY)
    region = Region(
        settings.aws_region,
        settings.retention_ms,
        settings.archive_buffer_seconds,
        Archive(client("s3"), settings.archive_bucket),
        Generations(dynamodb, table, settings.aws_region, items),
        items,
        WindowTable(dynamodb, table),
        Pace(),
    )
    return (region,)


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A state's input in, its output out."""
    events.expect("rebuild", event, events.tasks(*TASKS))
    return run(event, int(time.time() * 1000), *wired())
