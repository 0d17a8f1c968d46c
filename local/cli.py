"""The command line of the local run: `python -m local`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    ReadTimeoutError,
)
from rich.console import Console

from emulator.errors import EmulatorError, StepTimedOut
from local import commands
from local.errors import LocalError, NoAnswer
from local.faults import fault_of
from local.fleet.over_https import PostingOptions
from local.fleet.recorded import TO_CELSIUS, metric_column
from local.fleet.simulated import FleetOptions
from local.instance import DEFAULT_NAME
from local.session import raise_on_terminate
from local.trial.report import Verdict
from local.values import (
    duration_seconds,
    positive,
    rate,
    seconds_or_duration,
    share,
    speed,
    terminal_size,
)
from local.view import show_error
from ops import devices
from ops.arguments import Parser
from ops.cli import COMMANDS

INTERRUPTED = 130
TOO_SLOW = Verdict.UNKNOWN.value
LOG_WIDTH = 160
ONE_OBJECT = "print one JSON object at the end, nothing else, on stdout"

Value = TypeVar("Value")

DESCRIPTION = "The telemetry pipeline, whole, on this machine: no Docker, no AWS account."
EPILOG = """\
in a hurry:
  python -m local run --for 30s         bring it up, run devices, check every reading, end it

step by step:
  python -m local up                    deploy to an embedded AWS and leave it running
  python -m local devices --for 1m      simulated devices post readings
  python -m local watch                 see the pipeline process them, live
  python -m local query alerts          see which devices overheat
  python -m local notices               see the notices that people get
  python -m local down                  end it

recorded data:
  python -m local devices --csv temps.csv --device roof --time-column date \\
    --metric temperature=temp --speed max --ends-now
"""
EXIT_CODES = """\
exit codes:
  0    nothing is lost, and nothing counted twice
  1    the pipeline shows otherwise than the devices sent, or a step failed
  2    an option is wrong
  3    the machine was too slow to tell: take fewer devices, or a lower rate
  130  interrupted
"""


def option(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return a parser of which argparse shows a ValueError's message beside the option's name."""

    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole: argparse.ArgumentParser = Parser(
        prog="python -m local",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added = whole.add_subparsers(metavar="COMMAND", required=True)
    add_run(added)
    add_up(added)
    add_devices(added)
    add_watch(added)
    add_query(added)
    add_notices(added)
    add_mappings(added)
    add_trace(added)
    add_env(added)
    add_mqtt(added)
    add_invoke(added)
    add_operators(added)
    add_down(added)
    return whole


# argparse has no public name for this type
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def command(
    added: Subparsers, name: str, does: Callable[..., int], text: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Add a command that runs the function `does`; return its parser."""
    added_parser: argparse.ArgumentParser = added.add_parser(
        name,
        help=text,
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added_parser.set_defaults(does=does)
    return added_parser


def group_of_commands(added: Subparsers, name: str, text: str) -> Subparsers:
    """Add a command with subcommands; return the object that they are added to."""
    return added.add_parser(name, help=text, description=text).add_subparsers(
        metavar="COMMAND", required=True
    )


def add_run(added: Subparsers) -> None:
    """Add `run`."""
    run = command(
        added,
        "run",
        commands.run,
        "Bring the pipeline up, run devices, check every reading and alert, and end it all.",
        EXIT_CODES,
    )
    run.add_argument("--name", help="the instance's name (default: one of its own)")
    run.add_argument("--keep", action="store_true", help="leave the instance running at the end")
    add_json(run, ONE_OBJECT)
    disturbed = run.add_mutually_exclusive_group()
    disturbed.add_argument(
        "--chaos",
        action="store_true",
        help="SIGKILL a function's worker or the mappings' engine every few seconds",
    )
    disturbed.add_argument(
        "--poison",
        action="store_true",
        help="send a record that kills a consumer, and check that it alone is given up",
    )
    add_retention(run)
    add_sources(run)


def add_up(added: Subparsers) -> None:
    """Add `up`."""
    up = command(
        added,
        "up",
        commands.up,
        "Deploy the pipeline to an embedded AWS and leave it running; if it is up, deploy what has "
        "changed and keep its data.",
    )
    add_name(up)
    add_retention(up)


def add_devices(added: Subparsers) -> None:
    """Add `devices`."""
    devices = command(
        added,
        "devices",
        commands.devices,
        "Run devices, simulated or recorded, against an instance.",
        EXIT_CODES,
    )
    add_name(devices)
    devices.add_argument(
        "--check",
        action="store_true",
        help="check at the end, as `run` does; devices of these names must not have posted before",
    )
    add_json(devices, ONE_OBJECT)
    add_sources(devices)


def add_watch(added: Subparsers) -> None:
    """Add `watch`."""
    watch = command(added, "watch", commands.watch, "Show live how readings are processed.")
    add_name(watch)
    watch.add_argument(
        "--for",
        dest="seconds",
        type=option(duration_seconds),
        metavar="TIME",
        help="stop after a time",
    )
    watch.add_argument(
        "--screenshot",
        type=Path,
        metavar="FILE",
        help="write the view after that time (default: 30s) as SVG, and end",
    )
    watch.add_argument(
        "--size",
        type=option(terminal_size),
        default=(80, 24),
        metavar="COLUMNSxLINES",
        help="size of the screenshot (default: 80x24)",
    )


def add_query(added: Subparsers) -> None:
    """Add `query`."""
    asked = group_of_commands(added, "query", "Ask the pipeline's API.")
    windows = command(asked, "windows", commands.query_windows, "A device's statistics by minute.")
    windows.add_argument("device")
    windows.add_argument(
        "--from", dest="start", metavar="TIME", help="ISO 8601 (default: an hour before --to)"
    )
    windows.add_argument("--to", dest="end", metavar="TIME", help="ISO 8601 (default: now)")
    windows.add_argument("--metric", help="only this metric (default: all of the device's)")
    device = command(
        asked,
        "device",
        commands.query_device,
        "The last known value of each of a device's metrics.",
    )
    device.add_argument("device")
    alerts = command(asked, "alerts", commands.query_alerts, "The alerts.")
    alerts.add_argument("--status", default="open", help="open (default) or cleared")
    accounting = command(
        asked, "accounting", commands.query_accounting, "Counts of readings, by stage."
    )
    accounting.add_argument(
        "--from", dest="start", metavar="TIME", help="ISO 8601 (default: an hour before --to)"
    )
    accounting.add_argument("--to", dest="end", metavar="TIME", help="ISO 8601 (default: now)")
    listed = devices.add_as("devices", asked)
    listed.set_defaults(does=commands.on_instance(devices.list_devices))
    add_name(listed)
    for each in (windows, alerts):
        add_wait(each)
    for each in (windows, device, alerts, accounting):
        add_name(each)
        printed = each.add_mutually_exclusive_group()
        add_json(printed, "print JSON instead of a table")
        if each in (windows, alerts):
            printed.add_argument("--csv", action="store_true", help="print CSV instead of a table")


def add_wait(added: argparse.ArgumentParser) -> None:
    """Add `--wait`."""
    added.add_argument(
        "--wait",
        type=option(duration_seconds),
        default=0.0,
        metavar="TIME",
        help="wait up to this long for something to show",
    )


def add_notices(added: Subparsers) -> None:
    """Add `notices`."""
    notices = command(
        added, "notices", commands.notices, "Show the notices of alerts that were sent."
    )
    add_name(notices)
    notices.add_argument("--follow", action="store_true", help="also show new ones, until Ctrl-C")
    add_wait(notices)
    add_json(notices, "print JSON instead of lines; with --follow one object a line")


def add_mappings(added: Subparsers) -> None:
    """Add `mappings`."""
    mappings = command(
        added,
        "mappings",
        commands.mappings,
        "Show the progress of each event source mapping: position, lag and counts by shard.",
    )
    add_name(mappings)
    add_json(mappings, "print JSON instead of tables")


def add_trace(added: Subparsers) -> None:
    """Add `trace`."""
    trace = command(added, "trace", commands.trace, "Show one request's path through functions.")
    trace.add_argument(
        "trace_id", help="the trace_id that a POST answered with, or that an alert shows"
    )
    add_name(trace)


def add_env(added: Subparsers) -> None:
    """Add `env`."""
    env = command(
        added,
        "env",
        commands.env,
        'Print shell variables for boto3, aws, curl and sam: eval "$(python -m local env)".',
    )
    add_name(env)


def add_mqtt(added: Subparsers) -> None:
    """Add `mqtt`."""
    asked = group_of_commands(added, "mqtt", "Devices that speak MQTT.")
    certificate = command(
        asked,
        "certificate",
        commands.mqtt_certificate,
        "Make a device's certificate and key, and print a line that publishes with them.",
    )
    certificate.add_argument("device", help="its id; also its MQTT client id and its thing's name")
    add_name(certificate)
    claim = command(
        asked,
        "claim",
        commands.mqtt_claim,
        "Have a device claim its certificate, and print a line that publishes with it.",
    )
    claim.add_argument("device", help="the id that it claims")
    add_name(claim)


def add_invoke(added: Subparsers) -> None:
    """Add `invoke`."""
    invoke = command(
        added,
        "invoke",
        commands.invoke,
        "Run one function in a container (sam local invoke), with the instance as its AWS.",
    )
    invoke.add_argument("function", help="its logical id in template.yaml: AlertFunction")
    invoke.add_argument("event", type=Path, help="the event's file: events/alert.json")
    add_name(invoke)
    invoke.add_argument(
        "sam_arguments", nargs="*", metavar="-- OPTION", help="options of sam local invoke"
    )


def add_operators(added: Subparsers) -> None:
    """Add the operators' commands (`python -m ops`), for the stack of an instance."""
    for add in COMMANDS:
        for each in add(added):
            add_name(each)
            each.set_defaults(does=commands.on_instance(each.get_default("does")))


def add_down(added: Subparsers) -> None:
    """Add `down`."""
    down = command(added, "down", commands.down, "End an instance and remove its folder.")
    add_name(down)
    down.add_argument("--all", action="store_true", help="end every instance of this checkout")


def add_name(added: argparse.ArgumentParser) -> None:
    """Add `--name`, which names the instance."""
    added.add_argument(
        "--name", default=DEFAULT_NAME, help=f"the instance's name (default: {DEFAULT_NAME})"
    )


def add_json(added: argparse._ActionsContainer, text: str) -> None:
    """Add `--json`."""
    added.add_argument("--json", action="store_true", help=text)


def add_retention(added: argparse.ArgumentParser) -> None:
    """Add `--retention-days`, a template parameter."""
    added.add_argument(
        "--retention-days",
        type=option(positive),
        metavar="DAYS",
        help="how old a reading may be, and how long windows are kept (default: the template's)",
    )


def add_sources(added: argparse.ArgumentParser) -> None:
    """Add the options of devices, simulated and recorded, and of their posts."""
    added.add_argument(
        "--for",
        dest="seconds",
        type=option(duration_seconds),
        metavar="TIME",
        help="stop after 30s, 5m, 1h …",
    )
    add_fleet(added.add_argument_group("simulated devices"))
    add_recorded(added.add_argument_group("recorded measurements, instead of simulated devices"))
    add_posting(added.add_argument_group("how they post"))


Group = argparse._ArgumentGroup  # noqa: SLF001 - no public name either


def valued(
    group: Group, flag: str, parse: Callable[[str], Any], default: Any, metavar: str, text: str
) -> None:
    """Add an option with a value; its help ends with its default."""
    default_text = f"{default:g}" if isinstance(default, float) else default
    help_text = text if default is None else f"{text} (default: {default_text})"
    group.add_argument(flag, type=option(parse), default=default, metavar=metavar, help=help_text)


def add_fleet(group: Group) -> None:
    """Add the options of simulated devices."""
    fleet = FleetOptions()
    many = f"how many (default: {fleet.devices}, or fewer on a slow machine)"
    valued(group, "--devices", positive, None, "N", many)
    each = f"readings a second and device (default: {fleet.rate:g})"
    valued(group, "--rate", rate, None, "R", each)
    valued(group, "--seed", int, fleet.seed, "N", "seed of all that they measure")
    valued(group, "--anomalies", share, fleet.anomalies, "SHARE", "devices that overheat")
    valued(group, "--duplicates", share, fleet.duplicates, "SHARE", "readings sent twice")
    valued(group, "--late", share, fleet.late, "SHARE", "readings sent late")
    late_by = "how late, in seconds or as 10s, 5m"
    valued(group, "--late-by", seconds_or_duration, fleet.late_seconds, "TIME", late_by)
    in_avro = "devices that write Avro, half of them by the oldest schema"
    valued(group, "--avro", share, fleet.avro, "SHARE", in_avro)
    valued(group, "--prefix", str, fleet.prefix, "TEXT", "prefix of their ids")


def add_recorded(group: Group) -> None:
    """Add the options of recorded measurements: how to read the file, when to send its rows."""
    group.add_argument("--csv", type=Path, metavar="FILE", help="its first line names the columns")
    valued(group, "--device", str, None, "NAME", "the device that measured all rows")
    valued(group, "--device-column", str, None, "COLUMN", "or: the column of the device's id")
    valued(group, "--time-column", str, "time", "COLUMN", "the column of the measurement's time")
    valued(group, "--time-format", str, None, "FORMAT", "strptime format of times not in ISO 8601")
    zone = "time zone of times without one: Europe/Berlin, +01:00"
    valued(group, "--zone", str, "UTC", "NAME", zone)
    group.add_argument(
        "--metric",
        action="append",
        default=[],
        type=option(metric_column),
        metavar="METRIC=COLUMN",
        help="the column of a metric; repeat it for each metric: --metric temperature=temp",
    )
    units = sorted(TO_CELSIUS)
    group.add_argument("--celsius-from", choices=units, help="the temperatures' unit in the file")
    faster = "times faster than recorded, or max"
    valued(group, "--speed", speed, 1.0, "X", faster)
    shift = "shift the times so that the last is now"
    group.add_argument("--ends-now", action="store_true", help=shift)


def add_posting(group: Group) -> None:
    """Add the options of posts."""
    posting = PostingOptions()
    each = "each device posts for itself with its own token (default: one gateway for all)"
    group.add_argument("--each", action="store_true", help=each)
    of_mqtt = "publish over MQTT instead: all devices, or a share of them, with certificates"
    group.add_argument(
        "--mqtt",
        type=option(share),
        nargs="?",
        const=1.0,
        default=posting.mqtt,
        metavar="SHARE",
        help=of_mqtt,
    )
    valued(group, "--batch", positive, posting.batch, "N", "maximum of readings in a request")
    linger = f"maximum time to fill a batch (default: {posting.linger_seconds:g}s; --each: 5s)"
    valued(group, "--linger", seconds_or_duration, None, "TIME", linger)
    valued(group, "--connections", positive, posting.connections, "N", "requests at a time")


def console_on(stderr: bool) -> Console:
    """Return the console for messages; outside a terminal it is wide enough for any line."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=LOG_WIDTH)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    options = parser().parse_args(arguments)
    to_stderr = getattr(options, "json", False)
    raise_on_terminate()
    try:
        done: int = options.does(options, console_on(to_stderr))
    except EmulatorError as error:
        show_error(Console(stderr=True), error)
        return TOO_SLOW if isinstance(error, (NoAnswer, StepTimedOut)) else 1
    except (BotoCoreError, ClientError) as error:
        show_error(Console(stderr=True), LocalError(f"the embedded AWS: {error}"))
        return TOO_SLOW if isinstance(error, ReadTimeoutError | ConnectTimeoutError) else 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except OSError as error:
        fault = fault_of(error)
        if fault is None:
            raise
        show_error(Console(stderr=True), LocalError(fault))
        return 1
    return done
