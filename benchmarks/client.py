"""What the device client costs: CPU and disk for each reading recorded, CPU for each one sent.

    PYTHONPATH=clients/python/src .venv/bin/python -m benchmarks.client

Readings are a simulated device's (`local.fleet.simulated`), four metrics each.

1. `record()` alone, by what the store promises: `normal` survives the process's end, `full` a loss
   of power too (a write to the disk each); and for 100 readings at once. Beside it, what a bare
   INSERT of the same row costs in the same mode.
2. A backlog sent to a loopback server of this process that says yes: by format, with bytes on the
   wire. CPU is the client's thread alone.
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
    """A device's, one a second."""
    device = Device(FleetOptions(), 0, is_anomalous=False)
    return [{**device.measure(number * 1000)} for number in range(count)]


class Yes(BaseHTTPRequestHandler):
    """Accepts each reading, however it is written."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    sizes: list[int] = []  # noqa: RUF012 - of the one server
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
        """Nothing is written."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this thread's CPU, and by the clock."""
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
    """The least that keeping a reading can cost."""
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
    """A store with readings that wait."""
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
