"""Events of `events/` are stamped when they are used: their times are moved, and nothing else."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from local.events import EVENTS, RECORDED_MS, main, stamped, stamped_copy

NOW_MS = RECORDED_MS + 61 * 86_400_000 + 31_500
"""61 days and some seconds after: by whole minutes that is 61 days."""
NAMES = sorted(path.stem for path in EVENTS.glob("*.json"))


def event(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1_795_224_606, 1_800_495_006),
        (1_795_224_621.5, 1_800_495_021.5),
        (1_795_224_606_000, 1_800_495_006_000),
        ("2026-11-21T01:30:06.000Z", "2027-01-21T01:30:06.000Z"),
        ("2026-11-21T01:30:00Z", "2027-01-21T01:30:00Z"),
        ("21/Nov/2026:01:30:11 +0000", "21/Jan/2027:01:30:11 +0000"),
        ('{"at": 1795224606000, "is": true}', '{"at": 1800495006000, "is": true}'),
        ("room t=21.5 1795224606000000000", "room t=21.5 1800495006000000000"),
    ],
)
def test_recorded_times_are_moved_in_any_unit(before: Any, after: Any) -> None:
    assert stamped(before, NOW_MS) == after


@pytest.mark.parametrize(
    "value",
    [
        "arn:aws:iam::000000000000:role/a",
        "49660181730518462905174638201957364820000000000000000005",
        4_102_444_800_000,
        "2026-11-22T01:30:00Z",
        "1-6b00f423-ebf0300e43736140f547b83e",
        "sample-sample-sample-sample-sample-sample-x",
        True,
        None,
        39.5,
    ],
)
def test_other_numbers_and_times_stay(value: Any) -> None:
    assert stamped(value, NOW_MS) == value


def test_times_in_base64_are_moved_too_and_a_bodys_digest_is_updated() -> None:
    inner = base64.b64encode(b'{"recorded_at":1795224614000}').decode()
    body = json.dumps({"base64OriginalPayload": inner})
    found = stamped({"body": body, "md5OfBody": "", "data": inner}, NOW_MS)
    moved = b'{"recorded_at":1800495014000}'
    assert base64.b64decode(found["data"]) == moved
    assert base64.b64decode(json.loads(found["body"])["base64OriginalPayload"]) == moved
    assert found["md5OfBody"] == hashlib.md5(found["body"].encode()).hexdigest()  # noqa: S324


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("replay")])
def test_no_recorded_time_remains(name: str) -> None:
    text = json.dumps(stamped(event(name), NOW_MS))
    assert "2026-11-21" not in text
    assert "17952246" not in text


@pytest.mark.parametrize("name", NAMES)
def test_stamped_with_the_recordings_time_an_event_is_unchanged(name: str) -> None:
    assert stamped(event(name), RECORDED_MS) == event(name)


def test_an_event_from_elsewhere_is_used_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"recorded_at": 1795224606000}')
    assert stamped_copy(own, tmp_path / "copies", NOW_MS) == own
    ours = stamped_copy(EVENTS / "ingest.json", tmp_path / "copies", NOW_MS)
    assert ours == tmp_path / "copies" / "ingest.json"
    assert "2027-01-21T01:30:06.000Z" in ours.read_text()


def test_all_of_them_are_written_into_a_folder(tmp_path: Path) -> None:
    assert main([str(tmp_path / "events")]) == 0
    assert sorted(path.stem for path in (tmp_path / "events").iterdir()) == NAMES
