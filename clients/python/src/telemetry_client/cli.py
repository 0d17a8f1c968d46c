"""`telemetry-client`: record, send and look, from a shell."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from telemetry_client.answers import Remedy, Verdict
from telemetry_client.client import Client, ClientOptions
from telemetry_client.errors import ClientError, Invalid
from telemetry_client.formats import Avro, Format, Json
from telemetry_client.https import Https
from telemetry_client.mqtt import Mqtt
from telemetry_client.reading import from_iso
from telemetry_client.store import Store, StoreOptions
from telemetry_client.transport import Transport

TOKEN_VARIABLE = "TELEMETRY_TOKEN"  # noqa: S105 - the name of it


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 when all went well, 1 with a message when not."""
    options = parser().parse_args(arguments)
    try:
        done: int = options.do(options)
    except ClientError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or ''}: {error.strerror or error}\n")
        return 1
    return done


def record(options: argparse.Namespace) -> int:
    """Keep one reading, or one for each line of JSON on standard input."""
    if options.metrics == ["-"]:
        readings = [line_of(number, line) for number, line in enumerate(sys.stdin, 1)]
    else:
        readings = [once([pair_of(text) for text in options.metrics])]
    times = [at_of(each.pop("recorded_at", options.at)) for each in readings]
    with closing(opened(options)) as store:
        if readings:
            store.record_many(readings, times)
    return 0


def send(options: argparse.Namespace) -> int:
    """Send what waits until nothing is left, or, with --follow, until a signal."""
    problems: list[Verdict] = []
    chosen = ClientOptions(on_problem=problems.append)

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    transport = transport_of(options)
    with closing(opened(options)) as store:
        client = Client(store, options.device, transport, chosen)
        try:
            if options.follow:
                client.run()
            client.flush(options.timeout)
        except KeyboardInterrupt:
            pass  # what waits stays in the store
        finally:
            client.close()
        status = store.status()
    left = f", {client.problem}" if client.problem else ""
    left += f", {status.undated} of them for the clock to be set" if status.undated else ""
    waiting = status.waiting + status.undated
    metrics = f" and {status.metrics_refused} metrics" if status.metrics_refused else ""
    refused = f"{status.rejected}{metrics}"
    sys.stderr.write(f"taken {status.taken}, refused {refused}, waiting {waiting}{left}\n")
    is_hopeless = any(verdict.remedy is Remedy.PERSON for verdict in problems)
    return 1 if waiting or is_hopeless else 0


def status(options: argparse.Namespace) -> int:
    """Print what is in the store, as JSON."""
    return printed(options, lambda store: asdict(store.status()))


def rejected(options: argparse.Namespace) -> int:
    """Print the readings that the pipeline refused, as JSON."""
    return printed(options, lambda store: store.rejected(options.limit))


def printed(options: argparse.Namespace, look: Any) -> int:
    """Print what `look` sees in the store."""
    if not Path(options.store).exists():
        raise Invalid("--store", options.store, "is not there: `record` makes it")
    with closing(opened(options)) as store:
        sys.stdout.write(json.dumps(look(store), indent=2) + "\n")
    return 0


def opened(options: argparse.Namespace) -> Store:
    """The store that the options name."""
    return Store(options.store, options.device, StoreOptions(synchronous=options.synchronous))


def transport_of(options: argparse.Namespace) -> Transport:
    """The way to the pipeline that the options name."""
    certificate = (options.certificate, options.key) if options.certificate else None
    formats: dict[str, Format] = {"json": Json(), "json-gzip": Json(gzip=True)}
    chosen = formats.get(options.format) or Avro(options.schema_version_id)
    if options.mqtt:
        host, _, port = options.mqtt.partition(":")
        if not host or not (port or "8883").isdecimal():
            raise Invalid("--mqtt", options.mqtt, "is not HOST or HOST:PORT")
        return Mqtt(
            host,
            int(port or 8883),
            ca_file=options.ca,
            client_certificate=certificate,
            body_format=chosen,
        )
    if not options.url:
        raise Invalid("--url", options.url, "is no address: the API has one, or give --mqtt HOST")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if options.token_file:
        token = Path(options.token_file).read_text("utf-8").strip()
    return Https(
        options.url, token, ca_file=options.ca, client_certificate=certificate, body_format=chosen
    )


def pair_of(text: str) -> tuple[str, Any]:
    """`temperature=21.5` as a name and a number."""
    name, equals, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        what = "is not METRIC=NUMBER, such as temperature=21.5"
        raise Invalid(name if equals else "metrics", value if equals else text, what) from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Names with their values; Invalid for a name that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        values = " and ".join(str(value) for name, value in pairs if name == twice)
        raise Invalid(twice, values, "is there twice; leave one out")
    return found


def line_of(number: int, line: str) -> dict[str, Any]:
    """A line of standard input: a JSON object of metrics."""
    try:
        text = line.removeprefix("\ufeff").rstrip("\0\r\n")
        document = json.loads(text, object_pairs_hook=once)
    except Invalid:
        raise
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Invalid(f"line {number}", line.strip(), 'is not an object: {"temperature": 21.5}')
    return document


def at_of(value: Any) -> Any:
    """A time as the store takes it."""
    if not isinstance(value, str):
        return value
    try:
        return int(value) if value.isdecimal() else from_iso(value)
    except ValueError:
        reason = "is neither ISO 8601 with an offset nor epoch milliseconds"
        raise Invalid("recorded_at", value, reason) from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser("telemetry-client", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", required=True, help="the SQLite file; made if it isn't there")
    store.add_argument("--device", required=True, help="the device's id")
    store.add_argument("--synchronous", choices=("full", "normal"), default="full")

    one = commands.add_parser("record", parents=[store], help=record.__doc__)
    one.add_argument("metrics", nargs="+", metavar="METRIC=NUMBER", help="or - for standard input")
    one.add_argument("--at", help="when it was taken, if not now: ISO 8601 or epoch ms")
    one.set_defaults(do=record)

    out = commands.add_parser("send", parents=[store], help=send.__doc__)
    out.add_argument("--url", help="the API's address, with its stage")
    out.add_argument("--token-file", help=f"holds the token; or {TOKEN_VARIABLE} does")
    out.add_argument("--mqtt", metavar="HOST[:PORT]", help="send over MQTT instead")
    out.add_argument("--ca", help="a file of the certificates to trust, if not the system's")
    out.add_argument("--certificate", help="the device's certificate; --key has its key")
    out.add_argument("--key")
    out.add_argument("--format", choices=("json", "json-gzip", "avro"), default="json")
    out.add_argument("--schema-version-id", help="of the newest reading schema, for avro")
    out.add_argument("--timeout", type=float, help="seconds to try; without it, until all is sent")
    out.add_argument("--follow", action="store_true", help="go on with what is recorded later")
    out.set_defaults(do=send)

    look = commands.add_parser("status", parents=[store], help=status.__doc__)
    look.set_defaults(do=status)
    bad = commands.add_parser("rejected", parents=[store], help=rejected.__doc__)
    bad.add_argument("--limit", type=int, default=100)
    bad.set_defaults(do=rejected)
    return whole
