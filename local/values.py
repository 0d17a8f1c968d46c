"""Parses values of the command line: durations, rates, shares, sizes."""

import math
import re

UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
PART_PATTERN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
NUMBER_PATTERN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
DURATION_PATTERN = re.compile(rf"(?:{PART_PATTERN.pattern})+")


def finite_number(text: str) -> float:
    """Return the number that a decimal text is; raise ValueError for other text.

    Python's own `float` also reads 1_0, NaN, Infinity and digits of other scripts, which stand for
    something else in a file or are mistakes.
    """
    value = float(text) if NUMBER_PATTERN.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{text}' isn't a number such as 21.5 or -3")
    return value


def duration_seconds(text: str) -> float:
    """Return the seconds of a duration like 30s, 5m or 1h30m; raise ValueError for other text."""
    if not DURATION_PATTERN.fullmatch(text):
        raise ValueError(
            f"'{text}' isn't a duration: write a number and its unit, such as 30s, 5m, 1h or 1h30m"
        )
    return sum(float(amount) * UNIT_SECONDS[unit] for amount, unit in PART_PATTERN.findall(text))


def seconds_or_duration(text: str) -> float:
    """Return the seconds of `10` or of a duration; raise ValueError for other text."""
    return float(text) if text.isdecimal() else duration_seconds(text)


def rate(text: str) -> float:
    """Return a number above 0; raise ValueError for other text."""
    try:
        value = finite_number(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ValueError(f"'{text}' isn't a number above 0, such as 5 or 0.2")
    return value


def share(text: str) -> float:
    """Return a share from 0 to 1, written 0.05 or 5%; raise ValueError for other text."""
    try:
        value = finite_number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"'{text}' isn't a share: write a number from 0 to 1, such as 0.05, or 5%")
    return value


def speed(text: str) -> float | None:
    """Return the factor of a speed, None for `max`; raise ValueError for other text."""
    if text == "max":
        return None
    try:
        value = finite_number(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ValueError(
            f"'{text}' isn't a speed: write how many times faster, such as 1, 60 or 3600x, or max"
        )
    return value


def terminal_size(text: str) -> tuple[int, int]:
    """Return columns and lines, written 80x24; raise ValueError for other text."""
    columns, _, lines = text.partition("x")
    if not (columns.isdecimal() and lines.isdecimal() and int(columns) and int(lines)):
        raise ValueError(f"'{text}' isn't a size: write columns and lines, such as 80x24")
    return int(columns), int(lines)


def positive(text: str) -> int:
    """Return a whole number above 0; raise ValueError for other text."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"'{text}' isn't a whole number above 0")
    return int(text)


def duration_text(seconds: float) -> str:
    """Return a duration as text: 850 ms, 12.3 s, 2 min 05 s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
