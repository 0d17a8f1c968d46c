"""Alert: one episode per device and rule, however its breaches come."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from telemetry.aws.alerts import KEY, Alerts, to_episode
from telemetry.aws.quarantine import Quarantine
from telemetry.domain import no_measurement
from telemetry.domain import pack as packs
from telemetry.domain import reading as readings_of
from telemetry.domain.episode import Episode
from telemetry.domain.reading import Reading
from telemetry.domain.rule import Rule
from telemetry.errors import Unavailable

from functions.alert.handler import run
from tests import writers
from tests.fakes import Crash, MemoryItems, MemoryS3
from tests.functions.incoming import NOW_MS, TRACE, failed, kinesis, number, reading

HOT = Rule(name="overheating", metric="temperature", above=38, clears_below=37, severity="critical")
DAMP = Rule(name="damp", metric="humidity", above=90, clears_below=80, severity="warning")
THAWING = Rule(
    name="thawing", metric="temperature", above=-18, clears_below=-20, severity="critical"
)
RETENTION_MS = 30 * 86_400_000
NOTHING_FAILED: dict[str, Any] = {"batchItemFailures": []}
Counted = Callable[[str], float]


class Stage:
    """The function with its table in memory; `restart` is a new execution environment."""

    def __init__(self) -> None:
        self.items = MemoryItems(KEY)
        self.bucket = MemoryS3()
        self.written: list[str] = []  # what the table's stream says: each write's change
        self.restart()

    def restart(self) -> None:
        severities = {rule.name: rule.severity for rule in (HOT, DAMP, THAWING)}
        self.alerts = Alerts(self.items, "eu-west-1", severities)
        self.alerts._states._sleep = lambda _seconds: None

    def run(
        self, *records: Reading | bytes, rules: tuple[Rule, ...] = (HOT, DAMP)
    ) -> dict[str, Any]:
        before = {key: dict(item) for key, item in self.items.stored.items()}
        try:
            quarantine = Quarantine(self.bucket, "failures")
            return run(kinesis(records), rules, self.alerts, RETENTION_MS, quarantine)
        finally:
            after = self.items.stored
            self.written += [
                item["change"]["S"] for key, item in after.items() if item != before.get(key)
            ]

    def episodes(self) -> dict[tuple[str, str], Episode]:
        return {key: to_episode(item) for key, item in self.items.stored.items()}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def hot(at_ms: int, value: float = 40.0, device_id: str = "pump-1") -> Reading:
    return reading(device_id, NOW_MS + at_ms, temperature=value)


def test_the_first_breach_opens_an_episode(stage: Stage, counted: Counted) -> None:
    assert stage.run(hot(1_000, 41.5)) == NOTHING_FAILED
    assert stage.episodes() == {
        ("pump-1", "overheating#eu-west-1"): Episode(
            1, NOW_MS + 1_000, NOW_MS + 1_000, 41.5, TRACE, None
        )
    }
    assert stage.written == ["opened"]
    assert counted("EpisodesOpened") == 1


def test_an_open_episodes_item_has_what_its_readers_look_for(stage: Stage) -> None:
    stage.run(hot(0, 41.5))
    (item,) = stage.items.stored.values()
    assert item == {
        "device_id": {"S": "pump-1"},
        "rule_region": {"S": "overheating#eu-west-1"},
        "rule": {"S": "overheating"},
        "region": {"S": "eu-west-1"},
        "severity": {"S": "critical"},
        "change": {"S": "opened"},
        "status_bucket": {"S": "open#06"},  # crc32 of pump-1 is 1738268294, which is 6 modulo 16
        "episode": {"N": "1"},
        "first_breach_ms": {"N": str(NOW_MS)},
        "last_breach_ms": {"N": str(NOW_MS)},
        "peak": {"N": "41.5"},
        "since_ms": {"NULL": True},
        "cleared_ms": {"NULL": True},
        "trace_id": {"S": TRACE},
        "ended_by": {"NULL": True},
        "version": {"N": "1"},
    }


def test_further_breaches_extend_the_episode_and_open_no_other(
    stage: Stage, counted: Counted
) -> None:
    stage.run(hot(5_000, 40.0))
    stage.run(hot(9_000, 45.0), hot(1_000, 39.0))
    (episode,) = stage.episodes().values()
    assert episode == Episode(1, NOW_MS + 1_000, NOW_MS + 9_000, 45.0, TRACE, None)
    assert stage.written == ["opened", "extended"]
    assert counted("EpisodesOpened") == 1


@pytest.mark.parametrize("values", list(itertools.permutations([-17.5, -2.5, -9.0, -18.0])))
def test_the_peak_of_a_freezers_episode_is_its_warmest_value(
    stage: Stage, values: tuple[float, ...]
) -> None:
    samples = [hot(place, value) for place, value in enumerate(values)]
    stage.run(*samples, rules=(THAWING,))
    ((_, rule_region), episode), *others = stage.episodes().items()
    assert (rule_region, episode.peak, others) == ("thawing#eu-west-1", -2.5, [])
    (item,) = stage.items.stored.values()
    assert item["peak"] == {"N": "-2.5"}


def test_a_breach_sent_again_writes_nothing(stage: Stage) -> None:
    for _ in range(3):
        stage.run(hot(5_000), hot(6_000))
        stage.restart()
    assert stage.written == ["opened"]
    (item,) = stage.items.stored.values()
    assert item["version"] == {"N": "1"}


def test_a_reading_that_is_no_breach_opens_no_episode(stage: Stage) -> None:
    cool = reading(temperature=38.0, humidity=90.0)
    assert stage.run(cool, reading(pressure=1_000.0)) == NOTHING_FAILED
    assert stage.episodes() == {}


def test_devices_and_rules_have_episodes_of_their_own(stage: Stage) -> None:
    stage.run(
        hot(0, device_id="a"),
        hot(0, device_id="b"),
        reading("a", NOW_MS, temperature=50.0, humidity=95.0),
    )
    assert {key: episode.peak for key, episode in stage.episodes().items()} == {
        ("a", "overheating#eu-west-1"): 50.0,
        ("a", "damp#eu-west-1"): 95.0,
        ("b", "overheating#eu-west-1"): 40.0,
    }


def test_a_rule_that_is_kept_hides_no_breach_of_the_next_one(stage: Stage) -> None:
    stage.run(reading("a", NOW_MS, temperature=20.0, humidity=95.0), hot(1, device_id="b"))
    assert set(stage.episodes()) == {("a", "damp#eu-west-1"), ("b", "overheating#eu-west-1")}


def test_a_record_that_bypassed_ingest_with_a_refused_time_raises_no_alert(
    stage: Stage,
) -> None:
    ahead, stale = hot(300_001), hot(-RETENTION_MS - 1)
    stage.run(ahead._replace(via="mqtt"), stale._replace(via="mqtt"))
    assert stage.episodes() == {}
    stage.run(ahead)
    assert len(stage.episodes()) == 1


def test_poison_is_left_to_aggregate_and_blocks_nothing(stage: Stage) -> None:
    assert stage.run(b"poison", hot(0), b'{"temperature": 99}') == NOTHING_FAILED
    assert len(stage.episodes()) == 1


def test_a_record_with_several_readings_is_left_to_aggregate_whose_copies_come_singly(
    stage: Stage,
) -> None:
    line = readings_of.encode(hot(0))
    for data in (b"[" + line + b"]", writers.kpl([line]), b"\xef\xbb\xbf" + line):
        assert stage.run(data) == NOTHING_FAILED
    assert stage.episodes() == {}
    stage.run(hot(0)._replace(via="stream"))
    assert len(stage.episodes()) == 1


def test_a_breach_in_the_middle_of_a_pack_opens_an_episode_with_its_exact_value(
    stage: Stage,
) -> None:
    values = [20.0, 21.0, 38.000000000000007, 37.0, 36.0]
    batch = [hot(at * 1_000, value) for at, value in enumerate(values)]
    assert stage.run(packs.encode(batch)) == NOTHING_FAILED
    (episode,) = stage.episodes().values()
    assert episode == Episode(1, NOW_MS + 2_000, NOW_MS + 2_000, 38.000000000000007, TRACE, None)


def test_a_pack_that_the_filter_passes_for_its_rounding_opens_no_episode(stage: Stage) -> None:
    damp = [reading(at_ms=NOW_MS + at, humidity=each) for at, each in enumerate((90.0, 89.9999999))]
    stage.run(packs.encode(damp))
    assert stage.episodes() == {}


@pytest.mark.parametrize("cuts", [[], [1], [3], [1, 2, 4]])
def test_episodes_are_the_same_for_any_packing(cuts: list[int]) -> None:
    values = [39.0, 20.0, 45.0, 38.5, 37.5, 41.0]
    batch = [hot(at * 1_000, value) for at, value in enumerate(values)]
    together, singly = Stage(), Stage()
    for first, last in itertools.pairwise([0, *cuts, len(batch)]):
        together.run(packs.encode(batch[first:last]))
    singly.run(*batch)
    assert together.episodes() == singly.episodes()


def test_a_pack_whose_episode_is_not_written_is_delivered_again(stage: Stage) -> None:
    stage.items.fault = lambda write: "before" if write.item["device_id"]["S"] == "b" else ""
    pack = packs.encode([hot(at, device_id="b") for at in range(3)])
    assert stage.run(hot(0, device_id="a"), pack, hot(0, device_id="c")) == failed(1)
    stage.items.fault = lambda _write: ""
    assert stage.run(pack, hot(0, device_id="c")) == NOTHING_FAILED
    assert {device for device, _ in stage.episodes()} == {"a", "b", "c"}


def test_of_a_pack_only_the_breaches_of_an_unreadable_episode_are_put_aside(
    stage: Stage, counted: Counted
) -> None:
    stage.run(hot(0))
    spoil(stage, "pump-1")
    batch = [hot(1, 20.0), hot(2, 41.0), hot(3, 21.0), hot(4, 42.0)]
    assert stage.run(packs.encode(batch)) == NOTHING_FAILED
    places = [line["name"].partition("#")[2] for line in stage.bucket.lines()]
    assert places == ["1", "3"]
    assert counted("RecordsQuarantined") == 2


def test_a_breach_with_a_name_twice_opens_nothing(stage: Stage) -> None:
    line = readings_of.encode(hot(0))
    stage.run(line.replace(b"{", b'{"temperature":20.0,'))
    assert stage.episodes() == {}


def test_any_order_of_delivery_gives_the_same_episode() -> None:
    breaches = [hot(0, 39.0), hot(1_000, 44.0), hot(2_000, 40.0), hot(2_000, 41.0)]
    outcomes: set[Episode] = set()
    for order in itertools.permutations(breaches):
        stage = Stage()
        for breach in order:
            stage.run(breach)
        outcomes.add(*stage.episodes().values())
        assert stage.written.count("opened") == 1
    assert outcomes == {Episode(1, NOW_MS, NOW_MS + 2_000, 44.0, TRACE, None)}


def test_the_batch_is_resumed_from_the_lowest_failed_record(stage: Stage) -> None:
    stage.items.fault = lambda write: "before" if write.item["device_id"]["S"] == "b" else ""
    answer = stage.run(hot(0, device_id="a"), hot(1, device_id="b"), hot(0, device_id="c"))
    assert answer == failed(1)
    assert {device for device, _ in stage.episodes()} == {"a", "c"}


def test_a_batch_whose_first_record_fails_is_an_error_of_the_function(stage: Stage) -> None:
    stage.items.fault = lambda _write: "before"
    with pytest.raises(Unavailable):
        stage.run(hot(0))


BATCH = [hot(index * 100, 40.0 + index % 5, f"pump-{index % 9}") for index in range(45)]


@pytest.mark.parametrize("writes", [0, 1, 5, 8])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_crash_in_mid_batch_changes_no_episode_after_the_redelivery(
    stage: Stage, writes: int, restarted: bool
) -> None:
    untroubled = Stage()
    untroubled.run(*BATCH)
    stage.items.crash_after = writes
    with pytest.raises(Crash):
        stage.run(*BATCH)
    assert len(stage.episodes()) == writes
    stage.items.crash_after = None
    if restarted:
        stage.restart()
    assert stage.run(*BATCH) == NOTHING_FAILED
    assert stage.episodes() == untroubled.episodes()
    assert stage.written == ["opened"] * 9  # one notice each, no more


def test_a_lost_answer_opens_an_episode_once(stage: Stage) -> None:
    unlucky = iter(["after"])
    stage.items.fault = lambda _write: next(unlucky, "")
    stage.run(hot(0))
    stage.run(hot(0))
    assert stage.written == ["opened"]


def test_a_late_breach_joins_the_cleared_episode_and_a_new_one_opens_the_next(
    stage: Stage, counted: Counted
) -> None:
    stage.run(hot(1_000))
    (item,) = stage.items.stored.values()
    # as `sweep` will write it, while this environment still knows the open episode
    item |= {"cleared_ms": {"N": str(NOW_MS + 5_000)}, "version": {"N": "2"}}
    stage.run(hot(3_000, 49.0), hot(5_000))
    (episode,) = stage.episodes().values()
    assert (episode.number, episode.is_open, episode.peak) == (1, False, 49.0)
    stage.run(hot(5_001))
    (episode,) = stage.episodes().values()
    assert (episode.number, episode.is_open) == (2, True)
    assert episode.first_breach_ms == NOW_MS + 5_001
    assert counted("EpisodesOpened") == 2


def spoil(stage: Stage, device_id: str) -> None:
    """Take from a device's episode what every version of this code writes."""
    del stage.items.stored[device_id, "overheating#eu-west-1"]["episode"]
    stage.restart()


def test_an_episode_that_cannot_be_read_keeps_no_other_devices_alert_waiting(
    stage: Stage, counted: Counted
) -> None:
    stage.run(hot(0, device_id="pump-1"))
    spoil(stage, "pump-1")
    batch = hot(1, device_id="pump-0"), hot(2, device_id="pump-1"), hot(3, device_id="pump-2")
    assert stage.run(*batch) == NOTHING_FAILED
    opened = {device for device, _ in stage.items.stored}
    assert opened == {"pump-0", "pump-1", "pump-2"}
    (line,) = stage.bucket.lines()
    assert (line["function"], line["source"], line["sequence_number"]) == (
        "alert",
        "kinesis",
        number(1),
    )
    assert line["reason"].startswith("episode_unreadable: ")
    assert counted("RecordsQuarantined") == 1


def test_a_breach_that_finds_neither_episode_nor_quarantine_comes_back(stage: Stage) -> None:
    stage.run(hot(0))
    spoil(stage, "pump-1")
    stage.bucket.down = True
    assert stage.run(hot(1, device_id="pump-0"), hot(2)) == failed(1)


def test_a_refused_metric_opens_no_episode_although_the_filter_lets_it_through(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"device_id": "pump-1", "recorded_at": NOW_MS, "temperature": 999, "humidity": 95}
    assert stage.run(json.dumps(document).encode()) == NOTHING_FAILED
    assert {rule.partition("#")[0] for _, rule in stage.episodes()} == {"damp"}
    declared = no_measurement.load("no_measurement: [{metric: temperature, values: [85]}]")
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)
    stage.run(json.dumps({**document, "temperature": 85}).encode())
    stage.run(json.dumps({**document, "temperature": 85, "humidity": None}).encode())
    assert {rule.partition("#")[0] for _, rule in stage.episodes()} == {"damp"}
