"""Measures each format: bytes on the wire, and ingest's CPU per reading.

    .venv/bin/python -m benchmarks.formats

Readings have two metrics, one reading a second, with a sensor's noise. CPU is that of one process
from the body's bytes to admitted readings, in the best of several rounds. Ratios are to plain JSON
of the same batch.
"""

import gzip
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "layers" / "telemetry"))

from telemetry.domain.admission import MAX_READINGS, Poster, admit
from telemetry.domain.formats import Body, decode

from tests import writers
from tests.fakes import KnownSchemas

NOW_MS = 1_795_224_600_000
DAY_MS = 86_400_000
BATCHES = (1, 100)
ROUNDS = 7
ROUND_SECONDS = 0.15

Written = Callable[[Sequence[dict[str, Any]]], bytes]
PROTOBUF = "application/x-protobuf"
FORMATS: dict[str, tuple[str, Written]] = {
    "JSON": ("application/json", lambda sent: json.dumps(sent, separators=(",", ":")).encode()),
    "NDJSON": ("application/x-ndjson", writers.lines),
    "Avro, Glue": ("application/avro", writers.glue),
    "Avro, Glue, zlib": ("application/avro", lambda sent: writers.glue(sent, compressed=True)),
    "Avro file": ("application/avro", writers.container),
    "Avro file, deflate": ("application/avro", lambda of: writers.container(of, codec="deflate")),
    "Protobuf": (PROTOBUF, writers.readings),
}


def batch(count: int) -> list[dict[str, Any]]:
    noise = random.Random(17)
    return [
        {
            "device_id": "pump-17",
            "recorded_at": NOW_MS - 1000 * (count - index),
            "temperature": round(noise.gauss(21.5, 0.4), 2),
            "humidity": round(noise.gauss(40.0, 2.0), 1),
        }
        for index in range(count)
    ]


def cpu_us(body: Body, count: int) -> float:
    """Return the microseconds per reading, from the body to admitted readings."""
    schemas, poster = KnownSchemas(), Poster("pump-17")
    best, done = float("inf"), 0
    for _ in range(ROUNDS):
        done, spent, started = 0, 0.0, time.process_time()
        while (spent := time.process_time() - started) < ROUND_SECONDS:
            documents = decode(body, schemas, MAX_READINGS)
            admitted = admit(documents, poster, NOW_MS, DAY_MS, None)
            done += len(admitted.readings)
        best = min(best, spent / done)
    if done % count:
        raise ValueError(f"{body.content_type}: not all of {count} readings are admitted")
    return best * 1e6


def main() -> None:
    print("                        bytes a reading          CPU µs a reading")
    print("format              batch  plain  ratio   gzip   plain  ratio   gzip")
    for count in BATCHES:
        sent = batch(count)
        base: tuple[int, float] | None = None
        for name, (content_type, written) in FORMATS.items():
            data = written(sent)
            packed = gzip.compress(data, mtime=0)
            plain = cpu_us(Body(data, content_type), count)
            zipped = cpu_us(Body(packed, content_type, "gzip"), count)
            base = base or (len(data), plain)
            print(
                f"{name:<20}{count:>5}{len(data) / count:>7.1f}{len(data) / base[0]:>7.2f}"
                f"{len(packed) / count:>7.1f}{plain:>8.1f}{plain / base[1]:>7.2f}{zipped:>7.1f}"
            )


if __name__ == "__main__":
    main()
