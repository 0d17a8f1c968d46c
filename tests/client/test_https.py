"""The HTTPS transport, against a loopback server."""

import select
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema
from telemetry_client.answers import Remedy
from telemetry_client.errors import Invalid
from telemetry_client.formats import Avro, Json
from telemetry_client.https import Https
from telemetry_client.reading import Queued, schemas

from tests.client.certificates import Authority
from tests.client.servers import Network, Pipeline, accepted, in_turn, serving, shut

READINGS = [Queued(each, 1_800_000_000_000 + each, '{"temperature":20.0}') for each in range(3)]
ID = "12345678-1234-1234-1234-123456789abc"
TOKEN = "pump-17.secret"
Fates = tuple[list[int], list[int]]


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with serving(Pipeline()) as server:
        yield server


def deliver(url: str, **options: Any) -> Fates:
    """Return the taken readings and those to be sent again."""
    way = Https(url, TOKEN, **{"proxy": None, "timeout_s": 5, **options})
    try:
        verdict = way.deliver("pump-17", READINGS)
    finally:
        way.close()
    return verdict.taken, verdict.again


def test_a_batch_is_posted_with_the_devices_token_to_its_own_path(pipeline: Pipeline) -> None:
    assert deliver(pipeline.url + "/") == ([0, 1, 2], [])
    (request,) = pipeline.requests
    assert request["path"] == "/prod/devices/pump-17/readings"
    assert request["headers"]["Authorization"] == "Bearer pump-17.secret"
    assert pipeline.instants == [each.recorded_at_ms for each in READINGS]


@pytest.mark.parametrize("body_format", [Json(gzip=True), Avro(ID), Avro(ID, gzip=True)])
def test_every_format_arrives(pipeline: Pipeline, body_format: Any) -> None:
    pipeline.schemas[ID] = parse_schema(schemas()[-1])
    assert deliver(pipeline.url, body_format=body_format) == ([0, 1, 2], [])
    assert pipeline.instants == [each.recorded_at_ms for each in READINGS]


def test_a_format_that_the_api_does_not_read_is_given_up_for_json(pipeline: Pipeline) -> None:
    pipeline.script = in_turn((400, {"message": "body is not JSON", "field": "body"}, {}))
    way = Https(pipeline.url, TOKEN, body_format=Json(gzip=True), proxy=None)
    assert way.deliver("pump-17", READINGS).remedy is Remedy.PLAINER
    assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
    way.close()
    assert [each["headers"].get("Content-Encoding") for each in pipeline.requests] == ["gzip", None]


def test_one_connection_serves_many_batches(pipeline: Pipeline) -> None:
    with Network(pipeline.server_port, seed=1) as network:
        way = Https(f"http://127.0.0.1:{network.port}/prod", TOKEN, proxy=None)
        for _ in range(5):
            assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        assert len(network._open) == 2  # one, from each side
        way.close()


def test_a_kept_connection_that_has_ended_is_made_anew_at_once(pipeline: Pipeline) -> None:
    with Network(pipeline.server_port, seed=1) as network:
        way = Https(f"http://127.0.0.1:{network.port}/prod", TOKEN, proxy=None)
        way.deliver("pump-17", READINGS)
        network.cut()
        network.is_cut = False
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        way.close()


@pytest.mark.parametrize("says_so", [True, False])
def test_a_kept_tls_connection_that_has_ended_is_made_anew_at_once(
    tmp_path: Path, says_so: bool
) -> None:
    """An API ends idle connections, some with TLS's own word and some without."""
    signed = Authority(tmp_path)
    server = Pipeline()
    open_ones: list[Any] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signed.issue("localhost"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    accept = server.get_request

    def note_and_accept() -> Any:
        open_ones.append(accept()[0])
        return open_ones[-1], ("127.0.0.1", 0)

    server.get_request = note_and_accept  # type: ignore[method-assign]
    with serving(server):
        url = f"https://localhost:{server.server_port}/prod"
        way = Https(url, TOKEN, proxy=None, ca_file=signed.ca_file)
        for number in range(1, 4):
            verdict = way.deliver("pump-17", READINGS)
            assert (verdict.taken, verdict.problem) == ([0, 1, 2], None)
            assert len(open_ones) == number
            end(open_ones[-1], says_so)
        way.close()


def end(connection: ssl.SSLSocket, says_so: bool) -> None:
    """End a connection from the server's side, with or without a close_notify."""
    if says_so:
        connection.settimeout(0.2)
        with suppress(OSError):  # the client's own word may come late
            connection.unwrap().close()
    shut(connection)


def test_an_answer_that_drips_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        way = Https(f"http://127.0.0.1:{listener.getsockname()[1]}", TOKEN, timeout_s=0.3)
        started = time.monotonic()
        assert way.deliver("pump-17", READINGS).again == [0, 1, 2]
        assert time.monotonic() - started < 3
        way.close()
        thread.join()


def drip(listener: socket.socket) -> None:
    """Answer a byte at a time, each well within the client's patience."""
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n")
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.1)


def test_a_tunnel_goes_through_the_proxy_to_the_api_and_the_token_stays_within(
    tmp_path: Path,
) -> None:
    signed, asked = Authority(tmp_path), []
    server = Pipeline()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signed.issue("localhost"))
    server.socket = context.wrap_socket(server.socket, server_side=True)

    class Proxy(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65_536).decode())
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            carry(self.request, server.server_port)

    with (
        serving(server),
        serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy)) as proxy,
    ):
        way = Https(
            "https://localhost:1/prod",
            TOKEN,
            ca_file=signed.ca_file,
            proxy=f"http://user:secret@127.0.0.1:{proxy.server_address[1]}",
        )
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        way.close()
    (request,) = asked
    assert request.startswith("CONNECT localhost:1 HTTP/1.")
    assert "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in request
    assert TOKEN not in request


def carry(near: socket.socket, port: int) -> None:
    """Copy both ways, until the client ends the connection."""
    with socket.create_connection(("127.0.0.1", port)) as far:
        while True:
            for each in select.select([near, far], [], [])[0]:
                data = each.recv(65_536)
                if not data:
                    return
                (far if each is near else near).sendall(data)


def test_a_refused_connection_is_no_answer() -> None:
    way = Https("http://127.0.0.1:1/prod", TOKEN, proxy=None)
    verdict = way.deliver("pump-17", READINGS)
    assert (verdict.again, verdict.remedy) == ([0, 1, 2], Remedy.LESS)
    assert verdict.problem is not None
    assert "refused" in verdict.problem


def test_an_answer_after_the_timeout_is_no_answer(pipeline: Pipeline) -> None:
    def sleep(_pipeline: Pipeline, _readings: Any) -> None:
        time.sleep(0.5)

    pipeline.script = in_turn(sleep)
    assert deliver(pipeline.url, timeout_s=0.1) == ([], [0, 1, 2])


@pytest.mark.parametrize("seed", range(10))
def test_an_answer_that_is_cut_short_takes_nothing(pipeline: Pipeline, seed: int) -> None:
    with Network(pipeline.server_port, seed) as network:
        network.reset_share = 1.0
        assert deliver(f"http://127.0.0.1:{network.port}/prod") == ([], [0, 1, 2])
        assert len(pipeline.stored) == 3  # it took them; sent again, they are counted once


def test_an_answer_without_end_is_cut_off(pipeline: Pipeline) -> None:
    pipeline.script = in_turn((202, b"x" * 2_000_000, {}))
    way = Https(pipeline.url, TOKEN, proxy=None)
    verdict = way.deliver("pump-17", READINGS)
    way.close()
    assert (verdict.again, "over 1048576 bytes" in str(verdict.problem)) == ([0, 1, 2], True)


def test_a_proxy_gets_the_whole_address(pipeline: Pipeline) -> None:
    proxy = f"http://user:p%40ss@127.0.0.1:{pipeline.server_port}"
    way = Https("http://127.0.0.1:1/prod", TOKEN, proxy=proxy)
    way.deliver("pump-17", READINGS)
    way.close()
    (request,) = pipeline.requests
    assert request["path"] == "http://127.0.0.1:1/prod/devices/pump-17/readings"
    assert request["headers"]["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"  # user:p@ss


def test_the_environment_names_the_proxy(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{pipeline.server_port}")
    monkeypatch.setenv("no_proxy", "")
    deliver("http://api.example/prod", proxy="environment")
    assert [each["path"] for each in pipeline.requests] == [
        "http://api.example/prod/devices/pump-17/readings"
    ]


def test_a_servers_certificate_counts_only_if_its_authority_is_trusted(tmp_path: Path) -> None:
    signed = Authority(tmp_path)
    server = Pipeline()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signed.issue("localhost"))
    context.load_verify_locations(signed.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        url = f"https://localhost:{server.server_port}/prod"
        own = signed.issue("pump-17")
        trusted = {"ca_file": signed.ca_file, "client_certificate": own}
        assert deliver(url, **trusted) == ([0, 1, 2], [])
        assert deliver(url, client_certificate=own) == ([], [0, 1, 2])
        assert deliver(url, ca_file=signed.ca_file) == ([], [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "ftp://a"}, "url: 'ftp://a' is not an address such as https"),
        ({"url": "https://"}, "url: 'https://' is not"),
        ({"url": "https://a:70000"}, "url: .* is not"),
        ({"url": "https://a/?b=1"}, "url: .* is not"),
        ({"token": ""}, "token: '…' is not a token"),
        ({"token": "a\nb"}, "token: '…' is not a token"),
        ({"timeout_s": 0}, "timeout_s: 0 is not above 0"),
        ({"proxy": "socks5://a"}, "proxy: 'socks5://a' is not"),
        ({"proxy": "https://a"}, "proxy: 'https://a' is not an http:// address"),
        ({"url": "https://a..b"}, "url: 'https://a..b' is not an address"),
        ({"url": "https://a/b c"}, "url: .* is not an address"),
        ({"url": "https://a/é"}, "url: .* is not an address"),
        ({"url": "https://me:secret@a/"}, "url: '…@…' has a name or password"),
    ],
)
def test_an_impossible_address_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Https(**{"url": "https://a", "token": TOKEN, **arguments})


def test_a_refused_reading_comes_with_its_reason(pipeline: Pipeline) -> None:
    entry = {"index": 2, "field": "temperature", "value": 1, "reason": "is above"}
    pipeline.script = lambda _pipeline, readings: accepted(readings, entry)
    way = Https(pipeline.url, TOKEN, proxy=None)
    verdict = way.deliver("pump-17", READINGS)
    way.close()
    assert verdict.taken == [0, 1]
    assert [(each.index, each.reason) for each in verdict.rejected] == [(2, "is above")]
