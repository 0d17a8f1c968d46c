"""The commands of `python -m local`: each takes options and a console, and returns an exit code."""

import argparse
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from emulator import embedded
from emulator.mqtt.certificates import Pair
from local import invoke as sam_invoke
from local.api import Api, Json
from local.deployment import aws_environment, client
from local.errors import LocalError
from local.fleet.credentials import claim, issue_certificates, mqtt_authority
from local.fleet.over_https import BATCH_MAX, PostingOptions
from local.fleet.over_mqtt import speakers
from local.fleet.reading import Source
from local.fleet.recorded import CsvOptions, Recording
from local.fleet.simulated import Fleet, FleetOptions
from local.fleet.sizing import measured
from local.instance import DEFAULT_NAME, Instance, State, existing, named, unused, up_command
from local.notices import Delivery, Notices, heading, line_of, subscribe, together
from local.notices import as_json as notice_as_json
from local.session import (
    DEVICE_OF_EXAMPLES,
    Cleaning,
    brought_up,
    deploy_changes,
    issue_device_tokens,
)
from local.sources import changes, digests, listed
from local.tables import (
    ALERT_COLUMNS,
    STATISTICS,
    WINDOW_COLUMNS,
    alert_rows,
    counted,
    metrics_of,
    window_rows,
    write_csv,
)
from local.tracing import show_trace
from local.trial.chaos import GRACE_SECONDS, PATIENCE_SECONDS, Chaos
from local.trial.check import from_iso, iso
from local.trial.mapping_state import MappingReader, shards_table
from local.trial.mapping_state import as_json as mappings_as_json
from local.trial.monitor import Monitor
from local.trial.poison import Poisoning
from local.trial.report import Report, as_json, print_verdict
from local.trial.run import REFRESH_SECONDS, Plan, elapsed_text, exercise, now_ms
from local.trial.screenshot import take_screenshot
from local.trial.watch import PLAIN_LINE_SECONDS, LiveView, PlainLines, plain_line
from local.values import duration_text
from local.view import Steps
from ops.command_types import Command
from ops.errors import OpsError
from ops.target import ANSWER_SECONDS_MAX, Target

Options = argparse.Namespace
HOUR_MS = 3_600_000
EACH_LINGER_SECONDS = 5.0
WIDE = 110
LOOK_SECONDS = 0.5
SCREENSHOT_SECONDS = 30.0
T = TypeVar("T")


def run(options: Options, console: Console) -> int:
    """Bring an instance up, run devices, check, and end it."""
    make_source, posting_options = source_of(options), posting_of(options)
    instance = named(options.name) if options.name else unused("run")
    steps, clean = Steps(console), cleaning(instance, console)
    with brought_up(instance, steps, parameters_of(options), clean=clean) as aws:
        source = make_source(sized(options, steps))
        prepare_tokens(instance, source, posting_options)
        chaos = Chaos(instance, options.seed) if options.chaos else None
        plan = plan_of(options.seconds, chaos)
        poisoning = poison_of(options, instance, steps)
        report = exercise(instance, steps, source, posting_options, plan, aws.stop)
        if poisoning:
            counts = report.ledger.counts
            report.isolation = poisoning.end(counts.accepted, counts.resent + counts.unanswered)
            report.unsure += report.isolation.problems()
        if chaos:
            report.casualties = chaos.casualties()
            report.problems += report.casualties.problems()
        print_report(report, steps, instance, options, console)
        if options.keep:
            aws.release()
            console.print(f"still up: `python -m local down --name {instance.name}` ends it")
        else:
            aws.stop()
            if report.is_ok:
                instance.remove()
            else:
                keep_logs(instance, console)
    return report.verdict.value


def plan_of(seconds: float | None, chaos: Chaos | None) -> Plan:
    """Return the plan of a run; with chaos it waits longer."""
    if chaos is None:
        return Plan(seconds)
    return Plan(
        seconds,
        beside=chaos,
        grace_seconds=GRACE_SECONDS,
        patience_seconds=PATIENCE_SECONDS,
    )


def poison_of(options: Options, instance: Instance, steps: Steps) -> Poisoning | None:
    """Begin the test that `--poison` asks for; return None without that option."""
    if not options.poison:
        return None
    poisoning = Poisoning(instance)
    with steps.step("poison", "a third consumer, which one reading is going to kill"):
        poisoning.begin(options.seconds)
    return poisoning


def print_report(
    report: Report, steps: Steps, instance: Instance, options: Options, console: Console
) -> None:
    """Print the verdict of a run, and its report as JSON if `--json` asks for it."""
    print_verdict(report, console)
    if options.json:
        print_json(as_json(report, steps, instance.name))


def cleaning(instance: Instance, console: Console) -> Cleaning:
    """Return a function that cleans the folder of an instance of which the start or the run failed.

    Ctrl-C removes it: the person asked for the end, so there is no failure to look into.
    """

    def clean(kind: type[BaseException] | None) -> None:
        if kind and issubclass(kind, KeyboardInterrupt):
            instance.remove()
        elif kind and instance.folder.exists():
            keep_logs(instance, console)

    return clean


def keep_logs(instance: Instance, console: Console) -> None:
    """Remove everything except the logs of an instance that has ended, and print their place."""
    instance.keep_logs()
    console.print(f"  the logs are in {instance.folder}", highlight=False, soft_wrap=True)


def up(options: Options, console: Console) -> int:
    """Bring an instance up and leave it running; if it is up, deploy the changes."""
    instance = named(options.name)
    if instance.is_running() and instance.load().is_deployed:
        return redeploy(options, console, instance)
    clean = cleaning(instance, console)
    with brought_up(instance, Steps(console), parameters_of(options), clean=clean) as aws:
        subscribe(instance.load())
        aws.release()
    state = instance.load()
    of_name = "" if instance.name == DEFAULT_NAME else f" --name {instance.name}"
    console.print(f"\n  API  {state.api_url}", highlight=False, soft_wrap=True)
    for text in ("devices --for 1m", "watch", "query alerts", "notices", "env", "down"):
        console.print(f"  next [bold]python -m local {text}{of_name}[/]", highlight=False)
    return 0


def redeploy(options: Options, console: Console, instance: Instance) -> int:
    """Deploy the changes to an instance that is up, and print the names of the changed files."""
    changed = deploy_changes(instance, Steps(console), parameters_of(options))
    subscribe(instance.load())
    note = f"changed: {listed(changed)}" if changed else "nothing has changed: it is as it was"
    console.print(f"\n  {escape(note)}", highlight=False, soft_wrap=True)
    return 0


def devices(options: Options, console: Console) -> int:
    """Run devices against an instance that is up."""
    make_source, posting_options = source_of(options), posting_of(options)
    instance = named(options.name)
    state = instance.deployed()
    if options.check and "rules.yaml" in changes(state.sources, digests()):
        raise LocalError(
            "rules.yaml has changed since it was deployed, and --check uses it: "
            f"{up_command(instance.name)} deploys it"
        )
    steps = Steps(console)
    source = make_source(sized(options, steps))
    prepare_tokens(instance, source, posting_options)
    plan = Plan(options.seconds, options.check, is_alone=False)
    report = exercise(instance, steps, source, posting_options, plan, lambda: None)
    print_report(report, steps, instance, options, console)
    return report.verdict.value


def watch(options: Options, console: Console) -> int:
    """Show live how readings are processed until Ctrl-C, or write a screenshot of it."""
    instance = named(options.name)
    instance.deployed()
    monitor = Monitor(instance, since_ms=0)
    monitor.start()
    try:
        if options.screenshot:
            time.sleep(options.seconds or SCREENSHOT_SECONDS)
            take_screenshot(
                LiveView(monitor, instance.name, "live"), options.size, options.screenshot
            )
            console.print(f"{options.screenshot}: written", highlight=False, soft_wrap=True)
            return 0
        with contextlib.suppress(KeyboardInterrupt):
            show_live(monitor, console, instance, options.seconds)
        if console.is_terminal:
            console.print(plain_line(monitor, instance.name), highlight=False, soft_wrap=True)
    finally:
        monitor.abandon()  # without a last look: Ctrl-C shouldn't wait for answers
    return 0


def show_live(
    monitor: Monitor, console: Console, instance: Instance, seconds: float | None
) -> None:
    """Show the monitor until time is up: on the terminal's alternate screen, or in lines.

    Raise LocalError when the instance ends.
    """
    started, lines = time.monotonic(), PlainLines(console)
    with contextlib.ExitStack() as stack:
        live = (
            stack.enter_context(Live(console=console, auto_refresh=False, screen=True))
            if console.is_terminal
            else None
        )
        while instance.is_running():
            elapsed = time.monotonic() - started
            status = elapsed_text(elapsed, seconds)
            if live:
                live.update(LiveView(monitor, instance.name, status), refresh=True)
            else:
                lines.print(monitor, status, is_clock=True)
            if seconds is not None and elapsed >= seconds:
                return
            pause = REFRESH_SECONDS if live else PLAIN_LINE_SECONDS
            time.sleep(min(pause, seconds - elapsed) if seconds else pause)
    raise LocalError(f"instance '{instance.name}' has ended")


def notices(options: Options, console: Console) -> int:
    """Print the notices that were sent; with --follow, new ones too."""
    sent = Notices(named(options.name))
    if options.follow:
        with contextlib.suppress(KeyboardInterrupt):
            for index, deliveries in enumerate(sent.follow()):
                print_notices(deliveries, options.json, is_first=index == 0)
        return 0
    deliveries = waited_for(sent.look, options.wait)
    if options.json:
        return print_json({"notices": [notice_as_json(each) for each in deliveries]})
    if deliveries:
        print_notices(deliveries, as_json=False, is_first=True)
    elif sent.is_new:
        console.print("subscribed just now: notices from now on will be shown")
    else:
        console.print("no notice was sent yet: one is sent when an alert opens or clears")
    return 0


def print_notices(deliveries: list[Delivery], as_json: bool, is_first: bool) -> None:
    """Print notices, a line each: as a table with a heading, or as JSON."""
    if as_json:
        lines = [json.dumps(notice_as_json(each)) for each in deliveries]
    else:
        lines = [heading()] * is_first + [line_of(each) for each in together(deliveries)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def query_windows(options: Options, console: Console) -> int:
    """Print a device's windows."""
    with operator(options) as api:
        windows = waited_for(lambda: windows_of(api, options), options.wait)
    if options.json:
        return print_json({"device_id": options.device, "windows": windows})
    rows = list(window_rows(options.device, windows, options.metric))
    if options.csv:
        return print_csv(WINDOW_COLUMNS, rows)
    table = table_of("minute", "metric", "readings", *STATISTICS[1:])
    for _, minute, name, count, *numbers in rows:
        table.add_row(minute, name, str(count), *(f"{number:.2f}" for number in numbers))
    title = f"{options.device}: {counted(len(windows), 'window')}"
    if options.metric:
        others = ", ".join(metrics_of(windows))
        title += f", {options.metric}" if rows else f", none has {options.metric}"
        title += f" (they have {others})" if others and not rows else ""
    return print_table(console, table, title)


def windows_of(api: Api, options: Options) -> list[Json]:
    """Return a device's windows between `--from` and `--to`."""
    end_ms = time_of("--to", options.end) if options.end else now_ms()
    start_ms = time_of("--from", options.start) if options.start else end_ms - HOUR_MS
    return list(api.windows(options.device, iso(start_ms), iso(end_ms)))


def waited_for(look: Callable[[], list[T]], seconds: float) -> list[T]:
    """Call `look` until it returns something, at most for `seconds`; return that.

    Raise LocalError if nothing came in that time. With 0 seconds, an empty list may return.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    if seconds and not found:
        raise LocalError(f"nothing came in {duration_text(seconds)}")
    return found


def query_device(options: Options, console: Console) -> int:
    """Print the last known value of each of a device's metrics."""
    with operator(options) as api:
        answer = api.device(options.device)
    if options.json:
        return print_json(answer)
    table = table_of("metric", "value", "recorded at")
    for name, known in answer["metrics"].items():
        table.add_row(name, str(known["value"]), known["recorded_at"])
    searched = answer["searched"]
    title = f"{options.device}: last known values"
    if not searched["complete"]:
        title += f", as far back as {searched['back_to']}"
    return print_table(console, table, title)


def query_alerts(options: Options, console: Console) -> int:
    """Print the alerts."""
    with operator(options) as api:
        alerts = waited_for(lambda: list(api.alerts(options.status)), options.wait)
    if options.json:
        return print_json({"alerts": alerts})
    if options.csv:
        return print_csv(ALERT_COLUMNS, alert_rows(alerts))
    is_wide = console.width >= WIDE
    table = table_of("device", "rule", "first breach", "lasted", "peak", *["trace"] * is_wide)
    for alert in alerts:
        if "unreadable" in alert:
            table.add_row(alert["device_id"], alert["rule"], "unreadable")
            continue
        first, last = alert["first_breach_at"], alert["last_breach_at"]
        lasted = duration_text((from_iso(last) - from_iso(first)) / 1000)
        row = alert["device_id"], alert["rule"], first, lasted, f"{alert['peak']:.1f}"
        table.add_row(*row, *[str(alert.get("trace_id"))] * is_wide)
    return print_table(console, table, f"{counted(len(alerts), 'alert')}, {options.status}")


def query_accounting(options: Options, console: Console) -> int:
    """Print the counts of each stage, and the number of unaccounted readings."""
    end_ms = time_of("--to", options.end) if options.end else now_ms()
    start_ms = time_of("--from", options.start) if options.start else end_ms - HOUR_MS
    with operator(options) as api:
        answer = api.accounting(iso(start_ms), iso(end_ms))
    if options.json:
        return print_json(answer)
    table = table_of("stage", "count", "readings, episodes or notices")
    for stage, counts in answer["stages"].items():
        for name, amount in counts.items():
            table.add_row(stage, name, f"{amount:,}")
    unaccounted = counted(answer["unaccounted"], "reading")
    title = f"{answer['from']} to {answer['to']}: {unaccounted} unaccounted"
    return print_table(console, table, title)


def mappings(options: Options, console: Console) -> int:
    """Print the progress of each event source mapping of a stream."""
    instance = named(options.name)
    instance.deployed()
    states = MappingReader(instance).read()
    if options.json:
        return print_json(mappings_as_json(states))
    for each in states:
        title = f"{each.source} → {each.function}: {each.state}, {each.last_result}"
        print_table(console, shards_table(each), title)
    return 0


def trace(options: Options, console: Console) -> int:
    """Print the segments of one trace as a tree."""
    return show_trace(named(options.name), options.trace_id, console)


def env(options: Options, _console: Console) -> int:
    """Print variables for a shell."""
    instance = named(options.name)
    state = instance.deployed()
    variables = aws_environment(state, instance.endpoint) | {
        "API_URL": state.api_url,
        "MQTT_HOST": "127.0.0.1",
        "MQTT_PORT": str(state.mqtt_port),
        "MQTT_CA": str(mqtt_authority(instance.folder)),
        "ADMIN_TOKEN": state.tokens["admin"],
        "OPERATOR_TOKEN": state.tokens["operator"],
        "GATEWAY_TOKEN": state.tokens["gateway"],
        "DEVICE_ID": DEVICE_OF_EXAMPLES,
        "DEVICE_TOKEN": state.tokens[DEVICE_OF_EXAMPLES],
    }
    for name, value in variables.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0


def mqtt_certificate(options: Options, console: Console) -> int:
    """Make a device's certificate, and print a command that publishes with it."""
    instance = named(options.name)
    files = issue_certificates(instance, [options.device])[options.device]
    print_publishing(instance, options.device, files, console)
    return 0


def mqtt_claim(options: Options, console: Console) -> int:
    """Claim a device's certificate, as the device would; print a command that publishes with it."""
    instance = named(options.name)
    print_publishing(instance, options.device, claim(instance, options.device), console)
    return 0


def print_publishing(instance: Instance, device_id: str, files: Pair, console: Console) -> None:
    """Print a command that publishes a reading of a device: one long line, to be copied."""
    connection = (
        f"--host 127.0.0.1 --port {instance.load().mqtt_port} "
        f"--cafile {mqtt_authority(instance.folder)} "
        f"--cert {files.certificate} --key {files.key} --id {device_id}"
    )
    topic = f"telemetry/{device_id}/readings"
    reading = f'{{"recorded_at": {now_ms()}, "temperature": 21.5}}'
    command = f"mosquitto_pub {connection} --qos 1 --topic {topic} --message '{reading}'"
    console.print(command, highlight=False, soft_wrap=True, markup=False)


def invoke(options: Options, _console: Console) -> int:
    """Run one function in a container."""
    return sam_invoke.invoke(
        named(options.name), options.function, options.event, options.sam_arguments
    )


def on_instance(command: Command) -> Callable[[Options, Console], int]:
    """Return an operators' command that acts on the stack of an instance."""

    def run_command(options: Options, console: Console) -> int:
        state = named(options.name).deployed()
        try:
            return command(options, target_of(state), console)
        except OpsError as error:
            raise LocalError(str(error)) from None

    return run_command


def target_of(state: State) -> Target:
    """Return an instance's stack as the target of operators' commands."""
    return Target(
        state.stack,
        state.outputs,
        lambda service: client(state, service, answer_seconds_max=ANSWER_SECONDS_MAX),
    )


def down(options: Options, console: Console) -> int:
    """End an instance, or all of them, and remove its folder.

    Raise LocalError for an instance that is being brought up and has no process yet.
    """
    starting = []
    for instance in existing() if options.all else [named(options.name)]:
        was_there, was_running = instance.folder.exists(), embedded.stop(instance)
        if not was_running and instance.is_being_brought_up():
            starting.append(instance)
            continue
        instance.remove()
        done = "ended" if was_running else "had ended; its folder is removed"
        console.print(f"{instance.name}: {done if was_there else 'there is none'}", highlight=False)
    for instance in starting:
        raise instance.starting()
    return 0


def sized(options: Options, steps: Steps) -> int:
    """Return the number of simulated devices: `--devices`, or as many as the machine can run.

    With `--rate` alone, it is the default number.
    """
    if options.csv is not None or (options.devices or options.rate) is not None:
        return options.devices or FleetOptions.devices
    started = time.monotonic()
    machine = measured()
    steps.done("fleet", machine.text(), time.monotonic() - started)
    return machine.devices


def source_of(options: Options) -> Callable[[int], Source]:
    """Return a function from a number of devices to their source; raise LocalError for an option.

    A recording has its own devices: the number doesn't matter to it.
    """
    if options.csv is None:
        fleet = FleetOptions(
            devices=options.devices or FleetOptions.devices,
            rate=options.rate or FleetOptions.rate,
            seed=options.seed,
            anomalies=options.anomalies,
            duplicates=options.duplicates,
            late=options.late,
            late_seconds=options.late_by,
            avro=options.avro,
            prefix=options.prefix,
        )
        return lambda devices: Fleet(replace(fleet, devices=devices), now_ms())
    recording = CsvOptions(
        path=options.csv,
        time_column=options.time_column,
        metrics=dict(options.metric),
        device=options.device,
        device_column=options.device_column,
        celsius_from=options.celsius_from,
        time_format=options.time_format,
        zone=options.zone,
        speed=options.speed,
        is_ending_now=options.ends_now,
    )
    Recording(recording, 0)  # raises for an unreadable file, before anything is started
    return lambda _devices: Recording(recording, now_ms())


def posting_of(options: Options) -> PostingOptions:
    """Return the options of posts; raise LocalError for a wrong one."""
    if options.batch > BATCH_MAX:
        raise LocalError(
            f"--batch: {options.batch} is above {BATCH_MAX}, the most that the API takes at once"
        )
    linger = options.linger
    if linger is None:
        linger = EACH_LINGER_SECONDS if options.each else PostingOptions.linger_seconds
    return PostingOptions(
        options.batch, options.connections, linger, is_gateway=not options.each, mqtt=options.mqtt
    )


def prepare_tokens(instance: Instance, source: Source, posting_options: PostingOptions) -> None:
    """Create the certificates and device tokens that posts need."""
    if posting_options.mqtt:
        issue_certificates(instance, speakers(source.devices, posting_options.mqtt))
    if not posting_options.is_gateway:
        issue_device_tokens(instance, source.devices)


def parameters_of(options: Options) -> dict[str, str]:
    """Return the template parameters that the options set."""
    return {"WindowRetentionDays": str(options.retention_days)} if options.retention_days else {}


def operator(options: Options) -> Api:
    """Connect to an instance's API as its operator."""
    state = named(options.name).deployed()
    return Api(state.api_url, state.tokens["operator"])


def time_of(name: str, text: str) -> int:
    """Return a time in ms; raise LocalError that names the option if it isn't a time."""
    try:
        return from_iso(text)
    except ValueError:
        raise LocalError(
            f"{name}: '{text}' isn't a time: write it like 2026-11-21T01:30:00Z"
        ) from None


def table_of(*columns: str) -> Table:
    """Return an empty table."""
    table = Table(box=SIMPLE, pad_edge=False, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def print_table(console: Console, table: Table, title: str) -> int:
    """Print a table under its title."""
    console.print(f"[bold]{title}[/]", highlight=False)
    console.print(table)
    return 0


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Print rows as CSV on stdout."""
    write_csv(sys.stdout, columns, rows)
    return 0


def print_json(value: dict[str, Any]) -> int:
    """Print a value as JSON on stdout."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0
