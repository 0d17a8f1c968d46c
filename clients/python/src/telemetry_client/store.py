"""One device's readings in a SQLite file, from `record()` until the pipeline has taken them.

A reading gets its instant, which is its identity, when it is recorded, and keeps it. Only while the
clock isn't set, readings are stored with the uptime instead; they get their instants once the clock
is right. Several processes may use a file at the same time.
"""

import json
import sqlite3
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from telemetry_client.answers import Rejection
from telemetry_client.clock import Clock, SystemClock
from telemetry_client.errors import Conflicting, Invalid, StoreFailed, StoreFull
from telemetry_client.instants import Instants, Span, joined, runs
from telemetry_client.reading import (
    EARLIEST_MS,
    Queued,
    check_device_id,
    encode_metrics,
    to_ms,
)

Metrics = Mapping[str, float | None]
VERSION = 2
SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE readings (
  number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: two senders may have the same reading
  recorded_at INTEGER NOT NULL,
  metrics TEXT NOT NULL
);
CREATE TABLE undated (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  boot TEXT NOT NULL,
  uptime INTEGER NOT NULL,
  metrics TEXT NOT NULL
);
CREATE TABLE rejected (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  recorded_at INTEGER,
  metrics TEXT NOT NULL,
  field TEXT,
  value TEXT,
  reason TEXT NOT NULL,
  rejected_at INTEGER NOT NULL
);
CREATE TABLE sent (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  instants BLOB  -- 8 bytes each; NULL: any instant of the span may be used
);
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
ROW_BYTES = 24  # size of a reading without its metrics
# Triggers keep the totals. Otherwise each process would count all rows after each write of another
# one, and to count half a million rows takes as long as to record a hundred.
TOTALS = f"""
CREATE TABLE totals (waiting INTEGER, undated INTEGER, bytes INTEGER, newest INTEGER);
INSERT INTO totals SELECT
  (SELECT count(*) FROM readings),
  (SELECT count(*) FROM undated),
  (SELECT ifnull(sum(length(metrics) + {ROW_BYTES}), 0)
   FROM (SELECT metrics FROM readings UNION ALL SELECT metrics FROM undated)),
  (SELECT ifnull(max(at), -1)
   FROM (SELECT recorded_at AS at FROM readings UNION ALL SELECT last FROM sent));
CREATE TRIGGER recorded AFTER INSERT ON readings BEGIN UPDATE totals SET waiting = waiting + 1,
  bytes = bytes + length(new.metrics) + {ROW_BYTES}, newest = max(newest, new.recorded_at); END;
CREATE TRIGGER gone AFTER DELETE ON readings BEGIN UPDATE totals SET waiting = waiting - 1,
  bytes = bytes - length(old.metrics) - {ROW_BYTES}; END;
CREATE TRIGGER put_off AFTER INSERT ON undated BEGIN UPDATE totals SET undated = undated + 1,
  bytes = bytes + length(new.metrics) + {ROW_BYTES}; END;
CREATE TRIGGER dated AFTER DELETE ON undated BEGIN UPDATE totals SET undated = undated - 1,
  bytes = bytes - length(old.metrics) - {ROW_BYTES}; END;
"""  # noqa: S608
SENT_MAX = 1000  # rows of table `sent`
SENT_ROW = 500  # least number of instants in such a row
INSTANT_BYTES = 8
RECENT_MAX = 1000  # instants whose readings a process remembers
REJECTED_MAX = 10_000
AHEAD_MS = 5 * 60_000  # the pipeline takes readings up to this far in the future
BUSY_SECONDS = 30.0


@dataclass(frozen=True)
class StoreOptions:
    """Options of durability and size."""

    synchronous: Literal["full", "normal"] = "full"
    """`full`: recorded readings survive a loss of power. `normal`: they survive the end of the
    process, but a loss of power may lose the last ones. It saves a disk write per `record()`."""
    max_bytes: int = 64 * 1024 * 1024
    """Bound on the waiting readings. The file is up to half as large again."""
    when_full: Literal["drop_oldest", "refuse"] = "drop_oldest"
    """`drop_oldest` drops and counts the oldest readings; `refuse` raises StoreFull."""

    def __post_init__(self) -> None:
        """Raise Invalid for a wrong option."""
        if self.synchronous not in {"full", "normal"}:
            raise Invalid("synchronous", self.synchronous, "is neither 'full' nor 'normal'")
        if self.when_full not in {"drop_oldest", "refuse"}:
            raise Invalid("when_full", self.when_full, "is neither 'drop_oldest' nor 'refuse'")
        if self.max_bytes < 1024:
            raise Invalid("max_bytes", self.max_bytes, "is below 1024")


@dataclass(frozen=True)
class Status:
    """The counts of a store: waiting readings and past results."""

    device_id: str
    waiting: int
    undated: int
    """Readings that were recorded while the clock wasn't set, and wait for it."""
    oldest_recorded_at_ms: int | None
    bytes: int
    rejected_kept: int
    taken: int
    rejected: int
    metrics_refused: int
    """Refused metrics of taken readings."""
    dropped_full: int
    is_clock_believed: bool


class Store:
    """A device's waiting readings; safe to use from several threads and processes."""

    def __init__(
        self,
        path: str | Path,
        device_id: str,
        options: StoreOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open the file, or make it; raise Invalid, or StoreFailed if it can't be used."""
        self.device_id = check_device_id(device_id)
        self.path = Path(path)
        self._options = options or StoreOptions()
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._seen = -1
        self._waiting = self._undated = self._bytes = self._newest_ms = self._sent = 0
        self._recent: dict[int, list[str]] = {}
        self._is_indexed = False
        with translated(self.path):
            self._sql = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._open()
            except BaseException:
                self._sql.close()
                raise

    def close(self) -> None:
        """Close the file; waiting readings stay in it."""
        with self._lock:
            self._sql.close()

    # Recording

    def record(self, metrics: Metrics, recorded_at: Any = None) -> int | None:
        """Record a reading; return its instant in epoch ms, or None if the clock isn't set yet.

        Raise Invalid, StoreFull or StoreFailed; then nothing was recorded. A caller's `recorded_at`
        is kept as it is, even if another reading has it: the pipeline merges the two. If both have
        different values of a metric, one would be lost: raise Conflicting. This works only while
        the other reading waits or is a recent one.
        """
        return self.record_many([metrics], [recorded_at])[0]

    def record_many(
        self, metrics: Sequence[Metrics], recorded_at: Sequence[Any] | None = None
    ) -> list[int | None]:
        """Record all readings or none, with one write to the disk; return their instants."""
        bodies = [encode_metrics(each) for each in metrics]
        given = [None] * len(bodies) if recorded_at is None else recorded_at
        if len(given) != len(bodies):
            raise Invalid("recorded_at", given, f"are not {len(bodies)}, as many as the readings")
        times = [None if at is None else to_ms(at) for at in given]
        with self._lock, self._writing():
            now_ms = self._clock.now_ms()
            is_believed = self._is_believed(now_ms)
            for at_ms in times:
                if at_ms is not None and is_believed and at_ms > now_ms + AHEAD_MS:
                    reason = f"is more than 5 minutes after the device's clock, {now_ms}"
                    raise Invalid("recorded_at", at_ms, reason)
            self._make_room(bodies)
            if is_believed:
                self._date(now_ms)
            for index, body in enumerate(bodies):
                if (at_ms := times[index]) is not None:
                    self._check_agreement(at_ms, body)
                times[index] = self._insert_now(body, times[index], now_ms if is_believed else None)
        for at_ms, body in zip(times, bodies, strict=True):
            if at_ms is not None:
                self._remember(at_ms, body)
        return times

    def _check_agreement(self, at_ms: int, body: str) -> None:
        """Raise Conflicting if a known reading of this instant has another value of a metric."""
        others = self._recent.get(at_ms, [])
        if at_ms <= self._newest_ms or at_ms <= self._instants.newest_ms:
            if not self._is_indexed:
                self._sql.execute("CREATE INDEX IF NOT EXISTS at ON readings (recorded_at)")
                self._is_indexed = True
            rows = "SELECT DISTINCT metrics FROM readings WHERE recorded_at = ?"
            others = others + [row[0] for row in self._sql.execute(rows, (at_ms,))]
        for other in others:
            known = json.loads(other)
            for name, value in json.loads(body).items():
                if known.get(name, value) != value:
                    reason = (
                        f"differs from {known[name]}, which was recorded for the same instant, "
                        f"{at_ms}: one of the two would be lost"
                    )
                    raise Conflicting(name, value, reason)

    def _remember(self, at_ms: int, body: str) -> None:
        """Remember a recent reading: it may be sent before a conflicting one is recorded."""
        known = self._recent.setdefault(at_ms, [])
        if body not in known:
            known.append(body)
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def _insert_now(self, body: str, at_ms: int | None, now_ms: int | None) -> int | None:
        """Insert a reading with its caller's instant, or one of now; undated if now isn't known."""
        if at_ms is not None:
            self._instants.note(at_ms)
        elif now_ms is not None:
            at_ms = self._instants.give(now_ms)
        else:
            self._insert_undated(body)
            return None
        self._insert(at_ms, body)
        return at_ms

    def _insert(self, at_ms: int, body: str) -> None:
        self._sql.execute(
            "INSERT INTO readings (recorded_at, metrics) VALUES (?, ?)", (at_ms, body)
        )

    def _insert_undated(self, body: str) -> None:
        row = (self._clock.boot, self._clock.uptime_ms(), body)
        self._sql.execute("INSERT INTO undated (boot, uptime, metrics) VALUES (?, ?, ?)", row)

    def _is_believed(self, now_ms: int) -> bool:
        return now_ms >= EARLIEST_MS and self._instants.is_believed(now_ms)

    def _date(self, now_ms: int) -> None:
        """Give undated readings their instants; those of an earlier boot are rejected."""
        if not self._undated:
            return
        boot_ms = now_ms - self._clock.uptime_ms()
        rows = "SELECT boot, uptime, metrics FROM undated ORDER BY number"
        for boot, uptime_ms, body in self._sql.execute(rows).fetchall():
            if boot == self._clock.boot:
                self._insert(self._instants.give_at(boot_ms + uptime_ms), body)
            else:
                reason = "was recorded while the clock was not set, before the device restarted"
                self._reject(None, body, Rejection(0, "recorded_at", None, reason))
        self._sql.execute("DELETE FROM undated")

    def _make_room(self, bodies: Sequence[str]) -> None:
        coming = sum(len(body) + ROW_BYTES for body in bodies)
        if self._bytes + coming <= self._options.max_bytes:
            return
        if self._options.when_full == "refuse" or coming > self._options.max_bytes:
            raise StoreFull(
                f"{self.path}: {self._bytes} bytes wait, {coming} more are over max_bytes, "
                f"{self._options.max_bytes}"
            )
        # drop at least a hundredth, so that not each record() has to drop
        target = self._options.max_bytes - max(coming, self._options.max_bytes // 100)
        self._drop("readings", self._last_to_drop("readings", target))
        self._drop("undated", self._last_to_drop("undated", target))

    def _last_to_drop(self, table: str, target_bytes: int) -> int | None:
        """Return the number of the last row to drop to come down to `target_bytes`, or None."""
        remaining, last = self._bytes, None
        rows = f"SELECT number, length(metrics) FROM {table} ORDER BY number"  # noqa: S608
        for number, length in self._sql.execute(rows):
            if remaining <= target_bytes:
                break
            remaining, last = remaining - length - ROW_BYTES, number
        return last

    def _drop(self, table: str, last: int | None) -> None:
        if last is None:
            return
        if table == "readings":
            rows = "SELECT recorded_at FROM readings WHERE number <= ?"
            self._note_sent(row[0] for row in self._sql.execute(rows, (last,)).fetchall())
        deleted = self._sql.execute(f"DELETE FROM {table} WHERE number <= ?", (last,))  # noqa: S608
        self._count("dropped_full", deleted.rowcount)
        self._read_totals()

    # Sending

    def take(self, limit: int, max_bytes: int) -> list[Queued]:
        """Return the oldest waiting readings, within `limit` and `max_bytes`.

        If any waits, at least one is returned. They stay in the store until they are settled.
        """
        with self._lock, self._writing():
            now_ms = self._clock.now_ms()
            if self._is_believed(now_ms):
                self._date(now_ms)
            rows = "SELECT number, recorded_at, metrics FROM readings ORDER BY number LIMIT ?"
            oldest = self._sql.execute(rows, (limit,)).fetchall()
        batch: list[Queued] = []
        size = 0
        for row in oldest:
            size += len(row[2]) + ROW_BYTES
            if batch and size > max_bytes:
                break
            batch.append(Queued(*row))
        return batch

    def settle(
        self,
        taken: Sequence[Queued],
        rejected: Iterable[tuple[Queued, Rejection]],
        partly: Iterable[tuple[Queued, Rejection]] = (),
    ) -> None:
        """Remove taken readings; move rejected ones aside, with the reasons.

        `partly` has refused metrics of taken readings. Readings that another process has settled or
        dropped meanwhile aren't counted.
        """
        refused = list(rejected)
        if not taken and not refused:
            return
        with self._lock, self._writing():
            gone = [each for each in taken if self._delete(each)]
            self._count("taken", len(gone))
            numbers = {each.number for each in gone}
            for reading, rejection in partly:
                if reading.number in numbers:
                    metric = {rejection.field: json.loads(reading.metrics).get(rejection.field)}
                    self._put_aside(reading.recorded_at_ms, json.dumps(metric), rejection)
                    self._count("metrics_refused", 1)
            for reading, rejection in refused:
                if self._delete(reading):
                    gone.append(reading)
                    self._reject(reading.recorded_at_ms, reading.metrics, rejection)
            self._note_sent(reading.recorded_at_ms for reading in gone)

    def _note_sent(self, instants: Iterable[int]) -> None:
        """Remember the instants of readings that leave the queue: the pipeline may have them.

        The instants of small batches share a row, so that table `sent` covers as many readings.
        """
        gone = set(instants)
        newest = "SELECT number, instants FROM sent ORDER BY number DESC LIMIT 1"
        for number, blob in self._sql.execute(newest).fetchall():
            if blob is not None and len(blob) < SENT_ROW * INSTANT_BYTES:
                gone.update(array("q", blob))
                self._sql.execute("DELETE FROM sent WHERE number = ?", (number,))
                self._sent -= 1
        for run in runs(gone):
            row = (run[0], run[-1], array("q", run).tobytes())
            self._sql.execute("INSERT INTO sent (first, last, instants) VALUES (?, ?, ?)", row)
            self._sent += 1
        if self._sent > 2 * SENT_MAX:
            self._coarsen()

    def _delete(self, reading: Queued) -> bool:
        deleted = self._sql.execute("DELETE FROM readings WHERE number = ?", (reading.number,))
        return bool(deleted.rowcount)

    def _reject(self, at_ms: int | None, body: str, rejection: Rejection) -> None:
        self._put_aside(at_ms, body, rejection)
        self._count("rejected", 1)

    def _put_aside(self, at_ms: int | None, body: str, rejection: Rejection) -> None:
        value = json.dumps(rejection.value)
        row = (at_ms, body, rejection.field, value, rejection.reason, self._clock.now_ms())
        self._sql.execute(
            "INSERT INTO rejected (recorded_at, metrics, field, value, reason, rejected_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )
        self._sql.execute(
            "DELETE FROM rejected WHERE number <= (SELECT max(number) FROM rejected) - ?",
            (REJECTED_MAX,),
        )

    def _coarsen(self) -> None:
        """Replace the oldest sent instants by the spans that contain them.

        Instants after the clock's time, from a clock that was ahead once, stay: with a span up to
        them, the clock wouldn't be believed until it has passed them.
        """
        rows = "SELECT number, first, last FROM sent WHERE last < ? ORDER BY number"
        past = self._sql.execute(rows, (self._clock.now_ms(),)).fetchall()
        old = past[: max(0, len(past) - SENT_MAX)]
        self._sql.executemany("DELETE FROM sent WHERE number = ?", [(row[0],) for row in old])
        spans = joined(Span(row[1], row[2]) for row in old)
        self._sql.executemany("INSERT INTO sent (first, last) VALUES (?, ?)", spans)
        self._read_instants()

    # Looking

    @property
    def waiting(self) -> int:
        """The number of readings that can be sent."""
        return self._waiting

    def status(self) -> Status:
        """Return the counts of the store."""
        with self._lock, self._writing():
            counts: dict[str, int] = dict(self._sql.execute("SELECT name, value FROM counts"))
            (kept,) = self._sql.execute("SELECT count(*) FROM rejected").fetchone()
            oldest = "SELECT recorded_at FROM readings ORDER BY number LIMIT 1"
            found = self._sql.execute(oldest).fetchone()
            return Status(
                device_id=self.device_id,
                waiting=self._waiting,
                undated=self._undated,
                oldest_recorded_at_ms=found[0] if found else None,
                bytes=self._bytes,
                rejected_kept=kept,
                taken=counts.get("taken", 0),
                rejected=counts.get("rejected", 0),
                metrics_refused=counts.get("metrics_refused", 0),
                dropped_full=counts.get("dropped_full", 0),
                is_clock_believed=self._is_believed(self._clock.now_ms()),
            )

    def rejected(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the last refused readings with the reasons, newest first.

        A refused metric of a taken reading is an entry of its own.
        """
        names = ("recorded_at", "metrics", "field", "value", "reason", "rejected_at")
        rows = f"SELECT {', '.join(names)} FROM rejected ORDER BY number DESC LIMIT ?"  # noqa: S608
        with self._lock, translated(self.path):
            found = self._sql.execute(rows, (limit,)).fetchall()
        return [
            dict(zip(names, row, strict=True))
            | {"metrics": json.loads(row[1]), "value": json.loads(row[3])}
            for row in found
        ]

    # The file

    def _open(self) -> None:
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute(f"PRAGMA synchronous = {self._options.synchronous}")
        with self._transaction():
            (version,) = self._sql.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StoreFailed(
                    f"{self.path}: is of version {version} of the store; this package knows "
                    f"version {VERSION}: update telemetry-client"
                )
            if version == 0:
                self._execute_each(SCHEMA)
                row = ("device_id", self.device_id)
                self._sql.execute("INSERT INTO settings (name, value) VALUES (?, ?)", row)
            if version < VERSION:
                self._execute_each(TOTALS)
                self._sql.execute(f"PRAGMA user_version = {VERSION}")
            owner = "SELECT value FROM settings WHERE name = 'device_id'"
            (device_id,) = self._sql.execute(owner).fetchone()
            if device_id != self.device_id:
                raise StoreFailed(
                    f"{self.path}: has the readings of device {device_id!r}, "
                    f"not of {self.device_id!r}: a file holds one device's"
                )
        with self._writing():
            pass  # reads the totals and instants

    def _execute_each(self, script: str) -> None:
        for statement in script.split(";\n"):
            self._sql.execute(statement)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run the block in a transaction that sees the writes of other processes."""
        with translated(self.path), self._transaction():
            self._read_totals()
            (seen,) = self._sql.execute("PRAGMA data_version").fetchone()
            if seen != self._seen:
                self._read_instants()
                self._seen = seen
            yield
            self._read_totals()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            self._seen = -1  # the state in memory may be ahead of the file
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            raise

    def _read_totals(self) -> None:
        totals = "SELECT waiting, undated, bytes, newest FROM totals"
        found = self._sql.execute(totals).fetchone()
        self._waiting, self._undated, self._bytes, self._newest_ms = found

    def _read_instants(self) -> None:
        (self._sent,) = self._sql.execute("SELECT count(*) FROM sent").fetchone()
        latest = (
            "SELECT recorded_at FROM readings ORDER BY number DESC LIMIT 1",
            "SELECT last FROM sent ORDER BY number DESC LIMIT 1",
        )
        found = [row[0] for query in latest if (row := self._sql.execute(query).fetchone())]
        spans = self._sql.execute("SELECT first, last FROM sent WHERE instants IS NULL")
        self._instants = Instants(
            last_ms=found[0] if found else -1,
            newest_ms=self._newest_ms,
            spans=[Span(*row) for row in spans],
            load=self._used_from,
        )

    def _used_from(self, at_ms: int) -> set[int]:
        """Return the used instants from `at_ms` on, except those of which only spans are known."""
        waiting = "SELECT recorded_at FROM readings WHERE recorded_at >= ?"
        used = {row[0] for row in self._sql.execute(waiting, (at_ms,))}
        sent = "SELECT instants FROM sent WHERE last >= ? AND instants IS NOT NULL"
        for (blob,) in self._sql.execute(sent, (at_ms,)):
            used.update(instant for instant in array("q", blob) if instant >= at_ms)
        return used

    def _count(self, name: str, more: int) -> None:
        if more:
            statement = (
                "INSERT INTO counts (name, value) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
            )
            self._sql.execute(statement, (name, more))


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as StoreFailed."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreFailed(f"{path}: {error}") from error
