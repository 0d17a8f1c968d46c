"""The YAML files that people write: rules.yaml, influx.yaml, metrics.yaml."""

from typing import Any

import yaml


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
    return yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader


def mistake(detail: dict[str, Any]) -> str:
    """Return one of pydantic's errors: the key's place in the file, the reason, the value."""
    place = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in detail["loc"])
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{place.lstrip('.') or 'all'}: {reason} (it is {detail['input']!r})"
