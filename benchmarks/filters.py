"""Measures event filters, `temperature > 38`: `emulator.event_pattern` against ministack's own.

    .tools/aws/bin/python benchmarks/filters.py

It runs in the embedded AWS's interpreter, which has both. One in twenty readings is above 38.
"parsed" is the match alone; "record" also decodes a Kinesis record's data from base64 and JSON, as
the emulator does for each record. Figures are the best of five runs.
"""

import base64
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATTERN = '{"data": {"temperature": [{"numeric": [">", 38]}]}}'
READINGS = 20_000
SHARE = 0.05
RUNS = 5

Record = dict[str, Any]
Filter = Callable[[Record], bool]


def reading(chance: random.Random) -> Record:
    hot = chance.random() < SHARE
    return {
        "device_id": f"device-{chance.randrange(1000):04}",
        "recorded_at": "2026-11-20T08:00:00.000Z",
        "temperature": round(chance.uniform(38.1, 45) if hot else chance.uniform(-10, 37.9), 2),
        "humidity": round(chance.uniform(0, 100), 1),
        "pressure": round(chance.uniform(980, 1040), 1),
        "battery": round(chance.random(), 2),
        "latitude": 52.52,
        "longitude": 13.405,
        "firmware": "1.4.2",
        "schema_version": 2,
    }


def kinesis_record(event: Record) -> Record:
    data = base64.b64encode(json.dumps(event["data"]).encode()).decode()
    return {"eventSource": "aws:kinesis", "kinesis": {"partitionKey": "device", "data": data}}


def events_per_second(matches: Filter, events: Sequence[Record]) -> tuple[float, int]:
    """Return the events per second of the best run, and the number of matches."""
    best, matched = 0.0, 0
    for _ in range(RUNS):
        begun = time.perf_counter()
        matched = sum(map(matches, events))
        best = max(best, len(events) / (time.perf_counter() - begun))
    return best, matched


def main() -> None:
    sys.path.insert(0, str(ROOT))
    lambda_svc = import_module("ministack.services.lambda_svc")
    compile_pattern = import_module("emulator.event_pattern").compile_pattern
    chance = random.Random(38)
    parsed = [{"data": reading(chance)} for _ in range(READINGS)]
    records = [kinesis_record(event) for event in parsed]
    pattern = compile_pattern(PATTERN).matches
    theirs = json.loads(PATTERN)
    match = lambda_svc._match_esm_filter  # noqa: SLF001 there is no public name
    decoded = lambda_svc._kinesis_record_for_match  # noqa: SLF001 there is no public name

    cases: dict[str, tuple[Sequence[Record], Filter, Filter]] = {
        "parsed": (parsed, pattern, lambda event: match(event, theirs)),
        "record": (
            records,
            lambda record: pattern(decoded(record)),
            lambda record: match(decoded(record), theirs),
        ),
    }
    print(f"{'':<8}{'ours/s':>12}{'ministack/s':>14}{'ratio':>8}{'matched':>10}")
    for name, (events, our_filter, their_filter) in cases.items():
        ours, our_count = events_per_second(our_filter, events)
        their_own, their_count = events_per_second(their_filter, events)
        if our_count != their_count:
            sys.exit(f"{name}: ours matched {our_count}, ministack's {their_count}")
        ratio = ours / their_own
        print(f"{name:<8}{ours:>12,.0f}{their_own:>14,.0f}{ratio:>8.1f}{our_count:>10,}")


if __name__ == "__main__":
    main()
