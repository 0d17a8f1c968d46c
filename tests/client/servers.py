"""Loopback servers for tests: a pipeline that keeps all readings, a failing network, a broker."""

import gzip
import io
import json
import random
import select
import socket
import socketserver
import ssl
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, Self

from fastavro import schemaless_reader

Json = dict[str, Any]
Answer = tuple[int, Any, dict[str, str]]
Script = Callable[["Pipeline", list[Json]], Answer | None]
GLUE_HEADER_BYTES = 18


class Pipeline(ThreadingHTTPServer):
    """An API that keeps the set of readings, as the pipeline does; `script` makes it misbehave.

    A script gets a request's readings and returns an answer, or None for the ordinary one. It may
    call `take` itself, and then answer differently.
    """

    daemon_threads = True

    def __init__(self, script: Script | None = None, schemas: dict[str, Any] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.schemas = schemas or {}
        self.stored: dict[tuple[str, int], Json] = {}
        self.requests: list[Json] = []
        self.conflicts = 0
        self.repeated = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/prod"

    @property
    def instants(self) -> list[int]:
        return sorted(at for _, at in self.stored)

    @property
    def values(self) -> Counter[float]:
        """Return how often each temperature is stored: tests give each reading its own."""
        return Counter(each["temperature"] for each in self.stored.values())

    def take(self, readings: list[Json]) -> None:
        """Store readings as the pipeline does: by identity."""
        with self.lock:
            for reading in readings:
                key = reading["device_id"], reading["recorded_at"]
                self.repeated += key in self.stored
                self.conflicts += self.stored.get(key, reading) != reading
                self.stored.setdefault(key, reading)

    def decode(self, headers: Any, device_id: str, body: bytes) -> list[Json]:
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if headers["Content-Type"] == "application/json":
            document = json.loads(body)
            documents = document if isinstance(document, list) else [document]
            return [{"device_id": device_id, **each} for each in documents]
        assert headers["Content-Type"] == "application/vnd.apache.avro+glue"
        return list(self.avro(io.BytesIO(body)))

    def avro(self, body: io.BytesIO) -> Iterator[Json]:
        """Return the records behind Glue's header: version 3, uncompressed, the schema's id."""
        header = body.read(GLUE_HEADER_BYTES)
        assert header[:2] == b"\x03\x00"
        writer = self.schemas[str(uuid.UUID(bytes=header[2:]))]
        while body.tell() < len(body.getbuffer()):
            record: Any = schemaless_reader(body, writer)
            record["recorded_at"] = round(record["recorded_at"].timestamp() * 1000)
            yield {name: value for name, value in record.items() if value is not None}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break here all the time."""


class OldPipeline(Pipeline):
    """The pipeline before it read other formats: a body is JSON, or refused.

    The texts of its refusals are those of the deployed one.
    """

    def decode(self, headers: Any, device_id: str, body: bytes) -> list[Json]:
        del headers
        text = body.decode("utf-8", "replace")  # as API Gateway hands on what isn't text
        return [{"device_id": device_id, **each} for each in json.loads(text)]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Pipeline
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        *_, devices, device_id, _ = self.path.split("/")
        assert devices == "devices"
        request = {"path": self.path, "headers": dict(self.headers), "size": 0, "body": body}
        self.server.requests.append(request)
        readings: list[Json] = []
        answer: Answer | None = None
        try:
            readings = self.server.decode(self.headers, device_id, body)
        except json.JSONDecodeError as error:
            reason = f"is not JSON: {error}"
            refusal = {"message": f"body: {reason}", "field": "body", "reason": reason}
            answer = 400, refusal, {}
        request["size"] = len(readings)
        if answer is None and self.server.script:
            answer = self.server.script(self.server, readings)
        if answer is None:
            self.server.take(readings)
            answer = accepted(readings)
        status, document, headers = answer
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing."""


def accepted(readings: list[Json], *rejected: Json) -> Answer:
    """Return the ordinary answer."""
    body = {"accepted": len(readings) - len(rejected), "rejected": list(rejected)}
    return 202, {**body, "trace_id": None}, {}


def in_turn(*answers: Answer | Script | None) -> Script:
    """Return a script that gives one answer after another, then the ordinary one."""
    left = list(answers)

    def script(pipeline: Pipeline, readings: list[Json]) -> Answer | None:
        answer = left.pop(0) if left else None
        return answer(pipeline, readings) if callable(answer) else answer

    return script


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Serve until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Network:
    """A TCP proxy whose connections fail: refused, delayed, or reset in the middle of an answer."""

    def __init__(self, port: int, seed: int) -> None:
        self._to = port
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._is_over = False
        self.is_cut = self.is_dropping = False
        self.reset_share = 0.0
        self.delay_s = 0.0
        self.resets = 0
        self.refused = 0
        self.dropped: list[socket.socket] = []
        """Connections that were made while it drops, and got no answer."""
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over = True
        self.carry_again()
        with socket.socket() as waker:
            waker.connect(("127.0.0.1", self.port))
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        """Break all connections; refuse new ones until `is_cut` is false again."""
        self.is_cut = True
        for each in list(self._open):
            shut(each)

    def drop(self) -> None:
        """Break all connections; leave new ones without an answer until `carry_again`."""
        self.is_dropping = True
        for each in list(self._open):
            shut(each)

    def carry_again(self) -> None:
        """Stop dropping."""
        self.is_dropping = False
        for each in self.dropped:
            each.close()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if self._is_over or self.is_cut:
                self.refused += 1
                reset(near)
                if self._is_over:
                    return
                continue
            if self.is_dropping:
                self.dropped.append(near)
                continue
            thread = threading.Thread(target=self._carry, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _named_as_its_server(self, data: bytes) -> bytes:
        """Return a request's bytes with the server's own Host: a local instance takes no other."""
        return data.replace(b"Host: 127.0.0.1:%d" % self.port, b"Host: 127.0.0.1:%d" % self._to)

    def _carry(self, near: socket.socket) -> None:
        """Copy both ways; a reset may end the answer early, once the request has arrived."""
        with near, socket.create_connection(("127.0.0.1", self._to)) as far:
            self._open |= {near, far}
            back = threading.Thread(target=self._answers, args=(far, near))
            back.start()
            try:
                while data := self._named_as_its_server(near.recv(65_536)):
                    time.sleep(self.delay_s * self._chance.random())
                    far.sendall(data)
            except OSError:
                pass
            shut(far)
            back.join()
            self._open -= {near, far}

    def _answers(self, far: socket.socket, near: socket.socket) -> None:
        try:
            while data := far.recv(65_536):
                if self._chance.random() < self.reset_share:
                    self.resets += 1
                    near.sendall(data[: self._chance.randrange(len(data))])
                    break
                near.sendall(data)
        except OSError:
            pass
        shut(near)


def shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def reset(each: socket.socket) -> None:
    """Close with RST."""
    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    each.close()


class Broker(socketserver.ThreadingTCPServer):
    """The part of MQTT 3.1.1 that a publisher needs; `acknowledges` may withhold a PUBACK."""

    daemon_threads = True

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        acknowledges: Callable[[int], bool] = lambda _number: True,
        connack: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.tls = tls
        self.acknowledges = acknowledges
        self.connack = connack
        self.published: list[tuple[str, bytes]] = []
        self.ends_at: int | None = None  # CONNECT or PUBLISH: the connection ends instead
        self.together = 1  # so many messages are acknowledged at once
        self.exceeded = 0  # how often more than these came before
        self.client_ids: list[str] = []
        self.certificates: list[Any] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break here on purpose."""


class Session(socketserver.BaseRequestHandler):
    """One connection."""

    server: Broker

    def setup(self) -> None:
        self.waiting: list[bytes] = []

    def handle(self) -> None:
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
            self.server.certificates.append(self.request.getpeercert())
        with self.request, self.request.makefile("rb") as stream:
            while first := stream.read(1):
                self.packet(first[0], stream.read(remaining_length(stream)))

    def packet(self, first: int, body: bytes) -> None:
        if first >> 4 == self.server.ends_at:
            raise ConnectionAbortedError
        if first >> 4 == 1:  # CONNECT: 10 bytes, then the client's id
            self.server.client_ids.append(body[12:].decode())
            self.request.sendall(bytes([0x20, 2, 0, self.server.connack]))
        elif first >> 4 == 3:  # PUBLISH
            length = struct.unpack(">H", body[:2])[0]
            number = body[2 + length : 4 + length]
            assert first & 0b110 == 0b010, "not QoS 1"
            self.server.published.append((body[2 : 2 + length].decode(), body[4 + length :]))
            if self.server.acknowledges(len(self.server.published)):
                self.waiting.append(number)
            if len(self.waiting) == self.server.together:
                if self.server.together > 1:
                    self.server.exceeded += bool(select.select([self.request], [], [], 0.1)[0])
                self.request.sendall(b"".join(b"\x40\x02" + each for each in self.waiting))
                self.waiting.clear()
        elif first >> 4 == 12:  # PINGREQ
            self.request.sendall(b"\xd0\x00")


def remaining_length(stream: BinaryIO) -> int:
    """Return a number of MQTT: seven bits a byte, the lowest first."""
    value, shift = 0, 0
    while True:
        byte = stream.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
        shift += 7
