"""Queues with visibility timeouts, and buckets."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Message:
    """A message and when it can be received."""

    message_id: str
    body: str
    sent_at_ms: int
    visible_at_ms: int = 0
    receives: int = 0
    receipt: str = ""


@dataclass
class Queue:
    """A standard queue: a received message is hidden for a while, and comes back unless deleted."""

    name: str
    now_ms: Callable[[], int]
    visibility_seconds: int = 180
    receives_max: int | None = None
    dead_letters: "Queue | None" = None
    messages: dict[str, Message] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0
    """Number of all messages that were sent to it."""

    def send(self, body: str) -> str:
        """Put a message; return its id."""
        self.arrived.set()
        self.sent += 1
        message_id = f"{self.name}-{self.sent}"
        self.messages[message_id] = Message(message_id, body, self.now_ms())
        return message_id

    def receive(self, most: int, visibility_seconds: int | None = None) -> list[Message]:
        """Take up to `most` visible messages; those received too often go to the dead letters."""
        now_ms = self.now_ms()
        taken: list[Message] = []
        for message in list(self.messages.values()):
            if len(taken) == most:
                break
            if message.visible_at_ms > now_ms:
                continue
            if self.dead_letters is not None and message.receives >= (self.receives_max or 0):
                del self.messages[message.message_id]
                self.dead_letters.send(message.body)
                continue
            seconds = self.visibility_seconds if visibility_seconds is None else visibility_seconds
            message.receives += 1
            message.visible_at_ms = now_ms + seconds * 1000
            message.receipt = f"{message.message_id}/{message.receives}"
            taken.append(message)
        return taken

    def hide(self, receipt: str, seconds: int) -> None:
        """Make a message visible again after some seconds."""
        message = self.messages.get(receipt.partition("/")[0])
        if message is not None:
            message.visible_at_ms = self.now_ms() + seconds * 1000
            self.arrived.set()

    def delete(self, receipt: str) -> None:
        """Delete by receipt handle. On AWS an old handle may do nothing; here it still deletes."""
        self.messages.pop(receipt.partition("/")[0], None)


@dataclass
class Bucket:
    """Objects by key; `announce` is called for each new one."""

    name: str
    objects: dict[str, bytes] = field(default_factory=dict)
    announce: Callable[[str], None] = lambda _key: None

    def put(self, key: str, body: bytes) -> None:
        self.objects[key] = body
        self.announce(key)

    def etag(self, key: str) -> str | None:
        """Return the etag of an object's content; None without an object."""
        return hashlib.md5(self.objects[key]).hexdigest() if key in self.objects else None  # noqa: S324


def object_created(bucket: str, key: str) -> str:
    """Return the message about a new object."""
    entry: dict[str, Any] = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key}},
    }
    return json.dumps({"Records": [entry]})
