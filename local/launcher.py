"""Runs the embedded AWS in a process of its own; started by `local.embedded`, not by hand.

This file runs in the interpreter of `.tools/aws`, which has nothing of the project, so it
imports only the standard library and the emulator. It adds five things to the emulator:

- a lock on the instance's folder for as long as it lives, so that anyone can tell whether the
  instance runs (a process id alone may have been given to another process since);
- an end when its starter dies without saying goodbye (standard input closes), with all its
  workers, so that nothing is left running; the byte "d" on standard input lets it live on;
- a collector of X-Ray segments, in place of the X-Ray daemon;
- the engine that runs the event source mappings of streams (`local.mappings`), in place of the
  emulator's own pollers;
- Glue Schema Registry, which the emulator has not (`local.schema_registry`);
- the MQTT broker (`local.mqtt`).

It also mends what the emulator does otherwise than AWS (`mend`).
"""

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEGMENTS_BYTES_MAX = 32 * 1024 * 1024
DATAGRAM_BYTES_MAX = 65_535
GONE_SECONDS = 8.0
ENGINE_PAUSE_SECONDS = 0.2
ROOT = Path(__file__).resolve().parent.parent


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
    (https://docs.aws.amazon.com/xray/latest/devguide/xray-api-sendingdata.html).
    """
    older = path.with_suffix(".older")
    while True:
        datagram = receiver.recv(DATAGRAM_BYTES_MAX)
        _, _, document = datagram.partition(b"\n")
        with path.open("ab") as segments:
            segments.write(document.replace(b"\n", b" ") + b"\n")
            is_full = segments.tell() > SEGMENTS_BYTES_MAX // 2
        if is_full:
            path.replace(older)


def mend(folder: Path) -> None:
    """Make the emulator do as AWS does where the pipeline depends on it."""
    sys.path.append(str(ROOT))
    dynamodb = importlib.import_module("ministack.services.dynamodb")
    partiql = importlib.import_module("local.partiql")
    partiql.announce_changes(dynamodb)
    resharding = importlib.import_module("local.resharding")
    kinesis = importlib.import_module("ministack.services.kinesis")
    keeping = importlib.import_module("local.keeping")
    expire_when_due(kinesis)
    keeping.pack_records(kinesis)
    keeping.forget_unread_changes(dynamodb)
    keeping.forget_events(importlib.import_module("ministack.services.eventbridge"))
    resharding.keep_closed_shards(kinesis)
    resharding.count_what_is_behind(importlib.import_module("ministack.services.dynamodb_streams"))
    importlib.import_module("local.authorization").know_table_streams(
        importlib.import_module("ministack.core.iam_actions"),
        importlib.import_module("ministack.services.dynamodb_streams"),
    )
    importlib.import_module("local.authorization").say_for_which_account(
        importlib.import_module("ministack.core.iam_evaluator")
    )
    lambda_svc = importlib.import_module("ministack.services.lambda_svc")
    mapping_api = importlib.import_module("local.mapping_api")
    mapping_api.answer_as_aws(
        lambda_svc,
        importlib.import_module("ministack.services.cloudformation.provisioners"),
        mapping_api.engine_status(folder / "mappings.sqlite3"),
    )
    mapping_api.own_pollers_off(lambda_svc)
    mend_cloudwatch(lambda_svc)
    importlib.import_module("local.api_gateway").take_bodies_as_aws(
        importlib.import_module("ministack.services.apigateway_v1")
    )
    lambda_runtime = importlib.import_module("ministack.core.lambda_runtime")
    importlib.import_module("local.layers").share_layers(lambda_runtime, folder / "layers")
    importlib.import_module("local.failing").name_errors(lambda_runtime, lambda_svc)
    importlib.import_module("local.firehose").deliver_in_objects(
        importlib.import_module("ministack.services.firehose"),
        importlib.import_module("ministack.services.s3"),
        importlib.import_module("ministack.core.iam_evaluator"),
    )
    mend_iot(folder / "mqtt")
    importlib.import_module("local.states").stop_children(
        importlib.import_module("ministack.services.stepfunctions")
    )


def mend_cloudwatch(lambda_svc: Any) -> None:
    """Have functions' logs whole, their metrics made of them, and both bounded."""
    mending = importlib.import_module("local.cloudwatch")
    cloudwatch = importlib.import_module("ministack.services.cloudwatch")
    logs = importlib.import_module("ministack.services.cloudwatch_logs")
    mending.keep_metrics_by_minute(cloudwatch)
    mending.metrics_from_logs(logs, cloudwatch)
    mending.one_log_stream_a_day(lambda_svc, logs)
    mending.whole_logs(importlib.import_module("ministack.core.lambda_runtime"))


def mend_iot(folder: Path) -> None:
    """Have IoT sign as the broker's authority, and answer what devices ask the broker."""
    mending = importlib.import_module("local.iot")
    iot = importlib.import_module("ministack.services.iot")
    mending.sign_as(iot, folder / "authority.pem", folder / "authority.key")
    mending.answer_devices(iot)


def expire_when_due(kinesis: Any) -> None:
    """Look through a stream for expired records only when its oldest one has expired.

    The emulator copies every shard's records at every put: with 400,000 records on the stream a put
    took 50 ms, all of it on the one thread that serves every request.
    """
    expire_records = kinesis._expire_records

    def expire_if_due(stream: dict[str, Any]) -> None:
        cutoff = time.time() - stream["RetentionPeriodHours"] * 3600
        oldest = [shard["records"][0] for shard in stream["shards"].values() if shard["records"]]
        if any(record["ApproximateArrivalTimestamp"] < cutoff for record in oldest):
            expire_records(stream)

    kinesis._expire_records = expire_if_due


def keep_running(folder: Path, name: str, python: str, *options: str) -> None:
    """Run `local.<name>` beside the emulator; when it dies, again.

    It is a process of its own, in the interpreter that has the project. Its standard input closes
    when this process ends, and it with that.
    """
    command = [python, "-m", f"local.{name}"]
    command += ["--endpoint", f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"]
    command += ["--region", os.environ["AWS_DEFAULT_REGION"], *options]
    with (folder / f"{name}.log").open("ab") as log:
        while True:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
            (folder / f"{name}.pid.new").write_text(str(process.pid))
            (folder / f"{name}.pid.new").replace(folder / f"{name}.pid")
            process.wait()
            time.sleep(ENGINE_PAUSE_SECONDS)


def serve_schema_registry(python: str) -> None:
    """Have Glue Schema Registry beside the emulator: a process in `python`, which has moto."""
    registry = importlib.import_module("local.schema_registry")
    command = [python, "-m", "local.registry_server"]
    server = registry.Server(command, ROOT, importlib.import_module("ministack.core.responses"))
    registry.serve_operations(importlib.import_module("ministack.services.glue"), server.send)
    registry.know_resources(importlib.import_module("ministack.core.iam_actions"))
    registry.serve_types(
        importlib.import_module("ministack.services.cloudformation.provisioners"), server.send
    )


def serve(folder: Path, python: str | None, mqtt_port: str) -> None:
    """Run the emulator until it is told to stop.

    With the mappings' engine, the schema registry and MQTT, if `python` is given: these run in it.
    """
    mend(folder)
    if python:
        serve_schema_registry(python)
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


if __name__ == "__main__":
    task, instance_folder = sys.argv[1], Path(sys.argv[2])
    if task == "clean":
        clean(instance_folder, int(sys.argv[3]))
    else:
        lock = hold_lock(instance_folder)
        serve(instance_folder, *(sys.argv[3:5] if len(sys.argv) > 3 else (None, "")))
