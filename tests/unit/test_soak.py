"""What a soak calls flat, by samples made up."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from benchmarks import kept, soak
from benchmarks.soak import POSTING, Sample, Sampler, Usage, cost, growths
from emulator.gaps.keeping import pack
from emulator.processes import EMBEDDED_AWS, Running
from local.instance import Instance

MB = 1_000_000


def samples(seconds: int, memory_mb: float, growing_mb: float = 0.0, **cost: float) -> list[Sample]:
    """One process, 100 readings a second: its memory, what a minute adds, and µs a reading."""
    found, cpu = [], 0.0
    first, last = cost.get("first_us", 500.0), cost.get("last_us", 500.0)
    for at in range(2, seconds + 1, 2):
        cpu += 200 * (last if at > seconds - 60 else first) / 1e6
        usage = Usage(round((memory_mb + growing_mb * at / 60) * MB), cpu)
        found.append(Sample(float(at), at * 100, {"ingest": usage}))
    return found


class Process:
    """A process that has used some CPU and memory; gone where that is None."""

    def __init__(self, cpu: float | None) -> None:
        self.cpu = cpu

    def memory_info(self) -> Any:
        if self.cpu is None:
            raise psutil.NoSuchProcess(1)
        return SimpleNamespace(rss=10)

    def cpu_times(self) -> Any:
        return SimpleNamespace(user=self.cpu, system=0.0)


def test_cpu_is_that_of_all_processes_since_the_first_look_also_of_those_that_came_and_went(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new, own = Process(100.0), Process(1.5), Process(50.0)
    running: list[Any] = [Running("ingest", old)]  # type: ignore[arg-type]
    monkeypatch.setattr(soak, "processes_of", lambda _instance: running)
    monkeypatch.setattr(psutil, "Process", lambda: own)
    sampler = Sampler(Instance("soak", Path()), lambda: 7)
    sampler.samples.append(sampler._look())
    old.cpu, own.cpu = 103.0, 51.0
    running.append(Running("ingest", new))  # type: ignore[arg-type]
    sampler.samples.append(sampler._look())
    old.cpu, new.cpu = None, 2.0
    sampler.samples.append(sampler._look())
    used = [(each.usage["ingest"].cpu_seconds, each.usage[POSTING]) for each in sampler.samples]
    assert used == [
        (0.0, Usage(10, 0.0)),
        (3.0 + 1.5, Usage(10, 1.0)),
        (3.0 + 2.0, Usage(10, 1.0)),
    ]
    assert [each.usage["ingest"].resident_bytes for each in sampler.samples] == [10, 20, 10]


def test_memory_that_stays_what_it_was_is_flat() -> None:
    (growth,) = growths(samples(600, 100.0))
    assert growth.is_flat
    assert (growth.early_bytes, growth.late_bytes, growth.slope_bytes) == (100 * MB, 100 * MB, 0)


@pytest.mark.parametrize(
    ("memory_mb", "growing_mb", "is_flat"),
    [
        (100.0, 0.5, True),  # 7 minutes: 3.5 MB
        (100.0, 0.8, False),  # 5.6 MB, over 5 %
        (300.0, 2.0, True),  # 14 MB, under 5 % of 304
        (300.0, 2.5, False),
    ],
)
def test_memory_may_grow_by_five_percent_or_four_megabytes(
    memory_mb: float, growing_mb: float, is_flat: bool
) -> None:
    (growth,) = growths(samples(600, memory_mb, growing_mb))
    assert growth.is_flat is is_flat
    assert growth.slope_bytes == pytest.approx(growing_mb * MB, rel=0.01)


@pytest.mark.parametrize(("kept_mb", "is_flat"), [(6.0, True), (3.0, False)])
def test_what_the_embedded_aws_was_told_to_keep_in_between_is_no_growth(
    kept_mb: float, is_flat: bool
) -> None:
    # seven of the ten minutes are in between: of 10 MB growth, 0.7 of what was kept is none
    aws = [
        Sample(each.at, each.settled, {EMBEDDED_AWS: each.usage["ingest"]})
        for each in samples(600, 100.0, 10.0 / 7)
    ]
    (growth,) = growths(aws, kept_mb / 0.7 * MB)
    assert growth.kept_bytes == pytest.approx(kept_mb * MB, rel=0.01)
    assert growth.is_flat is is_flat
    (other,) = growths(samples(600, 100.0, 10.0 / 7), kept_mb / 0.7 * MB)
    assert (other.kept_bytes, other.is_flat) == (0.0, False)


def test_what_is_kept_is_measured_in_the_form_that_the_embedded_aws_has_it_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item = {"device_id": {"S": "device-0001"}, "readings": {"B": bytes(300)}}
    there = {"device_id": {"S": "device-0001"}, "readings": {"B": "A" * 400}}
    size = sys.getsizeof(there)
    size += sum(sys.getsizeof(each) for each in there.values())
    size += sys.getsizeof("device-0001") + sys.getsizeof("A" * 400)
    records = [
        {
            "SequenceNumber": f"{number:056}",
            "ApproximateArrivalTimestamp": datetime.fromtimestamp(number, UTC),
            "Data": b"{}",
            "PartitionKey": "device-0001",
        }
        for number in range(300)
    ]
    pages = {"start": (records[:256], "rest"), "rest": (records[256:], "end"), "end": ([], "end")}

    def page(token: str) -> dict[str, Any]:
        found, following = pages[token]
        return {"Records": found, "NextShardIterator": following}

    scan = SimpleNamespace(paginate=lambda TableName: [{"Items": [item] * 2}])  # noqa: ARG005, N803
    services = {
        "dynamodb": SimpleNamespace(get_paginator=lambda _operation: scan),
        "kinesis": SimpleNamespace(
            list_shards=lambda **_: {"Shards": [{"ShardId": "0"}]},
            get_shard_iterator=lambda **_: {"ShardIterator": "start"},
            get_records=lambda ShardIterator, Limit: page(ShardIterator),  # noqa: ARG005, N803
        ),
    }
    monkeypatch.setattr(kept, "client", lambda _state, service: services[service])
    state: Any = SimpleNamespace(outputs={"WindowsTable": "windows", "StreamName": "readings"})
    blocks = [pack(map(kept.as_kept, part)) for part in (records[:256], records[256:])]
    assert kept.kept_bytes(state) == 2 * size + sum(map(sys.getsizeof, blocks))


def test_a_short_soak_compares_with_the_second_minute_a_long_one_with_the_third() -> None:
    assert growths(samples(180, 100.0, 10.0))[0].early_bytes == pytest.approx(115 * MB, rel=0.01)
    assert growths(samples(600, 100.0, 10.0))[0].early_bytes == pytest.approx(125 * MB, rel=0.01)


def test_what_starts_later_is_compared_with_its_own_first_minute() -> None:
    late = [
        sample if sample.at > 400 else Sample(sample.at, sample.settled, {})
        for sample in samples(600, 100.0, 10.0)
    ]
    (growth,) = growths(late)
    assert growth.early_bytes == pytest.approx((100 + 10 * 431 / 60) * MB, rel=0.01)
    assert not growth.is_flat


@pytest.mark.parametrize(("last_us", "is_flat"), [(500.0, True), (545.0, True), (560.0, False)])
def test_cost_may_grow_by_ten_percent(last_us: float, is_flat: bool) -> None:
    found = cost(samples(600, 100.0, last_us=last_us))
    assert found.first == pytest.approx(500e-6)
    assert found.last == pytest.approx(last_us / 1e6, rel=0.01)
    assert found.is_flat is is_flat


def test_a_minute_in_which_nothing_settled_has_no_bounded_cost() -> None:
    stalled = [Sample(sample.at, 0, sample.usage) for sample in samples(300, 100.0)]
    assert cost(stalled).last == float("inf")
