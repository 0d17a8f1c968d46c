"""Kills the engine of the event source mappings at random moments while records flow.

    make kills

The stream is the test's own, with two shards and two lanes each; its function records its batches.
No record may be lost, and each kill may repeat one batch of each lane at most.
"""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

from emulator import embedded
from local.instance import Instance, unused
from local.tools import tool
from ops.arguments import Parser
from tests.pipeline.consumers import Consumer
from tests.waiting import Patience

NAME = "killing"
SHARDS = 2
LANES = 2
BATCH_SIZE = 20
KEYS = 40
PUT_RECORDS = 40
PUT_SECONDS = 0.1
LIFE_SECONDS = (0.6, 1.6)  # an engine takes half a second to start
FUNCTION_SECONDS = 0.03
DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """The result: lost, repeated and reordered records."""

    kills: int
    put: int
    lost: int
    repeated: int
    """Deliveries of records beyond their first."""
    out_of_order: int
    """Records that were first delivered before an older one with the same key."""

    @property
    def repeated_max(self) -> int:
        """Return the maximum of repeats: a batch of each lane for each kill."""
        return self.kills * SHARDS * LANES * BATCH_SIZE


def kill_while_records_flow(instance: Instance, kills: int, seed: int) -> Outcome:
    """Put records and kill the engine, until all are delivered or delivery has stopped."""
    chance = random.Random(seed)
    consumer = Consumer(
        instance,
        NAME,
        SHARDS,
        seconds=FUNCTION_SECONDS,
        BatchSize=BATCH_SIZE,
        ParallelizationFactor=LANES,
    )
    stopping = threading.Event()
    put = 0

    def keep_putting() -> None:
        nonlocal put
        while not stopping.wait(PUT_SECONDS):
            consumer.put(range(put, put + PUT_RECORDS), KEYS)
            put += PUT_RECORDS

    putting = threading.Thread(target=keep_putting)
    putting.start()
    killed = 0
    try:
        while killed < kills:
            time.sleep(chance.uniform(*LIFE_SECONDS))
            killed += kill_engine(instance)
    finally:
        stopping.set()
        putting.join()
    patience, seen = Patience(DRAIN_SECONDS), -1
    while (there := len(set(consumer.numbers))) < put and not patience.is_over():
        if there > seen:
            patience.progressed()
        seen = there
        time.sleep(0.2)
    consumer.remove()
    return judge(consumer.deliveries, put, kills)


def kill_engine(instance: Instance) -> bool:
    """Kill the engine if it lives; the launcher starts another one."""
    try:
        os.kill(int((instance.folder / "mappings.pid").read_text()), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def judge(deliveries: list[tuple[str, int]], put: int, kills: int) -> Outcome:
    """Compare the delivered records with those that were put."""
    times = Counter(number for _, number in deliveries)
    newest: dict[str, int] = {}
    seen: set[int] = set()
    out_of_order = 0
    for key, number in deliveries:
        if number not in seen:
            seen.add(number)
            out_of_order += number < newest.get(key, -1)
            newest[key] = max(number, newest.get(key, -1))
    return Outcome(
        kills=kills,
        put=put,
        lost=len(set(range(put)) - seen),
        repeated=sum(times.values()) - len(times),
        out_of_order=out_of_order,
    )


def main() -> int:
    """Kill as often as told, on a new instance."""
    parser = Parser(prog="make kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    instance = unused(NAME)
    instance.create()
    try:
        aws = embedded.start(instance, tool("aws", "python"))
        try:
            outcome = kill_while_records_flow(instance, options.kills, options.seed)
        finally:
            aws.stop()
    finally:
        instance.remove()
    print(f"seed {options.seed}: {outcome}, repeated at most {outcome.repeated_max}")
    is_right = outcome.lost == 0 and outcome.repeated <= outcome.repeated_max
    return 0 if is_right and outcome.out_of_order == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
