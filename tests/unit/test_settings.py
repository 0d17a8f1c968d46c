"""Settings: read once, and everything that is wrong is named."""

from dataclasses import fields

import pytest
from telemetry import settings as settings_of
from telemetry.settings import AggregateSettings, AuthorizeSettings, SettingMissing, Settings

AGGREGATE = {
    "AWS_REGION": "eu-west-1",
    "WINDOWS_TABLE": "windows",
    "FAILURES_BUCKET": "failures",
    "STREAM_NAME": "readings",
    "WINDOW_RETENTION_DAYS": "30",
    "PACK_READINGS": "true",
}


def test_settings_are_read_from_a_mapping() -> None:
    expected = AggregateSettings(
        aws_region="eu-west-1",
        windows_table="windows",
        failures_bucket="failures",
        stream_name="readings",
        window_retention_days=30,
        pack_readings=True,
    )
    assert AggregateSettings.read({**AGGREGATE, "PATH": "/bin"}) == expected


def test_the_retention_is_told_in_milliseconds() -> None:
    assert AggregateSettings.read(AGGREGATE).retention_ms == 2_592_000_000


@pytest.mark.parametrize("name", AGGREGATE)
@pytest.mark.parametrize("change", ["missing", "empty"])
def test_a_setting_that_is_not_there_is_named(name: str, change: str) -> None:
    env = {**AGGREGATE, name: ""}
    if change == "missing":
        del env[name]
    with pytest.raises(SettingMissing, match=f"AggregateSettings: {name}"):
        AggregateSettings.read(env)


@pytest.mark.parametrize("text", ["a month", "30.5", "3e1", "0x1e"])
def test_a_number_that_is_none_is_named_with_what_was_there(text: str) -> None:
    with pytest.raises(SettingMissing, match=f"WINDOW_RETENTION_DAYS='{text}' is not a whole"):
        AggregateSettings.read({**AGGREGATE, "WINDOW_RETENTION_DAYS": text})


@pytest.mark.parametrize("text", ["True", "yes", "1"])
def test_a_switch_is_true_or_false(text: str) -> None:
    assert not AggregateSettings.read({**AGGREGATE, "PACK_READINGS": "false"}).pack_readings
    with pytest.raises(SettingMissing, match=f"PACK_READINGS='{text}' is not true or false"):
        AggregateSettings.read({**AGGREGATE, "PACK_READINGS": text})


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(SettingMissing) as caught:
        AggregateSettings.read({"WINDOW_RETENTION_DAYS": "x"})
    for name in AGGREGATE:
        assert name in str(caught.value)


def test_no_message_tells_a_value_that_is_right() -> None:
    with pytest.raises(SettingMissing) as caught:
        AuthorizeSettings.read({"ADMIN_SECRET_ARN": "arn:secret"})
    assert "arn:secret" not in str(caught.value)


@pytest.mark.parametrize("kind", Settings.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_setting_is_text_or_a_number_or_a_switch(kind: type[Settings]) -> None:
    assert all(field.type in (str, int, bool) for field in fields(kind))
    assert kind.__module__ == settings_of.__name__
