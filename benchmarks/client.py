"""Measures the device client: CPU and disk per recorded reading, CPU per sent one.

    PYTHONPATH=clients/python/src .venv/bin/python -m benchmarks.client

Readings are those of a simulated device (`local.fleet.simulated`), with four metrics each.

1. `record()` alone, in both modes of the store: with `normal`, readings survive the process's end;
   with `full`, also a loss of power (a disk write each). Then 100 readings at once, and for
   comparison a bare INSERT of the same row.
2. A backlog sent to a loopback server in this process that accepts everything: by format, with
   bytes on the wire. CPU is that of the client's thread alone.
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from telemetry_client import Avro, Client, ClientOptions, Format, Https, Json, Store, StoreOptions
from telemetry_client.store import ROW_BYTES, Metrics

from local.fleet.simulated import Device, FleetOptions

RECORDED = {"normal": 20_000, "full": 500}
TOGETHER = 100
BACKLOG = 50_000
ROUNDS = 3
SCHEMA_VERSION_ID = "12345678-1234-1234-1234-123456789abc"


def readings(count: int) -> list[Metrics]:
    """Return the metrics of a device's readings, one a second."""
    device = Device(FleetOptions(), 0, is_anomalous=False)
    return [{**device.measure(number * 1000)} for number in range(count)]


class Yes(BaseHTTPRequestHandler):
    """Accepts every reading, in any format."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    sizes: list[int] = []  # noqa: RUF012 - there is a single server
    batch = 500

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.rfile.read(length)
        self.sizes.append(length)
        body = json.dumps({"accepted": self.batch, "rejected": []}).encode()
        self.send_response(202)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of `work`: this thread's CPU, and wall time."""
    cpu, started = time.thread_time(), time.perf_counter()
    work()
    return time.thread_time() - cpu, time.perf_counter() - started


def record_each(store: Store, metrics: list[Metrics]) -> None:
    for each in metrics:
        store.record(each)


def record_together(store: Store, metrics: list[Metrics]) -> None:
    for start in range(0, len(metrics), TOGETHER):
        store.record_many(metrics[start : start + TOGETHER])


def insert_bare(store: Store, metrics: list[Metrics]) -> None:
    """Insert rows without the store's logic: the least possible cost."""
    for number, each in enumerate(metrics):
        row = (1_800_000_000_000 + number, json.dumps(each))
        store._sql.execute("INSERT INTO readings (recorded_at, metrics) VALUES (?, ?)", row)  # noqa: SLF001


def show_recording(folder: Path) -> None:
    print(f"{'record()':<30}{'CPU µs':>10}{'wall µs':>10}{'a second':>10}")
    works: dict[str, Callable[[Store, list[Metrics]], None]] = {
        "one by one": record_each,
        f"{TOGETHER} at once": record_together,
        "a bare INSERT": insert_bare,
    }
    for mode, count in RECORDED.items():
        metrics = readings(count)
        for name, work in works.items():
            figures = []
            for index in range(ROUNDS):
                path = folder / f"{mode}-{name}-{index}.db"
                store = Store(path, "bench", StoreOptions(synchronous=mode))  # type: ignore[arg-type]
                figures.append(timed(lambda: work(store, metrics)))  # noqa: B023
                store.close()
            cpu, wall = (
                statistics.median(column) / count * 1e6 for column in zip(*figures, strict=True)
            )
            print(f"{mode + ', ' + name:<30}{cpu:>10.1f}{wall:>10.1f}{1e6 / wall:>10,.0f}")


def backlog(folder: Path, name: str) -> Store:
    """Return a store with waiting readings."""
    store = Store(folder / f"{name}.db", "bench", StoreOptions(synchronous="normal"))
    record_together(store, readings(BACKLOG))
    return store


def show_sending(folder: Path, url: str) -> None:
    formats: dict[str, Format] = {
        "json": Json(),
        "json-gzip": Json(gzip=True),
        "avro": Avro(SCHEMA_VERSION_ID),
        "avro-gzip": Avro(SCHEMA_VERSION_ID, gzip=True),
    }
    print(f"\n{'sent, 500 a batch':<30}{'CPU µs':>10}{'a second':>10}{'bytes on the wire':>20}")
    for name, each in formats.items():
        store = backlog(folder, name)
        if name == "json":
            show_size(store)
        Yes.sizes.clear()
        transport = Https(url, "token", body_format=each, proxy=None)
        client = Client(store, "bench", transport, ClientOptions())
        cpu, wall = timed(client.flush)
        status = store.status()
        if status.taken != BACKLOG:
            raise SystemExit(f"{status.taken} of {BACKLOG} were taken")
        client.close()
        store.close()
        size = sum(Yes.sizes) / BACKLOG
        print(f"{name:<30}{cpu / BACKLOG * 1e6:>10.1f}{BACKLOG / wall:>10,.0f}{size:>20.1f}")


def show_size(store: Store) -> None:
    store._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001
    size = store.path.stat().st_size / BACKLOG
    bound = store.status().bytes / BACKLOG
    print(f"{'on disk, bytes a reading':<30}{size:>10.1f}")
    print(f"{'  as max_bytes counts it':<30}{bound:>10.1f}  ({ROW_BYTES} beside its metrics)")


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Yes)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        show_recording(Path(folder))
        show_sending(Path(folder), f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
