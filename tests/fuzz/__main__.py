"""Posts damaged requests in every format to the routes that take readings, and checks the results.

    make fuzz ARGS="--for 10m"

It runs on a new instance. A finding is a request that ends in 5xx, isn't answered, takes over 5 s,
or is refused although it is whole; it is printed with its bytes. At the end, windows of devices
that sent whole requests must have exactly their accepted readings, windows of the others only valid
values. The quarantine must be empty, and the accounting must balance.
"""

import base64
import random
import sys
import time
from collections import Counter, defaultdict
from typing import Any

import httpx
from rich.console import Console

from local.fleet.reading import MINUTE_MS
from local.instance import unused
from local.session import brought_up, raise_on_terminate
from local.trial.check import iso
from local.values import duration_seconds
from local.view import Steps
from ops.arguments import Parser
from tests.fuzz.requests import RANGES, Document, Request, request
from tests.pipeline.deployed import Pipeline, bearer, becomes, now_ms

DEVICES = 8  # of damaged requests, and as many of whole ones
SLOW_SECONDS = 5.0
TELL_SECONDS = 15.0
DRAIN_SECONDS = 120.0
WRITES = ("/write?precision=ms", "/api/v2/write?precision=ms&org=o&bucket=b")
SHOWN_BYTES = 3_000


class Fuzz:
    """One run: its posts, answers and findings."""

    def __init__(self, pipeline: Pipeline, seed: int, tokens: dict[str, str]) -> None:
        self.pipeline = pipeline
        self.tokens = tokens
        self.schema_id = next(reversed(pipeline.schema_ids()), None)
        self.chance = random.Random(seed)
        self.since_ms = now_ms()
        self.answers: Counter[tuple[str, int]] = Counter()
        self.accepted = self.untold = 0
        """Readings that answers say were taken; and how many more may have been."""
        self.whole: dict[str, dict[int, Document]] = defaultdict(dict)
        self.findings: list[str] = []
        self.slowest = 0.0

    def post(self) -> None:
        """Post a request, by a device or a gateway."""
        number = self.chance.randrange(DEVICES)
        made = request(self.chance, f"fuzzed-{number}", now_ms(), self.schema_id)
        if not made.damage:
            made = self._of_whole(made, f"whole-{number}")
        device_id = made.documents[0]["device_id"]
        by_gateway = self.chance.random() < 0.4
        path = "/readings" if by_gateway else f"/devices/{device_id}/readings"
        if made.name == "lines":
            path = self.chance.choice(WRITES)
        headers = made.headers | bearer(self.tokens["gateway" if by_gateway else device_id])
        started = time.monotonic()
        try:
            answer = self.pipeline.http.post(path, content=made.data, headers=headers)
        except (httpx.HTTPError, UnicodeError) as error:
            self.found(made, f"no answer: {error!r}")
            return
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.judge(made, answer, time.monotonic() - started)

    def _of_whole(self, made: Request, device_id: str) -> Request:
        """Return a whole request of this device: draw requests until one is."""
        while made.damage or made.documents[0]["device_id"] != device_id:
            made = request(self.chance, device_id, now_ms(), self.schema_id)
        return made

    def judge(self, made: Request, answer: httpx.Response, seconds: float) -> None:
        self.answers[(made.name if not made.damage else "damaged", answer.status_code)] += 1
        if answer.status_code not in (202, 204, 400, 413, 415) or seconds > SLOW_SECONDS:
            self.found(made, f"{answer.status_code} after {seconds:.1f} s: {answer.text[:300]}")
            return
        body: Any = answer.json() if answer.content else {}
        if made.name == "lines" and made.damage:
            self.untold += made.data.count(b"\n") + 1  # InfluxDB's answers don't tell how many
        accepted = len(made.documents) if answer.status_code == 204 else body.get("accepted", 0)
        self.accepted += 0 if made.name == "lines" and made.damage else accepted
        if made.damage:
            if answer.is_error and not body.keys() & {"message", "rejected", "error"}:
                self.found(made, f"{answer.status_code} without a reason: {answer.text[:300]}")
        elif not answer.is_success or accepted != len(made.documents):
            self.found(made, f"whole, but {answer.status_code}: {answer.text[:300]}")
        else:
            for document in made.documents:
                self.whole[document["device_id"]].setdefault(document["recorded_at"], document)

    def found(self, made: Request, what: str) -> None:
        data = base64.b64encode(made.data[:SHOWN_BYTES]).decode()
        self.findings.append(f"{what}\n  {made.name} {made.damage} {made.headers} {data}")
        print(f"✗ {self.findings[-1]}", flush=True)

    def compare(self) -> None:
        """Compare stored readings with accepted ones; differences are findings."""
        accounted = self.account
        try:
            becomes(lambda: accounted()["unaccounted"], 0, "unaccounted", DRAIN_SECONDS)
        except AssertionError as error:
            self.findings.append(str(error))
        stages = accounted()["stages"]
        counted = stages["ingest"]["accepted"] - self.accepted
        if not 0 <= counted <= self.untold:
            self.findings.append(f"{self.accepted} accepted by the answers; counted: {stages}")
        quarantined = self.pipeline.quarantined()
        if quarantined:
            self.findings.append(f"in quarantine: {quarantined[:3]}")
        for device_id, sent in self.whole.items():
            minutes = Counter(at_ms // MINUTE_MS * MINUTE_MS for at_ms in sent)
            if self.pipeline.counts(device_id) != minutes:
                self.findings.append(f"windows of {device_id} differ from what was accepted")
        for number in range(DEVICES):
            for minute, window in self.pipeline.windows(f"fuzzed-{number}").items():
                self.forbidden(f"fuzzed-{number} {iso(minute)}", window["metrics"])

    def account(self) -> Any:
        return self.pipeline.operator.accounting(iso(self.since_ms), iso(now_ms() + MINUTE_MS))

    def forbidden(self, where: str, metrics: dict[str, dict[str, float]]) -> None:
        for name, (least, most) in RANGES.items():
            of = metrics.get(name)
            if of and not least <= of["min"] <= of["mean"] <= of["max"] <= most:
                self.findings.append(f"{where}: {name} {of} is outside {least} to {most}")


def main() -> int:
    """Run for the given time; return 1 if there is a finding."""
    parser = Parser(prog="make fuzz", description=__doc__)
    parser.add_argument("--for", dest="seconds", type=duration_seconds, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    raise_on_terminate()
    instance = unused("fuzz")
    try:
        with brought_up(instance, Steps(Console()), {}) as aws:
            try:
                with Pipeline(instance) as pipeline:
                    return run(pipeline, options.seed, options.seconds)
            finally:
                aws.stop()
    except KeyboardInterrupt:
        return 130
    finally:
        instance.remove()


def run(pipeline: Pipeline, seed: int, seconds: float) -> int:
    names = [f"{kind}-{number}" for kind in ("fuzzed", "whole") for number in range(DEVICES)]
    fuzz = Fuzz(pipeline, seed, {name: pipeline.token(name) for name in [*names, "gateway"]})
    until = time.monotonic() + seconds
    told = time.monotonic()
    while time.monotonic() < until:
        fuzz.post()
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            print(f"{fuzz.answers.total():,} requests, {until - told:.0f} s to go", flush=True)
    fuzz.compare()
    for (kind, status), count in sorted(fuzz.answers.items()):
        print(f"{kind:<10}{status:>5}{count:>8,}")
    whole = sum(map(len, fuzz.whole.values()))
    print(f"seed {seed}: {fuzz.answers.total():,} requests in {seconds:.0f} s, slowest", end=" ")
    print(f"{fuzz.slowest * 1000:.0f} ms; {fuzz.accepted:,} readings accepted, {whole:,} of them")
    print(f"from whole requests and compared; {len(fuzz.findings)} findings")
    for finding in fuzz.findings:
        print(f"✗ {finding}")
    return 1 if fuzz.findings else 0


if __name__ == "__main__":
    sys.exit(main())
