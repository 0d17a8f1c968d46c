"""Tokens: what a bearer is, what a grant is, and what each role may call."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.token import Grant, allowed, hashed, parse_bearer, parse_grant, same
from telemetry.errors import Rejected

SECRET = "Az09_-" * 7


def test_a_bearer_token_is_a_subject_and_a_secret() -> None:
    assert parse_bearer(f"Bearer pump-1.{SECRET}") == ("pump-1", SECRET)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer pump-1",
        "Bearer pump-1.",
        f"Bearer .{SECRET}",
        "Bearer pump-1.short",
        f"Bearer pump-1.{'x' * 129}",
        f"Bearer {'x' * 129}.{SECRET}",
        f"Digest pump-1.{SECRET}",
        f"Token pump-1:{SECRET}",
        f" Bearer pump-1.{SECRET}",
        f"Bearer\tpump-1.{SECRET}",
        f"BeareR{SECRET} pump-1.{SECRET}",
        f"Bearer pump-1.{SECRET} ",
        f"Bearer pump-1.{SECRET}\n",
        f"Bearer pump 1.{SECRET}",
        f"Bearer pump*.{SECRET}",
        f"Bearer pump/1.{SECRET}",
        f"Bearer pump-1.{SECRET}.{SECRET}",
        f"Bearer pümp-1.{SECRET}",
    ],
)
def test_any_other_header_is_none(header: str) -> None:
    assert parse_bearer(header) is None


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "token", "tOKEN", "Bearer ", "token   "])
def test_a_scheme_may_be_in_any_case_with_spaces_behind_it(scheme: str) -> None:
    assert parse_bearer(f"{scheme} pump-1.{SECRET}") == ("pump-1", SECRET)
    name = {"b": "basic", "t": "BASIC"}[scheme[0].lower()]
    user = basic(f"pump-1:{SECRET}").replace("Basic", name + scheme[6:])
    assert parse_bearer(user) == ("pump-1", SECRET)


def test_a_token_keeps_its_case() -> None:
    assert parse_bearer(f"bearer PUMP-1.{SECRET}") == ("PUMP-1", SECRET)


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


def test_clients_of_influxdb_2_call_a_bearer_token_token() -> None:
    assert parse_bearer(f"Token pump-1.{SECRET}") == ("pump-1", SECRET)


def test_clients_of_influxdb_1_send_the_subject_as_user_and_the_secret_as_password() -> None:
    # RFC 7617's form, by hand: "p:" and 20 times "s"
    header = "Basic cDpz" + "c3Nz" * 6 + "cw=="
    assert parse_bearer(header) == ("p", "s" * 20)
    assert parse_bearer(basic(f"pump-1:{SECRET}")) == ("pump-1", SECRET)


@pytest.mark.parametrize("subject", ["p", "pu", "pum", "x" * 128])  # no padding, one =, two
@pytest.mark.parametrize("secret", ["s" * 20, "s" * 128])
def test_a_user_and_a_password_may_be_of_any_length(subject: str, secret: str) -> None:
    assert parse_bearer(basic(f"{subject}:{secret}")) == (subject, secret)


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic cHVtcC0xOnNlY3JldA==",
        basic(f"pump-1.{SECRET}"),
        basic(f"pump-1:{SECRET}:{SECRET}"),
        basic(f"pump-1:{SECRET}\n"),
        basic(f":{SECRET}"),
        basic(f"pump 1:{SECRET}"),
        basic(f"pümp:{SECRET}"),
        basic(f"pump-1:{'x' * 129}"),
        basic(f"pump-1:{SECRET}") + "=",
        basic(f"pump-1:{SECRET}")[:-1],
    ],
)
def test_any_other_user_and_password_is_none(header: str) -> None:
    assert parse_bearer(header) is None


@given(st.binary())
def test_no_password_makes_it_fail(user: bytes) -> None:
    parse_bearer("Basic " + base64.b64encode(user).decode())


@given(st.text())
def test_no_header_makes_it_fail(header: str) -> None:
    parse_bearer(header)
    assert parse_bearer(f"Bearer {header}") is None or "." in header


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"subject": "pump-1", "role": "device"}, Grant("pump-1", "device")),
        ({"subject": "claimed-1", "role": "device"}, Grant("claimed-1", "device")),
        ({"subject": "claim-desk", "role": "operator"}, Grant("claim-desk", "operator")),
        ({"subject": "ann", "role": "operator"}, Grant("ann", "operator")),
        ({"subject": "boss", "role": "admin"}, Grant("boss", "admin")),
        ({"subject": "g", "role": "gateway", "prefix": "p-"}, Grant("g", "gateway", "p-")),
        ({"subject": "g", "role": "gateway", "prefix": ""}, Grant("g", "gateway", "")),
    ],
)
def test_a_grant_is_read(raw: Any, expected: Grant) -> None:
    assert parse_grant(raw) == expected


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (None, None),
        ([], None),
        ("pump-1", None),
        ({}, "subject"),
        ({"subject": "a b", "role": "device"}, "subject"),
        ({"subject": "a\n", "role": "device"}, "subject"),
        ({"subject": "a", "role": "root"}, "role"),
        ({"subject": "a", "role": None}, "role"),
        ({"subject": "claim-1", "role": "device"}, "subject"),
        ({"subject": "g", "role": "gateway"}, "prefix"),
        ({"subject": "g", "role": "gateway", "prefix": "p*"}, "prefix"),
        ({"subject": "a", "role": "device", "prefix": ""}, "prefix"),
        ({"subject": "a", "role": "device", "secret": "mine"}, "secret"),
    ],
)
def test_what_is_no_grant_is_rejected_by_field(raw: Any, field: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_grant(raw)
    assert caught.value.field == field


def test_a_gateway_that_may_write_for_every_device_must_say_so() -> None:
    with pytest.raises(Rejected, match='"" for every device'):
        parse_grant({"subject": "g", "role": "gateway"})


def test_a_secret_is_stored_as_its_sha256() -> None:
    # from FIPS 180-2's example: the digest of "abc"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashed("abc") == digest
    assert same("abc", digest)
    assert not same("abd", digest)
    assert not same("", digest)
    assert not same("abc", digest[:-1] + "e")


INFLUX = [*("POST/write", "POST/api/v2/write", "POST/query", "GET/query", "GET/ping", "HEAD/ping")]


@pytest.mark.parametrize(
    ("grant", "methods"),
    [
        (Grant("pump-1", "device"), ["POST/devices/pump-1/readings", *INFLUX]),
        (Grant("g", "gateway", "p-"), ["POST/readings", *INFLUX]),
        (Grant("ann", "operator"), ["GET/*"]),
        (Grant("boss", "admin"), ["GET/*", "POST/tokens", "DELETE/tokens/*"]),
        (Grant("odd", "unheard-of"), []),
    ],
)
def test_each_role_has_its_methods(grant: Grant, methods: list[str]) -> None:
    assert allowed(grant) == methods
