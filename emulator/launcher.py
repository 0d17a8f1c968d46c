"""Runs the embedded AWS in a process of its own; started by `emulator.embedded`, not by hand.

This file runs in an interpreter that has ministack but not this project's dependencies. So it
imports only the standard library, ministack, and this package's modules that need no more. It adds
to ministack:

- a lock on the instance's folder as long as the process runs, so that others can check whether the
  instance runs (its process id alone may belong to a new process by now);
- an end of the process and all its workers when the process that started it dies (standard input
  closes), so nothing is left running; after the byte "d" on standard input it runs on;
- a collector of X-Ray segments, in place of the X-Ray daemon;
- the engine of the event source mappings of streams (`emulator.mappings`) and the MQTT broker
  (`emulator.mqtt`), each in its own process;
- the changes of `emulator.gaps`, where ministack differs from AWS.
"""

import argparse
import importlib
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

SEGMENTS_BYTES_MAX = 32 * 1024 * 1024
DATAGRAM_BYTES_MAX = 65_535
KNOWN_SECONDS = 10.0
"""For how long a sender that was looked up needs no new look-up."""
GONE_SECONDS = 8.0
ENGINE_PAUSE_SECONDS = 0.2
ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from emulator.gaps import Modules  # noqa: E402 - needs the path above, since python runs this with -I
from emulator.locks import lock  # noqa: E402

GAPS = (
    "table_keys",
    "partiql",
    "expiry",  # before `keeping`, which packs the records that didn't expire
    "keeping",
    "resharding",
    "authorization",
    "permissions",  # before `mapping_api`, which then checks a mapping's settings first
    "mapping_api",
    "sqs_poller",
    "sqs_answers",
    "dead_letters",
    "cloudwatch",
    "alarms",
    "api_gateway",
    "api_imports",
    "layers",
    "failing",
    "datagrams",
    "firehose",
    "iot",
    "states",
    "schema_registry",
    "existing",
    "protected",
    "imports",
    "nested_stacks",
    "deleted_stacks",
    "signatures",
    "origins",  # after `signatures`, so that its check comes first
)
"""The modules of `emulator.gaps`, in the order in which they are applied."""


def hold_lock(folder: Path) -> int:
    """Lock the instance's folder until this process ends; return the lock's file descriptor."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    lock(descriptor)
    return descriptor


def end_with_starter(folder: Path) -> None:
    """Wait on standard input: return after the byte "d", end everything when it closes."""
    if os.read(sys.stdin.fileno(), 1) == b"d":
        return
    command = [sys.executable, "-I", __file__, "clean", str(folder), str(os.getpgrp())]
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)


def clean(folder: Path, group: int) -> None:
    """Kill the emulator with its workers, and remove the folder until it doesn't come back.

    A `sam` process whose parent was killed runs on for some seconds and writes to the folder.
    """
    os.killpg(group, signal.SIGKILL)
    gone_since = time.monotonic()
    while time.monotonic() - gone_since < GONE_SECONDS:
        time.sleep(0.2)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            gone_since = time.monotonic()


def collect_segments(receiver: socket.socket, path: Path) -> None:
    """Append each X-Ray segment to `path`, one JSON document a line; drop older ones when full.

    A datagram is a header line and a document
    (https://docs.aws.amazon.com/xray/latest/devguide/xray-api-sendingdata.html). Datagrams from
    other users' processes are dropped, if the system names the sender's user.
    """
    known: dict[tuple[str, int], float] = {}
    while True:
        datagram, sender = receiver.recvfrom(DATAGRAM_BYTES_MAX)
        if time.monotonic() > known.get(sender, 0.0):
            if not is_own(sender):
                continue
            known[sender] = time.monotonic() + KNOWN_SECONDS
        try:
            append_segment(datagram, path)
        except OSError as error:  # usually a full disk; the next segment may fit again
            log(f"an X-Ray segment wasn't written: {error}")


def append_segment(datagram: bytes, path: Path) -> None:
    """Append a datagram's segment to `path`; rename a file that is full to `*.older`."""
    _, _, document = datagram.partition(b"\n")
    with path.open("ab") as segments:
        segments.write(document.replace(b"\n", b" ") + b"\n")
        is_full = segments.tell() > SEGMENTS_BYTES_MAX // 2
    if is_full:
        path.replace(path.with_suffix(".older"))


def log(message: str) -> None:
    """Write a line to standard error, which is the emulator's log, if that is possible."""
    with suppress(OSError):
        sys.stderr.write(f"launcher: {message}\n")
        sys.stderr.flush()


def is_own(sender: tuple[str, int], table: Path = Path("/proc/net/udp")) -> bool:
    """Return whether a datagram's sender is a process of this user; True if that is unknown.

    The table has a line for each UDP socket: a number, the local address (in hexadecimal, with the
    IP address's bytes reversed), five more columns, the user's id (man 5 proc).
    """
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:  # not Linux
        return True
    address = int.from_bytes(socket.inet_aton(sender[0]), sys.byteorder)
    local = [f"{each:08X}:{sender[1]:04X}" for each in (address, 0)]
    owners = {columns[7] for columns in map(str.split, lines) if columns[1] in local}
    return owners == {str(os.getuid())}


def close_gaps(modules: Modules, without: Collection[str] = ()) -> None:
    """Apply the modules of `emulator.gaps`, except those named in `without`."""
    for name in GAPS:
        if name not in without:
            importlib.import_module(f"emulator.gaps.{name}").close(modules)


def keep_running(folder: Path, name: str, python: str, *options: str) -> None:
    """Run `emulator.<name>` beside the emulator, and restart it whenever it dies.

    It is a separate process, in the interpreter that has the project's dependencies. It ends when
    this process ends, because its standard input closes then.
    """
    command = [python, "-m", f"emulator.{name}"]
    command += ["--endpoint", f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"]
    command += ["--region", os.environ["AWS_DEFAULT_REGION"], *options]
    while True:
        try:
            run_beside(folder, name, command)
        except OSError as error:  # a full disk or too many processes; a later try may succeed
            log(f"emulator.{name} wasn't started: {error}")
        time.sleep(ENGINE_PAUSE_SECONDS)


def run_beside(folder: Path, name: str, command: list[str]) -> None:
    """Run a process until it ends; the folder gets its log and a file with its process id."""
    with (folder / f"{name}.log").open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
    with process:
        try:
            (folder / f"{name}.pid.new").write_text(str(process.pid))
            (folder / f"{name}.pid.new").replace(folder / f"{name}.pid")
        except OSError as error:  # the process can run without the file
            log(f"{name}.pid wasn't written: {error}")
        process.wait()


def serve(folder: Path, python: str | None, mqtt_port: str, without: Collection[str]) -> None:
    """Run the emulator until it is stopped.

    If `python` is given, that interpreter runs the mappings' engine, the schema registry and MQTT.
    """
    close_gaps(Modules(folder, ROOT, python), without)
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    os.environ["AWS_XRAY_DAEMON_ADDRESS"] = f"127.0.0.1:{receiver.getsockname()[1]}"
    traces = folder / "traces.jsonl"
    beside: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (collect_segments, (receiver, traces)),
        (end_with_starter, (folder,)),
    ]
    if python:
        checkpoints = str(folder / "mappings.sqlite3")
        beside.append((keep_running, (folder, "mappings", python, "--file", checkpoints)))
        mqtt = ("--folder", str(folder), "--port", mqtt_port)
        beside.append((keep_running, (folder, "mqtt", python, *mqtt)))
    for target, args in beside:
        threading.Thread(target=target, args=args, daemon=True).start()
    sys.argv = ["ministack"]
    runpy.run_module("ministack", run_name="__main__")


def main() -> None:
    """Do the task that the command line names: serve or clean."""
    parser = argparse.ArgumentParser()
    tasks = parser.add_subparsers(dest="task", required=True)
    cleaning, serving = tasks.add_parser("clean"), tasks.add_parser("serve")
    for task in (cleaning, serving):
        task.add_argument("folder", type=Path)
    cleaning.add_argument("group", type=int)
    serving.add_argument("--python")
    serving.add_argument("--mqtt-port", default="")
    serving.add_argument("--without", action="append", default=[], choices=GAPS)
    options = parser.parse_args()
    if options.task == "clean":
        clean(options.folder, options.group)
        return
    lock = hold_lock(options.folder)
    try:
        serve(options.folder, options.python, options.mqtt_port, options.without)
    finally:
        os.close(lock)


if __name__ == "__main__":
    main()
