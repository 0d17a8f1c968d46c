"""The C device of docs/devices.md, with each kind of answer."""

from pathlib import Path

import pytest

from tests.c_device import compiled, run_device
from tests.client.servers import Answer, Pipeline, in_turn, serving


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("device"))


def test_a_reading_is_sent_again_under_its_own_time_until_it_is_taken(device: Path) -> None:
    busy: Answer = 503, {"message": "try again"}, {"Retry-After": "2"}
    with serving(Pipeline(in_turn(busy, (429, {}, {})))) as server:
        result = run_device(device, "21.5 40\n", server.url, "pump-1", "token")
    assert result.returncode == 0, result.stderr
    assert [each["body"] for each in server.requests] == [server.requests[0]["body"]] * 3
    ((_, reading),) = server.stored.items()
    assert (reading["temperature"], reading["humidity"]) == (21.5, 40)
    assert "again in 2 s" in result.stderr


def test_a_refused_reading_is_shown_with_its_reason_and_not_sent_again(device: Path) -> None:
    refusal: Answer = 400, {"message": "temperature: 412 is above 150 °C"}, {}
    with serving(Pipeline(in_turn(refusal))) as server:
        result = run_device(device, "412\n21.5\nwarm\n", server.url, "pump-1", "token")
    assert result.returncode == 1
    assert len(server.requests) == 2
    assert "412 is above 150" in result.stdout
    assert "not a measurement: warm" in result.stderr
    assert [each["temperature"] for each in server.stored.values()] == [21.5]
