"""Alert rules: read from `rules.yaml`, compiled into event filters, applied to readings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from telemetry.domain.reading import METRICS, Reading
from telemetry.errors import TelemetryError

RULES_FILE = Path(__file__).parent.parent / "rules.yaml"
Number = Annotated[float, Field(allow_inf_nan=False)]


class RulesInvalid(TelemetryError):
    """`rules.yaml` says something that can't be a rule."""


class Rule(BaseModel):
    """One condition on one metric. A breach is a value strictly above `above`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    metric: str
    above: Number
    clears_below: Number
    severity: Annotated[str, Field(pattern=r"^(info|warning|critical)$")]

    @model_validator(mode="after")
    def _makes_sense(self) -> "Rule":
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is not one of {', '.join(METRICS)}")
        if self.clears_below > self.above:
            raise ValueError(f"clears_below {self.clears_below} is over above {self.above}")
        return self


def load_rules(text: str) -> tuple[Rule, ...]:
    """The rules in `rules.yaml`'s text; raises RulesInvalid naming each place that is wrong."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RulesInvalid(f"rules.yaml is not YAML: {error}") from None
    entries = document.get("rules") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise RulesInvalid("rules.yaml: `rules` is not a list of one rule or more")
    rules, wrong = [], []
    for index, entry in enumerate(entries):
        try:
            rules.append(Rule.model_validate(entry))
        except ValidationError as error:
            wrong += [_wrong(index, dict(detail)) for detail in error.errors(include_url=False)]
    names = [rule.name for rule in rules]
    wrong += [f"two rules are named {name}" for name in set(names) if names.count(name) > 1]
    if wrong:
        raise RulesInvalid("rules.yaml: " + "; ".join(wrong))
    return tuple(rules)


def _wrong(index: int, detail: dict[str, Any]) -> str:
    place = ".".join([f"rules[{index}]", *map(str, detail["loc"])])
    return f"{place}: {detail['msg']} (it is {detail['input']!r})"


def shipped_rules() -> tuple[Rule, ...]:
    """The rules that were deployed with the code."""
    return load_rules(RULES_FILE.read_text())


def filter_pattern(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """The event filters that let exactly the rules' breaches through, one a rule.

    The form is FilterCriteria's: https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis-filtering.html
    """
    return [{"data": {rule.metric: [{"numeric": [">", _plain(rule.above)]}]}} for rule in rules]


def _plain(number: float) -> float | int:
    """38 rather than 38.0, as people write it."""
    return int(number) if number.is_integer() else number


def breach(rule: Rule, reading: Reading) -> float | None:
    """The value with which a reading violates the rule, or None where it doesn't."""
    value = reading.metrics.get(rule.metric)
    return value if value is not None and value > rule.above else None
