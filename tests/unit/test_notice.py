"""Notices: one identity a change, and the form that the schema promises to subscribers."""

import json

import fastavro
import pytest
from telemetry.domain.notice import Notice, notice_id, subject
from telemetry.domain.schema import latest

SCHEMA = latest("alert")
NOTICE = Notice(
    "pump-1/overheating/eu-west-1/2/opened",
    "opened",
    "pump-1",
    "overheating",
    "critical",
    "eu-west-1",
    2,
    "2026-11-21T01:30:00.000Z",
    "2026-11-21T01:30:09.000Z",
    41.5,
    "1-5759e988-bd862e3fe1be46a994272793",
)


def test_the_identity_of_a_notice_is_the_change_of_an_episode() -> None:
    assert notice_id("pump-1", "overheating", "eu-west-1", 2, "opened") == NOTICE.notice_id


def test_every_part_of_the_identity_tells_notices_apart() -> None:
    base = ("pump-1", "overheating", "eu-west-1", 2, "opened")
    others = ("pump-2", "damp", "us-east-1", 3, "cleared")
    changed = [(*base[:index], others[index], *base[index + 1 :]) for index in range(5)]
    assert len({notice_id(*parts) for parts in [base, *changed]}) == 6  # type: ignore[arg-type]


@pytest.mark.parametrize("trace_id", [NOTICE.trace_id, None])
def test_a_notice_as_json_is_what_the_schema_says(trace_id: str | None) -> None:
    document = json.loads(json.dumps(NOTICE._replace(trace_id=trace_id)._asdict()))
    assert fastavro.validate(document, SCHEMA, strict=True, raise_errors=True)


def test_the_subject_tells_a_person_what_happened_where() -> None:
    assert subject(NOTICE) == "overheating opened: pump-1"


def test_the_subject_is_no_longer_than_sns_takes() -> None:
    assert len(subject(NOTICE._replace(device_id="x" * 128))) == 100
