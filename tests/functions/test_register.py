"""Register: tokens are created all or none, shown once, and revoked."""

from typing import Any

import pytest
from telemetry.domain.token import Grant

from functions.register.handler import run
from tests.fakes import MemoryRegistry
from tests.functions.incoming import NOW_MS, body_of, request


class Stage:
    """The function with its registry in memory; its secrets are numbered."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self.issued = 0

    def secret(self) -> str:
        self.issued += 1
        return f"secret-{self.issued}"

    def create(self, body: Any) -> dict[str, Any]:
        return run(request("POST", "/tokens", body), NOW_MS, self.secret, self.registry)

    def revoke(self, subject: str) -> dict[str, Any]:
        event = request("DELETE", "/tokens/{subject}", None, {"subject": subject})
        return run(event, NOW_MS, self.secret, self.registry)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_token_is_created_and_shown(stage: Stage) -> None:
    response = stage.create({"subject": "pump-1", "role": "device"})
    assert response["statusCode"] == 201
    assert body_of(response) == {"subject": "pump-1", "role": "device", "token": "pump-1.secret-1"}
    assert stage.registry.find("pump-1", "secret-1") == Grant("pump-1", "device")


def test_a_request_with_a_name_twice_is_refused_by_name(stage: Stage) -> None:
    body = b'{"subject": "pump-1", "role": "device", "role": "admin"}'
    event = request("POST", "/tokens", None) | {"body": body.decode()}
    response = run(event, NOW_MS, stage.secret, stage.registry)
    assert response["statusCode"] == 400
    assert (
        body_of(response)["message"] == "role: is there twice, as device and admin; leave one out"
    )
    assert stage.registry.grants == {}


def test_several_tokens_are_created_at_once(stage: Stage) -> None:
    grants = [
        {"subject": "plant", "role": "gateway", "prefix": "plant-7-"},
        {"subject": "ann", "role": "operator"},
    ]
    response = stage.create({"tokens": grants})
    assert response["statusCode"] == 201
    assert body_of(response) == {
        "tokens": [
            {"subject": "plant", "role": "gateway", "token": "plant.secret-1"},
            {"subject": "ann", "role": "operator", "token": "ann.secret-2"},
        ]
    }
    assert stage.registry.find("plant", "secret-1") == Grant("plant", "gateway", "plant-7-")


def test_subjects_that_are_there_are_named_and_nothing_is_created(stage: Stage) -> None:
    stage.create({"tokens": [{"subject": f"pump-{index}", "role": "device"} for index in (1, 3)]})
    batch = [{"subject": f"pump-{index}", "role": "device"} for index in range(5)]
    response = stage.create({"tokens": batch})
    assert response["statusCode"] == 409
    assert body_of(response)["subjects"] == ["pump-1", "pump-3"]
    assert stage.registry.grants.keys() == {"pump-1", "pump-3"}
    assert stage.registry.find("pump-1", "secret-1")  # the old token still counts


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"subject": "pump 1", "role": "device"}, "subject"),
        ({"subject": "pump-1\n", "role": "device"}, "subject"),
        ({"subject": "x" * 129, "role": "device"}, "subject"),
        ({"subject": "", "role": "device"}, "subject"),
        ({"subject": 7, "role": "device"}, "subject"),
        ({"role": "device"}, "subject"),
        ({"subject": "admin", "role": "admin"}, "subject"),
        ({"subject": "pump-1"}, "role"),
        ({"subject": "pump-1", "role": "king"}, "role"),
        ({"subject": "pump-1", "role": ["admin"]}, "role"),
        ({"subject": "plant", "role": "gateway"}, "prefix"),
        ({"subject": "plant", "role": "gateway", "prefix": "*"}, "prefix"),
        ({"subject": "plant", "role": "gateway", "prefix": None}, "prefix"),
        ({"subject": "pump-1", "role": "device", "prefix": "pump-"}, "prefix"),
        ({"subject": "pump-1", "role": "device", "colour": "red"}, "colour"),
        ({"tokens": []}, "tokens"),
        ({"tokens": {}}, "tokens"),
        (
            {"tokens": [{"subject": f"p{index}", "role": "device"} for index in range(101)]},
            "tokens",
        ),
        ({"tokens": [{"subject": "a", "role": "device"}] * 2}, "subject"),
        ({"tokens": [{"subject": "a", "role": "device"}, {"subject": "b"}]}, "role"),
        ("{", "body"),
        ("", "body"),
    ],
)
def test_an_invalid_grant_is_refused_with_its_field_and_nothing_is_created(
    stage: Stage, body: Any, field: str
) -> None:
    response = stage.create(body)
    assert response["statusCode"] == 400
    assert body_of(response)["field"] == field
    assert body_of(response)["reason"]
    assert stage.registry.grants == {}


@pytest.mark.parametrize("body", ["[]", "7", "null", '"text"', "[1]"])
def test_a_body_that_is_no_object_is_refused(stage: Stage, body: str) -> None:
    assert stage.create(body)["statusCode"] == 400


def test_a_body_over_a_mebibyte_is_too_large(stage: Stage) -> None:
    assert stage.create(" " * 1_048_577)["statusCode"] == 413


def test_a_revoked_token_counts_no_more(stage: Stage) -> None:
    stage.create({"subject": "pump-1", "role": "device"})
    response = stage.revoke("pump-1")
    assert response["statusCode"] == 200
    assert body_of(response) == {"subject": "pump-1", "revoked": True}
    assert stage.registry.find("pump-1", "secret-1") is None
    assert stage.create({"subject": "pump-1", "role": "device"})["statusCode"] == 201


def test_a_subject_without_a_token_cannot_be_revoked(stage: Stage) -> None:
    response = stage.revoke("pump-1")
    assert response["statusCode"] == 404
    assert "pump-1" in body_of(response)["message"]


@pytest.mark.parametrize("subject", ["", "x" * 129, "x" * 2049, "a\x00b", "\ud800", "a b", "é"])
def test_a_subject_that_cannot_be_is_refused_before_the_table_is_asked(
    stage: Stage, subject: str
) -> None:
    response = stage.revoke(subject)
    assert response["statusCode"] == 400
    assert body_of(response)["field"] == "subject"
