"""`quarantine`: list, show, release or drop the records in the failures bucket's `quarantine/`."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from ops.command_types import Subparsers
from ops.errors import OpsError
from ops.quarantine_release import REFUSED, UNKNOWN, Sender, Sent, Watch, counted
from ops.quarantine_store import (
    Line,
    QuarantineObject,
    Store,
    data_of,
    describe_mistake,
    names_of,
    short,
    when,
)
from ops.target import Target

OBJECTS_A_DEVICE = 20
"""How many objects of a device `list` reads without --all or --device."""
SHOWN_MAX = 5
WAIT_SECONDS = 60
OUTCOME_UNKNOWN = 3
"""The exit code of a release with a record whose outcome is unknown."""
OLD_VERSIONS_DAYS = 90  # by the template's lifecycle


def add(added: Subparsers) -> list[argparse.ArgumentParser]:
    """Add `quarantine list | show | release | drop`."""
    text = "See, release or drop records that no retry can process."
    asked = added.add_parser("quarantine", help=text, description=text).add_subparsers(
        metavar="WHAT", required=True
    )
    text = "List the records: name, time, device, field, reason and value."
    listing = asked.add_parser("list", help=text, description=text)
    listing.add_argument("--json", action="store_true", help="print JSON, nothing else, on stdout")
    listing.add_argument(
        "--all",
        action="store_true",
        help=f"read everything, not {OBJECTS_A_DEVICE} objects of each device",
    )
    text = "Print all fields of a record, and its bytes."
    showing = asked.add_parser("show", help=text, description=text)
    showing.add_argument("record", metavar="NAME", help="a name in the list, or the end of a name")
    text = "Send records back to where they came from, take them out, and print their outcome."
    releasing = asked.add_parser("release", help=text, description=text)
    releasing.add_argument("names", nargs="*", metavar="NAME", help="a name in the list")
    releasing.add_argument("--all", action="store_true", help="all records")
    releasing.add_argument(
        "--wait",
        type=float,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for their outcome (default: {WAIT_SECONDS}; 0: don't wait)",
    )
    text = f"Take records out; the bucket's old versions keep them for {OLD_VERSIONS_DAYS} days."
    dropping = asked.add_parser("drop", help=text, description=text)
    dropping.add_argument("names", nargs="*", metavar="NAME", help="a name in the list")
    for parser in (listing, releasing, dropping):
        parser.add_argument("--device", metavar="ID", help="only this device's records")
        parser.add_argument(
            "--reason", metavar="TEXT", help="only records whose field or reason has this text"
        )
    parsers = [listing, showing, releasing, dropping]
    for parser, does in zip(parsers, (list_all, show, release, drop), strict=True):
        parser.set_defaults(does=does)
    return parsers


def list_all(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Print every record once, the oldest first; only the first ones of devices with very many."""
    store, more = Store(target), list[str]()
    with console.status("reading the quarantine"):
        if options.json or options.all or options.device:
            kept = store.read(options.device)
        else:
            kept, more = store.some(OBJECTS_A_DEVICE)
    found: dict[str, tuple[str, Line]] = {}
    for each in kept:
        for line in each.lines:
            if is_chosen(line, options):
                found.setdefault(line["name"], (when(line, each.modified), line))
    rows = [row(at, line) for at, line in sorted(found.values(), key=lambda each: each[0])]
    if options.json:
        return print_json(rows)
    for each_row in rows:
        text = f"{each_row['name']}  {each_row['when']}  {each_row['device_id'] or '-'}  "
        text += f"{each_row['told']}  ({each_row['function']})"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    for device in more:
        text = f"… and more of {device}: list --device {device}, or --all"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(rows):,}{' and more' if more else ''} in quarantine", highlight=False)
    return 0


def row(at: str, line: Line) -> dict[str, Any]:
    """Return a record's row in a list: `name` is its short name, `record` its whole name."""
    fields = ("device_id", "function", "source", "field", "value", "reason")
    return {
        "name": short(line["name"]),
        "when": at,
        **{key: line.get(key) for key in fields},
        "told": describe_mistake(line),
        "record": line["name"],
    }


def is_chosen(line: Line, options: argparse.Namespace) -> bool:
    """Return whether a record matches --device and --reason, if they are given."""
    if options.device is not None and line.get("device_id") != options.device:
        return False
    return options.reason is None or options.reason.lower() in describe_mistake(line).lower()


def show(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Print all fields of a record, its bytes as text if they are text."""
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
    """Send records back, take out those that were sent, and print their outcomes.

    Return 1 if a record stays or is refused again, 3 if the outcome of one is unknown.
    """
    if is_filtered(options) + bool(options.names) + options.all != 1:
        raise OpsError("quarantine release: name records, or --all of them, or say which")
    found, store = read(target, console, options.device), Store(target)
    names = selected(options, found)
    sender, watch = Sender(target, store), Watch(target, store)
    wanted = [line for kept in found for line in kept.lines if line["name"] in names]
    if options.wait:
        watch.before(wanted)
    with console.status("releasing") as status:
        for index, kept in enumerate(found):
            lines = [line for line in kept.lines if line["name"] in names]
            sent = {line["name"] for line in lines if sender.send(line)}
            if sent:
                store.remove(kept.key, sent - sender.failed.keys())
            status.update(f"releasing: {index + 1:,} of {len(found):,} objects")
        if options.wait and sender.sent:
            status.update("waiting for their outcome")
            watch.settle(list(sender.sent.values()), options.wait)
    released = [each for each in sender.sent.values() if each.line["name"] not in sender.failed]
    report(released, sender.failed, console)
    outcomes = counted(released)
    if sender.failed or outcomes[REFUSED]:
        return 1
    return OUTCOME_UNKNOWN if outcomes[UNKNOWN] else 0


def report(released: list[Sent], failed: dict[str, str], console: Console) -> None:
    """Print the number of released records, their outcomes, and the records that stay."""
    outcomes = counted(released)
    total = len({each.line["name"] for each in released})
    text = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    console.print(f"{total:,} released{': ' if text else ''}{text}", highlight=False)
    notes = [
        f"✗ {short(each.line['name'])} was refused again, now {short(each.name)}: {each.why}"
        for each in released
        if each.outcome == REFUSED
    ]
    notes += [
        f"? {short(each.line['name'])}: couldn't tell: {each.why}"
        for each in released
        if each.outcome == UNKNOWN
    ]
    notes += [f"✗ {name} stays: {why}" for name, why in failed.items()]
    for note in notes[:SHOWN_MAX]:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if len(notes) > SHOWN_MAX:
        console.print(f"  and {len(notes) - SHOWN_MAX:,} more", highlight=False)


def drop(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Take records out, by name, or all of a device or a reason."""
    if is_filtered(options) + bool(options.names) != 1:
        raise OpsError("quarantine drop: name records, or say which: --device, --reason")
    found, store = read(target, console, options.device), Store(target)
    names = selected(options, found)
    for kept in found:
        if names & {line["name"] for line in kept.lines}:
            store.remove(kept.key, names)
    for name in sorted(names):
        text = f"dropped {short(name)}  {name}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def read(target: Target, console: Console, device: str | None = None) -> list[QuarantineObject]:
    """Return all objects of the quarantine, or those that may have a device's records."""
    with console.status("reading the quarantine"):
        return Store(target).read(device)


def is_filtered(options: argparse.Namespace) -> bool:
    """Return whether --device or --reason is given."""
    return options.device is not None or options.reason is not None


def selected(options: argparse.Namespace, found: Iterable[QuarantineObject]) -> set[str]:
    """Return the names of the selected records; raise OpsError for an unknown name."""
    if options.names:
        return chosen(options.names, found)
    return {line["name"] for kept in found for line in kept.lines if is_chosen(line, options)}


def chosen(texts: Iterable[str], found: Iterable[QuarantineObject]) -> set[str]:
    """Return the names that equal or end with each text; raise OpsError unless there is one."""
    names = names_of(found)
    by_short = {short(name): name for name in names}
    wanted = set()
    for text in texts:
        ends = [text] if text in names else sorted(name for name in names if name.endswith(text))
        ends = [by_short[text]] if text in by_short else ends
        if not ends:
            raise OpsError(f"'{text}': no name in quarantine ends so; `quarantine list` has them")
        if len(ends) > 1:
            some = ", ".join(ends[:SHOWN_MAX])
            raise OpsError(f"'{text}': {len(ends)} names end so, one was expected: {some}")
        wanted.add(ends[0])
    return wanted


def decoded(line: Line) -> Line:
    """Return a line with its bytes as text if they are UTF-8, otherwise in base64."""
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
