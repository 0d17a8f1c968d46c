"""Requests in every format as devices send them, whole or damaged, from given random numbers."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests import writers
from tests.fakes import schema_id as newest_id

Document = dict[str, Any]
RANGES = {"temperature": (-90.0, 150.0), "humidity": (0.0, 100.0)}
HOUR_MS = 3_600_000
LONGEST = 1_200_000  # bytes; a request may bring 1 MiB
DAMAGED = 0.85  # of the requests


def line_protocol(sent: Sequence[Document]) -> bytes:
    """Return lines as InfluxDB's clients write them, in milliseconds."""
    lines = (
        f"air,device_id={each['device_id']} "
        f"temperature={each['temperature']},humidity={each['humidity']} {each['recorded_at']}"
        for each in sent
    )
    return "\n".join(lines).encode()


FORMATS: dict[str, tuple[str, Callable[[Sequence[Document]], bytes]]] = {
    "json": ("application/json", lambda sent: json.dumps(sent).encode()),
    "form": ("application/x-www-form-urlencoded", lambda sent: json.dumps(sent).encode()),
    "ndjson": ("application/x-ndjson", writers.lines),
    "glue": ("application/avro", writers.glue),
    "container": ("avro/binary", writers.container),
    "deflate": ("application/avro", lambda sent: writers.container(sent, codec="deflate")),
    "old": ("application/avro", lambda sent: writers.container(sent, writers.schema(1))),
    "protobuf": ("application/x-protobuf", writers.readings),
    "one": ("application/protobuf; messageType=Reading", lambda sent: writers.reading(sent[0])),
    "lines": ("text/plain", line_protocol),
}
ODD_TYPES = [content_type for content_type, _ in FORMATS.values()]
ODD_TYPES += ["", ";", "text/plain", "application/x-protobuf; proto=Window", "text/xml", "a" * 300]
ODD_CODINGS = ["gzip", "identity", "br", "gzip, gzip", "deflate", "GZIP", ""]


@dataclass
class Request:
    """A request to post; `documents` is its content while it is whole."""

    name: str
    data: bytes
    headers: dict[str, str]
    documents: list[Document]
    damage: list[str] = field(default_factory=list)


def reading(chance: random.Random, device_id: str, now_ms: int) -> Document:
    at_ms = now_ms - chance.randrange(HOUR_MS)
    metrics = {name: round(chance.uniform(*limits), 3) for name, limits in RANGES.items()}
    return {"device_id": device_id, "recorded_at": at_ms, **metrics}


def request(
    chance: random.Random, device_id: str, now_ms: int, schema_id: UUID | None = None
) -> Request:
    """Return a request of up to 8 readings in any format, mostly damaged in one or more ways.

    `schema_id`: that of the newest schema, if the pipeline knows it.
    """
    name = chance.choice(list(FORMATS))
    content_type, written = FORMATS[name]
    drawn = [reading(chance, device_id, now_ms) for _ in range(chance.randint(1, 8))]
    sent = list({each["recorded_at"]: each for each in drawn}.values())  # each its own instant
    sent = sent[:1] if name == "one" else sent
    made = Request(name, written(sent), {"Content-Type": content_type}, sent)
    if name == "glue" and schema_id is None:
        made.damage.append("unregistered")
    elif name == "glue" and schema_id is not None:
        made.data = made.data.replace(newest_id(3).bytes, schema_id.bytes)
    is_damaged = chance.random() < DAMAGED
    if is_damaged and chance.random() < 0.7:
        damage(chance, made)
    if chance.random() < 0.3:
        made.data = writers.zipped(made.data)
        made.headers["Content-Encoding"] = "gzip"
        if is_damaged and chance.random() < 0.3:
            damage(chance, made)
    if is_damaged and chance.random() < 0.3:
        mislabel(chance, made)
    return made


def damage(chance: random.Random, made: Request) -> None:
    """Change the body's bytes, once or a few times."""
    for _ in range(chance.randint(1, 4)):
        way = chance.choice([flip, cut, insert, remove, repeat, extend, numbers, swap])
        made.data = way(chance, made.data)[:LONGEST]  # repeats of repeats would fill the memory
        made.damage.append(way.__name__)


def mislabel(chance: random.Random, made: Request) -> None:
    """Change the headers."""
    if chance.random() < 0.6:
        made.headers["Content-Type"] = chance.choice(ODD_TYPES)
    else:
        made.headers["Content-Encoding"] = chance.choice(ODD_CODINGS)
    made.damage.append("mislabel")


def flip(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def insert(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.randint(1, 12)) + data[at:]


def remove(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.randint(1, 12) :]


def repeat(chance: random.Random, data: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    times = chance.choice([1, 2, 300])
    return data[:end] + data[start:end][: LONGEST // times] * times + data[end:]


def extend(chance: random.Random, data: bytes) -> bytes:
    return data + chance.randbytes(chance.choice([1, 20, 5_000]))


def numbers(chance: random.Random, data: bytes) -> bytes:
    """Replace bytes that may be a length or a count: huge, negative, all bits set."""
    odd = [b"\xff" * 9 + b"\x01", b"\xfe" * 9 + b"\x7f", b"\x80" * 12, b"1e400", b"NaN", b"-0"]
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(odd) + data[at + 1 :]


def swap(chance: random.Random, data: bytes) -> bytes:
    """Replace a word of a format by another."""
    words = [b"device_id", b"recorded_at", b"temperature", b"received_at", b"trace_id"]
    words += [b"air", b",", b"=", b" ", b"\\", b'"']
    words += [b"null", b"double", b"string", b"record", b'"long"', b"avro.codec", b"fields"]
    return data.replace(chance.choice(words), chance.choice(words), chance.choice([1, -1]))
