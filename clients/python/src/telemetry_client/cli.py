"""The command `telemetry-client`: records and sends readings from a shell."""

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

TOKEN_VARIABLE = "TELEMETRY_TOKEN"  # noqa: S105 - the variable's name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 if all went well, or print a message and return 1."""
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
    """Record a reading, or one for each line of JSON on standard input."""
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
    """Send the waiting readings until none is left; with --follow, until a signal."""
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
            pass  # waiting readings stay in the store
        finally:
            client.close()
        status = store.status()
    reasons = f", {client.problem}" if client.problem else ""
    reasons += f", {status.undated} of them for the clock to be set" if status.undated else ""
    waiting = status.waiting + status.undated
    metrics = f" and {status.metrics_refused} metrics" if status.metrics_refused else ""
    refused = f"{status.rejected}{metrics}"
    sys.stderr.write(f"taken {status.taken}, refused {refused}, waiting {waiting}{reasons}\n")
    is_hopeless = any(verdict.remedy is Remedy.PERSON for verdict in problems)
    return 1 if waiting or is_hopeless else 0


def status(options: argparse.Namespace) -> int:
    """Print the store's status as JSON."""
    return print_json(options, lambda store: asdict(store.status()))


def rejected(options: argparse.Namespace) -> int:
    """Print the readings that the pipeline refused, as JSON."""
    return print_json(options, lambda store: store.rejected(options.limit))


def print_json(options: argparse.Namespace, look: Any) -> int:
    """Print the result of `look`, called with the store."""
    if not Path(options.store).exists():
        raise Invalid("--store", options.store, "is not there: `record` makes it")
    with closing(opened(options)) as store:
        sys.stdout.write(json.dumps(look(store), indent=2) + "\n")
    return 0


def opened(options: argparse.Namespace) -> Store:
    """Return the store of `--store`, opened."""
    return Store(options.store, options.device, StoreOptions(synchronous=options.synchronous))


def transport_of(options: argparse.Namespace) -> Transport:
    """Return the transport that the options name."""
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
        raise Invalid("--url", options.url, "is not an address: give the API's, or --mqtt HOST")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if options.token_file:
        token = Path(options.token_file).read_text("utf-8").strip()
    return Https(
        options.url, token, ca_file=options.ca, client_certificate=certificate, body_format=chosen
    )


def pair_of(text: str) -> tuple[str, Any]:
    """Return the name and the number in `temperature=21.5`; raise Invalid for other text."""
    name, equals, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        what = "is not METRIC=NUMBER, such as temperature=21.5"
        raise Invalid(name if equals else "metrics", value if equals else text, what) from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return values by name; raise Invalid for a name that occurs twice."""
    values_by_name = dict(pairs)
    if len(values_by_name) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        values = " and ".join(str(value) for name, value in pairs if name == twice)
        raise Invalid(twice, values, "is there twice; leave one out")
    return values_by_name


def line_of(number: int, line: str) -> dict[str, Any]:
    """Return the JSON object of metrics in a line of standard input; raise Invalid."""
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
    """Return a time as the store takes it; raise Invalid for text that isn't a time."""
    if not isinstance(value, str):
        return value
    try:
        return int(value) if value.isdecimal() else from_iso(value)
    except ValueError:
        reason = "is neither ISO 8601 with an offset nor epoch milliseconds"
        raise Invalid("recorded_at", value, reason) from None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser("telemetry-client", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", required=True, help="the SQLite file; made if it isn't there")
    store.add_argument("--device", required=True, help="the device's id")
    store.add_argument("--synchronous", choices=("full", "normal"), default="full")

    one = commands.add_parser("record", parents=[store], help=record.__doc__)
    one.add_argument("metrics", nargs="+", metavar="METRIC=NUMBER", help="or - for standard input")
    one.add_argument("--at", help="the time of the measurement, if not now: ISO 8601 or epoch ms")
    one.set_defaults(do=record)

    out = commands.add_parser("send", parents=[store], help=send.__doc__)
    out.add_argument("--url", help="the API's address, with its stage")
    out.add_argument("--token-file", help=f"the token's file (default: {TOKEN_VARIABLE})")
    out.add_argument("--mqtt", metavar="HOST[:PORT]", help="send over MQTT instead")
    out.add_argument("--ca", help="file of the certificates to trust (default: the system's)")
    out.add_argument("--certificate", help="file of the device's certificate")
    out.add_argument("--key", help="file of the certificate's key")
    out.add_argument("--format", choices=("json", "json-gzip", "avro"), default="json")
    out.add_argument("--schema-version-id", help="id of the newest reading schema, for avro")
    out.add_argument("--timeout", type=float, help="seconds to try (default: until all is sent)")
    out.add_argument("--follow", action="store_true", help="also send readings recorded later")
    out.set_defaults(do=send)

    look = commands.add_parser("status", parents=[store], help=status.__doc__)
    look.set_defaults(do=status)
    bad = commands.add_parser("rejected", parents=[store], help=rejected.__doc__)
    bad.add_argument("--limit", type=int, default=100)
    bad.set_defaults(do=rejected)
    return whole
