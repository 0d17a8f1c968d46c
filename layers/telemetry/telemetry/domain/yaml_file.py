"""The YAML files that people write: rules.yaml, influx.yaml, metrics.yaml."""

from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice, of which PyYAML would take the last value.

    In YAML the keys of a mapping are unique: https://yaml.org/spec/1.2.2/#3211-nodes
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                reason = f"key {key.value!r} is there twice; leave one out"
                raise yaml.constructor.ConstructorError(None, None, reason, key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read(text: str) -> Any:
    """Return a file's document; raise yaml.YAMLError, also for a key that is there twice."""
    return _Loader(text).get_single_data()


def mistakes(error: ValidationError) -> list[str]:
    """Return pydantic's errors: for each the key's place in the file, the reason, the value."""
    return [_mistake(each) for each in error.errors(include_url=False) if not _is_told(each)]


def _is_told(detail: ErrorDetails) -> bool:
    """Return whether other errors say it: a list without its wrong elements may be empty."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _mistake(detail: ErrorDetails) -> str:
    place = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in detail["loc"])
    place = place.lstrip(".") or "all"
    context = detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            return f"{place}: is required"
        case "extra_forbidden":
            reason = "there is no such key"
        case "float_type" | "float_parsing" | "finite_number":
            reason = "is not a finite number"
        case "string_type":
            reason = "is not a text"
        case "string_pattern_mismatch":
            reason = f"does not match {context['pattern']}"
        case "literal_error":
            reason = f"is not {context['expected']}"
        case "too_short":
            reason = "is empty"
        case _:
            reason = detail["msg"].removeprefix("Value error, ")
    return f"{place}: {reason} (it is {detail['input']!r})"
