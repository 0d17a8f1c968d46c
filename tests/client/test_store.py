"""The store: its readings, their identities, and how long it keeps them."""

import math
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry_client import store as store_module
from telemetry_client.answers import Rejection
from telemetry_client.clock import BOOT_ID, SystemClock
from telemetry_client.errors import Conflicting, Invalid, StoreFailed, StoreFull
from telemetry_client.instants import Instants, Span, joined, runs
from telemetry_client.reading import Queued, to_ms
from telemetry_client.store import Store, StoreOptions

from tests.client.clocks import NOW_MS, FakeClock

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "readings.db"


OPENED: list[Store] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


class StoreOnDisk:
    """A store with a clock, which can be closed and opened again."""

    def __init__(self, path: Path, clock: FakeClock, **options: Any) -> None:
        self.path = path
        self.clock = clock
        self.options = StoreOptions(**{"synchronous": "normal", **options})
        self.store = self.open()

    def open(self) -> Store:
        OPENED.append(Store(self.path, "pump-17", self.options, self.clock))
        return OPENED[-1]

    def record(self, count: int = 1) -> None:
        for _ in range(count):
            self.store.record({"temperature": 20.0})

    def send(self, limit: int = 1000) -> list[int]:
        """Take the waiting readings and settle them as taken; return their instants."""
        batch = self.store.take(limit, 10**9)
        self.store.settle(batch, [])
        return [each.recorded_at_ms for each in batch]


@pytest.fixture
def kept(path: Path) -> StoreOnDisk:
    return StoreOnDisk(path, FakeClock())


# Recording


class HalfPrecision:
    """A number like numpy's: registered as Real, but not a float."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


Real.register(HalfPrecision)


@pytest.mark.parametrize(
    "value", [Decimal("21.5"), Fraction(43, 2), HalfPrecision(21.5), 21.5], ids=repr
)
def test_any_type_of_real_number_is_a_metric(kept: StoreOnDisk, value: Any) -> None:
    kept.store.record({"temperature": value, "humidity": 40})
    (reading,) = kept.store.take(1, 1000)
    assert reading.metrics == '{"temperature":21.5,"humidity":40}'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Decimal("NaN"), "is not a finite number of °C"),
        (Decimal("sNaN"), "is not a finite number of °C"),
        (Fraction(10**400), "is not a finite number of °C"),
        (Decimal(412), "is above 150.0 °C"),
        (1 + 2j, "is a complex, and not a finite number of °C"),
        ([21.5], "is a list, and not a finite number of °C"),
    ],
    ids=repr,
)
def test_a_number_of_another_type_is_held_to_the_same_range(
    kept: StoreOnDisk, value: Any, message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        kept.store.record({"temperature": value})


AT_MS = NOW_MS - 60_000


def test_another_value_for_a_given_instant_is_refused_while_the_first_waits(
    kept: StoreOnDisk,
) -> None:
    kept.store.record({"temperature": 20.0}, AT_MS)
    for store in (kept.store, kept.open()):  # also for another process
        with pytest.raises(Conflicting, match=r"temperature: 19\.5 differs from 20\.0") as caught:
            store.record({"humidity": 40.0, "temperature": 19.5}, AT_MS)
        assert isinstance(caught.value, Invalid)
        assert caught.value.field == "temperature"
    assert [each.metrics for each in kept.store.take(9, 10**6)] == ['{"temperature":20.0}']


def test_another_value_is_refused_also_when_the_first_was_sent_a_moment_ago(
    kept: StoreOnDisk,
) -> None:
    kept.store.record({"temperature": 20.0}, AT_MS)
    given = kept.store.record({"temperature": 21.0})
    kept.send()
    for at_ms in (AT_MS, given):
        with pytest.raises(Conflicting):
            kept.store.record({"temperature": 22.0}, at_ms)


def test_further_metrics_and_equal_values_of_an_instant_are_recorded(kept: StoreOnDisk) -> None:
    kept.store.record({"temperature": 20.0}, AT_MS)
    kept.store.record({"temperature": 20, "humidity": 40.0}, AT_MS)
    kept.store.record({"temperature": 21.0}, AT_MS + 1)
    with pytest.raises(Conflicting):
        kept.store.record({"humidity": 41.0}, AT_MS)
    assert kept.store.waiting == 3


def test_of_readings_recorded_together_none_is_kept_if_two_disagree(kept: StoreOnDisk) -> None:
    metrics = [{"temperature": 20.0}, {"temperature": 21.0}]
    with pytest.raises(Conflicting):
        kept.store.record_many(metrics, [AT_MS, AT_MS])
    assert kept.store.waiting == 0
    kept.store.record_many(metrics[1:], [AT_MS])  # what wasn't kept contradicts nothing


def test_the_memory_of_sent_readings_is_bounded(kept: StoreOnDisk) -> None:
    kept.store.record_many([{"temperature": 20.0}] * 1500, [AT_MS - n for n in range(1500)])
    assert len(kept.store._recent) == 1000


def test_a_refused_metric_is_put_aside_and_its_reading_is_taken(kept: StoreOnDisk) -> None:
    kept.store.record({"temperature": 20.0, "humidity": 40.0}, AT_MS)
    (reading,) = kept.store.take(1, 1000)
    rejection = Rejection(0, "humidity", 40.0, "is below 50.0 %RH")
    kept.store.settle([reading], [], [(reading, rejection)])
    kept.store.settle([reading], [], [(reading, rejection)])  # by another process, too
    status = kept.store.status()
    assert (status.taken, status.rejected, status.metrics_refused) == (1, 0, 1)
    (aside,) = kept.store.rejected()
    assert (aside["recorded_at"], aside["metrics"]) == (AT_MS, {"humidity": 40.0})
    assert (aside["field"], aside["reason"]) == ("humidity", "is below 50.0 %RH")


def test_a_reading_waits_with_its_metrics_until_it_is_settled(kept: StoreOnDisk) -> None:
    kept.store.record({"temperature": 21.5, "humidity": None, "battery": 3})
    (reading,) = kept.store.take(10, 1000)
    assert reading == Queued(1, NOW_MS, '{"temperature":21.5,"battery":3}')
    assert kept.store.take(10, 1000) == [reading]
    kept.store.settle([reading], [])
    assert kept.store.take(10, 1000) == []
    assert kept.store.status().taken == 1


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, r"metrics: \{\} has none of temperature, humidity, pressure, battery"),
        ({"temperature": None}, "has none of temperature"),
        ({"temprature": 1.0}, "temprature: 1.0 is of no metric; the metrics are temperature, hum"),
        ({"temperature": 412.0}, "temperature: 412.0 is above 150.0 °C"),
        ({"temperature": -91}, "temperature: -91 is below -90.0 °C"),
        ({"temperature": 10**400}, "temperature: 10+ is above 150.0 °C"),
        ({"temperature": math.nan}, "temperature: nan is not a finite number of °C"),
        ({"temperature": math.inf}, "temperature: inf is not a finite number of °C"),
        ({"temperature": True}, "temperature: True is a bool, and not a finite number of °C"),
        ({"temperature": "21"}, "temperature: '21' is a str, and not a finite number of °C; float"),
    ],
)
def test_a_reading_that_the_pipeline_would_refuse_is_not_recorded(
    kept: StoreOnDisk, metrics: Any, message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        kept.store.record(metrics)
    assert kept.store.status().waiting == 0


@pytest.mark.parametrize("device_id", ["", "pump 17", "a" * 129, "pump\n", None])
def test_a_device_id_that_the_pipeline_would_refuse_is_refused(path: Path, device_id: Any) -> None:
    with pytest.raises(Invalid, match=r"device_id: .* does not match .* as pump-17 does"):
        Store(path, device_id)


@pytest.mark.parametrize(
    ("given_time", "at_ms"),
    [
        (NOW_MS - 5, NOW_MS - 5),
        (datetime(2027, 1, 15, 7, 30, 0, 250_000, UTC), 1_799_998_200_250),
        (datetime(2027, 1, 15, 9, 30, tzinfo=timezone(timedelta(hours=2))), 1_799_998_200_000),
    ],
)
def test_a_callers_own_time_is_the_identity(kept: StoreOnDisk, given_time: Any, at_ms: int) -> None:
    kept.store.record({"temperature": 1.0}, given_time)
    assert [each.recorded_at_ms for each in kept.store.take(10, 1000)] == [at_ms]


def test_every_millisecond_of_a_datetime_is_kept() -> None:
    second = datetime(2027, 1, 15, 8, tzinfo=UTC)
    found = [to_ms(second.replace(microsecond=each * 1000)) for each in range(1000)]
    assert found == [NOW_MS + each for each in range(1000)]
    assert to_ms(second.replace(microsecond=1_999)) == NOW_MS + 1


def test_a_callers_own_time_is_taken_while_the_clock_is_not_set(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(now_ms=0))
    assert kept.store.record({"temperature": 1.0}, NOW_MS) == NOW_MS
    assert kept.send() == [NOW_MS]


def test_the_clock_gives_no_instant_that_a_caller_has_used(kept: StoreOnDisk) -> None:
    kept.store.record({"temperature": 1.0}, NOW_MS + 5_000)
    kept.clock.pass_ms(5_000)
    kept.record()
    assert kept.send() == [NOW_MS + 5_000, NOW_MS + 5_001]


@pytest.mark.parametrize(
    ("given_time", "message"),
    [
        (datetime(2026, 11, 21), "has no offset from UTC"),  # noqa: DTZ001
        (datetime(1969, 12, 31, tzinfo=UTC), "-86400000 is not of 2020 to 9999"),
        (NOW_MS // 1000, "1800000000 is not of 2020 to 9999, in epoch milliseconds"),
        (NOW_MS // 1000, "it looks like seconds"),
        (NOW_MS * 1000, "it looks like microseconds"),
        (NOW_MS * 1_000_000, "it looks like nanoseconds"),
        (NOW_MS / 1000 + 0.25, "nor whole epoch milliseconds; it looks like seconds"),
        (float("nan"), "nan is neither a datetime"),
        (1_577_836_799_999, "is not of 2020"),
        (253_402_300_800_000, "is not of 2020 to 9999"),
        (1.5, "1.5 is neither a datetime with an offset nor whole epoch milliseconds"),
        (NOW_MS + 300_001, "is more than 5 minutes after the device's clock"),
    ],
)
def test_an_impossible_time_is_refused(kept: StoreOnDisk, given_time: Any, message: str) -> None:
    with pytest.raises(Invalid, match=f"recorded_at: .*{message}"):
        kept.store.record({"temperature": 1.0}, given_time)
    assert kept.store.status().waiting == 0


def test_whole_milliseconds_may_be_a_float(kept: StoreOnDisk) -> None:
    kept.store.record({"temperature": 1.0}, float(NOW_MS))
    assert kept.send() == [NOW_MS]


def test_readings_recorded_together_are_all_kept_or_none(kept: StoreOnDisk) -> None:
    with pytest.raises(Invalid):
        kept.store.record_many([{"temperature": 1.0}, {"temperature": 999.0}])
    assert kept.store.take(10, 1000) == []
    kept.store.record_many([{"temperature": 1.0}, {"temperature": 2.0}])
    assert [each.recorded_at_ms for each in kept.store.take(10, 1000)] == [NOW_MS, NOW_MS + 1]


@pytest.mark.parametrize("times", [[], [NOW_MS], [NOW_MS, None, NOW_MS]])
def test_readings_recorded_together_have_a_time_each_or_none(kept: StoreOnDisk, times: Any) -> None:
    with pytest.raises(Invalid, match=r"recorded_at: .* are not 2, as many as the readings"):
        kept.store.record_many([{"temperature": 1.0}, {"temperature": 2.0}], times)
    assert kept.store.status().waiting == 0


# Identity


def test_readings_within_a_millisecond_get_one_each(kept: StoreOnDisk) -> None:
    told = [kept.store.record({"temperature": 20.0}) for _ in range(3)]
    assert told == [NOW_MS, NOW_MS + 1, NOW_MS + 2]
    kept.clock.pass_ms(1)
    kept.record(2)
    kept.clock.pass_ms(100)
    kept.record()
    assert kept.send() == [*range(NOW_MS, NOW_MS + 5), NOW_MS + 101]


def test_a_reading_keeps_its_instant_when_the_process_starts_again(kept: StoreOnDisk) -> None:
    kept.record(3)
    again = kept.open()
    again.record({"temperature": 1.0})
    assert [each.recorded_at_ms for each in again.take(10, 1000)] == list(range(NOW_MS, NOW_MS + 4))


@pytest.mark.parametrize("is_sent", [False, True])
@pytest.mark.parametrize("is_reopened", [False, True])
def test_a_clock_that_is_set_back_uses_no_instant_again(
    kept: StoreOnDisk, is_sent: bool, is_reopened: bool
) -> None:
    for _ in range(100):
        kept.record()
        kept.clock.pass_ms(60_000)
    first = kept.send() if is_sent else []
    kept.clock.wall_ms -= HOUR_MS  # onto the very instant of the 41st
    if is_reopened:
        kept.store = kept.open()
    for _ in range(100):
        kept.record()
        kept.clock.pass_ms(60_000)
    instants = first + kept.send()
    assert len(set(instants)) == len(instants) == 200
    start = NOW_MS + 40 * 60_000
    expected = [start + each * 60_000 + (1 if each < 60 else 0) for each in range(100)]
    assert instants[100:] == expected


def test_a_clock_that_was_years_ahead_is_believed_again_once_it_is_right(kept: StoreOnDisk) -> None:
    kept.clock.wall_ms += 70 * 365 * DAY_MS
    kept.record(3)
    kept.clock.wall_ms = NOW_MS
    kept.record(2)
    kept.clock.pass_ms(1000)
    kept.record()
    assert kept.send()[3:] == [NOW_MS, NOW_MS + 1, NOW_MS + 1000]


def test_two_processes_share_a_store_without_sharing_an_instant(kept: StoreOnDisk) -> None:
    other = kept.open()
    for _ in range(5):
        kept.record()
        other.record({"temperature": 2.0})
    assert kept.store.status().waiting == other.status().waiting == 10
    assert kept.send() == list(range(NOW_MS, NOW_MS + 10))


def test_processes_record_at_once_and_none_fails(kept: StoreOnDisk) -> None:
    stores = [kept.open() for _ in range(4)]
    failures: list[Exception] = []

    def record(store: Store) -> None:
        try:
            for _ in range(50):
                store.record({"temperature": 20.0})
        except StoreFailed as error:
            failures.append(error)

    threads = [threading.Thread(target=record, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert kept.send() == list(range(NOW_MS, NOW_MS + 200))


def test_a_file_that_another_process_writes_to_is_waited_for(kept: StoreOnDisk) -> None:
    other = sqlite3.connect(kept.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, other.execute, ["COMMIT"])
    timer.start()
    kept.record()
    timer.join()
    other.close()
    assert kept.send() == [NOW_MS]


def test_threads_record_without_sharing_an_instant(kept: StoreOnDisk) -> None:
    threads = [threading.Thread(target=kept.record, args=(50,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.send() == list(range(NOW_MS, NOW_MS + 200))


def test_instants_known_only_as_a_span_are_not_believed(
    kept: StoreOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SENT_MAX", 2)
    monkeypatch.setattr(store_module, "SENT_ROW", 1)
    for _ in range(6):
        kept.record()
        kept.send()
        kept.clock.pass_ms(60_000)
    kept.clock.wall_ms = NOW_MS + 60_000  # of the second, known as a span by now
    kept.record()
    assert not kept.store.status().is_clock_believed
    assert (kept.store.status().undated, kept.send()) == (1, [])
    kept.clock.wall_ms = NOW_MS + HOUR_MS
    kept.clock.up_ms += 1000
    assert kept.send() == [NOW_MS + HOUR_MS - 1000]


def test_small_batches_are_remembered_as_long_as_large_ones(
    kept: StoreOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SENT_MAX", 2)
    monkeypatch.setattr(store_module, "SENT_ROW", 5)
    sent = []
    for _ in range(20):  # four rows' worth, of which two may become a span
        kept.record()
        sent += kept.send()
        kept.clock.pass_ms(1000)
    for back in (20, 11, 1):
        kept.clock.wall_ms = NOW_MS + (20 - back) * 1000
        kept.record()
        assert kept.store.status().is_clock_believed
        (again,) = kept.send()
        assert again not in sent
        sent.append(again)


def test_readings_sent_ahead_of_the_clock_do_not_displace_other_sent_ones(
    kept: StoreOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SENT_MAX", 5)
    monkeypatch.setattr(store_module, "SENT_ROW", 1)
    sent = []
    for start_ms, count in ((NOW_MS + 20 * HOUR_MS, 11), (NOW_MS, 5)):
        kept.clock.wall_ms = start_ms
        for _ in range(count):
            kept.record()
            sent += kept.send()
            kept.clock.pass_ms(60_000)
    kept.clock.wall_ms = NOW_MS  # of the first of the five
    kept.record()
    assert kept.send() == [NOW_MS + 1]
    assert len(set(sent)) == 16


def test_after_a_leap_ahead_the_right_clock_is_believed(
    kept: StoreOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span from before the leap to its end would cover all the time between."""
    monkeypatch.setattr(store_module, "SENT_MAX", 2)
    monkeypatch.setattr(store_module, "SENT_ROW", 1)
    kept.record()
    kept.clock.wall_ms += 20 * HOUR_MS
    kept.record()
    kept.clock.wall_ms -= 20 * HOUR_MS
    kept.send()
    for _ in range(20):
        kept.clock.pass_ms(60_000)
        kept.record()
        assert kept.store.status().undated == 0
        kept.send()
    kept.clock.pass_ms(20 * HOUR_MS - 20 * 60_000)  # onto the instant of the leap
    kept.record()
    assert kept.send() == [NOW_MS + 20 * HOUR_MS + 1]


@settings(max_examples=25)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("step"), st.integers(-20, 20)),
            st.tuples(st.just("jump"), st.sampled_from([-5000, -2000, 2000, 90_000_000])),
            st.tuples(st.just("record"), st.integers(1, 5)),
            st.tuples(st.just("send"), st.integers(1, 5)),
            st.tuples(st.just("reopen"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_no_sequence_of_events_gives_two_readings_one_instant(
    tmp_path_factory: pytest.TempPathFactory, course: list[tuple[str, int]]
) -> None:
    kept = StoreOnDisk(tmp_path_factory.mktemp("course") / "readings.db", FakeClock())
    given_out: list[int] = []
    recorded = 0
    for what, number in course:
        if what in {"step", "jump"}:
            kept.clock.wall_ms += number
        elif what == "record":
            kept.record(number)
            recorded += number
        elif what == "send":
            given_out += kept.send(number)
        else:
            kept.store.close()
            kept.store = kept.open()
    given_out += kept.send()
    kept.store.close()
    assert len(given_out) == len(set(given_out)) == recorded


def test_a_day_between_instants_separates_runs_and_spans() -> None:
    assert list(runs([5, 1, DAY_MS + 4, 3 * DAY_MS])) == [[1, 5, DAY_MS + 4], [3 * DAY_MS]]
    assert list(runs([0, DAY_MS])) == [[0], [DAY_MS]]
    far = Span(10 * DAY_MS, 10 * DAY_MS + 1)
    assert joined([far, Span(5, 9), Span(1, 4)]) == [Span(1, 9), far]


def test_used_instants_are_loaded_once_each_time_the_clock_is_set_back() -> None:
    asked: list[int] = []

    def load(at_ms: int) -> set[int]:
        asked.append(at_ms)
        return {NOW_MS}

    own = Instants(NOW_MS + 9000, NOW_MS + 9000, [], load)
    assert [own.give(NOW_MS), own.give(NOW_MS + 50)] == [NOW_MS + 1, NOW_MS + 50]
    assert own.give(NOW_MS + 10_000) == NOW_MS + 10_000
    assert asked == [NOW_MS]


def test_a_clock_that_is_set_back_twice_to_a_time_gives_it_once() -> None:
    own = Instants(NOW_MS + 9000, NOW_MS + 9000, [], lambda _at_ms: {NOW_MS, NOW_MS + 1})
    assert own.give(NOW_MS) == NOW_MS + 2  # behind both that are used
    assert own.give(NOW_MS + 5000) == NOW_MS + 5000
    assert own.give(NOW_MS) == NOW_MS + 3


def test_a_free_instant_is_given_once_however_often_the_clock_is_set_back_to_it() -> None:
    own = Instants(NOW_MS + 9000, NOW_MS + 9000, [], lambda _at_ms: set())
    assert own.give(NOW_MS) == NOW_MS
    assert own.give(NOW_MS + 5000) == NOW_MS + 5000
    assert own.give(NOW_MS) == NOW_MS + 1


def test_a_span_is_not_believed_from_its_first_instant_to_its_last() -> None:
    own = Instants(9, 9, [Span(3, 5)], lambda _at_ms: set())
    assert [own.is_believed(each) for each in range(2, 7)] == [True, False, False, False, True]


def test_the_kernel_names_the_boot() -> None:
    if not BOOT_ID.exists():
        pytest.skip("not on Linux: a process is a boot of its own")
    assert SystemClock().boot == BOOT_ID.read_text("ascii").strip()


# A clock that isn't set


def test_readings_recorded_before_the_clock_is_set_are_dated_once_it_is(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(now_ms=1_000))  # 1970
    assert kept.store.record({"temperature": 20.0}) is None
    kept.clock.pass_ms(2_000)
    kept.record(2)
    assert (kept.send(), kept.store.status().undated) == ([], 3)
    kept.store = kept.open()  # the process starts again, not the device
    kept.clock.pass_ms(1_000)
    kept.clock.wall_ms = NOW_MS
    kept.record()
    assert kept.send() == [NOW_MS - 3_000, NOW_MS - 1_000, NOW_MS - 999, NOW_MS]
    assert kept.store.status().undated == 0


def test_readings_that_a_restart_leaves_undated_are_put_aside_with_the_reason(
    path: Path,
) -> None:
    kept = StoreOnDisk(path, FakeClock(now_ms=0))
    kept.record()
    kept.clock = FakeClock(now_ms=NOW_MS, boot="boot-2")
    kept.store = kept.open()
    assert kept.send() == []
    (row,) = kept.store.rejected()
    assert row["metrics"] == {"temperature": 20.0}
    assert row["reason"].startswith("was recorded while the clock was not set")
    assert kept.store.status().rejected == 1


# Bounds


def test_a_full_store_drops_the_oldest_and_counts_them(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(step_ms=1000), max_bytes=2000)  # 44 bytes a reading
    kept.record(100)
    status = kept.store.status()
    assert status.waiting + status.dropped_full == 100
    assert 40 <= status.waiting <= 45
    assert status.bytes == status.waiting * 44 <= 2000
    instants = kept.send()
    assert instants == list(range(instants[0], instants[-1] + 1, 1000))
    assert instants[-1] == NOW_MS + 100_000  # the oldest were dropped


def test_a_full_store_makes_room_for_more_than_one_reading(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(), max_bytes=44 * 1000)
    kept.record(1000)
    drops = []
    for _ in range(12):
        kept.record()
        drops.append(kept.store.status().dropped_full)
    assert drops == [10] * 10 + [20] * 2  # a hundredth of it


def test_undated_readings_are_dropped_too_when_the_store_is_full(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(now_ms=0), max_bytes=2000)
    kept.record(100)
    status = kept.store.status()
    assert status.undated + status.dropped_full == 100
    assert 40 <= status.undated <= 45
    kept.clock.wall_ms = NOW_MS
    assert len(kept.send()) == status.undated


def test_no_more_undated_readings_are_dropped_than_necessary(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(), max_bytes=44 * 30)
    kept.record(20)
    kept.clock.wall_ms = 0
    kept.record(11)  # the last of them makes it full
    status = kept.store.status()
    assert (status.waiting, status.undated, status.dropped_full) == (19, 11, 1)


def test_an_instant_that_was_dropped_is_not_used_again(path: Path) -> None:
    """It may have been sent before, and the answer lost."""
    kept = StoreOnDisk(path, FakeClock(step_ms=1000), max_bytes=2000)
    kept.record(100)
    dropped = {NOW_MS + 1000 * each for each in range(1, 101)} - set(kept.send())
    assert len(dropped) > 50
    kept.clock.wall_ms = NOW_MS
    kept.record(40)
    assert not dropped & set(kept.send())


def test_readings_larger_than_the_whole_store_are_refused(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(), max_bytes=1024)
    kept.record(3)
    with pytest.raises(StoreFull, match="132 bytes wait, 1320 more are over max_bytes, 1024"):
        kept.store.record_many([{"temperature": 20.0}] * 30)
    assert len(kept.send()) == 3


def test_a_full_store_refuses_readings_if_its_options_say_so(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock(), max_bytes=1024, when_full="refuse")
    kept.record(23)
    with pytest.raises(StoreFull, match="1012 bytes wait, 44 more are over max_bytes, 1024"):
        kept.record()
    assert kept.store.status().waiting == 23
    kept.send(1)
    kept.record()


def test_a_clock_that_leaps_ahead_for_a_while_loses_no_waiting_reading(kept: StoreOnDisk) -> None:
    kept.record(3)
    kept.clock.wall_ms += 20 * 365 * DAY_MS  # a GPS receiver's week rolls over
    kept.record()
    assert len(kept.store.take(10, 1000)) == 4
    kept.clock.wall_ms = NOW_MS + 1000
    kept.record()
    assert kept.send()[:3] == [NOW_MS, NOW_MS + 1, NOW_MS + 2]
    assert kept.store.status().dropped_full == 0


@pytest.mark.parametrize(
    "options",
    [
        {"synchronous": "off"},
        {"when_full": "explode"},
        {"max_bytes": 10},
    ],
)
def test_impossible_options_are_refused(options: Any) -> None:
    with pytest.raises(Invalid, match=next(iter(options))):
        StoreOptions(**options)


# Sending


def test_a_batch_is_bounded_by_count_and_bytes_and_has_one_reading_at_least(
    kept: StoreOnDisk,
) -> None:
    kept.record(10)
    assert len(kept.store.take(4, 10**6)) == 4
    assert len(kept.store.take(100, 44 * 3)) == 3
    assert len(kept.store.take(100, 1)) == 1


def test_refused_readings_are_put_aside_with_the_reason_and_never_sent_again(
    kept: StoreOnDisk,
) -> None:
    kept.record(2)
    first, second = kept.store.take(10, 1000)
    refusal = Rejection(1, "temperature", {"a": 412.0}, "is above 150")
    kept.store.settle([first], [(second, refusal)])
    assert kept.store.take(10, 1000) == []
    expected = {
        "recorded_at": NOW_MS + 1,
        "metrics": {"temperature": 20.0},
        "field": "temperature",
        "value": {"a": 412.0},
        "reason": "is above 150",
        "rejected_at": NOW_MS,
    }
    assert kept.store.rejected() == [expected]
    status = kept.store.status()
    assert (status.taken, status.rejected, status.rejected_kept) == (1, 1, 1)


def test_the_dead_letters_are_bounded_and_all_are_counted(
    kept: StoreOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "REJECTED_MAX", 5)
    kept.record(8)
    batch = kept.store.take(10, 1000)
    kept.store.settle([], [(each, Rejection(0, None, None, "no")) for each in batch])
    status = kept.store.status()
    assert (status.rejected, status.rejected_kept) == (8, 5)
    assert kept.store.rejected()[0]["recorded_at"] == NOW_MS + 7


def test_a_reading_that_two_senders_have_taken_is_counted_once(kept: StoreOnDisk) -> None:
    other = kept.open()
    kept.record(2)
    mine, theirs = kept.store.take(10, 1000), other.take(10, 1000)
    kept.store.settle(mine, [])
    kept.record()  # must not get a number that the other still holds
    other.settle(theirs, [])
    assert (other.status().taken, other.status().waiting) == (2, 1)


def test_a_reading_that_two_senders_have_taken_is_put_aside_once(kept: StoreOnDisk) -> None:
    other = kept.open()
    kept.record()
    (mine,), (theirs,) = kept.store.take(10, 1000), other.take(10, 1000)
    refusal = Rejection(0, "temperature", None, "no")
    kept.store.settle([], [(mine, refusal)])
    other.settle([], [(theirs, refusal)])
    status = other.status()
    assert (status.rejected, status.rejected_kept, status.taken) == (1, 1, 0)


# The file


def test_a_file_of_another_device_is_refused(kept: StoreOnDisk) -> None:
    with pytest.raises(StoreFailed, match=r"has the readings of device 'pump-17', not of 'x'"):
        Store(kept.path, "x")


def test_a_file_of_a_newer_version_is_refused(kept: StoreOnDisk) -> None:
    kept.store.close()
    with sqlite3.connect(kept.path) as sql:
        sql.execute("PRAGMA user_version = 3")
    sql.close()
    with pytest.raises(StoreFailed, match=r"is of version 3 .* update telemetry-client"):
        kept.open()


def as_first_version(path: Path) -> None:
    with sqlite3.connect(path) as sql:
        for name in ("recorded", "gone", "put_off", "dated"):
            sql.execute(f"DROP TRIGGER {name}")
        sql.execute("DROP TABLE totals")
        sql.execute("PRAGMA user_version = 1")
    sql.close()


def test_a_file_of_the_first_version_can_be_used(path: Path) -> None:
    """It had no totals; they are counted once."""
    kept = StoreOnDisk(path, FakeClock(now_ms=0))
    kept.record(2)
    kept.store.record({"temperature": 1.0}, NOW_MS + 9)
    before = kept.store.status()
    kept.store.close()
    as_first_version(path)
    kept.store = kept.open()
    assert kept.store.status() == before
    assert (before.waiting, before.undated, before.bytes) == (1, 2, 3 * 44 - 1)
    kept.clock.wall_ms = NOW_MS + 9
    kept.record()
    assert sorted(kept.send()) == [NOW_MS + 9, NOW_MS + 10, NOW_MS + 11, NOW_MS + 12]
    assert kept.store.status().bytes == 0


def test_a_file_of_the_first_version_knows_what_was_sent(path: Path) -> None:
    kept = StoreOnDisk(path, FakeClock())
    kept.record()
    kept.clock.pass_ms(5_000)
    kept.record()
    kept.send()
    kept.store.close()
    as_first_version(path)
    kept.store = kept.open()
    kept.clock.wall_ms = NOW_MS
    kept.record()
    assert kept.send() == [NOW_MS + 1]


def test_table_sent_stays_bounded_however_often_the_process_starts(
    kept: StoreOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SENT_MAX", 2)
    monkeypatch.setattr(store_module, "SENT_ROW", 1)
    for _ in range(12):
        kept.store.close()
        kept.store = kept.open()
        kept.record()
        kept.send()
        kept.clock.pass_ms(1000)
    (rows,) = kept.store._sql.execute("SELECT count(*) FROM sent").fetchone()
    assert rows <= 5


def test_writes_of_another_process_do_not_make_it_count_all_rows(kept: StoreOnDisk) -> None:
    other = kept.open()
    kept.store.record_many([{"temperature": 20.0}] * 20_000)
    kept.clock.pass_ms(60_000)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    other._sql.set_progress_handler(count, 1000)
    other.record({"temperature": 20.0})
    other._sql.set_progress_handler(None, 0)
    assert other.waiting == 20_001
    assert steps < 5  # thousand instructions; a row takes some


def test_a_file_that_is_not_a_database_is_refused(path: Path) -> None:
    path.write_text("temperature,21.5\n" * 100)
    with pytest.raises(StoreFailed, match="not a database"):
        Store(path, "pump-17")


def test_a_full_disk_loses_only_the_readings_that_it_refused(kept: StoreOnDisk) -> None:
    kept.record(10)
    (pages,) = kept.store._sql.execute("PRAGMA page_count").fetchone()
    kept.store._sql.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFailed, match="full"):
        kept.store.record_many([{"temperature": 1.0}] * 1000)
    assert kept.store.status().waiting == 10
    kept.store._sql.execute("PRAGMA max_page_count = 1000")
    kept.record()
    assert kept.send() == list(range(NOW_MS, NOW_MS + 11))


def test_by_default_a_recorded_reading_survives_a_loss_of_power() -> None:
    assert StoreOptions().synchronous == "full"


@pytest.mark.parametrize(("name", "level"), [("full", 2), ("normal", 1)])
def test_the_store_uses_a_write_ahead_log_and_the_chosen_safety(
    path: Path, name: str, level: int
) -> None:
    kept = StoreOnDisk(path, FakeClock(), synchronous=name)
    assert kept.store._sql.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert kept.store._sql.execute("PRAGMA synchronous").fetchone() == (level,)
