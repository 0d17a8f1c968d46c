"""`quarantine`: what waits for a person, in the failures bucket under `quarantine/`.

An object has JSON lines, a record each (`telemetry/aws/quarantine.py` writes them). One record may
be in several objects, since batches are delivered at least once; it has one name, and whatever is
done to a name is done to all of its lines.
"""

import argparse
import base64
import json
import sys
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from ops.command_types import Subparsers
from ops.errors import OpsError
from ops.target import Target

PREFIX = "quarantine/"
READERS = 8
ATTEMPTS = 5
SHOWN_MAX = 5
OLD_VERSIONS_DAYS = 90  # by the template's lifecycle
CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
GONE = {"NoSuchKey", "404"}

Line = dict[str, Any]


def add(added: Subparsers) -> list[argparse.ArgumentParser]:
    """Add `quarantine list | show | release | drop`."""
    text = "What no retry mends, until a person has looked."
    asked = added.add_parser("quarantine", help=text, description=text).add_subparsers(
        metavar="WHAT", required=True
    )
    text = "Name, time and reason of all that is there."
    listing = asked.add_parser("list", help=text, description=text)
    listing.add_argument("--json", action="store_true", help="print JSON, nothing else, on stdout")
    text = "All that is known of a record, and its bytes."
    showing = asked.add_parser("show", help=text, description=text)
    showing.add_argument("record", metavar="NAME", help="its end is enough, if no other ends so")
    text = "Send records back to where they came from, then take them out: after a fix."
    releasing = asked.add_parser("release", help=text, description=text)
    releasing.add_argument("names", nargs="*", metavar="NAME", help="its end is enough")
    releasing.add_argument("--all", action="store_true", help="everything that is there")
    text = f"Take records out; the bucket's old versions keep them for {OLD_VERSIONS_DAYS} days."
    dropping = asked.add_parser("drop", help=text, description=text)
    dropping.add_argument("names", nargs="+", metavar="NAME", help="its end is enough")
    parsers = [listing, showing, releasing, dropping]
    for parser, does in zip(parsers, (list_all, show, release, drop), strict=True):
        parser.set_defaults(does=does)
    return parsers


class Kept(NamedTuple):
    """An object of the quarantine."""

    key: str
    modified: datetime
    lines: list[Line]


class Store:
    """The quarantine of a stack."""

    def __init__(self, target: Target) -> None:
        """Read and write the stack's bucket of failures."""
        self._s3 = target.connect("s3")
        self._bucket = target.output("FailuresBucket")

    def read(self) -> list[Kept]:
        """Return all objects, by key; raise OpsError."""
        try:
            listed = list(self._list())
            with ThreadPoolExecutor(READERS) as pool:
                bodies = list(pool.map(self._get, (each["Key"] for each in listed)))
        except (ClientError, BotoCoreError) as error:
            raise OpsError(f"bucket {self._bucket}: {error}") from None
        return [
            Kept(each["Key"], each["LastModified"], lines_of(found[0]))
            for each, found in zip(listed, bodies, strict=True)
            if found
        ]

    def remove(self, key: str, names: Collection[str]) -> None:
        """Take lines out of an object, whatever was written to it meanwhile; raise OpsError."""
        try:
            for _ in range(ATTEMPTS):
                found = self._get(key)
                if found is None or self._write(key, found[1], without(found[0], names)):
                    return
        except (ClientError, BotoCoreError) as error:
            raise OpsError(f"{self._bucket}/{key}: {error}") from None
        raise OpsError(f"{self._bucket}/{key}: changed by somebody else all the time: try again")

    def _list(self) -> Iterable[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            page = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=PREFIX, **more)
            yield from page.get("Contents", [])
            if not page.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _get(self, key: str) -> tuple[bytes, str] | None:
        try:
            found = self._s3.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                return None
            raise
        return found["Body"].read(), found["ETag"]

    def _write(self, key: str, etag: str, body: bytes) -> bool:
        """Write an object, or delete it if it is empty; False where it is another by now."""
        where = {"Bucket": self._bucket, "Key": key, "IfMatch": etag}
        try:
            if body:
                self._s3.put_object(Body=body, **where)
            else:
                self._s3.delete_object(**where)
        except ClientError as error:
            if error.response["Error"]["Code"] in CHANGED | GONE:
                return False
            raise
        return True

    def put_back(self, line: Line) -> None:
        """Put an object back to where a redrive found it."""
        key = line["name"].removeprefix("object:")
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=data_of(line))


class Sender:
    """Sends records back to where they came from; each once, in however many objects it is."""

    def __init__(self, target: Target, store: Store) -> None:
        """Send to the stack's stream and functions."""
        self._name = target.output("Name")
        self._stream = target.output("StreamName")
        self._kinesis = target.connect("kinesis")
        self._lambda = target.connect("lambda")
        self._target = target
        self._store = store
        self.sent: set[tuple[str, str]] = set()
        self.failed: dict[str, str] = {}

    def send(self, line: Line) -> bool:
        """Return whether it is sent; else `failed` says why not."""
        of_one = line["function"] if line["source"] == "dynamodb" else "every consumer"
        identity = line["name"], of_one
        if identity in self.sent:
            return True
        try:
            why = self._send(line)
        except (ClientError, BotoCoreError) as error:
            why = str(error)
        if why:
            self.failed[line["name"]] = why
            return False
        self.sent.add(identity)
        return True

    def _send(self, line: Line) -> str | None:
        """Send a line; return what the function that got it has against it."""
        match line["source"]:
            case "dynamodb":
                return self._invoke(line)
            case "object":
                self._store.put_back(line)
            case "mqtt":  # `drain` takes it as it takes what IoT couldn't deliver
                self._target.connect("sqs").send_message(
                    QueueUrl=self._target.output("OverflowUrl"), MessageBody=data_of(line).decode()
                )
            case _:
                key = line["partition_key"]
                data = data_of(line)
                self._kinesis.put_record(StreamName=self._stream, PartitionKey=key, Data=data)
        return None

    def _invoke(self, line: Line) -> str | None:
        event = json.dumps({"Records": [json.loads(data_of(line))]})
        answer = self._lambda.invoke(
            FunctionName=f"{self._name}-{line['function']}", Payload=event.encode()
        )
        payload = json.loads(answer["Payload"].read()) or {}
        if answer.get("FunctionError"):
            return f"{payload.get('errorType')}: {payload.get('errorMessage')}"
        return "the function asks for it again" if payload.get("batchItemFailures") else None


def list_all(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Print every record once, the oldest first."""
    found: dict[str, tuple[str, Line]] = {}
    for kept in read(target, console):
        for line in kept.lines:
            found.setdefault(line["name"], (when(line, kept.modified), line))
    rows = [
        {"name": name, "when": at, **{key: line[key] for key in ("function", "source", "reason")}}
        for name, (at, line) in sorted(found.items(), key=lambda each: each[1][0])
    ]
    if options.json:
        return print_json(rows)
    for row in rows:
        text = f"{row['name']}  {row['when']}  {row['function']}: {row['reason']}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(rows):,} in quarantine", highlight=False)
    return 0


def show(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Print all that is known of a record, its bytes as text where they are."""
    found = read(target, console)
    (name,) = chosen([options.record], found)
    seen: dict[str, Line] = {}
    for kept in found:
        for line in kept.lines:
            if line["name"] == name:
                seen.setdefault(line["function"], {"when": when(line, kept.modified), **line})
    for line in seen.values():
        print_json(decoded(line))
    return 0


def release(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Send records back, and take out those that arrived; return 1 when one didn't."""
    if bool(options.names) == options.all:
        raise OpsError("quarantine release: name records, or --all of them")
    found, store = read(target, console), Store(target)
    names = names_of(found) if options.all else chosen(options.names, found)
    sender = Sender(target, store)
    with console.status("releasing") as status:
        for index, kept in enumerate(found):
            wanted = [line for line in kept.lines if line["name"] in names]
            sent = {line["name"] for line in wanted if sender.send(line)}
            if sent:
                store.remove(kept.key, sent - sender.failed.keys())
            status.update(f"releasing: {index + 1:,} of {len(found):,} objects")
    released = {name for name, _ in sender.sent} - sender.failed.keys()
    console.print(f"{len(released):,} released", highlight=False)
    for name, why in list(sender.failed.items())[:SHOWN_MAX]:
        text = f"✗ {name} stays: {why}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if len(sender.failed) > SHOWN_MAX:
        console.print(f"  and {len(sender.failed) - SHOWN_MAX:,} more stay", highlight=False)
    return 1 if sender.failed else 0


def drop(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Take records out by name."""
    found, store = read(target, console), Store(target)
    names = chosen(options.names, found)
    for kept in found:
        if names & {line["name"] for line in kept.lines}:
            store.remove(kept.key, names)
    for name in sorted(names):
        console.print(f"dropped {name}", highlight=False, markup=False, soft_wrap=True)
    return 0


def read(target: Target, console: Console) -> list[Kept]:
    """Return all that is in quarantine."""
    with console.status("reading the quarantine"):
        return Store(target).read()


def names_of(found: Iterable[Kept]) -> set[str]:
    """Return the names of all records."""
    return {line["name"] for kept in found for line in kept.lines}


def chosen(texts: Iterable[str], found: Iterable[Kept]) -> set[str]:
    """Return the names that end so; raise OpsError for none, and for several."""
    names = names_of(found)
    wanted = set()
    for text in texts:
        ends = [text] if text in names else sorted(name for name in names if name.endswith(text))
        if not ends:
            raise OpsError(f"'{text}': no name in quarantine ends so; `quarantine list` has them")
        if len(ends) > 1:
            some = ", ".join(ends[:SHOWN_MAX])
            raise OpsError(f"'{text}': {len(ends)} names end so, one was expected: {some}")
        wanted.add(ends[0])
    return wanted


def lines_of(body: bytes) -> list[Line]:
    """Return an object's lines."""
    return [json.loads(line) for line in body.splitlines()]


def without(body: bytes, names: Collection[str]) -> bytes:
    """Return an object's bytes without the lines of these names, the others as they are."""
    lines = body.splitlines(keepends=True)
    return b"".join(line for line in lines if json.loads(line)["name"] not in names)


def data_of(line: Line) -> bytes:
    """Return a record's own bytes."""
    return base64.b64decode(line["data"])


def when(line: Line, modified: datetime) -> str:
    """Return when a record arrived, or else when it was put here."""
    at_ms = line["arrived_at_ms"]
    at = modified if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decoded(line: Line) -> Line:
    """Return a line with its bytes as text, if they are."""
    try:
        return {**line, "data": data_of(line).decode()}
    except UnicodeDecodeError:
        rest = {name: value for name, value in line.items() if name != "data"}
        return {**rest, "data_base64": line["data"]}


def print_json(value: Any) -> int:
    """Print a value as JSON on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0
