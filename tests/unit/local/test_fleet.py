import itertools
from collections import Counter

import pytest

from local.errors import LocalError
from local.fleet.reading import Reading
from local.fleet.simulated import Fleet, FleetOptions

START_MS = 1_800_000_000_000
MINUTE_MS = 60_000
CALM = FleetOptions(devices=20, rate=2, anomalies=0, duplicates=0, late=0)


def sent(options: FleetOptions, seconds: int, step_ms: int = 250) -> list[Reading]:
    """Return a fleet's readings up to a time, taken every `step_ms`, and the remaining ones."""
    fleet = Fleet(options, START_MS)
    readings: list[Reading] = []
    for now_ms in range(START_MS, START_MS + seconds * 1000 + 1, step_ms):
        while due := fleet.take_due(now_ms, limit=1000):
            readings += due
    return readings + fleet.take_remaining()


def test_the_same_seed_gives_the_same_readings_however_often_the_fleet_is_asked() -> None:
    options = FleetOptions(devices=30, rate=3, seed=7, duplicates=0.1, late=0.1)
    assert sent(options, 20, step_ms=100) == sent(options, 20, step_ms=5000)


def test_another_seed_gives_other_readings() -> None:
    assert sent(FleetOptions(seed=1), 5) != sent(FleetOptions(seed=2), 5)


def test_each_device_measures_at_the_rate_that_was_asked_for() -> None:
    by_device = itertools.groupby(sorted(sent(CALM, 30)), key=lambda reading: reading.device_id)
    counts = {device: len(list(readings)) for device, readings in by_device}
    assert len(counts) == 20
    assert set(counts.values()) <= {60, 61}


def test_no_device_takes_two_readings_at_one_time() -> None:
    readings = sent(FleetOptions(devices=3, rate=100, duplicates=0, late=0), 5)
    assert len(readings) >= 1500
    assert len({(each.device_id, each.recorded_at_ms) for each in readings}) == len(readings)


def test_only_the_share_that_was_asked_for_overheats() -> None:
    options = FleetOptions(devices=40, rate=5, anomalies=0.25, duplicates=0, late=0)
    hot = {each.device_id for each in sent(options, 40) if each.metrics["temperature"] > 38}
    assert len(hot) == 10


def test_every_second_avro_device_has_the_first_versions_firmware() -> None:
    readings = sent(FleetOptions(devices=40, avro=0.5), 5)
    versions = {each.device_id: each.version for each in readings}
    assert Counter(versions.values()) == {None: 20, 1: 10, 3: 10}
    for each in readings:
        is_old = versions[each.device_id] == 1
        assert len(each.metrics) == (2 if is_old else 4)


def test_a_calm_fleet_never_breaks_the_rule() -> None:
    assert max(each.metrics["temperature"] for each in sent(CALM, 300)) <= 36.5


def test_a_duplicate_is_the_same_reading_sent_again() -> None:
    readings = sent(FleetOptions(devices=50, rate=4, duplicates=0.2, late=0), 30)
    distinct = {(each.device_id, each.recorded_at_ms): each for each in readings}
    assert all(distinct[each.device_id, each.recorded_at_ms] == each for each in readings)
    assert len(readings) - len(distinct) == pytest.approx(len(distinct) * 0.2, rel=0.15)


def test_a_late_reading_is_sent_late_with_the_time_at_which_it_was_taken() -> None:
    options = FleetOptions(devices=10, rate=1, anomalies=0, duplicates=0, late=1, late_seconds=8)
    fleet = Fleet(options, START_MS)
    assert fleet.take_due(START_MS + 7900, 1000) == []
    first = fleet.take_due(START_MS + 8999, 1000)
    assert len(first) == 10
    assert all(each.recorded_at_ms < START_MS + 1000 for each in first)


def test_delayed_readings_can_be_taken_at_the_end() -> None:
    options = FleetOptions(devices=10, rate=1, duplicates=0, late=1, late_seconds=60)
    fleet = Fleet(options, START_MS)
    fleet.take_due(START_MS + 4999, 1000)
    assert len(fleet.take_remaining()) == 50
    assert fleet.take_remaining() == []


def test_no_more_than_the_limit_is_taken_at_once_and_nothing_is_skipped() -> None:
    fleet = Fleet(CALM, START_MS)
    taken = [fleet.take_due(START_MS + 9999, limit=7) for _ in range(60)]
    assert max(map(len, taken)) == 7
    assert sum(map(len, taken)) == 400


def test_an_impossible_fleet_is_refused_with_the_right_range() -> None:
    with pytest.raises(LocalError, match=r"--rate: 101 .* at most 100"):
        FleetOptions(rate=101)
    with pytest.raises(LocalError, match="--devices: 0 isn't from 1"):
        FleetOptions(devices=0)
