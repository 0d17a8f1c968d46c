"""Runs the embedded AWS in a process of its own; started by `emulator.embedded`, not by hand.

This file runs in an interpreter that has the emulator and nothing of the project, so it imports
only the standard library, the emulator and `emulator.gaps`. It adds to the emulator:

- a lock on the instance's folder for as long as it lives, so that anyone can tell whether the
  instance runs (a process id alone may have been given to another process since);
- an end when its starter dies without saying goodbye (standard input closes), with all its
  workers, so that nothing is left running; the byte "d" on standard input lets it live on;
- a collector of X-Ray segments, in place of the X-Ray daemon;
- the engine that runs the event source mappings of streams (`emulator.mappings`), and the MQTT
  broker (`emulator.mqtt`), each a process beside it;
- and it closes its gaps, where it does otherwise than AWS (`emulator.gaps`).
"""

import argparse
import fcntl
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
"""For how long a sender isn't looked up again."""
GONE_SECONDS = 8.0
ENGINE_PAUSE_SECONDS = 0.2
ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from emulator.gaps import Modules  # noqa: E402 - found by the path above: python runs this with -I

GAPS = (
    "table_keys",
    "partiql",
    "expiry",  # before `keeping`, which packs what is left
    "keeping",
    "resharding",
    "authorization",
    "permissions",  # before `mapping_api`, which looks at a mapping's settings first
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
    "origins",  # after `signatures`: outside of it
)
"""The modules of `emulator.gaps`, in the order in which they are closed."""


def hold_lock(folder: Path) -> int:
    """Lock the instance's folder until this process ends; return the descriptor that holds it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def end_with_starter(folder: Path) -> None:
    """Wait for the starter's word: live on when told to, end everything when it is gone."""
    if os.read(sys.stdin.fileno(), 1) == b"d":
        return
    command = [sys.executable, "-I", __file__, "clean", str(folder), str(os.getpgrp())]
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)


def clean(folder: Path, group: int) -> None:
    """Kill the emulator with its workers, and remove the folder until it stays away.

    A `sam` whose starter was killed goes on for some seconds, and writes there.
    """
    os.killpg(group, signal.SIGKILL)
    gone_since = time.monotonic()
    while time.monotonic() - gone_since < GONE_SECONDS:
        time.sleep(0.2)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            gone_since = time.monotonic()


def collect_segments(receiver: socket.socket, path: Path) -> None:
    """Append each X-Ray segment to `path`, a JSON document a line; when full, drop the older half.

    A datagram is a header line, then the document
    (https://docs.aws.amazon.com/xray/latest/devguide/xray-api-sendingdata.html). Those of another
    user's processes are dropped, where the system tells whose they are.
    """
    known: dict[tuple[str, int], float] = {}
    while True:
        datagram, sender = receiver.recvfrom(DATAGRAM_BYTES_MAX)
        if time.monotonic() > known.get(sender, 0.0):
            if not is_own(sender):
                continue
            known[sender] = time.monotonic() + KNOWN_SECONDS
        try:
            keep_segment(datagram, path)
        except OSError as error:  # a full disk, mostly: the next one may find room
            tell(f"an X-Ray segment isn't kept: {error}")


def keep_segment(datagram: bytes, path: Path) -> None:
    """Append one segment."""
    _, _, document = datagram.partition(b"\n")
    with path.open("ab") as segments:
        segments.write(document.replace(b"\n", b" ") + b"\n")
        is_full = segments.tell() > SEGMENTS_BYTES_MAX // 2
    if is_full:
        path.replace(path.with_suffix(".older"))


def tell(what: str) -> None:
    """Say something on standard error, which is the emulator's log, if that can be written."""
    with suppress(OSError):
        sys.stderr.write(f"launcher: {what}\n")
        sys.stderr.flush()


def is_own(sender: tuple[str, int], table: Path = Path("/proc/net/udp")) -> bool:
    """Whether a datagram's sender is a process of this user's, or there is no telling.

    The table has a line for each UDP socket: number, local address (in hexadecimal, the bytes of
    the IP address turned round), five columns, then the user's id (man 5 proc).
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
    """Make the emulator do as AWS does, but for the gaps to leave open."""
    for name in GAPS:
        if name not in without:
            importlib.import_module(f"emulator.gaps.{name}").close(modules)


def keep_running(folder: Path, name: str, python: str, *options: str) -> None:
    """Run `emulator.<name>` beside the emulator; when it dies, again.

    It is a process of its own, in the interpreter that has the project. Its standard input closes
    when this process ends, and it with that.
    """
    command = [python, "-m", f"emulator.{name}"]
    command += ["--endpoint", f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"]
    command += ["--region", os.environ["AWS_DEFAULT_REGION"], *options]
    while True:
        try:
            run_beside(folder, name, command)
        except OSError as error:  # a full disk, or no room for a process: later there may be
            tell(f"emulator.{name} isn't started: {error}")
        time.sleep(ENGINE_PAUSE_SECONDS)


def run_beside(folder: Path, name: str, command: list[str]) -> None:
    """Run a process until it ends, with a log and a file that names it in the folder."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
    with process:
        try:
            (folder / f"{name}.pid.new").write_text(str(process.pid))
            (folder / f"{name}.pid.new").replace(folder / f"{name}.pid")
        except OSError as error:  # it may run all the same
            tell(f"{name}.pid isn't written: {error}")
        process.wait()


def serve(folder: Path, python: str | None, mqtt_port: str, without: Collection[str]) -> None:
    """Run the emulator until it is told to stop.

    With the mappings' engine, the schema registry and MQTT, if `python` is given: these run in it.
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
    """Do the one of two tasks that the command line names."""
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
