"""Values that stand for no measurement, as `metrics.yaml` declares them.

Sensors send them in place of a measurement: -127 for a sensor that isn't connected, 65535 for a
register that wasn't read. They look like measurements, so people have to declare them.
"""

import re
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from telemetry.domain import yaml_file
from telemetry.domain.reading import METRICS
from telemetry.errors import TelemetryError

FILE = Path(__file__).parent.parent / "metrics.yaml"
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
FLOAT32_MAX = 3.4028234663852886e38


class MetricsInvalid(TelemetryError):
    """`metrics.yaml` isn't valid."""


class Declared(NamedTuple):
    """Values of a metric that stand for none; `devices` matches whole ids (None: every device)."""

    values: frozenset[float]
    devices: re.Pattern[str] | None

    def fits(self, device_id: str, value: float) -> bool:
        """Return whether a device's value stands for no measurement."""
        return value in self.values and (
            self.devices is None or bool(self.devices.match(device_id))
        )


class Entry(BaseModel):
    """Values of a metric that stand for no measurement, and the devices that send them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    values: Annotated[tuple[Number, ...], Field(min_length=1)]
    devices: Annotated[str, Field(pattern=r"^[A-Za-z0-9_*-]+$")] | None = None

    @field_validator("metric")
    @classmethod
    def _is_known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"is not one of {', '.join(METRICS)}")
        return metric

    @property
    def declared(self) -> Declared:
        """The entry in the form that values are compared with.

        It includes each value's nearest 32-bit float, which devices with 32-bit floats send.
        """
        nearest = {_in_32_bits(value) for value in self.values if abs(value) <= FLOAT32_MAX}
        return Declared(frozenset({*self.values, *nearest}), self._pattern())

    def _pattern(self) -> re.Pattern[str] | None:
        if self.devices is None:
            return None
        parts = (re.escape(part) for part in re.split(r"\*+", self.devices))
        return re.compile(f"^{'.*'.join(parts)}$")


class Metrics(BaseModel):
    """The content of `metrics.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    no_measurement: tuple[Entry, ...] = ()

    @property
    def declared(self) -> dict[str, list[Declared]]:
        """The declared values by metric."""
        by_metric: dict[str, list[Declared]] = {}
        for entry in self.no_measurement:
            by_metric.setdefault(entry.metric, []).append(entry.declared)
        return by_metric


def load(text: str) -> dict[str, list[Declared]]:
    """Return the values that the text of `metrics.yaml` declares, by metric.

    Raise MetricsInvalid that names every wrong key.
    """
    try:
        document = yaml_file.read(text)
    except yaml.YAMLError as error:
        raise MetricsInvalid(f"metrics.yaml is not YAML: {error}") from None
    try:
        return Metrics.model_validate({} if document is None else document).declared
    except ValidationError as error:
        wrong = yaml_file.mistakes(error)
        raise MetricsInvalid("metrics.yaml: " + "; ".join(wrong)) from None


@cache
def shipped() -> dict[str, list[Declared]]:
    """Return the values in the `metrics.yaml` that was deployed with the code, by metric."""
    return load(FILE.read_text("utf-8"))


def stands_for_none(device_id: str, metric: str, value: Any) -> bool:
    """Return whether a device's value of a metric, valid or not, stands for no measurement."""
    found = shipped().get(metric)
    if not found or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return any(each.fits(device_id, value) for each in found)


def may_stand_for_none(metric: str, values: Iterable[float]) -> bool:
    """Return whether one of a metric's values stands for no measurement, for some device."""
    return any(not each.values.isdisjoint(values) for each in shipped().get(metric, ()))


def _in_32_bits(value: float) -> float:
    (nearest,) = struct.unpack("<f", struct.pack("<f", value))
    return float(nearest)
