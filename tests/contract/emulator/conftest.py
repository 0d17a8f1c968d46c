"""A broker and a device of it, for the tests of MQTT."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from tests.contract.emulator.brokers import Device, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(params=[MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def device(site: Site, request: pytest.FixtureRequest) -> Iterator[Device]:
    files = site.knows("pump-1")
    made = Device(site, "pump-1", files, protocol=request.param).connect()
    made.sees("Success")
    yield made
    made.end()
