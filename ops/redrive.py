"""`redrive`: retry failed batches and notices, until nothing is left or nothing changes."""

import argparse
import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from ops.command_types import Subparsers
from ops.errors import OpsError
from ops.target import Target

STEP_SECONDS = 10
"""How long an invocation may begin new work; progress is printed after each invocation."""
MOVED = ("succeeded", "quarantined", "dead_letters")
TEXT = "Retry batches that a mapping gave up on, and notices that couldn't be sent."


def add(added: Subparsers) -> list[argparse.ArgumentParser]:
    """Add `redrive`."""
    parser = added.add_parser("redrive", help=TEXT, description=TEXT)
    parser.set_defaults(does=redrive)
    return [parser]


def redrive(_options: argparse.Namespace, target: Target, console: Console) -> int:
    """Invoke the function again and again; return 1 if something is left.

    It can be stopped at any moment: finished batches stay finished, and the next run goes on.
    """
    function, aws_lambda = target.output("RedriveFunctionName"), target.connect("lambda")
    total: Counter[str] = Counter()
    while True:
        before = total.copy()
        left, why = one_pass(aws_lambda, function, total, console)
        if not left or total == before:
            break
    for reason, count in why.most_common():
        console.print(f"  {count}× {reason}", highlight=False, markup=False, soft_wrap=True)
    if not left:
        console.print("[green]✓[/] nothing is left", highlight=False)
        return 0
    console.print(
        "[red]✗[/] the rest doesn't move: mend what it waits for, and redrive again",
        highlight=False,
        soft_wrap=True,
    )
    return 1


def one_pass(
    aws_lambda: Any, function: str, total: Counter[str], console: Console
) -> tuple[int, Counter[str]]:
    """Try each object once and add to the total; return how many records are left, and why."""
    left, kept, why = 0, set[str](), Counter[str]()
    while True:
        with console.status("redriving"):
            report = invoke(aws_lambda, function, kept)
        total.update({name: report[name] for name in MOVED})
        left += report["left"]
        why.update(report["why"])
        console.print(progress_text(total, left), highlight=False, soft_wrap=True)
        if not report["more"]:
            return left, why
        if not report["kept"] and not any(report[name] for name in MOVED):
            return left + 1, why  # time was up before any object was tried
        kept.update(report["kept"])


def invoke(aws_lambda: Any, function: str, kept: Collection[str]) -> dict[str, Any]:
    """Return the report of one invocation, which skips objects tried before; raise OpsError."""
    event = json.dumps({"seconds": STEP_SECONDS, "skip": sorted(kept)})
    try:
        answer = aws_lambda.invoke(FunctionName=function, Payload=event.encode())
        payload = json.loads(answer["Payload"].read())
    except (ClientError, BotoCoreError, ValueError) as error:
        raise OpsError(f"{function}: {error}") from None
    if answer.get("FunctionError"):
        why = f"{payload.get('errorType')}: {payload.get('errorMessage')}"
        raise OpsError(f"{function} failed: {why}. Finished batches stay finished: redrive again.")
    report: dict[str, Any] = payload
    return report


def progress_text(total: Counter[str], left: int) -> str:
    """Return the progress in one line."""
    return (
        f"records: {total['succeeded']:,} succeeded, {total['quarantined']:,} quarantined, "
        f"{left:,} left; notices sent again: {total['dead_letters']:,}"
    )
