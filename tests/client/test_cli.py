"""The command `telemetry-client`."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from telemetry_client.cli import at_of, main
from telemetry_client.clock import SystemClock
from telemetry_client.reading import to_ms

from tests.client.servers import Pipeline, in_turn, serving
from tests.waiting import Patience


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with serving(Pipeline()) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options that name the store."""
    monkeypatch.setenv("TELEMETRY_TOKEN", "pump-17.secret")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    named = ["--store", str(tmp_path / "a.db"), "--device", "pump-17"]
    return [*named, "--synchronous", "normal"]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_recorded_readings_wait_are_sent_and_counted(
    pipeline: Pipeline, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", *store, "temperature=21.5", "battery=3.7"]) == 0
    assert shown(capsys, "status", *store)["waiting"] == 1
    assert main(["send", *store, "--url", pipeline.url, "--format", "json-gzip"]) == 0
    assert capsys.readouterr().err == "taken 1, refused 0, waiting 0\n"
    (reading,) = pipeline.stored.values()
    assert (reading["temperature"], reading["battery"]) == (21.5, 3.7)
    assert pipeline.requests[0]["headers"]["Authorization"] == "Bearer pump-17.secret"
    assert shown(capsys, "status", *store)["taken"] == 1


def test_lines_of_json_are_readings(
    store: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = '{"temperature": 20.0}\n{"humidity": 50, "recorded_at": 1900000000000}\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["record", *store, "-"]) == 1  # one is of the year 2030: none is kept
    assert "recorded_at: 1900000000000 is more than 5 minutes after" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(lines.splitlines()[0]))
    assert main(["record", *store, "-"]) == 0
    assert shown(capsys, "status", *store)["waiting"] == 1


def test_a_line_may_have_a_byte_order_mark_and_a_final_zero_byte_but_no_name_twice(
    store: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('\ufeff{"temperature": 20.5}\0\n'))
    assert main(["record", *store, "-"]) == 0
    line = '{"temperature": 20.5, "temperature": 39.5, "recorded_at": "2026-11-21T01:29:60z"}'
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    assert main(["record", *store, "-"]) == 1
    assert "temperature: '20.5 and 39.5' is there twice" in capsys.readouterr().err


def test_a_leap_second_becomes_the_next_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry_client.reading.EARLIEST_MS", 0)
    assert to_ms(at_of("2016-12-31T23:59:60z")) == to_ms(at_of("2017-01-01T00:00:00Z"))


def test_refused_readings_can_be_listed(
    pipeline: Pipeline, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"index": 0, "field": "temperature", "value": 21.5, "reason": "is odd"}
    pipeline.script = in_turn((400, {"accepted": 0, "rejected": [entry]}, {}))
    main(["record", *store, "temperature=21.5"])
    assert main(["send", *store, "--url", pipeline.url]) == 0
    assert "taken 0, refused 1, waiting 0" in capsys.readouterr().err
    (row,) = shown(capsys, "rejected", *store)
    assert (row["reason"], row["metrics"]) == ("is odd", {"temperature": 21.5})


def test_unsent_readings_are_reported_and_stay(
    store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["record", *store, "temperature=21.5"])
    arguments = ["send", *store, "--url", "http://127.0.0.1:1/prod", "--timeout", "0.1"]
    assert main(arguments) == 1
    assert "waiting 1, no answer: ConnectionRefusedError" in capsys.readouterr().err
    assert shown(capsys, "status", *store)["waiting"] == 1


def test_readings_that_wait_for_the_clock_are_sent_once_it_is_set(
    pipeline: Pipeline, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    send = ["send", *store, "--url", pipeline.url]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SystemClock, "now_ms", lambda _self: 1_000)  # 1970
        main(["record", *store, "temperature=21.5"])
        assert main(send) == 1
    assert "waiting 1, 1 of them for the clock to be set\n" in capsys.readouterr().err
    assert main(send) == 0
    assert len(pipeline.stored) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_follow_with_the_counts(
    pipeline: Pipeline,
    store: list[str],
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = '{"temperature": 20.0}\n' * 500  # a whole one, which waits for no others
    monkeypatch.setattr("sys.stdin", io.StringIO(batch))
    main(["record", *store, "-"])
    command = [sys.executable, "-m", "telemetry_client", "send", *store, "--follow"]
    source = Path(__file__).parents[2] / "clients/python/src"
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # of a run in the background
    with subprocess.Popen(
        [*command, "--url", pipeline.url],
        env=os.environ | {"PYTHONPATH": str(source)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(signal.SIGINT, ignored)
        try:
            patience = Patience(30)
            while shown(capsys, "status", *store)["taken"] < 500 and not patience.is_over():
                time.sleep(0.05)
            process.send_signal(number)
            _, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, told) == (0, "taken 500, refused 0, waiting 0\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["record", "temperature"], "metrics: 'temperature' is not METRIC=NUMBER"),
        (["record", "temperature=warm"], "temperature: 'warm' is not METRIC=NUMBER"),
        (["record", "temperature=412"], "temperature: 412.0 is above 150.0 °C"),
        (["record", "battery=3", "battery=4"], "battery: '3.0 and 4.0' is there twice"),
        (["record", "battery=3", "--at", "1795224600"], "it looks like seconds"),
        (["record", "battery=3", "--at", "today"], "recorded_at: 'today' is neither ISO 8601"),
        (["send"], "--url: None is not an address: give the API's"),
        (["send", "--url", "a"], "url: 'a' is not an address such as https://"),
        (["send", "--mqtt", ":x"], "--mqtt: ':x' is not HOST or HOST:PORT"),
        (["send", "--url", "http://a", "--format", "avro"], "schema_version_id: None is not"),
        (["send", "--url", "http://a", "--token-file", "gone"], "gone: No such file"),
        (["status"], "is not there: `record` makes it"),
    ],
)
def test_a_wrong_option_is_named_with_a_right_one(
    store: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    command, *rest = arguments
    assert main([command, *store, *rest]) == 1
    assert message in capsys.readouterr().err
