"""Options of a course: every size and every fault rate, in one object."""

import random
from dataclasses import dataclass, field, fields, replace
from typing import Any


def rate(*rates: float) -> Any:
    """Return a fault rate that is 0 unless a seed picks one of these rates."""
    return field(default=0.0, metadata={"picks": rates, "strikes": True})


def switch(*values: Any, usual: Any) -> Any:
    """Return a setting that a seed picks from these values."""
    return field(default=usual, metadata={"picks": values, "strikes": False})


@dataclass(frozen=True)
class Options:
    """All options of a course except its seed. Rates are probabilities per occasion."""

    devices: int = 3
    minutes: float = 6
    """How long devices measure, in virtual time."""
    period_seconds: float = switch(6, 13, usual=9)

    # devices
    lost_ack: float = rate(0.05, 0.3)
    """The answer to a request is lost, so the device sends again."""
    other_region: float = rate(0.3, 1.0)
    """A repeated request goes to the other region."""
    late: float = rate(0.05, 0.3)
    """A reading is held back, for seconds to minutes, and sent after newer ones."""
    flutter: float = rate(0.5, 1.0)
    """A device that heats up cools and heats again from one reading to the next."""
    freezers: bool = switch(True, usual=False)
    """The measurements and the rule are below 0 °C."""
    odd_values: float = rate(0.1, 0.4)
    """A value is at an end of its range, or at the rule, or -0.0, or has 17 digits."""
    hours_late: float = rate(0.02, 0.1)
    """A reading of hours ago is sent."""
    apart: float = rate(0.1, 0.5)
    """A reading's metrics are sent apart, under one instant."""
    disagreeing: float = rate(0.02, 0.1)
    """A reading is sent again with another value."""
    contradicted: float = rate(0.3, 1.0)
    """The reading that ends a spell of heat is sent again minutes later, with a hot value."""
    elsewhere: float = rate(0.1, 0.5)
    """A reading, or a part of it, goes to the other region by itself."""
    gateway: float = rate(0.1, 0.5)
    """A device posts as the gateway of some sensors, with their readings."""
    burst: float = rate(0.2, 0.7)
    """Readings are collected, and several are sent in a request."""
    bad_body: float = rate(0.05, 0.2)
    """A request has a document that isn't a reading, or is another device's."""
    restart: float = rate(0.02, 0.1)
    """The device restarts, and sends the readings of its memory."""
    wrong_clock: float = rate(0.3, 1.0)
    """The device's clock is wrong, by minutes, hours or years."""
    new_firmware: float = rate(0.02, 0.1)
    """From some reading on the device uses another format, or HTTPS instead of MQTT."""
    other_way: float = rate(0.05, 0.2)
    """A sent reading is sent once more, another way, whatever the answer was."""
    bad_message: float = rate(0.05, 0.2)
    """A device publishes over MQTT a message that isn't a reading, or is another device's."""

    # MQTT
    puback_lost: float = rate(0.05, 0.3)
    """The acknowledgement of a message is lost, so the device publishes it again."""
    message_late: float = rate(0.1, 0.5)
    """IoT takes up to twenty seconds with a message; later ones overtake it."""
    action_fails: float = rate(0.1, 0.6, 0.8)
    """An attempt at a rule's action is throttled."""
    error_action_fails: float = rate(0.5, 0.9)
    """An attempt at a rule's error action fails, too."""
    event_late: float = rate(0.1, 0.5)
    """An asynchronous event waits up to a minute for its function."""
    event_fails: float = rate(0.3, 0.8)
    """The function for an asynchronous event doesn't even start."""
    event_twice: float = rate(0.05, 0.3)
    """An asynchronous event is delivered once more."""

    # functions
    crash_before: float = rate(0.005, 0.04)
    """The function dies before a call of a service."""
    crash_after: float = rate(0.005, 0.04)
    """The function dies after a call of a service."""
    stall: float = rate(0.002, 0.01)
    """A call hangs until the function has timed out; the zombie goes on, and writes."""
    slow_call: float = rate(0.05, 0.3)
    """A call takes seconds."""
    forgets: bool = switch(True, usual=False)
    """Functions have no memory to cache the states that they wrote."""
    clock_skew_seconds: float = switch(1.0, 10.0, usual=0.0)
    """The maximal error of functions' and regions' clocks."""
    throttle: float = rate(0.05, 0.3)
    slow_start: float = rate(0.2, 1.0)
    twin: float = rate(0.05, 0.3)
    """A batch is delivered twice at the same time."""

    # the stream and its mappings
    records_a_key: int = switch(2, 5, usual=250)
    """Records of one device in a request that have the same partition key."""
    packs: bool = switch(False, usual=True)
    """The readings of a device in a request share a record."""
    put_throttle: float = rate(0.05, 0.5)
    """The stream refuses a record of a request."""
    not_readings: float = rate(0.05, 0.2)
    """Another producer puts bytes that aren't a reading; a chance each ten seconds."""
    foreign: float = rate(0.3, 1.0)
    """Another producer puts a reading, without a stamp; a chance each ten seconds."""
    foreign_packs: float = rate(0.3, 1.0)
    """Another producer puts a pack, maybe with bad readings; a chance each ten seconds."""
    heat_wave: float = rate(0.01, 0.02)
    """Another producer puts hot readings of many devices at once; a chance each ten seconds."""
    poison: float = rate(0.01, 0.04)
    """A reading kills the functions that get it, until they are mended."""
    reshard: float = rate(0.1, 0.4)
    """Shards are split or merged; a chance each ten seconds."""
    cursors_expire: float = rate(0.1, 0.4)
    """The iterator with which the mappings read on is refused; a chance each ten seconds."""
    kill_engine: float = rate(0.1, 0.3)
    """The event source mappings lose all but their checkpoints; a chance each ten seconds."""
    bisects: bool = switch(False, usual=True)
    retries_max: int = switch(3, 0, 0, usual=1000)
    age_seconds_max: int = switch(60, usual=21600)
    lanes: int = switch(3, usual=1)
    batch_size: int = switch(10, 3, usual=100)
    batching_window_seconds: int = switch(0, 5, usual=1)

    # tables and buckets
    call_fails: float = rate(0.02, 0.15)
    """A service refuses a call."""
    answer_lost: float = rate(0.01, 0.05)
    """A call takes place, but its answer is lost."""
    item_throttle: float = rate(0.1, 0.8)
    """One item of a batch isn't written."""
    mute_conflict: float = rate(0.3, 1.0)
    """A failed condition doesn't return the item."""
    stale_read: float = rate(0.1, 0.5)
    """A query returns an item in a state before its last writes, or not at all."""
    registry_fails: float = rate(0.2, 0.8)
    """The schema registry refuses a call."""
    outage: float = rate(0.02, 0.08)
    """A service is unavailable for up to two minutes; a chance each ten seconds."""
    replication_seconds: float = switch(5, 40, usual=0.5)
    replication_cut: float = rate(0.03, 0.1)
    """Regions are cut from each other for up to three minutes; a chance each ten seconds."""
    region_loss: float = rate(1.0)
    """One region is lost for good, in the second half; its devices move to the other."""
    window_limit: int = switch(5, usual=6000)
    """Maximum of readings in a window."""

    # operators
    redrive: float = rate(0.3, 1.0)
    """An operator redrives during the course; a chance each ten seconds."""

    # queues
    duplicate: float = rate(0.05, 0.3)
    """A message is delivered once more."""
    send_fails: float = rate(0.1, 0.7)
    """A queue refuses a message of a batch."""
    receives_max: int = switch(1, 2, usual=10)
    """Number of deliveries of a notice before it becomes a dead letter."""
    impatience: float = rate(0.1, 0.5)
    """A message becomes visible again while it is being processed."""

    @property
    def faults(self) -> dict[str, Any]:
        """Return the settings that differ from the usual ones."""
        usual = Options()
        names = [each.name for each in fields(self) if each.metadata]
        return {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) != getattr(usual, name)
        }

    def without(self, name: str) -> "Options":
        """Return the options with one setting as usual."""
        return replace(self, **{name: getattr(Options(), name)})


def drawn(seed: int) -> Options:
    """Return a seed's mix of faults: none in one of sixteen, one in three, several otherwise."""
    chance = random.Random(f"{seed}/options")
    options = Options(devices=chance.choice([1, 2, 2, 3, 4]))
    all_of_them = [each for each in fields(Options) if each.metadata]
    kind = chance.random()
    if kind < 1 / 16:
        return options
    if kind < 1 / 4:
        faults = [chance.choice(all_of_them)]
    else:
        share = chance.choice([0.15, 0.3, 0.5])
        faults = [each for each in all_of_them if chance.random() < share]
    picked = {each.name: chance.choice(each.metadata["picks"]) for each in faults}
    return replace(options, **picked)
