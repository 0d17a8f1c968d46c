"""What the instance's event source mappings are at: read from the engine's file, for a person."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from local.deployment import client
from local.instance import Instance
from local.values import duration_text

FILE = "mappings.sqlite3"
SEQUENCE_SHOWN = 8
SHARD_SHOWN = 4
STARTING = "Creating"
COUNTS = ("batches", "records", "retries", "throttles", "filtered", "discarded")
COUNTS_SHOWN = ("batches", "records", "retries", "filtered", "discarded")


@dataclass(frozen=True)
class ShardState:
    """How far one shard of one mapping is."""

    shard_id: str
    position: str | None
    """The sequence number behind which nothing is delivered for good; None at the start."""
    is_finished: bool
    lag_records: int | None
    """Records on the shard that aren't delivered; None where the stream can't tell."""
    lag_ms: int
    """Age of the oldest of them."""
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
    def lag_ms(self) -> int:
        """The largest lag of its shards."""
        return max((shard.lag_ms for shard in self.shards), default=0)

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
        """Ask the embedded AWS which mappings there are, once."""
        self._file = instance.folder / FILE
        lambdas = client(instance.load(), "lambda")
        pages = lambdas.get_paginator("list_event_source_mappings").paginate()
        self._listed = [found for page in pages for found in page["EventSourceMappings"]]

    def read(self) -> list[MappingState]:
        """Return the mappings of streams, as the engine has them now."""
        states, shards = saved(self._file)
        return [
            MappingState(
                uuid=found["UUID"],
                function=found["FunctionArn"].rpartition(":")[2],
                source=source_name(found["EventSourceArn"]),
                state=states.get(found["UUID"], (STARTING, ""))[0],
                last_result=states.get(found["UUID"], ("", "No records processed"))[1],
                shards=shards.get(found["UUID"], []),
            )
            for found in sorted(self._listed, key=lambda each: str(each["FunctionArn"]))
            if ":sqs:" not in found["EventSourceArn"]
        ]


def saved(file: Path) -> tuple[dict[str, tuple[str, str]], dict[str, list[ShardState]]]:
    """Return what the engine has saved: each mapping's state and result, and its shards."""
    shards: dict[str, list[ShardState]] = {}
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT uuid, state, last_result FROM mapping").fetchall()
            query = "SELECT uuid, shard_id, position FROM shard ORDER BY uuid, shard_id"
            for uuid, shard_id, text in database.execute(query):
                shards.setdefault(uuid, []).append(shard_state(shard_id, json.loads(text)))
    except sqlite3.OperationalError:  # the engine hasn't made it yet
        return {}, {}
    return {uuid: (state, last_result) for uuid, state, last_result in rows}, shards


def shard_state(shard_id: str, found: dict[str, Any]) -> ShardState:
    """Read what the engine has saved of a shard."""
    lanes = found["lanes"]
    view = found["view"]
    return ShardState(
        shard_id=shard_id,
        position=min(lanes, key=int) if lanes and None not in lanes else None,
        is_finished=found["is_finished"],
        lag_records=view.get("lag_records"),
        lag_ms=view.get("lag_ms", 0),
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
            "finished" if shard.is_finished else duration_text(shard.lag_ms / 1000),
            records_text(shard.lag_records),
            *[f"{shard.counts[name]:,}" for name in COUNTS_SHOWN],
            shard.last_result or "-",
        )
    return table


def mappings_table(mappings: list[MappingState], stack: str) -> Table:
    """Return the mappings, a row each; functions of the stack without its name."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("mapping", no_wrap=True, min_width=11)
    for name in ("lag", "behind", "records", "filtered", "retries", "discarded"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in mappings:
        is_failing = each.last_result.startswith("PROBLEM")
        table.add_row(
            each.function.removeprefix(f"{stack}-"),
            duration_text(each.lag_ms / 1000),
            records_text(each.lag_records),
            *[f"{each.count(name):,}" for name in ("records", "filtered", "retries", "discarded")],
            style="red" if is_failing else "",
        )
    return table


def records_text(lag_records: int | None) -> str:
    """Return how many records are still to be delivered."""
    return "?" if lag_records is None else f"{lag_records:,}"
