"""All invariants of the end of a course, in the order of their report."""

from collections.abc import Callable

from tests.simulation import answers, oracle
from tests.simulation.oracle import Found
from tests.simulation.world import World

BROKEN = "it_runs"
"""The invariant that every course ends without an error of its own."""
INVARIANTS: tuple[Callable[[World], Found], ...] = (
    oracle.it_comes_to_rest,
    oracle.functions_raise_what_they_mean_to,
    oracle.queues_are_empty,
    oracle.what_is_acknowledged_is_there,
    oracle.windows_are_the_sets_of_readings,
    oracle.regions_agree,
    oracle.records_have_their_devices_key,
    oracle.streams_have_what_devices_sent,
    oracle.windows_go_when_their_time_is_over,
    oracle.nobody_writes_anothers_data,
    oracle.the_bad_are_refused,
    oracle.quarantine_has_what_cannot_be_stored,
    oracle.bad_records_are_quarantined_once,
    oracle.bad_messages_are_quarantined_once,
    oracle.only_what_is_bad_is_quarantined,
    oracle.what_is_accepted_is_counted,
    oracle.what_filters_pass_over_comes_again,
    oracle.each_record_is_counted_once,
    oracle.nothing_is_unaccounted,
    oracle.episodes_open_and_clear_once,
    oracle.episodes_join_their_breaches,
    oracle.episodes_follow_each_other,
    oracle.episodes_are_cleared_in_time,
    oracle.each_sweep_sees_every_open_episode,
    oracle.notices_say_what_changed,
    oracle.notices_go_out_once,
    answers.windows_are_told,
    answers.devices_are_told,
    answers.alerts_are_told,
)


def violations(world: World) -> list[tuple[str, str]]:
    """Yield each invariant that doesn't hold, and the problem: (name, text)."""
    if world.failure:
        return [(BROKEN, world.failure)]
    return [(each.__name__, wrong) for each in INVARIANTS for wrong in each(world)]
