"""Closes a gap of the embedded AWS: the search for expired records is cheap if there are none.

The emulator (1.5.33) copies every shard's records at every put. With 400,000 records on the stream,
a put took 50 ms on the only thread that serves requests. Here it searches for expired records only
when the oldest one has expired.
"""

import time
from typing import Any


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    expire_when_due(modules.service("kinesis"))


def expire_when_due(kinesis: Any) -> None:
    """Make `ministack.services.kinesis` search a stream only when a record has expired."""
    expire_records = kinesis._expire_records

    def expire_if_due(stream: dict[str, Any]) -> None:
        cutoff = time.time() - stream["RetentionPeriodHours"] * 3600
        oldest = [shard["records"][0] for shard in stream["shards"].values() if shard["records"]]
        if any(record["ApproximateArrivalTimestamp"] < cutoff for record in oldest):
            expire_records(stream)

    kinesis._expire_records = expire_if_due
