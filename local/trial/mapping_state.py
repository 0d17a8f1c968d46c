"""What the instance's event source mappings are at: read from the engine's file, for a person."""

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.box import SIMPLE
from rich.table import Table

from local.deployment import client
from local.instance import Instance
from local.values import duration_text

FILE = "mappings.sqlite3"
SEQUENCE_SHOWN = 8
SHARD_SHOWN = 4
STALE_MS = 3000
"""The engine saves what it sees each second; where it doesn't, the mapping isn't running."""
RESULT_SHOWN = 40
COUNTS = ("batches", "records", "retries", "throttles", "filtered", "discarded")
COUNTS_SHOWN = ("batches", "records", "retries", "filtered", "discarded")


@dataclass(frozen=True)
class ShardState:
    """How far one shard of one mapping is."""

    shard_id: str
    position: str | None
    """Everything up to this sequence number is delivered; None: nothing yet."""
    is_finished: bool
    lag_records: int | None
    """Records on the shard that aren't delivered; None where the stream can't tell."""
    lag_ms: int | None
    """Age of the oldest of them; None where the engine hasn't looked of late."""
    last_result: str
    counts: dict[str, int]


@dataclass(frozen=True)
class MappingState:
    """How far a mapping is."""

    uuid: str
    function: str
    source: str
    state: str
    last_result: str
    shards: list[ShardState] = field(default_factory=list)

    @property
    def lag_ms(self) -> int | None:
        """The largest lag of its shards; None where one isn't known."""
        lags = [shard.lag_ms for shard in self.shards]
        return None if None in lags else max((lag for lag in lags if lag is not None), default=0)

    @property
    def lag_records(self) -> int | None:
        """The lag of all its shards together; None where one can't tell."""
        lags = [shard.lag_records for shard in self.shards]
        return None if None in lags else sum(lag for lag in lags if lag is not None)

    def count(self, name: str) -> int:
        """Return one count of all its shards together."""
        return sum(shard.counts[name] for shard in self.shards)


class MappingReader:
    """Looks at an instance's mappings again and again."""

    def __init__(self, instance: Instance) -> None:
        """Read the engine's file, and the embedded AWS's list of mappings."""
        self._file = instance.folder / FILE
        self._lambdas = client(instance.load(), "lambda")

    def read(self) -> list[MappingState]:
        """Return the mappings of streams, as the engine has them now."""
        pages = self._lambdas.get_paginator("list_event_source_mappings").paginate()
        listed = [found for page in pages for found in page["EventSourceMappings"]]
        shards = saved_shards(self._file, now_ms=time.time_ns() // 1_000_000)
        return [
            MappingState(
                uuid=found["UUID"],
                function=found["FunctionArn"].rpartition(":")[2],
                source=source_name(found["EventSourceArn"]),
                state=found["State"],
                last_result=found["LastProcessingResult"],
                shards=shards.get(found["UUID"], []),
            )
            for found in sorted(listed, key=lambda each: str(each["FunctionArn"]))
            if ":sqs:" not in found["EventSourceArn"]
        ]


def saved_shards(file: Path, now_ms: int) -> dict[str, list[ShardState]]:
    """Return what the engine has saved of each mapping's shards."""
    shards: dict[str, list[ShardState]] = {}
    query = "SELECT uuid, shard_id, position FROM shard ORDER BY uuid, shard_id"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            for uuid, shard_id, text in database.execute(query):
                state = shard_state(shard_id, json.loads(text), now_ms)
                shards.setdefault(uuid, []).append(state)
    except sqlite3.OperationalError:  # the engine hasn't made it yet
        return {}
    return shards


def shard_state(shard_id: str, found: dict[str, Any], now_ms: int) -> ShardState:
    """Read what the engine has saved of a shard; a lag that is long ago is none."""
    lanes = found["lanes"]
    view = found["view"]
    is_known = found["is_finished"] or now_ms - view.get("at_ms", 0) <= STALE_MS
    return ShardState(
        shard_id=shard_id,
        position=min(lanes, key=int) if lanes and None not in lanes else None,
        is_finished=found["is_finished"],
        lag_records=view.get("lag_records") if is_known else None,
        lag_ms=view.get("lag_ms") if is_known else None,
        last_result=view.get("last_result", ""),
        counts={name: found["counts"][name] for name in COUNTS},
    )


def source_name(arn: str) -> str:
    """Return the name of a stream, or of the table whose stream it is."""
    return arn.split("/")[1]


def as_json(mappings: list[MappingState]) -> dict[str, Any]:
    """Return the mappings as one JSON object."""
    return {"mappings": [asdict(each) for each in mappings]}


def shards_table(mapping: MappingState) -> Table:
    """Return a mapping's shards, a row each."""
    table = Table(box=SIMPLE, pad_edge=False, title_justify="left")
    for name in ("shard", "position", "lag"):
        table.add_column(name, no_wrap=True)
    for name in ("behind", *COUNTS_SHOWN):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("last result", min_width=len("last result"))
    for shard in mapping.shards:
        table.add_row(
            shard.shard_id[-SHARD_SHOWN:],
            "start" if shard.position is None else f"…{shard.position[-SEQUENCE_SHOWN:]}",
            "finished" if shard.is_finished else lag_text(shard.lag_ms),
            records_text(shard.lag_records),
            *[f"{shard.counts[name]:,}" for name in COUNTS_SHOWN],
            shortened(shard.last_result) or "-",
        )
    return table


def shortened(result: str) -> str:
    """Return a last result so that it fits in a table; the whole is in the mapping's title."""
    return result if len(result) <= RESULT_SHOWN else f"{result[:RESULT_SHOWN]}…"


def lag_text(lag_ms: int | None) -> str:
    """Return a lag for a person."""
    return "?" if lag_ms is None else duration_text(lag_ms / 1000)


def records_text(lag_records: int | None) -> str:
    """Return how many records are still to be delivered."""
    return "?" if lag_records is None else f"{lag_records:,}"
