"""Devices that write to InfluxDB: its own clients write here, and windows have their points."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from influxdb import InfluxDBClient
from influxdb.exceptions import InfluxDBClientError
from influxdb_client.client.influxdb_client import InfluxDBClient as InfluxDB2Client
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from local.api import Json
from tests.pipeline.deployed import Pipeline, bearer, becomes, minutes_ago

MS: Any = WritePrecision.MS  # a class of texts, which the client has typed as if it were an enum


@contextmanager
def client_1(pipeline: Pipeline, subject: str) -> Iterator[Any]:
    """Return the client of InfluxDB 1, with a user, a password and the stage as a path."""
    url = urlsplit(pipeline.state.api_url)
    name, _, secret = pipeline.token(subject).partition(".")
    client = InfluxDBClient(url.hostname, url.port, name, secret, "plant", path=url.path, gzip=True)
    client._session.trust_env = False  # no proxy lies between
    with client:
        yield client


@contextmanager
def client_2(pipeline: Pipeline, subject: str) -> Iterator[InfluxDB2Client]:
    """Return the client of InfluxDB 2, with a token."""
    token = pipeline.token(subject)
    with InfluxDB2Client(
        pipeline.state.api_url, token=token, org="plant", enable_gzip=True
    ) as client:
        yield client


def window(pipeline: Pipeline, device_id: str, minute_ms: int, count: int) -> Json:
    """Return the metrics of a window, once it has this number of readings."""
    found = becomes(
        lambda: pipeline.windows(device_id).get(minute_ms, {}),
        lambda window: window.get("count", 0) >= count,
        f"the window of {device_id}",
    )
    assert found["count"] == count
    metrics: Json = found["metrics"]
    return metrics


def test_points_of_the_influxdb_1_client_are_in_windows(pipeline: Pipeline) -> None:
    minute = minutes_ago(8)
    temperatures = [2, 4, 4, 4, 5, 5, 7, 9]  # mean 5; squares of the distances: 32, an 8th is 4
    points = [
        {
            "measurement": "weather",
            "tags": {"host": "influx-1", "room": "a b,c=d"},
            "time": minute + 1000 * index,
            "fields": {"temperature": float(value), "note": 'it said "ü"', "door": True},
        }
        for index, value in enumerate(temperatures)
    ]
    humid = {"measurement": "air", "tags": {"device": "influx-1"}, "time": minute}
    with client_1(pipeline, "gateway") as client:
        assert client.ping().startswith("1.8")
        client.create_database("plant")
        assert client.get_list_database() == []
        for _ in range(2):  # a client that heard no answer sends again
            client.write_points(points, time_precision="ms")
        client.write_points([{**humid, "fields": {"humidity": 40}}], time_precision="ms")
    window(pipeline, "influx-1", minute, 8)  # the last point shares an instant with another
    metrics: Json = becomes(
        lambda: pipeline.windows("influx-1")[minute]["metrics"],
        lambda found: "humidity" in found,
        "the humidity",
    )
    temperature = metrics["temperature"]
    assert (temperature["count"], temperature["mean"], temperature["stddev"]) == (8, 5.0, 2.0)
    assert (metrics["humidity"]["count"], metrics["humidity"]["last"]) == (1, 40.0)


def test_points_of_the_influxdb_2_client_are_in_windows(pipeline: Pipeline) -> None:
    minute = minutes_ago(8)
    lines = [f"room temperature_f={98.6 + 1.8 * index} {minute + index}" for index in range(5)]
    with client_2(pipeline, "influx-2") as client:  # a device, whose points need no tag
        assert client.ping()
        writer = client.write_api(write_options=SYNCHRONOUS)
        writer.write("plant", record=lines, write_precision=MS)
    temperature = window(pipeline, "influx-2", minute, 5)["temperature"]
    means = temperature["min"], temperature["mean"], temperature["max"]
    assert means == pytest.approx((37.0, 39.0, 41.0))


def test_the_clients_are_told_which_lines_were_dropped_and_the_others_are_kept(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(8)
    lines = [f"m,host=influx-3 battery={value} {minute}" for value in ("3.5", "low")]
    with client_1(pipeline, "gateway") as client, pytest.raises(InfluxDBClientError) as first:
        client.write_points(lines, time_precision="ms", protocol="line")
    assert first.value.code == 400
    assert "partial write: line 2, column 25: field battery: 'low' is" in str(first.value)
    lines = [f"m,host={name} battery=3.6 {minute + 1}" for name in ("influx-3", "influx.3")]
    with client_2(pipeline, "gateway") as client, pytest.raises(ApiException) as second:
        client.write_api(write_options=SYNCHRONOUS).write("b", record=lines, write_precision=MS)
    assert second.value.status == 400
    assert "line 2: tag host: is no device's id" in second.value.message
    assert window(pipeline, "influx-3", minute, 2)["battery"]["mean"] == pytest.approx(3.55)


def test_a_device_writes_only_its_own_points_and_without_a_token_none(pipeline: Pipeline) -> None:
    lines = f"m,host=victim temperature=20 {minutes_ago(8) * 1_000_000}"
    own = bearer(pipeline.token("influx-4"))
    answer = pipeline.http.post("/write", content=lines, headers=own)
    assert answer.status_code == 400
    assert "differs from the device that posts, influx-4" in answer.json()["error"]
    operator = bearer(pipeline.token("operator"))
    for path in ("/write", "/api/v2/write", "/query"):
        assert pipeline.http.post(path, content=lines, headers=operator).status_code == 403
        # InfluxDB 1's parameters u and p aren't looked at
        query = {"u": "gateway", "p": pipeline.token("gateway").partition(".")[2]}
        assert pipeline.http.post(path, content=lines, params=query).status_code == 401
    assert pipeline.http.get("/ping").status_code == 401
    assert pipeline.http.head("/ping", headers=own).status_code == 204
