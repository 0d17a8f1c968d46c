"""Measures packs: bytes on the stream, and the consumers' CPU a reading, beside single records.

    .venv/bin/python -m benchmarks.packs

A fleet of 200 devices has four metrics, with a sensor's noise, once a second. "decode" is from an
event to readings. "aggregate" is the whole function with a table that takes each write at once, so
with the windows' encoding and without AWS's client. "base64 + msgspec" is the least that the same
bytes take, if msgspec is installed. CPU is that of one process, in the best of several rounds.
"""

import base64
import contextlib
import importlib
import io
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "layers" / "telemetry"))

from telemetry.aws import stream
from telemetry.aws.items import Outcome, Write, Written
from telemetry.aws.pace import Pace
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.stream import Stream
from telemetry.aws.windows import Windows
from telemetry.domain.pack import pack
from telemetry.domain.reading import Reading
from telemetry.domain.rule import shipped_rules
from telemetry.domain.unseen import limits_of

from functions.aggregate import handler as aggregate

NOW_MS = 1_795_224_600_000
DAY_MS = 86_400_000
TRACE = "1-67891233-abcdef012345678912345678"
DEVICES, SECONDS = 200, 10
LIMITS = limits_of(shipped_rules())
ROUNDS = 7


class Taken:
    """A table that takes each write."""

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        return [Written() for _ in writes]


def requests() -> list[list[Reading]]:
    """Return the readings of each device in ten seconds."""
    noise = random.Random(17)
    return [
        [
            Reading(
                f"device-{device:04}",
                NOW_MS + 1000 * second + device,
                {
                    "temperature": round(noise.gauss(21.5, 0.4), 2),
                    "humidity": round(noise.gauss(40.0, 2.0), 1),
                    "pressure": round(noise.gauss(1013.2, 0.5), 1),
                    "battery": round(noise.gauss(3.71, 0.01), 2),
                },
                NOW_MS + 10_000,
                TRACE,
            )
            for second in range(SECONDS)
        ]
        for device in range(DEVICES)
    ]


def event_of(records: Iterable[bytes]) -> dict[str, Any]:
    """Return records as a mapping gives them to a function."""
    return {
        "Records": [
            {
                "eventID": f"shardId-000000000000:{place}",
                "kinesis": {
                    "partitionKey": "device",
                    "sequenceNumber": str(place),
                    "data": base64.b64encode(record).decode(),
                    "approximateArrivalTimestamp": NOW_MS / 1000 + 10,
                },
            }
            for place, record in enumerate(records)
        ]
    }


def aggregated(event: dict[str, Any]) -> None:
    """Run the function on an event, in a new environment."""
    windows = Windows(Taken(), "eu-west-1", 30 * DAY_MS, lambda: (0,))
    to_stream = Stream(None, "readings")
    with contextlib.redirect_stdout(io.StringIO()):
        quarantine, limits = Quarantine(None, "failures"), {"temperature": 38.0}
        answer = aggregate.run(
            event, NOW_MS + 11_000, windows, quarantine, to_stream, Pace(), limits
        )
    if answer["batchItemFailures"]:
        raise ValueError(answer)


def floor() -> Callable[[dict[str, Any]], Any] | None:
    """Return a function that decodes base64 and JSON, and no more; None without msgspec."""
    try:
        decode = importlib.import_module("msgspec").json.Decoder().decode
    except ImportError:
        return None
    return lambda event: [
        decode(base64.b64decode(each["kinesis"]["data"])) for each in event["Records"]
    ]


def cpu_us(work: Callable[[dict[str, Any]], Any], event: dict[str, Any], readings: int) -> float:
    """Return the microseconds a reading."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        work(event)
        best = min(best, time.process_time() - started)
    return best * 1e6 / readings


def main() -> None:
    sent = requests()
    readings = DEVICES * SECONDS
    forms = {
        "single records": [each.data for batch in sent for each in pack(batch, is_packing=False)],
        "packs of ten": [each.data for batch in sent for each in pack(batch)],
    }
    works = {"decode": stream.decode, "aggregate": aggregated, "base64 + msgspec": floor()}
    print("                 bytes a reading   billed, Kinesis   billed, Firehose")
    for name, records in forms.items():
        kinesis, firehose = (
            sum(-(-len(each) // unit) * unit for each in records) / readings
            for unit in (1024, 5 * 1024)
        )
        size = sum(map(len, records)) / readings
        print(f"{name:<17}{size:>15.1f}{kinesis:>18.1f}{firehose:>19.1f}")
    print("\nCPU, µs a reading" + "".join(f"{each:>18}" for each in works))
    for name, records in forms.items():
        event = event_of(records)
        found = [cpu_us(work, event, readings) if work else None for work in works.values()]
        shown = ["-" if each is None else f"{each:.2f}" for each in found]
        print(f"{name:<17}" + "".join(f"{each:>18}" for each in shown))
    first = [each.data for each in pack(sent[0], is_packing=False)]
    (together,) = (each.data for each in pack(sent[0]))
    print(f"\nten readings: {sum(map(len, first))} bytes singly, {len(together)} packed")


if __name__ == "__main__":
    main()
