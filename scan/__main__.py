"""`python -m scan [CHECK...]`: known faults in the template, code, dependencies and repository.

Exit codes: 0, nothing new was found. 1, a finding isn't accepted, an acceptance has no finding, or
a tool broke. 3, none of these, but a check couldn't be done here, for want of a network or of npm.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import psutil

from scan import accepted, bom, code, dependencies, machines, secrets, template
from scan.tool import Broken, Finding, NotDone, Report, Run, run

FOUND, NOT_DONE, INTERRUPTED = 1, 3, 130
HOW_TO_ACCEPT = """\
Mend what is new, or say in scan/accepted.yaml why it stays: under the name of the check and the
[rule], a `why` and, in `at`, what stands before the [rule]. Delete there what no longer occurs."""

Check = Callable[[], Report]
Templates = dict[str, Path]


def checks(run: Run, *, has_npm: bool) -> dict[str, Check]:
    """Each check by its name."""
    expanded = once(lambda: template.expand(run))
    return {
        "template": lambda: template.check(run, expanded()),
        "dependencies": lambda: dependencies.check(run),
        "npm dependencies": lambda: dependencies.check_npm(run, has_npm=has_npm),
        "code": lambda: code.check(run),
        "secrets": lambda: secrets.check(run),
        "sbom": lambda: bom.check(run),
        "state machines": lambda: machines.check(run, expanded(), has_npm=has_npm),
    }


def once(make: Callable[[], Templates]) -> Callable[[], Templates]:
    """What it makes, made by the first thread that asks; the others wait for it."""
    turn, made = Lock(), list[Templates]()

    def get() -> Templates:
        with turn:
            if not made:
                made.append(make())
            return made[0]

    return get


class Outcome(NamedTuple):
    """What a check says: a line, its part in the exit code, and what is new, gone or broken."""

    line: str
    code: int
    differences: Sequence[str] = ()
    troubles: Sequence[str] = ()


def outcome(name: str, check: Check, names: accepted.Names) -> Outcome:
    started = time.monotonic()
    try:
        result = judged(check(), names)
    except NotDone as cause:
        result = Outcome(str(cause), NOT_DONE)
    except Broken as cause:
        result = Outcome("broken", FOUND, troubles=str(cause).splitlines())
    return result._replace(line=f"{name}: {result.line}, {time.monotonic() - started:.1f} s")


def judged(report: Report, names: accepted.Names) -> Outcome:
    """The findings that matter among a report's, and the acceptances that don't any more."""
    new = accepted.new(report.findings, names)
    stale = accepted.stale(report.findings, names)
    kept = len(report.findings) - len(new)
    counts = ((len(new), "new"), (kept, "accepted"), (len(stale), "no longer there"))
    line = ", ".join([report.looked_at, *(f"{count} {what}" for count, what in counts if count)])
    differences = [shown(each) for each in new]
    differences += [f"{place} [{rule}]: accepted, and no longer found" for rule, place in stale]
    return Outcome(line, FOUND if differences else 0, differences)


def shown(finding: Finding) -> str:
    return f"{finding.place} [{finding.rule}]: {finding.message}"


def run_checks(chosen: dict[str, Check], names: dict[str, accepted.Names]) -> int:
    """Run the checks, as many at once as there are cores; print each as it ends."""
    started, outcomes = time.monotonic(), list[Outcome]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [
            pool.submit(outcome, name, check, names.get(name, frozenset()))
            for name, check in chosen.items()
        ]
        try:
            for done in as_completed(running):
                each = done.result()
                details = [f"  {detail}" for detail in (*each.differences, *each.troubles)]
                print(each.line, *details, sep="\n", flush=True)
                outcomes.append(each)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in psutil.Process().children(recursive=True):
                child.terminate()
            raise
    codes = {each.code for each in outcomes}
    code = FOUND if FOUND in codes else max(codes)
    verdict = {0: "clean", FOUND: "failed", NOT_DONE: "nothing found, and not all was looked at"}
    print(f"scan: {verdict[code]}, {time.monotonic() - started:.1f} s")
    if any(each.differences for each in outcomes):
        print(HOW_TO_ACCEPT)
    return code


def main() -> int:
    possible = checks(run, has_npm=shutil.which("npm") is not None)
    parser = argparse.ArgumentParser(prog="python -m scan", description=__doc__)
    parser.add_argument("check", nargs="*", help=f"one of: {', '.join(possible)}; else all")
    asked = parser.parse_args().check or list(possible)
    if unknown := set(asked) - set(possible):
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    try:
        names = accepted.load(accepted.ACCEPTED.read_text("utf-8"))
        return run_checks({name: possible[name] for name in asked}, names)
    except accepted.Unreadable as wrong:
        print(f"scan/accepted.yaml: {wrong}", file=sys.stderr)
        return FOUND
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
