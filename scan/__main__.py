"""`python -m scan [CHECK...]`: finds known faults in template, code, dependencies and repository.

Exit codes: 0, nothing new was found. 1, a finding isn't accepted, an acceptance has no finding, or
a tool broke. 3, none of these, but a check couldn't run without a network or npm.
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
Fix the new findings, or accept them in scan/accepted.yaml: under the check's name and the [rule],
with a reason in `why` and, in `at`, the text before the [rule]. Delete acceptances that no longer
occur."""

Check = Callable[[], Report]
Templates = dict[str, Path]


def checks(run: Run, *, has_npm: bool) -> dict[str, Check]:
    """Return each check by its name."""
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
    """Return a function that calls `make` once; other threads wait for the result."""
    turn, made = Lock(), list[Templates]()

    def get() -> Templates:
        with turn:
            if not made:
                made.append(make())
            return made[0]

    return get


class Outcome(NamedTuple):
    """A check's result: a line, an exit code, new findings and stale acceptances, tool errors."""

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
    """Return the outcome of a report: its new findings, and the acceptances without a finding."""
    new = accepted.new(report.findings, names)
    stale = accepted.stale(report.findings, names)
    old = len(report.findings) - len(new)
    counts = ((len(new), "new"), (old, "accepted"), (len(stale), "no longer there"))
    line = ", ".join([report.looked_at, *(f"{count} {kind}" for count, kind in counts if count)])
    differences = [line_of(each) for each in new]
    differences += [f"{place} [{rule}]: accepted, and no longer found" for rule, place in stale]
    return Outcome(line, FOUND if differences else 0, differences)


def line_of(finding: Finding) -> str:
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
    verdict = {0: "clean", FOUND: "failed", NOT_DONE: "nothing found, but not all could be checked"}
    print(f"scan: {verdict[code]}, {time.monotonic() - started:.1f} s")
    if any(each.differences for each in outcomes):
        print(HOW_TO_ACCEPT)
    return code


def main() -> int:
    possible = checks(run, has_npm=shutil.which("npm") is not None)
    parser = argparse.ArgumentParser(prog="python -m scan", description=__doc__)
    parser.add_argument("check", nargs="*", help=f"{', '.join(possible)} (default: all)")
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
