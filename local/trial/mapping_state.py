"""The progress of an instance's event source mappings, read from the engine's file."""

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
"""The engine saves its view each second. An older view means that the mapping isn't running."""
RESULT_SHOWN = 40
COUNTS = ("batches", "records", "retries", "throttles", "filtered", "discarded")
COUNTS_SHOWN = ("batches", "records", "retries", "filtered", "discarded")


@dataclass(frozen=True)
class ShardState:
    """The progress of a mapping on one shard."""

    shard_id: str
    position: str | None
    """All records up to this sequence number are delivered. None: no record yet."""
    is_finished: bool
    lag_records: int | None
    """Number of undelivered records on the shard; None if the stream doesn't tell it."""
    lag_ms: int | None
    """Age of the oldest undelivered record; None if the engine's view is old."""
    last_result: str
    counts: dict[str, int]


@dataclass(frozen=True)
class MappingState:
    """The progress of a mapping."""

    uuid: str
    function: str
    source: str
    state: str
    last_result: str
    shards: list[ShardState] = field(default_factory=list)

    @property
    def lag_ms(self) -> int | None:
        """The largest lag of its shards, in ms; None if one isn't known."""
        lags = [shard.lag_ms for shard in self.shards]
        return None if None in lags else max((lag for lag in lags if lag is not None), default=0)

    @property
    def lag_records(self) -> int | None:
        """The undelivered records of all its shards; None if one isn't known."""
        lags = [shard.lag_records for shard in self.shards]
        return None if None in lags else sum(lag for lag in lags if lag is not None)

    def count(self, name: str) -> int:
        """Return the sum of a count over its shards."""
        return sum(shard.counts[name] for shard in self.shards)


class MappingReader:
    """Reads the states of an instance's mappings."""

    def __init__(self, instance: Instance) -> None:
        """Take a deployed instance."""
        self._file = instance.folder / FILE
        self._lambdas = client(instance.load(), "lambda")

    def read(self) -> list[MappingState]:
        """Return the present states of all mappings of streams."""
        pages = self._lambdas.get_paginator("list_event_source_mappings").paginate()
        mappings = [each for page in pages for each in page["EventSourceMappings"]]
        shards = saved_shards(self._file, now_ms=time.time_ns() // 1_000_000)
        return [
            MappingState(
                uuid=each["UUID"],
                function=each["FunctionArn"].rpartition(":")[2],
                source=source_name(each["EventSourceArn"]),
                state=each["State"],
                last_result=each["LastProcessingResult"],
                shards=shards.get(each["UUID"], []),
            )
            for each in sorted(mappings, key=lambda each: str(each["FunctionArn"]))
            if ":sqs:" not in each["EventSourceArn"]
        ]


def saved_shards(file: Path, now_ms: int) -> dict[str, list[ShardState]]:
    """Return the states of shards in the engine's file, by the mapping's UUID."""
    shards: dict[str, list[ShardState]] = {}
    query = "SELECT uuid, shard_id, position FROM shard ORDER BY uuid, shard_id"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            for uuid, shard_id, text in database.execute(query):
                state = shard_state(shard_id, json.loads(text), now_ms)
                shards.setdefault(uuid, []).append(state)
    except sqlite3.OperationalError:  # the engine hasn't made the file yet
        return {}
    return shards


def shard_state(shard_id: str, saved: dict[str, Any], now_ms: int) -> ShardState:
    """Return a shard's state from the engine's saved one; the lag of an old view is unknown."""
    lanes = saved["lanes"]
    view = saved["view"]
    is_known = saved["is_finished"] or now_ms - view.get("at_ms", 0) <= STALE_MS
    return ShardState(
        shard_id=shard_id,
        position=min(lanes, key=int) if lanes and None not in lanes else None,
        is_finished=saved["is_finished"],
        lag_records=view.get("lag_records") if is_known else None,
        lag_ms=view.get("lag_ms") if is_known else None,
        last_result=view.get("last_result", ""),
        counts={name: saved["counts"][name] for name in COUNTS},
    )


def source_name(arn: str) -> str:
    """Return the name of a Kinesis stream, or of the table of a DynamoDB stream."""
    return arn.split("/")[1]


def as_json(mappings: list[MappingState]) -> dict[str, Any]:
    """Return the mappings as one JSON object."""
    return {"mappings": [asdict(each) for each in mappings]}


def shards_table(mapping: MappingState) -> Table:
    """Return a table with a row for each shard of a mapping."""
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
    """Return a last result cut for the table; the mapping's title has all of it."""
    return result if len(result) <= RESULT_SHOWN else f"{result[:RESULT_SHOWN]}…"


def lag_text(lag_ms: int | None) -> str:
    """Return a lag as text; `?` if it isn't known."""
    return "?" if lag_ms is None else duration_text(lag_ms / 1000)


def records_text(lag_records: int | None) -> str:
    """Return a number of undelivered records as text; `?` if it isn't known."""
    return "?" if lag_records is None else f"{lag_records:,}"
