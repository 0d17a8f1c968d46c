"""What the query API reads: the readers in memory and DynamoDB are held to one behaviour."""

from collections.abc import Callable
from typing import NamedTuple

import boto3
import pytest
from telemetry.aws import alerts as alerts_of
from telemetry.aws.alerts import BUCKETS, AlertReader, Alerts
from telemetry.aws.windows import KEY as WINDOW_KEY
from telemetry.aws.windows import WindowReader, Windows
from telemetry.domain.episode import Breach, EpisodeKey
from telemetry.domain.reading import Reading
from telemetry.domain.times import from_iso
from telemetry.errors import Rejected

from tests.contract.conftest import STATUS_INDEX, create_table
from tests.fakes import MemoryAlertReader, MemoryItems, MemoryWindowReader

NOW_MS = from_iso("2026-11-21T01:30:00Z")
MINUTE_MS = 60_000
RETENTION_MS = 30 * 86_400_000


class WindowStore(NamedTuple):
    """A table of windows: `add` writes as a region, `reader` reads."""

    add: Callable[..., None]
    reader: WindowReader


def add_to(items: MemoryItems) -> Callable[..., None]:
    def add(*readings: Reading, region: str = "eu-west-1") -> None:
        windows = Windows(items, region, RETENTION_MS, lambda: (0,))
        assert None not in windows.add(readings).fates

    return add


@pytest.fixture(params=["memory", "dynamodb"])
def windows(request: pytest.FixtureRequest) -> WindowStore:
    items = MemoryItems(WINDOW_KEY)
    if request.param == "memory":
        return WindowStore(add_to(items), MemoryWindowReader(items))
    request.getfixturevalue("in_moto")
    dynamodb = boto3.client("dynamodb")
    create_table(dynamodb, "windows", *WINDOW_KEY)

    def add(*readings: Reading, region: str = "eu-west-1") -> None:
        add_to(items)(*readings, region=region)
        for item in items.stored.values():  # moto has no PartiQL batches to write them by
            dynamodb.put_item(TableName="windows", Item=item)

    return WindowStore(add, WindowReader(dynamodb, "windows"))


def reading(minute: int, offset_ms: int = 0, value: float = 20.0, device: str = "a") -> Reading:
    return Reading(device, NOW_MS + minute * MINUTE_MS + offset_ms, {"temperature": value})


def instant(**metrics: float) -> Reading:
    """A reading of one and the same instant, with these metrics."""
    return Reading("a", NOW_MS + 7, metrics)


def minutes(store: WindowStore, first: int, end: int, **options: bool) -> list[int]:
    found = store.reader.between(
        "a", NOW_MS + first * MINUTE_MS, NOW_MS + end * MINUTE_MS, **options
    )
    return [(minute_ms - NOW_MS) // MINUTE_MS for minute_ms, _ in found]


def test_a_table_that_is_gone_is_told_of(in_moto: None) -> None:  # noqa: ARG001
    dynamodb = boto3.client("dynamodb")
    create_table(dynamodb, "windows", *WINDOW_KEY)
    reader = WindowReader(dynamodb, "windows")
    reader.ping()
    dynamodb.delete_table(TableName="windows")
    with pytest.raises(dynamodb.exceptions.ResourceNotFoundException):
        reader.ping()


class TestWindowReader:
    def test_windows_come_in_order_of_time_from_inclusive_to_exclusive(
        self, windows: WindowStore
    ) -> None:
        windows.add(*(reading(minute) for minute in (4, 1, 3, 2, 0)))
        assert minutes(windows, 1, 4) == [1, 2, 3]
        assert minutes(windows, 1, 4, newest_first=True) == [3, 2, 1]
        assert minutes(windows, 2, 2) == []
        assert minutes(windows, 5, 9) == []

    def test_what_regions_have_of_a_minute_is_merged(self, windows: WindowStore) -> None:
        windows.add(reading(0, 0, 20.0), reading(0, 1, 21.0), region="eu-west-1")
        windows.add(reading(0, 1, 21.0), reading(0, 2, 22.0), region="us-east-1")
        windows.add(reading(1, 0, 23.0), region="us-east-1")
        expected = [
            (NOW_MS, {offset: {"temperature": 20.0 + offset} for offset in range(3)}),
            (NOW_MS + MINUTE_MS, {0: {"temperature": 23.0}}),
        ]
        found = list(windows.reader.between("a", NOW_MS, NOW_MS + 2 * MINUTE_MS))
        assert found == expected
        found = list(windows.reader.between("a", NOW_MS, NOW_MS + 2 * MINUTE_MS, newest_first=True))
        assert found == expected[::-1]

    @pytest.mark.parametrize("newest_first", [False, True])
    def test_an_instant_that_regions_have_otherwise_is_merged_metric_by_metric(
        self, windows: WindowStore, newest_first: bool
    ) -> None:
        # the sort keys' order is ap, eu, us: neither the first nor the last has the larger value
        windows.add(instant(temperature=-19.5, pressure=990.0), region="ap-south-1")
        windows.add(instant(temperature=-18.5, battery=3.0), region="eu-west-1")
        windows.add(instant(temperature=-20.5, humidity=40.0), region="us-east-1")
        merged = {"temperature": -18.5, "pressure": 990.0, "battery": 3.0, "humidity": 40.0}
        found = windows.reader.between(
            "a", NOW_MS, NOW_MS + MINUTE_MS, page_size=1, newest_first=newest_first
        )
        assert list(found) == [(NOW_MS, {7: merged})]

    def test_only_the_devices_own_windows_come(self, windows: WindowStore) -> None:
        windows.add(reading(0), reading(1, device="ab"), reading(2, device="b"))
        assert minutes(windows, 0, 9) == [0]

    def test_more_windows_than_a_page_come_all(self, windows: WindowStore) -> None:
        windows.add(*(reading(minute) for minute in range(120)), region="eu-west-1")
        windows.add(*(reading(minute, 1) for minute in range(120)), region="us-east-1")
        assert minutes(windows, 0, 120) == list(range(120))
        found = windows.reader.between("a", NOW_MS, NOW_MS + 120 * MINUTE_MS)
        assert all(len(window) == 2 for _, window in found)

    @pytest.mark.parametrize("page_size", [1, 2, 3, 7])
    def test_the_size_of_pages_changes_nothing(self, windows: WindowStore, page_size: int) -> None:
        for region in ("eu-west-1", "us-east-1"):
            windows.add(*(reading(minute, len(region)) for minute in range(6)), region=region)
        found = windows.reader.between("a", NOW_MS, NOW_MS + 6 * MINUTE_MS, page_size)
        assert list(found) == list(windows.reader.between("a", NOW_MS, NOW_MS + 6 * MINUTE_MS))
        assert minutes(windows, 0, 6, newest_first=True) == [5, 4, 3, 2, 1, 0]

    def test_a_device_without_windows_has_none(self, windows: WindowStore) -> None:
        assert minutes(windows, 0, 9) == []


class AlertStore(NamedTuple):
    """A table of alerts: `breach` opens an episode, `reader` lists them."""

    breach: Callable[..., None]
    reader: AlertReader


@pytest.fixture(params=["memory", "dynamodb"])
def alerts(request: pytest.FixtureRequest) -> AlertStore:
    items = MemoryItems(alerts_of.KEY)

    def breach(device_id: str, at_ms: int, region: str = "eu-west-1") -> None:
        writer = Alerts(items, region, {"overheating": "critical"})
        writer.join({EpisodeKey(device_id, "overheating"): [Breach(NOW_MS + at_ms, 41.5)]})

    if request.param == "memory":
        return AlertStore(breach, MemoryAlertReader(items))
    request.getfixturevalue("in_moto")
    dynamodb = boto3.client("dynamodb")
    create_table(dynamodb, "alerts", *alerts_of.KEY, index=STATUS_INDEX)

    def breach_in_dynamodb(device_id: str, at_ms: int, region: str = "eu-west-1") -> None:
        breach(device_id, at_ms, region)
        for item in items.stored.values():
            dynamodb.put_item(TableName="alerts", Item=item)

    return AlertStore(breach_in_dynamodb, AlertReader(dynamodb, "alerts"))


class TestAlertReader:
    @pytest.mark.parametrize("limit", [1, 3, 10, 11])
    def test_pages_have_every_alert_once(self, alerts: AlertStore, limit: int) -> None:
        devices = [f"pump-{index}" for index in range(10)]
        for index, device in enumerate(devices):
            alerts.breach(device, index // 3)  # several at the same instant
        seen: list[str] = []
        cursor = None
        for _ in range(10 + BUCKETS):
            page = alerts.reader.list_page("open", limit, cursor)
            assert len(page.alerts) <= limit
            seen += [alert["device_id"] for alert in page.alerts]
            cursor = page.next
            if cursor is None:
                break
        assert sorted(seen) == devices

    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_a_devices_episodes_of_several_regions_are_listed_each(
        self, alerts: AlertStore, limit: int
    ) -> None:
        for region in ("eu-west-1", "us-east-1", "ap-south-1"):
            alerts.breach("pump-3", 1_000, region)
        found: list[tuple[str, str]] = []
        cursor = None
        for _ in range(3 + BUCKETS):
            page = alerts.reader.list_page("open", limit, cursor)
            found += [(alert["device_id"], alert["region"]) for alert in page.alerts]
            cursor = page.next
            if cursor is None:
                break
        regions = ("ap-south-1", "eu-west-1", "us-east-1")
        assert sorted(found) == [("pump-3", region) for region in regions]

    def test_no_alerts_are_one_empty_page(self, alerts: AlertStore) -> None:
        assert alerts.reader.list_page("open", 10, None) == ([], None)

    def test_the_longest_open_of_a_bucket_come_first(self, alerts: AlertStore) -> None:
        # 3 and 14 are in one bucket: crc32 modulo 16 is 10 for both
        alerts.breach("pump-3", 5_000)
        alerts.breach("pump-14", 1_000)
        listed = [alert["device_id"] for alert in alerts.reader.list_page("open", 10, None).alerts]
        assert listed == ["pump-14", "pump-3"]

    def test_a_cursor_of_nobodys_is_rejected(self, alerts: AlertStore) -> None:
        for cursor in ("x", "W10=", "WzAsICJ4Il0=", "Wzk5XQ=="):
            with pytest.raises(Rejected) as caught:
                alerts.reader.list_page("open", 10, cursor)
            assert caught.value.field == "cursor"
