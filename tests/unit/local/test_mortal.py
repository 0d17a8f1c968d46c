"""The consumer of `run --poison`: what it writes down of each delivery."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from local.trial import mortal


def record(sequence: str, document: dict[str, Any], key: str = "pump-1") -> dict[str, Any]:
    data = base64.b64encode(json.dumps(document).encode()).decode()
    return {"kinesis": {"sequenceNumber": sequence, "partitionKey": key, "data": data}}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELIVERIES", str(tmp_path / "log"))
    monkeypatch.setenv("POISON", "poison")
    return tmp_path / "log"


def test_a_delivery_is_written_down_with_the_readings_of_each_record(log: Path) -> None:
    pack = {"readings": {"after_ms": [0, 1, 2]}}
    mortal.handler({"Records": [record("1", {}), record("2", pack)]}, None)
    assert json.loads(log.read_text()) == {"died": False, "records": {"1": 1, "2": 3}}


def test_the_poison_record_makes_it_fail(log: Path) -> None:
    with pytest.raises(RuntimeError):
        mortal.handler({"Records": [record("1", {}), record("2", {}, "poison")]}, None)
    assert json.loads(log.read_text())["died"]


def test_a_record_of_any_other_producer_counts_as_one_and_does_not_fail(log: Path) -> None:
    others = [b"\xff", b"[1]", b"1", b"null", b'{"readings": 1}', b'{"readings": {"after_ms": 1}}']
    records = [
        {**record(str(place), {}), "kinesis": {**record(str(place), {})["kinesis"], "data": data}}
        for place, data in enumerate(base64.b64encode(each).decode() for each in others)
    ]
    mortal.handler({"Records": records}, None)
    counts = json.loads(log.read_text())["records"]
    assert counts == {str(place): 1 for place in range(len(others))}
