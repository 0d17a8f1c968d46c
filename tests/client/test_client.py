"""The client on a device: recorded readings arrive once, whatever the answers are."""

import logging
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from telemetry_client import (
    Avro,
    Client,
    ClientOptions,
    Conflicting,
    Format,
    Https,
    Invalid,
    Json,
    Store,
    StoreFailed,
    StoreOptions,
)
from telemetry_client.answers import Remedy, Verdict
from telemetry_client.pace import PaceOptions

from tests.client.clocks import NOW_MS, FakeClock
from tests.client.servers import (
    Answer,
    Network,
    OldPipeline,
    Pipeline,
    accepted,
    in_turn,
    serving,
)
from tests.waiting import eventually

ID = "12345678-1234-1234-1234-123456789abc"
QUICK = PaceOptions(first_s=0.01, most_s=0.05, refused_first_s=0.02, refused_most_s=0.05)
NORMAL = StoreOptions(synchronous="normal")
Readings = list[dict[str, Any]]


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with serving(Pipeline()) as server:
        yield server


class Device:
    """A client of a pipeline with a store in a folder."""

    def __init__(self, folder: Path, url: str, way: dict[str, Any] | None = None, **options: Any):
        chosen = {"pace": QUICK, "store": NORMAL, "batch_age_s": 0.05, **options}
        transport = Https(url, "token", proxy=None, **{"timeout_s": 2.0, **(way or {})})
        path = folder / "readings.db"
        self.client = Client(path, "pump-17", transport, ClientOptions(**chosen), random.Random(1))

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_error: object) -> None:
        self.client.close()

    def record(self, count: int, start: int = 0) -> None:
        """Record readings, each with a temperature of its own."""
        for number in range(start, start + count):
            self.client.record(temperature=number / 100)


def stored(pipeline: Pipeline) -> list[float]:
    return sorted(each["temperature"] for each in pipeline.stored.values())


def exactly(count: int) -> list[float]:
    return [number / 100 for number in range(count)]


def test_readings_recorded_in_a_with_block_have_arrived_at_its_end(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    transport = Https(pipeline.url, "token", proxy=None)
    with Client(tmp_path / "a.db", "pump-17", transport) as client:
        for number in range(3):
            client.record(temperature=number / 100)
    assert stored(pipeline) == exactly(3)


def test_a_batch_is_sent_when_it_is_full_or_old_enough(pipeline: Pipeline, tmp_path: Path) -> None:
    with Device(tmp_path, pipeline.url, batch_max=10, batch_age_s=0.4) as device:
        device.client.start()
        device.record(25)
        started = time.monotonic()
        while len(pipeline.stored) < 25 and time.monotonic() - started < 5:
            time.sleep(0.01)
        assert time.monotonic() - started > 0.2
    assert [each["size"] for each in pipeline.requests] == [10, 10, 5]


def test_a_full_batch_wakes_the_sender_and_a_later_one_too(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with Device(tmp_path, pipeline.url, batch_max=10, batch_age_s=60) as device:
        device.client.start()
        time.sleep(0.1)  # it has found nothing, and would look again in a minute
        for start in (0, 10):
            device.record(10, start)
            assert eventually(lambda: len(pipeline.stored) == start + 10)  # noqa: B023
        device.record(1, 20)
        time.sleep(0.1)
    assert [each["size"] for each in pipeline.requests] == [10, 10]


def test_each_batch_waits_for_further_readings_for_the_whole_time(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with Device(tmp_path, pipeline.url, batch_age_s=0.4) as device:
        device.client.start()
        device.record(1)
        assert eventually(lambda: len(pipeline.stored) == 1)
        started = time.monotonic()
        device.record(2, 1)
        assert eventually(lambda: len(pipeline.stored) == 3)
        assert time.monotonic() - started > 0.3
    assert [each["size"] for each in pipeline.requests] == [1, 2]


def test_recording_in_a_pause_does_not_shorten_it(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.script = in_turn((503, {"message": "later"}, {"Retry-After": "1"}))
    with Device(tmp_path, pipeline.url, batch_max=2, batch_age_s=0) as device:
        device.client.start()
        started = time.monotonic()
        while time.monotonic() - started < 0.8:
            device.record(2, 2 * device.client.store.waiting)
            time.sleep(0.02)
        assert len(pipeline.requests) == 1


def test_closing_waits_for_the_request_that_is_under_way(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    def take_time(_pipeline: Pipeline, _readings: Readings) -> None:
        time.sleep(0.4)

    pipeline.script = take_time
    with Device(tmp_path, pipeline.url, batch_age_s=0) as device:
        device.client.start()
        device.record(1)
        assert eventually(lambda: bool(pipeline.requests))
    assert device.client._thread is not None
    assert not device.client._thread.is_alive()
    with Store(tmp_path / "readings.db", "pump-17", NORMAL)._sql as sql:
        assert sql.execute("SELECT value FROM counts WHERE name = 'taken'").fetchone() == (1,)
    sql.close()


def test_closing_ends_a_flush_that_another_thread_waits_for(tmp_path: Path) -> None:
    device, ends = Device(tmp_path, "http://127.0.0.1:1/prod"), list[bool]()
    device.record(1)
    thread = threading.Thread(target=lambda: ends.append(device.client.flush()))
    thread.start()
    time.sleep(0.1)
    device.client.close()
    thread.join(5)
    assert ends == [False]


def test_two_threads_that_flush_send_nothing_twice(pipeline: Pipeline, tmp_path: Path) -> None:
    def take_time(_pipeline: Pipeline, _readings: Readings) -> None:
        time.sleep(0.05)

    pipeline.script = take_time
    with Device(tmp_path, pipeline.url, batch_max=5) as device:
        device.record(30)
        threads = [threading.Thread(target=device.client.flush, args=(10,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (stored(pipeline), pipeline.repeated) == (exactly(30), 0)


def test_flush_sends_without_a_thread_and_waits_for_no_batch(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with Device(tmp_path, pipeline.url, batch_age_s=60) as device:
        device.record(3)
        assert device.client.flush(5)
        assert device.client.status().taken == 3
    assert stored(pipeline) == exactly(3)


def test_flush_sends_readings_that_waited_for_the_clock(pipeline: Pipeline, tmp_path: Path) -> None:
    clock = FakeClock(now_ms=1_000)  # 1970
    store = Store(tmp_path / "a.db", "pump-17", NORMAL, clock)
    client = Client(store, "pump-17", Https(pipeline.url, "token", proxy=None))
    client.record(temperature=0.0)
    assert client.flush(5)
    assert (store.status().undated, pipeline.requests) == (1, [])
    clock.pass_ms(500)
    clock.wall_ms = NOW_MS
    assert client.flush(5)
    client.close()
    store.close()
    assert pipeline.instants == [NOW_MS - 500]


def test_flush_sends_readings_that_another_process_recorded(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with Device(tmp_path, pipeline.url) as device:
        other = Store(tmp_path / "readings.db", "pump-17", NORMAL)
        other.record({"temperature": 0.0})
        other.close()
        assert device.client.flush(5)
    assert stored(pipeline) == exactly(1)


def test_flush_returns_false_when_the_time_was_too_short(tmp_path: Path) -> None:
    with Device(tmp_path, "http://127.0.0.1:1/prod") as device:
        device.record(1)
        assert not device.client.flush(0.2)
        assert device.client.status().waiting == 1
        assert "refused" in (device.client.problem or "")


def test_readings_unsent_at_the_end_are_sent_next_time_with_the_same_identity(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with Device(tmp_path, "http://127.0.0.1:1/prod") as device:
        device.record(5)
        kept = [each.recorded_at_ms for each in device.client.store.take(10, 10_000)]
    with Device(tmp_path, pipeline.url) as device:
        assert device.client.flush(5)
    assert pipeline.instants == kept


def lose_the_answer(pipeline: Pipeline, readings: Readings) -> Answer:
    pipeline.take(readings)
    return 502, {"message": "Internal server error"}, {}


def take_half(pipeline: Pipeline, readings: Readings) -> Answer:
    pipeline.take(readings[::2])
    not_taken = list(range(1, len(readings), 2))
    body = {"message": "later", "accepted": len(readings[::2]), "not_taken": not_taken}
    return 503, {**body, "rejected": []}, {}


TROUBLES: dict[str, Any] = {
    "429": (429, {"message": "Too Many Requests"}, {}),
    "503 of all": (503, {"message": "later"}, {}),
    "503 of half": take_half,
    "504": (504, {"message": "Endpoint request timed out"}, {}),
    "401": (401, {"message": "Unauthorized"}, {}),
    "403": (403, {"message": "no"}, {}),
    "taken, answer lost": lose_the_answer,
    "a captive portal": (200, b"<html>Welcome</html>", {}),
    "413": (413, {"message": "has too many bytes"}, {}),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_whatever_is_answered_each_reading_is_stored_once(
    pipeline: Pipeline, tmp_path: Path, trouble: Any
) -> None:
    pipeline.script = in_turn(trouble, trouble, None, trouble)
    with Device(tmp_path, pipeline.url, batch_max=20) as device:
        device.record(50)
        assert device.client.flush(10)
        status = device.client.status()
    assert (status.taken, status.rejected, status.waiting) == (50, 0, 0)
    assert stored(pipeline) == exactly(50)
    assert pipeline.conflicts == 0


def test_only_readings_that_were_not_taken_are_sent_again(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.script = in_turn(take_half)
    with Device(tmp_path, pipeline.url) as device:
        device.record(10)
        assert device.client.flush(5)
    assert [each["size"] for each in pipeline.requests] == [10, 5]
    assert pipeline.repeated == 0


def refuse_hot(pipeline: Pipeline, readings: Readings) -> Answer:
    """Refuse temperatures from 0.05 °C on, as the API refuses readings."""
    cold = [each for each in readings if each["temperature"] < 0.05]
    pipeline.take(cold)
    refused = [
        {"index": index, "field": "temperature", "value": each["temperature"], "reason": "is hot"}
        for index, each in enumerate(readings)
        if each["temperature"] >= 0.05
    ]
    status, body, headers = accepted(readings, *refused)
    return status if cold else 400, body, headers


def test_a_rejected_reading_is_put_aside_reported_and_not_sent_again(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.script = refuse_hot
    verdicts: list[Verdict] = []
    with Device(tmp_path, pipeline.url, batch_max=4, on_problem=verdicts.append) as device:
        device.record(8)
        assert device.client.flush(5)
        status = device.client.status()
        values = [each["value"] for each in device.client.store.rejected()]
    assert (status.taken, status.rejected) == (5, 3)
    assert values == [0.07, 0.06, 0.05]
    assert [len(verdict.rejected) for verdict in verdicts] == [3]
    assert len(pipeline.requests) == 2
    assert "a reading was refused: temperature: is hot" in caplog.text


def refuse_with_poison(pipeline: Pipeline, readings: Readings) -> Answer | None:
    """Refuse a whole request for one reading in it."""
    del pipeline
    if any(each["temperature"] == 0.07 for each in readings):
        return 400, {"message": "body: is nested too deeply", "field": "body"}, {}
    return None


def test_one_reading_that_spoils_its_request_is_found_and_the_others_arrive(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.script = refuse_with_poison
    with Device(tmp_path, pipeline.url, batch_max=16) as device:
        device.record(32)
        assert device.client.flush(10)
        (row,) = device.client.store.rejected()
    assert row["metrics"] == {"temperature": 0.07}
    assert stored(pipeline) == [each for each in exactly(32) if each != 0.07]


@pytest.mark.parametrize("body_format", [Json(gzip=True), Avro(ID), Avro(ID, gzip=True)])
@pytest.mark.parametrize("count", [1, 50])
def test_an_old_pipeline_gets_plain_json_and_nothing_is_put_aside(
    tmp_path: Path, body_format: Format, count: int
) -> None:
    way = {"body_format": body_format}
    with (
        serving(OldPipeline()) as pipeline,
        Device(tmp_path, pipeline.url, way, batch_max=20) as device,
    ):
        device.record(count)
        assert device.client.flush(5)
        assert device.client.status().rejected == 0
    assert stored(pipeline) == exactly(count)
    plain = [each["headers"]["Content-Type"] for each in pipeline.requests[1:]]
    assert plain == ["application/json"] * -(-count // 20)  # it tries once, not with each batch


def test_batches_that_time_out_become_smaller(pipeline: Pipeline, tmp_path: Path) -> None:
    """On a slow link full batches never arrived, and the queue waited for ever."""

    def take_time(_pipeline: Pipeline, readings: Readings) -> None:
        time.sleep(0.02 * len(readings))

    pipeline.script = take_time
    with Device(tmp_path, pipeline.url, way={"timeout_s": 0.3}) as device:
        device.record(60)
        assert device.client.flush(20)
        assert device.client.status().taken == 60
    assert pipeline.requests[0]["size"] == 60
    assert stored(pipeline) == exactly(60)


def test_a_requested_pause_is_kept(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.script = in_turn((503, {"message": "later"}, {"Retry-After": "1"}))
    with Device(tmp_path, pipeline.url) as device:
        device.record(1)
        started = time.monotonic()
        assert device.client.flush(5)
        assert 1.0 <= time.monotonic() - started < 3.0


def test_a_problem_for_a_person_is_logged_as_an_error(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.script = lambda _pipeline, _readings: (403, {"message": "User is not authorized"}, {})
    verdicts: list[Verdict] = []
    with Device(tmp_path, pipeline.url, on_problem=verdicts.append) as device:
        device.record(1)
        assert not device.client.flush(0.2)
        assert device.client.problem == "403: User is not authorized"
    assert verdicts[0].remedy is Remedy.PERSON
    assert [each.levelno for each in caplog.records] == [logging.ERROR]  # once, not each time


def fails(*_arguments: Any) -> Any:
    raise StoreFailed("database or disk is full")


def test_on_a_full_disk_the_same_batch_is_not_sent_again_without_a_pause(
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = PaceOptions(first_s=0.4, most_s=60)
    with Device(tmp_path, pipeline.url, batch_age_s=0, pace=slow) as device:
        settle = device.client.store.settle
        monkeypatch.setattr(device.client.store, "settle", fails)
        device.record(3)
        device.client.start()
        time.sleep(2.0)
        requests = len(pipeline.requests)
        assert 1 <= requests <= 8  # 4 are likely; without growing pauses there would be 10 and more
        assert device.client.problem == "database or disk is full"
        monkeypatch.setattr(device.client.store, "settle", settle)
        device.client._not_before = 0.0
        assert device.client.flush(5)
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    assert stored(pipeline) == exactly(3)


def test_an_unexpected_error_does_not_end_the_sending(
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Device(tmp_path, pipeline.url, batch_age_s=0) as device:
        deliver, troubles = device.client._transport.deliver, [ZeroDivisionError(), KeyError("x")]

        def fail_first(*arguments: Any) -> Verdict:
            if troubles:
                raise troubles.pop()
            return deliver(*arguments)

        monkeypatch.setattr(device.client._transport, "deliver", fail_first)
        device.client.start()
        device.record(3)
        assert device.client.flush(5)
    assert stored(pipeline) == exactly(3)
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_that_raises_does_not_end_the_sending(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.script = in_turn((503, {"message": "later"}, {}))

    def raise_it(_verdict: Verdict) -> None:
        raise ZeroDivisionError

    with Device(tmp_path, pipeline.url, batch_age_s=0, on_problem=raise_it) as device:
        device.client.start()
        device.record(3)
        assert device.client.flush(5)
    assert stored(pipeline) == exactly(3)
    assert "on_problem raised" in caplog.text


def test_a_client_is_closed_even_if_its_store_fails_at_the_end(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path, pipeline.url)
    device.record(1)
    monkeypatch.setattr(device.client.store, "take", fails)
    with pytest.raises(StoreFailed, match="disk is full"):
        device.client.close(1)
    with pytest.raises(StoreFailed, match="closed"):
        device.client.record(temperature=1.0)


def test_recording_goes_on_while_the_network_hangs(pipeline: Pipeline, tmp_path: Path) -> None:
    is_over = threading.Event()

    def hang(_pipeline: Pipeline, _readings: Readings) -> None:
        is_over.wait(5)

    pipeline.script = in_turn(hang)
    with Device(tmp_path, pipeline.url, batch_age_s=0) as device:
        device.client.start()
        device.record(1)
        while not pipeline.requests:
            time.sleep(0.001)
        started = time.monotonic()
        device.record(100, start=1)
        assert time.monotonic() - started < 1.0
        is_over.set()
        assert device.client.flush(5)
    assert stored(pipeline) == exactly(101)


def test_two_clients_of_one_store_lose_and_repeat_nothing(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with Device(tmp_path, pipeline.url) as one, Device(tmp_path, pipeline.url) as other:
        for each in (one, other):
            each.client.start()
        for start in range(0, 200, 20):
            one.record(10, start)
            other.record(10, start + 10)
        assert one.client.flush(5)
        assert other.client.flush(5)
        assert one.client.status().taken == 200
    assert stored(pipeline) == exactly(200)


def test_through_a_network_that_fails_each_reading_is_stored_once(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    with (
        Network(pipeline.server_port, seed=7) as network,
        Device(tmp_path, f"http://127.0.0.1:{network.port}/prod", batch_max=10) as device,
    ):
        network.reset_share, network.delay_s = 0.3, 0.01
        device.client.start()
        for start in range(0, 400, 20):
            device.record(20, start)
            if start in {100, 240}:
                network.cut()
            if start in {180, 300}:
                network.is_cut = False
            time.sleep(0.02)
        network.reset_share = 0.0
        assert device.client.flush(20)
        assert network.resets > 0
        assert network.refused > 0
    assert stored(pipeline) == exactly(400)
    assert pipeline.repeated > 0
    assert pipeline.conflicts == 0


def test_a_store_of_another_device_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db", "pump-17")
    with pytest.raises(Invalid, match="device_id: 'x' differs from the store's device, pump-17"):
        Client(store, "x", Https("http://127.0.0.1:1", "token"))
    store.close()


@pytest.mark.parametrize("options", [{"batch_max": 501}, {"batch_max": 0}, {"batch_age_s": -1}])
def test_impossible_options_are_refused(options: Any) -> None:
    with pytest.raises(Invalid, match=next(iter(options))):
        ClientOptions(**options)


def test_a_refused_metric_is_reported_and_its_reading_is_taken(
    tmp_path: Path, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Verdict] = []
    refusal = {"index": 0, "device_id": "pump-17", "field": "humidity", "value": 40.0}
    refusal["reason"] = "is below 50.0 %RH"
    answer: Answer = (202, {"accepted": 1, "rejected": [], "partly": [refusal]}, {})
    pipeline.script = in_turn(answer)
    with Device(tmp_path, pipeline.url, on_problem=told.append) as device:
        device.client.record(temperature=20.0, humidity=40.0)
        assert device.client.flush(10)
        status = device.client.status()
    assert (status.taken, status.rejected, status.metrics_refused) == (1, 0, 1)
    assert [each.field for verdict in told for each in verdict.partly] == ["humidity"]
    assert "taken without humidity: is below 50.0 %RH" in caplog.text


def test_the_client_refuses_a_second_value_for_an_instant(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    with Device(tmp_path, pipeline.url) as device:
        at_ms = device.client.record(temperature=20.0)
        with pytest.raises(Conflicting, match="one of the two would be lost"):
            device.client.record(temperature=19.0, recorded_at=at_ms)
