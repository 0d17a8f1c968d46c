"""The relay through which a function in a container reaches the embedded AWS."""

import http.client
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

from local.instance import State
from local.invoke import LOOPBACK, relayed
from tests.contract.conftest import ROOT

ADDRESS = IPv4Address("127.0.0.1")


@pytest.fixture
def state(embedded_endpoint: str) -> State:
    port = urlsplit(embedded_endpoint).port or 0
    return State(port=port, access_key=ROOT.key_id, secret_key=ROOT.secret)


def client(endpoint: str, service: str, secret: str = ROOT.secret) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service, endpoint_url=endpoint, aws_access_key_id=ROOT.key_id, aws_secret_access_key=secret
    )


def test_requests_signed_for_the_relay_are_accepted_one_after_another(state: State) -> None:
    body = b"more than a packet " * 20_000
    with relayed(state, LOOPBACK, ADDRESS) as endpoint:
        assert f":{state.port}" not in endpoint
        s3 = client(endpoint, "s3")
        s3.create_bucket(Bucket="relayed")
        s3.put_object(Bucket="relayed", Key="a b", Body=body)
        assert s3.get_object(Bucket="relayed", Key="a b")["Body"].read() == body
        s3.delete_object(Bucket="relayed", Key="a b")
        s3.delete_bucket(Bucket="relayed")


def status(address: str, path: str, headers: dict[str, str]) -> int:
    """Return the status of an answer; 0 if the connection ends without one."""
    connection = http.client.HTTPConnection(address, timeout=10)
    with closing(connection):
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        except (http.client.RemoteDisconnected, ConnectionError):
            return 0


def test_the_relay_accepts_only_correctly_signed_requests(state: State) -> None:
    with relayed(state, LOOPBACK, ADDRESS) as endpoint:
        dynamodb = client(endpoint, "dynamodb", secret="another")
        with pytest.raises(ClientError, match="InvalidSignature"):
            dynamodb.list_tables()
        address = urlsplit(endpoint).netloc
        assert status(address, "/", {"X-Relayed-Host": "a", "X-Relay-Proof": "b"}) == 403
        assert status(address, "/_aws/execute-api/a/v1/b", {"Origin": "null"}) == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:{own}", "127.0.0.1"])
def test_the_relay_ends_a_connection_for_another_host(state: State, host: str) -> None:
    with relayed(state, LOOPBACK, ADDRESS) as endpoint:
        named = host.format(own=state.port)
        assert status(urlsplit(endpoint).netloc, "/", {"Host": named}) == 0


def test_the_relay_is_only_for_containers(state: State) -> None:
    with relayed(state, IPv4Network("172.17.0.0/16"), ADDRESS) as endpoint:
        assert status(urlsplit(endpoint).netloc, "/", {}) == 0


def test_the_relay_is_on_loopback_if_the_bridge_is_elsewhere(state: State) -> None:
    """Docker Desktop runs containers in a virtual machine, and forwards to the host's loopback."""
    with relayed(state, IPv4Network("192.0.2.0/24"), IPv4Address("192.0.2.1")) as endpoint:
        host = urlsplit(endpoint).netloc
        assert host.startswith("host.docker.internal:")
        here = f"127.0.0.1:{host.partition(':')[2]}"
        assert (
            status(here, "/", {"Host": host}) == 403
        )  # the embedded AWS refuses it: it isn't signed
