"""The alert rules of `rules.yaml`, as the check of a run needs them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from local.errors import LocalError
from local.instance import ROOT

LIMITS = ("above", "below", "clears_below")


@dataclass(frozen=True)
class Rule:
    """A metric and the limit that breaks it, strictly above or strictly below."""

    name: str
    metric: str
    above: float | None = None
    below: float | None = None
    clears_below: float | None = None

    def is_broken_by(self, value: float) -> bool:
        """Return whether a value is a breach; a missing value (NaN) never is."""
        return (self.above is not None and value > self.above) or (
            self.below is not None and value < self.below
        )

    def is_cleared_by(self, value: float) -> bool:
        """Return whether a value ends an episode; a missing value (NaN) never does."""
        return self.clears_below is not None and value < self.clears_below

    def is_worse(self, value: float, other: float) -> bool:
        """Return whether a value is further beyond the limit than `other`."""
        return value > other if self.above is not None else value < other

    def worst(self, values: Iterable[float]) -> float:
        """Return the value furthest beyond the limit."""
        return max(values) if self.above is not None else min(values)


def load(path: Path = ROOT / "rules.yaml") -> list[Rule]:
    """Read the rules; raise LocalError if the file can't be read as rules."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        return [
            Rule(rule["name"], rule["metric"], *(rule.get(limit) for limit in LIMITS))
            for rule in document["rules"]
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise LocalError(f"{path.name}: not readable as alert rules ({error!r})") from error
