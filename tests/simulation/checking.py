"""Runs seeds, and reduces a failing one to its shortest history."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.simulation import edge_bugs, pack_bugs  # noqa: F401 - they add their own to BUGS
from tests.simulation.bugs import BUGS, planted
from tests.simulation.invariants import BROKEN, violations
from tests.simulation.options import Options, drawn
from tests.simulation.oracle import WAYS, kept, notices_sent, own_episodes
from tests.simulation.world import World, run

MINUTES_MIN = 0.5


@dataclass(frozen=True)
class Outcome:
    """The result of one course."""

    seed: int
    options: Options
    violations: list[tuple[str, str]]
    lines: list[str]
    digest: str
    readings: int
    hits: Counter[str]
    """How often each fault struck, and had its effects."""

    @property
    def invariants(self) -> set[str]:
        """The names of the invariants that don't hold."""
        return {name for name, _ in self.violations}


def course(seed: int, options: Options | None = None, bug: str | None = None) -> Outcome:
    """Run a seed, with its own mix of faults or another one, and check every invariant."""
    options = options or drawn(seed)
    with planted(bug):
        try:
            world = run(seed, options)
            found = violations(world)
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed shows it
            return Outcome(seed, options, [(BROKEN, repr(error))], [], "", 0, Counter())
    lines, digest = world.conditions.history.lines(), world.conditions.history.digest()
    return Outcome(seed, options, found, lines, digest, stored(world), hits(world))


def seed_that_finds(bug: str, seeds: int) -> int | None:
    """Return a seed in which a planted bug breaks its invariant: the known one, or one of `seeds`.

    None without such a seed. Raise RuntimeError if a course doesn't end: others wouldn't either.
    """
    wanted = BUGS[bug].breaks
    tried: list[int] = [BUGS[bug].seed, *range(seeds)]
    for seed in tried:
        outcome = course(seed, bug=bug)
        if wanted in outcome.invariants:
            return seed
        if BROKEN in outcome.invariants:
            raise RuntimeError(f"{bug}, seed {seed}: {outcome.violations}")
    return None


def hits(world: World) -> Counter[str]:
    """Return how often each fault struck, and how often it had its intended effects."""
    found = world.conditions.hits.copy()
    for region in kept(world):
        found["dead letter"] += region.queues["dead-letters"].sent
        found["second episode"] += sum(
            item["episode"]["N"] != "1" for item in own_episodes(world, region).values()
        )
        found["notice sent again"] += sum(
            times - 1 for way in WAYS for times in notices_sent(region, way).values()
        )
        for line in region.quarantined():
            found["full window" if line["reason"].startswith("window_full") else "quarantined"] += 1
    return found


def stored(world: World) -> int:
    """Return the number of records on the streams."""
    return sum(len(region.stream.log) for region in world.regions.values())


def reduced(
    outcome: Outcome, bug: str | None = None, tell: Callable[[str], None] = print
) -> Outcome:
    """Return the same failure with as few faults, devices and minutes as possible."""
    tell(f"seed {outcome.seed}: reducing {len(outcome.lines)} events")
    best, is_smaller = outcome, True
    while is_smaller:
        is_smaller = False
        for options in smaller(best.options):
            tried = course(outcome.seed, options, bug)
            if tried.invariants & outcome.invariants and len(tried.lines) < len(best.lines):
                best, is_smaller = tried, True
                tell(f"seed {outcome.seed}: {len(best.lines)} events")
                break
    return best


def smaller(options: Options) -> Iterator[Options]:
    """Yield options with a little less of something, the most promising first."""
    if options.minutes / 2 >= MINUTES_MIN:
        yield replace(options, minutes=options.minutes / 2)
    if options.devices > 1:
        yield replace(options, devices=1)
        yield replace(options, devices=options.devices - 1)
    for name in options.faults:
        yield options.without(name)
    yield replace(options, minutes=options.minutes * 0.8)
