"""Sweep: an episode is cleared once its device has recovered, by what the windows say."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from telemetry.aws import alerts as alerts_of
from telemetry.aws.alerts import (
    BUCKETS,
    Alerts,
    StoredEpisode,
    UnreadableEpisode,
    to_episode,
    to_notice,
)
from telemetry.aws.items import Outcome, Write
from telemetry.aws.windows import KEY as WINDOW_KEY
from telemetry.aws.windows import Windows
from telemetry.domain.episode import (
    RULE_GONE_MS,
    RULE_REMOVED,
    SETTLE_MS,
    Breach,
    Episode,
    EpisodeKey,
)
from telemetry.domain.rule import Rule
from telemetry.errors import Unavailable

from functions.sweep.handler import run
from tests.fakes import MemoryAlertReader, MemoryItems, MemoryWindowReader
from tests.functions.incoming import NOW_MS, reading

HOT = Rule(name="overheating", metric="temperature", above=38, clears_below=37, severity="critical")
THAWING = Rule(
    name="thawing", metric="temperature", above=-18, clears_below=-20, severity="critical"
)
REGION = "eu-west-1"
HOUR_MS = 3_600_000
Counted = Callable[[str], float]


class Stage:
    """The function with its tables in memory; times are in ms after NOW_MS."""

    def __init__(self) -> None:
        self.windows = MemoryItems(WINDOW_KEY)
        self.items = MemoryItems(alerts_of.KEY)
        self.reader = MemoryWindowReader(self.windows)
        self.remaining_ms = 60_000

    def alerts(self, region: str = REGION) -> Alerts:
        made = Alerts(self.items, region, {"overheating": "critical", "thawing": "critical"})
        made._states._sleep = lambda _seconds: None
        return made

    def course(
        self, device_id: str = "pump-1", region: str = REGION, rule: Rule = HOT, **values: float
    ) -> None:
        """Readings at `_<ms>` go to windows; breaches among them join the episode too."""
        for name, value in values.items():
            at_ms = NOW_MS + int(name.strip("_"))
            sample = reading(device_id, at_ms, temperature=value)
            Windows(self.windows, region, 30 * 24 * HOUR_MS, lambda: (0,)).add([sample])
            if value > rule.above:
                key = EpisodeKey(device_id, rule.name)
                self.alerts(region).join({key: [Breach(at_ms, value)]})

    def sweep(self, at_ms: int, rules: tuple[Rule, ...] = (HOT,)) -> dict[str, int]:
        return run(
            NOW_MS + at_ms,
            rules,
            partial(MemoryAlertReader(self.items).open_in, REGION),
            self.reader,
            self.alerts(),
            lambda: self.remaining_ms,
        )

    def episode(self, device_id: str = "pump-1", region: str = REGION, rule: Rule = HOT) -> Episode:
        return to_episode(self.items.stored[device_id, f"{rule.name}#{region}"])


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_an_episode_is_cleared_at_the_first_reading_below_the_clear_threshold(
    stage: Stage, counted: Counted
) -> None:
    stage.course(_0=40.0, _1000=39.0, _2000=37.5, _3000=36.9, _4000=30.0)
    assert stage.sweep(HOUR_MS) == {"seen": 1, "cleared": 1}
    assert stage.episode() == Episode(1, NOW_MS, NOW_MS + 1000, 40.0, None, None, NOW_MS + 3000)
    assert counted("EpisodesCleared") == 1
    item = stage.items.stored["pump-1", "overheating#eu-west-1"]
    assert (item["change"], item["status_bucket"]) == ({"S": "cleared"}, {"S": "cleared#06"})


def test_a_cleared_episode_is_not_looked_at_again(stage: Stage) -> None:
    stage.course(_0=40.0, _1000=30.0)
    stage.sweep(HOUR_MS)
    assert stage.sweep(HOUR_MS) == {"seen": 0, "cleared": 0}


def test_a_recovery_counts_only_after_late_readings_had_time_to_arrive(stage: Stage) -> None:
    stage.course(_0=40.0, _1000=30.0)
    assert stage.sweep(1000 + SETTLE_MS - 1) == {"seen": 1, "cleared": 0}
    assert stage.sweep(1000 + SETTLE_MS) == {"seen": 1, "cleared": 1}


def test_a_device_that_is_silent_or_hovers_or_heats_on_has_not_recovered(stage: Stage) -> None:
    stage.course("silent", _0=40.0)
    stage.course("hovering", _0=40.0, _1000=37.0, _2000=38.0)
    stage.course("heating", _0=36.0, _1000=40.0, _200000=45.0)
    assert stage.sweep(HOUR_MS) == {"seen": 3, "cleared": 0}


def test_a_recovery_minutes_later_is_found(stage: Stage) -> None:
    stage.course(_59999=40.0, _60000=38.0, _180000=37.0, _300001=36.0)
    stage.sweep(HOUR_MS)
    assert stage.episode().cleared_ms == NOW_MS + 300_001


def test_readings_without_the_rules_metric_say_nothing_of_a_recovery(stage: Stage) -> None:
    stage.course(_0=40.0, _2000=30.0)
    damp = reading("pump-1", NOW_MS + 1000, humidity=5.0)
    Windows(stage.windows, REGION, 30 * 24 * HOUR_MS, lambda: (0,)).add([damp])
    assert stage.sweep(HOUR_MS) == {"seen": 1, "cleared": 1}
    assert stage.episode().cleared_ms == NOW_MS + 2000


def test_only_windows_from_the_last_breach_on_are_read(stage: Stage) -> None:
    minutes = [NOW_MS + minute * 60_000 for minute in range(-600, 0)]
    Windows(stage.windows, REGION, 30 * 24 * HOUR_MS, lambda: (0,)).add(
        [reading(at_ms=at_ms) for at_ms in minutes]
    )
    stage.course(_59999=40.0, _120000=38.0)
    stage.sweep(HOUR_MS)
    assert stage.reader.items_read == 2


def test_a_recovery_that_another_region_has_taken_counts(stage: Stage) -> None:
    stage.course(_0=40.0)
    stage.course(region="us-east-1", _1000=30.0)
    stage.sweep(HOUR_MS)
    assert stage.episode().cleared_ms == NOW_MS + 1000


def test_a_value_that_regions_have_otherwise_is_the_larger_one_as_everywhere(
    stage: Stage,
) -> None:
    stage.course("recovers-here", _0=40.0, _1000=30.0)
    stage.course("recovers-here", "us-east-1", _1000=37.5)
    stage.course("recovers-there", _0=40.0, _1000=37.5)
    stage.course("recovers-there", "us-east-1", _1000=30.0)
    assert stage.sweep(HOUR_MS) == {"seen": 2, "cleared": 0}


def test_a_recovery_is_seen_though_another_region_has_other_metrics_of_its_instant(
    stage: Stage,
) -> None:
    for region in ("ap-south-1", "us-east-1"):  # before and after this one in the keys' order
        damp = reading("pump-1", NOW_MS + 1000, humidity=50.0)
        Windows(stage.windows, region, 30 * 24 * HOUR_MS, lambda: (0,)).add([damp])
    stage.course(_0=40.0, _1000=30.0)
    assert stage.sweep(HOUR_MS) == {"seen": 1, "cleared": 1}
    assert stage.episode().cleared_ms == NOW_MS + 1000


def test_another_regions_episodes_are_left_to_it(stage: Stage) -> None:
    stage.course(region="us-east-1", _0=40.0, _1000=30.0)
    assert stage.sweep(HOUR_MS) == {"seen": 0, "cleared": 0}
    assert stage.episode(region="us-east-1").is_open


def test_a_freezer_recovers_below_its_negative_threshold(stage: Stage) -> None:
    stage.course(rule=THAWING, _0=-17.5, _1000=-2.5, _2000=-18.0, _3000=-20.0, _4000=-20.5)
    stage.course("frozen", rule=THAWING, _0=-30.0, _1000=-18.0)
    assert stage.sweep(HOUR_MS, (THAWING,)) == {"seen": 1, "cleared": 1}
    assert stage.episode(rule=THAWING) == Episode(
        1, NOW_MS, NOW_MS + 1000, -2.5, None, None, NOW_MS + 4000
    )


def test_a_breach_that_joins_meanwhile_keeps_the_episode_open(stage: Stage) -> None:
    stage.course(_0=40.0, _1000=30.0)
    late = Breach(NOW_MS + 2000, 39.0)
    read = MemoryWindowReader.between

    class Racing(MemoryWindowReader):
        def between(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            stage.alerts().join({EpisodeKey("pump-1", "overheating"): [late]})
            return read(self, *args, **kwargs)

    found = partial(MemoryAlertReader(stage.items).open_in, REGION)
    windows = Racing(stage.windows)
    done = run(NOW_MS + HOUR_MS, (HOT,), found, windows, stage.alerts(), lambda: 60_000)
    assert done == {"seen": 1, "cleared": 0}
    assert stage.episode().is_open


def test_an_episode_of_a_rule_that_is_gone_ends_and_says_why(
    stage: Stage, counted: Counted
) -> None:
    stage.course(_0=40.0, _1000=39.0)
    assert stage.sweep(1000 + RULE_GONE_MS + 1, rules=()) == {"seen": 1, "cleared": 1}
    episode = stage.episode()
    assert (episode.cleared_ms, episode.ended_by) == (
        NOW_MS + 1000 + RULE_GONE_MS + 1,
        RULE_REMOVED,
    )
    item = stage.items.stored["pump-1", f"overheating#{REGION}"]
    assert (item["change"], item["severity"]) == ({"S": "cleared"}, {"S": "critical"})
    notice = to_notice(item)
    assert (notice.change, notice.ended_by) == ("cleared", "rule removed")
    assert counted("EpisodesCleared") == 1


def test_an_episode_of_a_rule_that_newer_code_has_is_left_alone_for_minutes(stage: Stage) -> None:
    stage.course(_0=40.0, _1000=30.0)
    assert stage.sweep(RULE_GONE_MS, rules=()) == {"seen": 1, "cleared": 0}


def test_a_rule_that_comes_back_opens_another_episode_which_tells_its_own_end(
    stage: Stage,
) -> None:
    stage.course(_0=40.0)
    stage.sweep(RULE_GONE_MS + 1, rules=())
    stage.course(_3600000=41.0, _3600001=20.0)
    stage.sweep(2 * HOUR_MS)
    episode = stage.episode()
    assert (episode.number, episode.cleared_ms) == (2, NOW_MS + HOUR_MS + 1)
    assert (episode.ended_by, episode.reason) == (None, "recovery")


def test_a_rule_removed_is_told_also_where_this_version_knows_no_severity_of_it(
    stage: Stage,
) -> None:
    stage.course(_0=40.0)
    found = partial(MemoryAlertReader(stage.items).open_in, REGION)
    alerts = Alerts(stage.items, REGION, {})
    windows = MemoryWindowReader(stage.windows)
    done = run(NOW_MS + HOUR_MS, (), found, windows, alerts, lambda: 60_000)
    assert done == {"seen": 1, "cleared": 1}
    assert to_notice(stage.items.stored["pump-1", f"overheating#{REGION}"]).severity == "critical"


class Faulty(MemoryWindowReader):
    """Windows of which one device's can't be read."""

    fault: Exception = Unavailable("a window of pump-3 is not readable")

    def between(self, device_id: str, *args, **kwargs):  # type: ignore[no-untyped-def]
        if device_id == "pump-3":
            raise self.fault
        return super().between(device_id, *args, **kwargs)


@pytest.mark.parametrize(
    "fault",
    [
        Unavailable("a window of pump-3 is not readable"),
        ClientError({"Error": {"Code": "InternalServerError"}}, "Query"),
        EndpointConnectionError(endpoint_url="https://dynamodb"),
        ValueError("invalid literal for int()"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_device_that_cannot_be_checked_keeps_no_other_episode_open(
    stage: Stage, fault: Exception, counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(6):
        stage.course(f"pump-{index}", _0=40.0, _1000=30.0)
    windows = Faulty(stage.windows)
    windows.fault = fault
    found = partial(MemoryAlertReader(stage.items).open_in, REGION)
    done = run(NOW_MS + HOUR_MS, (HOT,), found, windows, stage.alerts(), lambda: 60_000)
    assert done == {"seen": 6, "cleared": 5, "unreadable": 1}
    still_open = [index for index in range(6) if stage.episode(f"pump-{index}").is_open]
    assert still_open == [3]
    assert counted("EpisodesUnreadable") == 1
    (told,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert (told.device_id, told.why) == ("pump-3", str(fault))  # type: ignore[attr-defined]


def test_an_episode_that_cannot_be_read_keeps_no_other_open(stage: Stage, counted: Counted) -> None:
    for index in range(3):
        stage.course(f"pump-{index}", _0=40.0, _1000=30.0)
    del stage.items.stored["pump-1", f"overheating#{REGION}"]["peak"]
    assert stage.sweep(HOUR_MS) == {"seen": 3, "cleared": 2, "unreadable": 1}
    assert counted("EpisodesUnreadable") == 1


def test_a_part_of_the_index_that_cannot_be_read_keeps_no_episode_of_another_open(
    stage: Stage,
) -> None:
    for index in range(3):
        stage.course(f"pump-{index}", _0=40.0, _1000=30.0)
    bucket = stage.items.stored["pump-1", f"overheating#{REGION}"]["status_bucket"]["S"]

    class Partly(MemoryAlertReader):
        def _query(self, status_bucket: str, *args):  # type: ignore[no-untyped-def]
            if status_bucket == bucket:
                raise ClientError({"Error": {"Code": "InternalServerError"}}, "Query")
            return super()._query(status_bucket, *args)

    found, windows = partial(Partly(stage.items).open_in, REGION), MemoryWindowReader(stage.windows)
    done = run(NOW_MS + HOUR_MS, (HOT,), found, windows, stage.alerts(), lambda: 60_000)
    assert done == {"seen": 3, "cleared": 2, "unreadable": 1}


def test_where_nothing_can_be_looked_at_the_sweep_is_an_error(stage: Stage) -> None:
    stage.course("pump-3", _0=40.0, _1000=30.0)
    found, windows = partial(MemoryAlertReader(stage.items).open_in, REGION), Faulty(stage.windows)
    with pytest.raises(Unavailable, match="none of 1 open episodes"):
        run(NOW_MS + HOUR_MS, (HOT,), found, windows, stage.alerts(), lambda: 60_000)


def test_a_device_with_more_windows_than_there_is_time_for_is_told_and_the_others_are_cleared(
    stage: Stage,
) -> None:
    for index in range(2):
        stage.course(f"pump-{index}", _0=40.0, _1000=30.0)
    stage.course("endless", _0=40.0, _60000=37.5, _120000=37.5)
    left = iter([60_000] * 3 + [10_000] * 9)
    found = partial(MemoryAlertReader(stage.items).open_in, REGION)
    windows = MemoryWindowReader(stage.windows)
    listed = sorted(found(0), key=lambda each: each.key.device_id if each.key else "", reverse=True)
    done = run(
        NOW_MS + HOUR_MS, (HOT,), lambda _: listed, windows, stage.alerts(), lambda: next(left)
    )
    assert done == {"seen": 3, "cleared": 2, "unreadable": 1}


def test_more_than_one_call_takes_are_all_cleared(stage: Stage) -> None:
    for index in range(60):
        stage.course(f"pump-{index}", _0=40.0, _1000=30.0)
    sizes: list[int] = []
    write = stage.items.write

    def counting(writes: Sequence[Write]) -> list[Outcome]:
        sizes.append(len(writes))
        return write(writes)

    stage.items.write = counting  # type: ignore[method-assign]
    assert stage.sweep(HOUR_MS) == {"seen": 60, "cleared": 60}
    assert sizes == [25, 25, 10]


def test_an_episode_that_cannot_be_written_is_an_error_and_is_cleared_by_the_next_sweep(
    stage: Stage,
) -> None:
    stage.course(_0=40.0, _1000=30.0)
    stage.items.fault = lambda _write: "before"
    with pytest.raises(Unavailable, match="1 episodes"):
        stage.sweep(HOUR_MS)
    stage.items.fault = lambda _write: ""
    assert stage.sweep(HOUR_MS) == {"seen": 1, "cleared": 1}


def test_where_a_minute_is_too_short_each_begins_with_other_episodes(stage: Stage) -> None:
    for index in range(64):
        stage.course(f"pump-{index}", _0=40.0)
    stage.remaining_ms = 0
    assert stage.sweep(HOUR_MS) == {"seen": 0, "cleared": 0}
    first = set()
    for minute in range(BUCKETS):
        reader = MemoryAlertReader(stage.items)
        first.add(next(iter(reader.open_in(REGION, minute))).key)
    assert len(first) > BUCKETS // 2


def test_each_minute_begins_with_the_bucket_after_that_of_the_minute_before() -> None:
    begun: list[int] = []

    def listing(first_bucket: int) -> list[StoredEpisode]:
        begun.append(first_bucket)
        return []

    windows = MemoryWindowReader(MemoryItems(WINDOW_KEY))
    alerts = Alerts(MemoryItems(alerts_of.KEY), REGION, {})
    for minute in range(2 * BUCKETS):
        run(NOW_MS + minute * 60_000 + 59_999, (HOT,), listing, windows, alerts, lambda: 60_000)
    first = begun[0]
    assert begun == [(first + minute) % BUCKETS for minute in range(2 * BUCKETS)]


@pytest.mark.parametrize(("remaining_ms", "seen"), [(15_000, 20), (14_999, 0)])
def test_the_last_fifteen_seconds_are_for_finishing(
    stage: Stage, remaining_ms: int, seen: int
) -> None:
    for index in range(20):
        stage.course(f"pump-{index}", _0=40.0)
    stage.remaining_ms = remaining_ms
    assert stage.sweep(HOUR_MS) == {"seen": seen, "cleared": 0}


def test_nothing_more_is_listed_when_time_is_up(stage: Stage) -> None:
    stage.course("pump-1", _0=40.0)
    stage.course("pump-2", _0=40.0)
    listed: list[StoredEpisode | UnreadableEpisode] = []

    def listing(_first_bucket: int) -> Iterator[StoredEpisode | UnreadableEpisode]:
        for each in MemoryAlertReader(stage.items).open_in(REGION, 0):
            listed.append(each)
            yield each

    run(NOW_MS, (HOT,), listing, stage.reader, stage.alerts(), lambda: 0)
    assert len(listed) == 1
