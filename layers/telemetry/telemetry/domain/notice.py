"""Notices: messages about an episode's changes (`schemas/alert/`)."""

from typing import NamedTuple


class Notice(NamedTuple):
    """A notice, with the schema's fields; times are ISO 8601 in UTC."""

    notice_id: str
    change: str
    device_id: str
    rule: str
    severity: str
    region: str
    episode: int
    first_breach_at: str
    last_breach_at: str
    peak: float
    trace_id: str | None
    cleared_at: str | None = None
    ended_by: str | None = None


def notice_id(device_id: str, rule: str, region: str, episode: int, change: str) -> str:
    """Return a notice's identity, which is the same however often the change is delivered."""
    return f"{device_id}/{rule}/{region}/{episode}/{change}"


def subject(notice: Notice) -> str:
    """Return one line for a person, cut to the 100 characters that SNS allows for a subject."""
    return f"{notice.rule} {notice.change}: {notice.device_id}"[:100]
