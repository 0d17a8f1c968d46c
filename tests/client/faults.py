"""Kills a device, cuts it off and answers it wrongly: each recorded reading must arrive once.

    make client-faults ARGS="--for 5m"

The device is a process of its own (`tests.client.device`). Its network delays, resets, is cut for a
while, and for two fifths of the time drops everything. The pipeline answers 429, 503, 503 with
`not_taken`, 502 for taken readings, or too late. At the end all faults stop, and the device sends
its remaining readings.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.client import device
from tests.client.servers import Answer, Network, Pipeline, serving

ROOT = Path(__file__).parents[2]
DEVICE_ID = "suffering"
TICK_SECONDS = 0.05
LIFE_SECONDS = (0.4, 1.2)
CUT_SECONDS = (0.2, 1.5)
DROPPING = (0.3, 0.7)  # of the time: nothing goes through, and nobody says so
END_SECONDS = 90.0
KILLS_MIN = 2  # however short the time, and slow the machine


@dataclass(frozen=True)
class Journal:
    """The device's own list of its recorded readings, and its store's list of sent ones."""

    recorded: list[tuple[int, int, int]]
    """Each reading's instant, life and number."""
    sent: list[int]
    kills: int
    cuts: int
    resets: int
    dropped: int = 0
    """Connections without an answer while the network dropped everything."""

    @property
    def problems(self) -> list[str]:
        """What the device itself gets wrong: an instant used twice, or a reading not sent."""
        instants = [at_ms for at_ms, _, _ in self.recorded]
        found = []
        if len(set(instants)) < len(instants):
            found.append(f"{len(instants) - len(set(instants))} instants were used twice")
        if missing := set(instants) - set(self.sent):
            found.append(f"{len(missing)} recorded readings were not sent")
        if len(set(self.sent)) < len(self.sent):
            found.append(f"{len(self.sent) - len(set(self.sent))} were settled twice")
        unnoted = len(set(self.sent) - set(instants))
        if unnoted > self.kills:  # each kill may come between recording and noting
            found.append(f"{unnoted} were sent that nobody noted, and {self.kills} kills")
        return found


class Trouble:
    """The pipeline's wrong answers while `is_on`."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.is_on = True
        self.answers: Counter[str] = Counter()

    def __call__(self, pipeline: Pipeline, readings: list[dict[str, Any]]) -> Answer | None:
        if not self.is_on:
            return None
        choice = self._chance.choices(
            ["202", "429", "503", "503 of some", "502 after taking", "too late", "captive portal"],
            [60, 8, 8, 10, 8, 3, 3],
        )[0]
        self.answers[choice] += 1
        match choice:
            case "429":
                return 429, {"message": "Too Many Requests"}, {}
            case "503":
                return 503, {"message": "later"}, {"Retry-After": "0"}
            case "503 of some":
                return self.some(pipeline, readings)
            case "502 after taking":
                pipeline.take(readings)
                return 502, {"message": "Internal server error"}, {}
            case "too late":
                pipeline.take(readings)
                time.sleep(1.2)  # the device waits for one second
            case "captive portal":
                return 200, b"<html>Welcome</html>", {}
        return None

    def some(self, pipeline: Pipeline, readings: list[dict[str, Any]]) -> Answer:
        """Take some of the readings, and name the others as not taken."""
        lost = {index for index in range(len(readings)) if self._chance.random() < 0.5} | {0}
        pipeline.take([each for index, each in enumerate(readings) if index not in lost])
        accepted = len(readings) - len(lost)
        body = {"message": "later", "accepted": accepted, "not_taken": sorted(lost)}
        return 503, {**body, "rejected": []}, {}


class Device:
    """The device's process, started again after each kill."""

    def __init__(self, folder: Path, url: str, name: tuple[str, str], timeout_s: float) -> None:
        self.store, self.journal = folder / "readings.db", folder / "journal"
        self._url = url
        paths = os.pathsep.join(str(ROOT / each) for each in (".", "clients/python/src"))
        self._timeout_s = timeout_s
        own = {device.DEVICE_ID_VARIABLE: name[0], "TELEMETRY_TOKEN": name[1]}
        self._environment = os.environ | own | {"PYTHONPATH": paths}
        self.lives = self._noted = 0
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        arguments = [str(self.store), str(self.journal), self._url]
        arguments += [str(self.lives), str(self._timeout_s)]
        self.lives += 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.client.device", *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
        )
        return self.process

    def has_recorded(self) -> bool:
        """Return whether it has recorded in this life: a start takes time on a busy machine."""
        is_there = self.journal.exists() and self.journal.stat().st_size > self._noted
        return is_there and self.process.poll() is None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self._noted = self.journal.stat().st_size if self.journal.exists() else 0

    def end(self) -> None:
        """Let it send its readings, and end."""
        self.process.communicate(b"\n", timeout=END_SECONDS)

    def read(self, kills: int, cuts: int, network: Network) -> Journal:
        lines = self.journal.read_text("ascii").splitlines()
        recorded = [tuple(map(int, line.split())) for line in lines]
        with closing(sqlite3.connect(self.store)) as sql:
            blobs = sql.execute("SELECT instants FROM sent").fetchall()
        sent = [at_ms for (blob,) in blobs for at_ms in array("q", blob)]
        noted = [(a, b, c) for a, b, c in recorded]
        return Journal(noted, sent, kills, cuts, network.resets, len(network.dropped))


def suffer(
    url: str,
    folder: Path,
    seconds: float,
    seed: int,
    name: tuple[str, str] = (DEVICE_ID, "token"),
    timeout_s: float = 1.0,
) -> Journal:
    """Let a device record for a time, behind a failing network, and kill it now and then."""
    chance, kills, cuts = random.Random(seed), 0, 0
    address = urlsplit(url)
    with Network(address.port or 80, seed) as network:
        network.reset_share, network.delay_s = 0.1, 0.02
        behind = address._replace(netloc=f"127.0.0.1:{network.port}").geturl()
        own = Device(folder, behind, name, timeout_s)
        try:
            end = time.monotonic() + seconds
            drops, carries = (end - seconds * (1 - share) for share in DROPPING)
            dies = cut = heals = 0.0
            while (now := time.monotonic()) < end or kills < KILLS_MIN:
                cut = cut or now + 1.0
                if not dies and own.has_recorded():
                    dies = now + chance.uniform(*LIFE_SECONDS)
                if dies and now >= dies:
                    own.kill()
                    own.start()
                    kills, dies = kills + 1, 0.0
                if drops <= now < carries:
                    if not network.is_dropping:
                        network.drop()
                    cut = carries
                elif network.is_dropping:
                    network.carry_again()
                if now >= cut and not network.is_cut:
                    network.cut()
                    cuts, heals = cuts + 1, now + chance.uniform(*CUT_SECONDS)
                if network.is_cut and now >= heals:
                    network.is_cut, cut = False, now + chance.uniform(0.5, 3.0)
                time.sleep(TICK_SECONDS)
            network.is_cut, network.reset_share = False, 0.0
            network.carry_again()
            own.end()
        finally:
            own.kill()
        return own.read(kills, cuts, network)


def problems(journal: Journal, pipeline: Pipeline) -> list[str]:
    """What a pipeline that keeps the set of readings has otherwise than the device."""
    found = journal.problems
    stored = {at_ms: each for (_, at_ms), each in pipeline.stored.items()}
    if set(stored) != set(journal.sent):
        found.append(f"{len(stored)} stored, {len(set(journal.sent))} sent")
    for at_ms, life, number in journal.recorded:
        expected = device.metrics(life, number)
        if at_ms in stored and expected.items() - stored[at_ms].items():
            found.append(f"{at_ms}: {stored[at_ms]}, recorded as {expected}")
    kinds = Counter((each["temperature"], each["pressure"]) for each in stored.values())
    found += [f"{kind} is stored {times} times" for kind, times in kinds.items() if times > 1]
    if pipeline.conflicts:
        found.append(f"{pipeline.conflicts} times one identity came with other metrics")
    return found


def main() -> int:
    """Run for the given time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--for", dest="time", default="1m", help="such as 30s or 5m")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    seconds = float(options.time[:-1]) * {"s": 1, "m": 60}[options.time[-1]]
    trouble = Trouble(options.seed)
    with serving(Pipeline(trouble)) as pipeline, tempfile.TemporaryDirectory() as folder:
        journal = suffer(pipeline.url, Path(folder), seconds, options.seed)
        found = problems(journal, pipeline)
    print(f"seed {options.seed}: {len(journal.recorded):,} readings recorded and noted")
    first, last = DROPPING
    print(f"  {journal.kills} kills, {journal.cuts} cuts, {journal.resets} resets")
    print(f"  {journal.dropped} connections without an answer in {seconds * (last - first):.0f} s")
    print(f"  {len(pipeline.requests):,} requests answered: {dict(trouble.answers)}")
    print(f"  {len(pipeline.stored):,} stored, {pipeline.repeated:,} came again, each counted once")
    for problem in found:
        print(f"✗ {problem}")
    print("✗ failed" if found else "✓ every recorded reading is stored exactly once")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
