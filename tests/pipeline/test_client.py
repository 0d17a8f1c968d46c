"""The device client against the deployed pipeline: killed and cut off, it loses nothing."""

from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest
from telemetry_client import Avro, Client, ClientOptions, Https, Json, Mqtt, Remedy, Verdict
from telemetry_client.formats import Format
from telemetry_client.transport import Transport

from local.fleet.credentials import issue_certificates, mqtt_authority
from local.fleet.reading import MINUTE_MS
from tests.client.faults import suffer
from tests.pipeline.deployed import Pipeline, becomes, minutes_ago


def test_a_device_client_that_is_killed_and_cut_off_has_each_reading_in_a_window_once(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    name = "suffering", pipeline.token("suffering")
    journal = suffer(
        pipeline.state.api_url, tmp_path, seconds=2.0, seed=2, name=name, timeout_s=10.0
    )
    assert journal.problems == []
    assert len(journal.recorded) > 20
    assert journal.kills > 0
    expected = Counter(at_ms - at_ms % MINUTE_MS for at_ms in journal.sent)
    becomes(lambda: pipeline.counts("suffering"), dict(expected), "the windows")


def test_a_reading_that_the_pipeline_refuses_is_put_aside_by_the_client(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    minute = minutes_ago(3)
    transport = Https(pipeline.state.api_url, pipeline.token("picky"), proxy=None)
    with Client(tmp_path / "a.db", "picky", transport, ClientOptions(close_s=20)) as client:
        client.record(temperature=20.0, recorded_at=minute)
        client.store._sql.execute("UPDATE readings SET metrics = '{\"temperature\":412.0}'")
        client.record(temperature=21.0, recorded_at=minute + 1)
        assert client.flush(20)
        (row,) = client.store.rejected()
        assert client.status().taken == 1
    assert (row["field"], row["value"]) == ("temperature", 412.0)
    assert row["reason"] == "412.0 is above 150.0 °C"
    becomes(lambda: pipeline.counts("picky"), {minute: 1}, "the window")


def test_a_wrong_token_loses_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    minute = minutes_ago(3)
    store = tmp_path / "a.db"
    one = Client(store, "locked", Https(pipeline.state.api_url, "locked.wrong", proxy=None))
    one.record(temperature=20.0, recorded_at=minute)
    assert not one.flush(0.5)
    one.close()
    assert one.problem is not None
    assert one.problem.startswith(("401: ", "403: "))
    token = pipeline.token("locked")
    with Client(store, "locked", Https(pipeline.state.api_url, token, proxy=None)) as other:
        assert other.flush(20)
    becomes(lambda: pipeline.counts("locked"), {minute: 1}, "the window")


@pytest.mark.parametrize("is_packed", [False, True])
def test_avro_with_an_unknown_schema_version_is_sent_as_json(
    pipeline: Pipeline, tmp_path: Path, is_packed: bool
) -> None:
    """A device may have newer firmware than the pipeline, or an id of another stack's registry."""
    minute, device_id = minutes_ago(3), f"unknown-{is_packed}"
    written = Avro(str(uuid4()), gzip=is_packed)
    way = Https(pipeline.state.api_url, pipeline.token(device_id), body_format=written, proxy=None)
    problems: list[Verdict] = []
    options = ClientOptions(on_problem=problems.append)
    with Client(tmp_path / "a.db", device_id, way, options) as client:
        for second in range(3):
            client.record(temperature=20.0 + second, recorded_at=minute + second)
        assert client.flush(20), client.problem
        assert (client.status().taken, client.status().rejected) == (3, 0)
    assert [each.remedy for each in problems] == [Remedy.PLAINER]
    becomes(lambda: pipeline.counts(device_id), {minute: 3}, "the window")


WAYS = (
    "https json gzip",
    "https avro 1",
    "https avro 3 gzip",
    "mqtt readings",
    "mqtt json gzip",
    "mqtt avro 1",
)


@pytest.mark.parametrize("way", WAYS)
def test_each_transport_and_format_brings_readings_into_their_window(
    pipeline: Pipeline, tmp_path: Path, way: str
) -> None:
    minute, device_id = minutes_ago(3), way.replace(" ", "-")
    with Client(tmp_path / "a.db", device_id, transport(pipeline, device_id, way)) as client:
        for second in range(3):
            client.record(temperature=20.0 + second, recorded_at=minute + second)
        assert client.flush(20), client.problem
        assert client.status().taken == 3
    becomes(lambda: pipeline.counts(device_id), {minute: 3}, "the window")


def transport(pipeline: Pipeline, device_id: str, way: str) -> Transport:
    """Return a device's transport: protocol, format, schema version, compression."""
    protocol, form, *more = way.split()
    is_packed, versions = "gzip" in more, [int(each) for each in more if each.isdigit()]
    written: Format = Json(gzip=is_packed)
    for version in versions:
        written = Avro(str(pipeline.schema_ids()[version - 1]), version, gzip=is_packed)
    if protocol == "https":
        token = pipeline.token(device_id)
        return Https(pipeline.state.api_url, token, body_format=written, proxy=None)
    files = issue_certificates(pipeline.instance, [device_id])[device_id]
    return Mqtt(
        "127.0.0.1",
        pipeline.state.mqtt_port,
        ca_file=mqtt_authority(pipeline.instance.folder),
        client_certificate=(str(files.certificate), str(files.key)),
        body_format=None if form == "readings" else written,
        topics="readings" if form == "readings" else "batch",
    )
