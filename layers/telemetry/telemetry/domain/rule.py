"""Alert rules: read from `rules.yaml`, compiled into event filters, applied to readings."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from telemetry.domain import yaml_file
from telemetry.domain.pack import COMPARABLE_MAX, DECIMALS, DECIMALS_MAX, has_six_decimals
from telemetry.domain.reading import FIELDS, METRICS, Reading
from telemetry.errors import TelemetryError

RULES_FILE = Path(__file__).parent.parent / "rules.yaml"
SHOWN_LENGTH = 60  # characters of a wrong value that a message repeats
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]  # strict: not "38", not `yes`


class RulesInvalid(TelemetryError):
    """`rules.yaml` has mistakes; the message has a line for each."""


class Rule(BaseModel):
    """One condition on one metric. A breach is a value strictly above `above`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    metric: str
    above: Number
    clears_below: Number
    severity: Annotated[str, Field(pattern=r"^(info|warning|critical)$")]


KEYS = {
    "name": "a lower-case letter, then up to 63 lower-case letters, digits and hyphens",
    "metric": f"one of {', '.join(METRICS)}",
    "above": "a number",
    "clears_below": "a number",
    "severity": "info, warning or critical",
}
"""The keys of a rule, and the values that each of them takes."""
MEANT = dict.fromkeys(("below", "over", "threshold", "limit", "max"), "above") | dict.fromkeys(
    ("clears_above", "clears", "clear"), "clears_below"
)
"""Keys of other tools' rules, and the keys to suggest for them. `above` is the only condition."""


def load_rules(text: str) -> tuple[Rule, ...]:
    """Return the rules in `rules.yaml`'s text; raise RulesInvalid with a line for each mistake."""
    try:
        document = yaml_file.read(text)
    except yaml.YAMLError as error:
        raise RulesInvalid(f"rules.yaml is not YAML: {error}") from None
    entries = document.get("rules") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise RulesInvalid("rules.yaml: `rules` is not a list of one rule or more")
    others = [key for key in document if key != "rules"]
    rules, wrong = [], [f"{key}: is no key of this file; its only one is `rules`" for key in others]
    for index, entry in enumerate(entries):
        try:
            rule = Rule.model_validate(entry)
        except ValidationError as error:
            mistakes = list(_misread(entry, [dict(each) for each in error.errors()]))
        else:
            rules.append(rule)
            mistakes = list(_senseless(rule))
        wrong += [f"rules[{index}]{mistake}{_named(entry)}" for mistake in mistakes]
    names = [rule.name for rule in rules]
    wrong += [f"two rules are named {name}" for name in sorted({*names}) if names.count(name) > 1]
    if wrong:
        raise RulesInvalid("\n".join(f"rules.yaml: {each}" for each in wrong))
    return tuple(rules)


def _misread(entry: Any, details: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each of pydantic's errors; a misspelt key isn't also called missing."""
    if not isinstance(entry, dict):
        yield f": {_shown(entry)} is not a rule, which has the keys {', '.join(KEYS)}"
        return
    keys = {str(key): _meant(str(key), entry) for key in entry if key not in KEYS}
    for detail in details:
        key = str(detail["loc"][0])
        if key in keys:
            meant = keys[key]
            hint = f"did you mean {meant}?" if meant else f"the keys are {', '.join(KEYS)}"
            yield f".{key}: a rule has no such key (it is {_shown(detail['input'])}); {hint}"
        elif detail["type"] != "missing":
            yield f".{key}: {_shown(detail['input'])} is not {KEYS[key]}"
        elif key not in keys.values():
            yield f".{key}: is required: {KEYS[key]}"


def _meant(key: str, entry: dict[Any, Any]) -> str | None:
    """Return the missing key that an unknown one seems to mean, or None."""
    missing = [each for each in KEYS if each not in entry]
    close = [MEANT.get(key.lower(), ""), *get_close_matches(key.lower(), missing, 1)]
    return next((each for each in close if each in missing), None)


def _senseless(rule: Rule) -> Iterator[str]:
    """Yield the reasons why a well-formed rule can't work: it must be able to breach and clear."""
    if rule.metric not in METRICS:
        yield f".metric: {rule.metric!r} is not {KEYS['metric']}"
        return
    low, high = FIELDS[rule.metric]["minimum"], FIELDS[rule.metric]["maximum"]
    span = f"{rule.metric} is from {_plain(low)} to {_plain(high)} {FIELDS[rule.metric]['unit']}"
    above, clears_below = _plain(rule.above), _plain(rule.clears_below)
    if above >= high:
        yield f".above: nothing is ever above {above}: {span}"
    elif above < low:
        yield f".above: {above} is out of range: {span}"
    if clears_below <= low:
        yield f".clears_below: nothing is ever below {clears_below}: {span}"
    elif clears_below > high:
        yield f".clears_below: {clears_below} is out of range: {span}"
    elif clears_below > above:
        yield f".clears_below: {clears_below} is more than above, which is {above}"
    for key, limit in (("above", above), ("clears_below", clears_below)):
        if not has_six_decimals(limit):
            digits = "at most 15 digits, six of them decimals, up to 5e9"
            yield (
                f".{key}: {limit} is no limit that an event filter compares, which has {digits}: "
                f"write {_plain(_compared(limit))}"
            )


def _compared(limit: float) -> float:
    """Return the limit that event filters compare and that is nearest to a given one."""
    within = max(-COMPARABLE_MAX, min(limit, COMPARABLE_MAX))
    return round(within, DECIMALS if abs(within) < DECIMALS_MAX else DECIMALS - 1)


def _named(entry: Any) -> str:
    """Return the rule's name in brackets, to end a message; nothing if it has none."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return f" (rule {_shown(name)})" if isinstance(name, str) else ""


def _shown(value: Any) -> str:
    """Return a value as a message repeats it, cut to SHOWN_LENGTH."""
    text = repr(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


def shipped_rules() -> tuple[Rule, ...]:
    """Return the rules that were deployed with the code."""
    return load_rules(RULES_FILE.read_text())


def filter_pattern(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Return the event filters that pass exactly the rules' breaches, one for each rule.

    For their form see https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis-filtering.html
    """
    return [{"data": {rule.metric: [{"numeric": [">", _plain(rule.above)]}]}} for rule in rules]


def _plain(number: float) -> float | int:
    """Return 38 for 38.0, as people write it."""
    return int(number) if float(number).is_integer() else number


def breaching_value(rule: Rule, reading: Reading) -> float | None:
    """Return the value with which a reading violates the rule, or None if it doesn't."""
    value = reading.metrics.get(rule.metric)
    return value if value is not None and value > rule.above else None
