"""Who may call what: every token its own, and nothing else."""

import pytest

from local.fleet.reading import Reading
from tests.pipeline.deployed import Pipeline, at, bearer, minutes_ago

REFUSED = {401, 403}


def post(pipeline: Pipeline, headers: dict[str, str], device_id: str = "insider") -> int:
    """The status that a reading of a device gets."""
    body = at(minutes_ago(3), 1, temperature=20.0)
    path = f"/devices/{device_id}/readings"
    return pipeline.http.post(path, json=body, headers=headers).status_code


def test_a_device_writes_only_its_own_readings(pipeline: Pipeline) -> None:
    token = bearer(pipeline.token("insider"))
    pipeline.token("victim")
    assert post(pipeline, token) == 202
    assert post(pipeline, token, "victim") == 403
    in_anothers_name = {"device_id": "victim", **at(minutes_ago(3), 1, temperature=20.0)}
    answer = pipeline.post("/devices/insider/readings", "insider", in_anothers_name)
    assert (answer.status_code, answer.json()["rejected"][0]["field"]) == (400, "device_id")
    assert pipeline.post("/readings", "insider", [in_anothers_name]).status_code == 403
    last = minutes_ago(1)
    pipeline.passed(last, "victim")  # by its own reading
    assert pipeline.counts("victim") == {last: 1}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Bearer insider." + "A" * 43, id="a wrong secret"),
        pytest.param("Bearer nobody." + "A" * 43, id="nobody's"),
        pytest.param("Bearer admin." + "A" * 43, id="a wrong admin secret"),
        pytest.param("Bearer insider", id="no secret"),
        pytest.param("Bearer insider.", id="an empty secret"),
        pytest.param("Bearer ." + "A" * 43, id="no subject"),
        pytest.param("Bearer", id="no token"),
        pytest.param("Basic aW5zaWRlcjpzZWNyZXQ=", id="another scheme"),
        pytest.param("Bearer insider." + "A" * 2000, id="far too long"),
        pytest.param("Bearer ../admin." + "A" * 43, id="a subject that is a path"),
        pytest.param("Bearer *." + "A" * 43, id="a subject that is a wildcard"),
        pytest.param(None, id="no header"),
    ],
)
def test_a_token_that_is_wrong_malformed_or_missing_is_refused(
    pipeline: Pipeline, header: str | None
) -> None:
    pipeline.token("insider")
    headers = {"Authorization": header} if header is not None else {}
    assert post(pipeline, headers) in REFUSED
    assert pipeline.http.get("/alerts", headers=headers).status_code in REFUSED
    assert pipeline.http.post("/tokens", json={}, headers=headers).status_code in REFUSED


def test_a_secret_with_another_subjects_name_is_a_wrong_token(pipeline: Pipeline) -> None:
    _, _, secret = pipeline.token("insider").partition(".")
    for subject in ("admin", "operator", "gateway", "Insider"):
        assert post(pipeline, bearer(f"{subject}.{secret}")) in REFUSED, subject


def test_a_device_cannot_read_and_an_operator_cannot_write(pipeline: Pipeline) -> None:
    for path in ("/devices/insider", "/devices/insider/windows", "/alerts"):
        device = pipeline.http.get(path, headers=bearer(pipeline.token("insider")))
        gateway = pipeline.http.get(path, headers=bearer(pipeline.token("gateway")))
        assert (device.status_code, gateway.status_code) == (403, 403), path
    assert post(pipeline, bearer(pipeline.token("operator"))) == 403
    reading = Reading("insider", minutes_ago(3), {"temperature": 20.0})
    assert pipeline.post("/readings", "operator", [reading.body()]).status_code == 403
    assert pipeline.http.get("/health").status_code == 200  # the one path without a token


def test_a_gateway_is_refused_each_reading_outside_its_prefix(pipeline: Pipeline) -> None:
    hall = {"subject": "gateway-hall-1", "role": "gateway", "prefix": "hall-1-"}
    created = pipeline.post("/tokens", "admin", hall)
    assert created.status_code == 201, created.text
    names = ("hall-1-pump", "hall-10-pump", "hall-1-fan", "pump-hall-1-")
    readings = [Reading(name, minutes_ago(3), {"temperature": 20.0}).body() for name in names]
    headers = bearer(created.json()["token"])
    answer = pipeline.http.post("/readings", json=readings, headers=headers)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    refused = [(refusal["index"], refusal["field"]) for refusal in answer.json()["rejected"]]
    assert refused == [(1, "device_id"), (3, "device_id")]
    only_others = pipeline.http.post("/readings", json=readings[1::2], headers=headers)
    assert only_others.status_code == 400


def test_only_an_admin_creates_and_revokes_tokens(pipeline: Pipeline) -> None:
    wanted = {"subject": "admins-friend", "role": "admin"}
    for subject in ("insider", "gateway", "operator"):
        assert pipeline.post("/tokens", subject, wanted).status_code == 403, subject
        headers = bearer(pipeline.token(subject))
        assert pipeline.http.delete("/tokens/operator", headers=headers).status_code == 403
    created = pipeline.post("/tokens", "admin", wanted)
    assert created.status_code == 201
    headers = bearer(created.json()["token"])
    again = pipeline.http.post("/tokens", json=wanted, headers=headers)
    assert (again.status_code, again.json()["subjects"]) == (409, ["admins-friend"])
    stored = pipeline.aws("dynamodb").scan(TableName=pipeline.outputs["DevicesTable"])["Items"]
    _, _, secret = created.json()["token"].partition(".")
    assert "admins-friend" in str(stored)
    assert secret not in str(stored)  # a hash of it is


def test_a_revoked_token_is_refused(pipeline: Pipeline) -> None:
    token = pipeline.token("short-lived")  # API Gateway knows an answer for a minute: not used yet
    headers = bearer(pipeline.token("admin"))
    assert pipeline.http.delete("/tokens/short-lived", headers=headers).status_code == 200
    assert post(pipeline, bearer(token), "short-lived") == 403
    assert pipeline.http.delete("/tokens/short-lived", headers=headers).status_code == 404
