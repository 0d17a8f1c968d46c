"""Devices that publish over MQTT: their choice, and their accepted readings."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.mappings.memory import VirtualTimeLoop, run_virtually
from local.errors import LocalError
from local.fleet.ledger import Ledger
from local.fleet.over_https import Posting, PostingOptions, Writer
from local.fleet.over_mqtt import OUTSTANDING_MAX, MqttDevices, speakers
from local.fleet.reading import Reading
from local.trial.report import accepted_in


def reading(at_ms: int, device_id: str = "a") -> Reading:
    return Reading(device_id, at_ms, {"temperature": 20.0})


class Connections(MqttDevices):
    """Devices whose broker acknowledges when the test says so."""

    def __init__(self, *devices: str) -> None:
        super().__init__(Path(), 0, devices)
        self.published: list[tuple[str, Any]] = []
        self._clients: dict[str, Any] = dict.fromkeys(
            devices, SimpleNamespace(publish=self._publish)
        )

    def _publish(self, topic: str, payload: str, qos: int) -> Any:
        assert qos == 1
        self.published.append((topic, json.loads(payload)))
        return SimpleNamespace(mid=len(self.published))

    async def start(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3, 2), (0.5, 2), (1.0, 4)])
def test_a_share_of_the_devices_speaks_mqtt_the_first_ones(share: float, count: int) -> None:
    devices = ["a", "b", "c", "d"]
    assert speakers(devices, share) == devices[:count]


def test_more_connections_than_there_can_be_are_refused_with_a_share_that_fits() -> None:
    with pytest.raises(LocalError, match=r"500 devices would .* --mqtt 0\.25 is a share"):
        speakers([str(index) for index in range(1_000)], 0.5)


def test_a_reading_is_accepted_when_it_is_acknowledged_and_once() -> None:
    async def main(_loop: VirtualTimeLoop) -> None:
        devices, ledger, gives_up = Connections("a"), Ledger(), asyncio.Event()
        await devices.start(ledger)
        await devices.send(reading(1))
        await devices.send(reading(2))
        assert (ledger.counts.posted, ledger.counts.accepted) == (2, 0)
        for _ in range(2):
            devices._taken(("a", 1))
        assert ledger.counts.accepted == 1
        gives_up.set()
        await devices.settle(gives_up)
        assert ledger.counts.unanswered == 1

    run_virtually(main)


def test_devices_wait_while_too_many_messages_are_unacknowledged() -> None:
    async def main(_loop: VirtualTimeLoop) -> None:
        devices = Connections("a")
        await devices.start(Ledger())
        for at_ms in range(OUTSTANDING_MAX + 1):
            await devices.send(reading(at_ms))
        waiting = asyncio.create_task(devices.send(reading(0)))
        await asyncio.sleep(1)
        assert not waiting.done()
        devices._taken(("a", 1))
        await waiting

    run_virtually(main)


def test_readings_of_mqtt_devices_go_over_mqtt_and_the_others_over_https() -> None:
    async def main(_loop: VirtualTimeLoop) -> None:
        devices, ledger = Connections("a"), Ledger()
        posting = Posting("http://api", {"gateway": "t"}, ledger, PostingOptions(), mqtt=devices)
        await devices.start(ledger)
        pending: dict[Writer, list[Reading]] = defaultdict(list)
        await posting._add(pending, {}, [reading(1), reading(2, "b")])
        document = {"recorded_at": 1, "temperature": 20.0}
        assert devices.published == [("telemetry/a/readings", document)]
        assert pending == {Writer("gateway", None): [reading(2, "b")]}
        await posting._http.aclose()

    run_virtually(main)


def test_readings_that_bypassed_ingest_count_as_accepted() -> None:
    stages = {"ingest": {"accepted": 3}, "aggregate": {"foreign": 4}}
    assert accepted_in({"stages": stages}) == 7
