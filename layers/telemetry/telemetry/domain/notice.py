"""Notices: the message about an episode's change (`schemas/alert/`)."""

from typing import NamedTuple


class Notice(NamedTuple):
    """Fields as in the schema; times are ISO 8601 in UTC."""

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
    """The identity of a notice: the same however often the change is delivered."""
    return f"{device_id}/{rule}/{region}/{episode}/{change}"


def subject(notice: Notice) -> str:
    """One line for a person; SNS takes 100 characters of it."""
    return f"{notice.rule} {notice.change}: {notice.device_id}"[:100]
