"""What is refused is logged by device and field, with bounds and without secrets."""

from typing import Any

import pytest
from telemetry.aws.refusals import LINES_A_CALL, LINES_A_MINUTE, Refusals, refusal

SECRET = "pump-1.sample-sample-sample-sample-sample-sample-x"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """Refusals and the lines that they have written."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = Clock()
        self.refusals = Refusals(self.clock)
        self._caplog = caplog

    def tell(self, *refused: Any, poster: str | None = None) -> list[dict[str, Any]]:
        """The lines of one invocation."""
        self._caplog.clear()
        self.refusals.log(refused, "https", poster)
        names = ("device_id", "field", "reason", "value", "count", "via", "poster", "left_out")
        return [
            {name: vars(line)[name] for name in names if name in vars(line)}
            for line in self._caplog.records
            if line.message == "refused"
        ]


@pytest.fixture
def site(caplog: pytest.LogCaptureFixture) -> Site:
    return Site(caplog)


def hot(device_id: str = "pump-1", field: str = "temperature", value: Any = 412.0) -> Any:
    return refusal(device_id, field, f"{value} is above 150 °C", value)


def test_a_refusal_says_whose_it_is_which_field_what_was_there_and_why(site: Site) -> None:
    assert site.tell(hot(), poster="gateway-1") == [
        {
            "device_id": "pump-1",
            "field": "temperature",
            "reason": "412.0 is above 150 °C",
            "value": 412.0,
            "count": 1,
            "via": "https",
            "poster": "gateway-1",
            "left_out": 0,
        }
    ]


def test_a_devices_refusals_of_one_field_are_one_line_with_their_number(site: Site) -> None:
    lines = site.tell(*(hot(value=float(n)) for n in range(200, 700)), hot(field="humidity"))
    assert [(line["field"], line["count"]) for line in lines] == [
        ("temperature", 500),
        ("humidity", 1),
    ]
    assert lines[0]["value"] == 200.0


def test_an_invocation_writes_few_lines_and_says_how_many_it_left_out(site: Site) -> None:
    lines = site.tell(*(hot(f"pump-{n % 100}") for n in range(300)))
    assert len(lines) == LINES_A_CALL
    assert [line["count"] for line in lines] == [3] * LINES_A_CALL
    assert lines[-1]["left_out"] == 300 - 3 * LINES_A_CALL
    assert all("left_out" not in line for line in lines[:-1])


def test_a_minute_has_so_many_lines_and_the_next_one_says_what_it_had_no_room_for(
    site: Site,
) -> None:
    written = sum(len(site.tell(hot(f"pump-{n}"))) for n in range(LINES_A_MINUTE * 3))
    assert written == LINES_A_MINUTE
    assert site.tell(hot()) == []
    site.clock.now += 60
    (line,) = site.tell(hot())
    assert line["left_out"] == 3 * LINES_A_MINUTE - written + 1
    (line,) = site.tell(hot())
    assert line["left_out"] == 0


@pytest.mark.parametrize("field", ["token", "authorization", "Bearer x", None, "body"])
def test_the_value_of_what_is_no_field_of_a_reading_is_not_logged(
    site: Site, field: str | None
) -> None:
    (line,) = site.tell(refusal("pump-1", field, "is not a field of a reading", "hunter2"))
    assert line["value"] is None
    assert "hunter2" not in str(line)


def test_a_token_in_the_wrong_place_is_not_logged(site: Site) -> None:
    lines = site.tell(
        refusal("pump-1", "device_id", f"does not match {SECRET}", SECRET),
        refusal("pump-2", "recorded_at", f"Bearer {SECRET} is no time", f"Bearer {SECRET}"),
        refusal(SECRET, SECRET, "is not a field", None),
    )
    assert len(lines) == 3
    assert "sample-sample" not in str(lines)
    assert lines[0]["value"] == "[token]"


def test_numbers_are_no_tokens(site: Site) -> None:
    (line,) = site.tell(refusal("pump-1", "temperature", "38.12345678901234567890 is", "-0.5e-300"))
    assert (line["reason"], line["value"]) == ("38.12345678901234567890 is", "-0.5e-300")


def test_what_is_logged_is_cut(site: Site) -> None:
    (line,) = site.tell(refusal("x" * 9999, "y" * 9999, "z" * 9999, "v" * 9999))
    assert all(len(str(text)) < 120 for text in line.values())
