"""Each function's settings, read once from its environment variables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from telemetry.errors import TelemetryError

DAY_MS = 86_400_000
READERS: dict[Any, Callable[[str], Any]] = {
    int: int,
    bool: {"true": True, "false": False}.__getitem__,
}
KINDS: dict[Any, str] = {int: "a whole number", bool: "true or false"}


class SettingMissing(TelemetryError):
    """An environment variable that the template should set is missing or invalid."""


@dataclass(frozen=True)
class Settings:
    """Settings whose fields are environment variables' names in lower case; all are required."""

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Self:
        """Return the settings in `env`; raise SettingMissing that names every wrong variable."""
        values, wrong = {}, []
        for field in fields(cls):
            text = env.get(field.name.upper(), "")
            try:
                values[field.name] = READERS.get(field.type, str)(text)
            except (ValueError, KeyError):
                wrong.append(f"{field.name.upper()}={text!r} is not {KINDS[field.type]}")
                continue
            if not text:
                wrong.append(f"{field.name.upper()} is not set")
        if wrong:
            raise SettingMissing(f"{cls.__name__}: " + "; ".join(wrong))
        return cls(**values)


@dataclass(frozen=True)
class RetentionSettings(Settings):
    """Settings of functions that need the retention of windows."""

    window_retention_days: int

    @property
    def retention_ms(self) -> int:
        return self.window_retention_days * DAY_MS


@dataclass(frozen=True)
class AuthorizeSettings(Settings):
    devices_table: str
    admin_secret_arn: str


@dataclass(frozen=True)
class RegisterSettings(Settings):
    devices_table: str


@dataclass(frozen=True)
class SchemaSettings(RetentionSettings):
    """Settings of functions that decode devices' data by its registered schema."""

    registry_name: str
    reading_schema_ids: str


@dataclass(frozen=True)
class IngestSettings(SchemaSettings):
    stream_name: str
    pack_readings: bool
    overflow_url: str
    failures_bucket: str


@dataclass(frozen=True)
class DrainSettings(SchemaSettings):
    stream_name: str
    pack_readings: bool
    failures_bucket: str


@dataclass(frozen=True)
class AggregateSettings(RetentionSettings):
    aws_region: str
    windows_table: str
    failures_bucket: str
    stream_name: str
    pack_readings: bool


@dataclass(frozen=True)
class AlertSettings(RetentionSettings):
    aws_region: str
    alerts_table: str
    failures_bucket: str


@dataclass(frozen=True)
class SweepSettings(Settings):
    aws_region: str
    alerts_table: str
    windows_table: str


@dataclass(frozen=True)
class DispatchSettings(Settings):
    notices_url: str
    failures_bucket: str


@dataclass(frozen=True)
class NotifySettings(Settings):
    alerts_table: str
    notices_topic_arn: str
    event_bus_name: str


@dataclass(frozen=True)
class RedriveSettings(Settings):
    pipeline_name: str
    failures_bucket: str
    failures_url: str
    notices_url: str
    notices_dead_letters_url: str


@dataclass(frozen=True)
class QuerySettings(Settings):
    windows_table: str
    alerts_table: str


@dataclass(frozen=True)
class AccountSettings(Settings):
    powertools_metrics_namespace: str


@dataclass(frozen=True)
class ReplaySettings(Settings):
    archive_bucket: str
    stream_name: str
    pack_readings: bool


@dataclass(frozen=True)
class RebuildSettings(RetentionSettings):
    aws_region: str
    archive_bucket: str
    archive_buffer_seconds: int
    windows_table: str
