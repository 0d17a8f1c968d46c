"""Compare-and-set: whatever the others do and whatever fails, the store holds the union."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.aws.items import (
    ROUNDS,
    Attributes,
    CompareAndSet,
    Denied,
    Failed,
    Outcome,
    Write,
    Written,
)
from telemetry.errors import Rejected

from tests.fakes import MemoryItems

Numbers = frozenset[int]
KEYS = ("a", "b", "c")


class Union(NamedTuple):
    state: Numbers | None


Writer = CompareAndSet[str, Numbers, Union]


def adding(numbers: Numbers) -> Callable[[Numbers | None], Union]:
    def change(state: Numbers | None) -> Union:
        if state is not None and numbers <= state:
            return Union(state)
        return Union(numbers | (state or frozenset()))

    return change


def to_item(key: str, result: Union) -> Attributes:
    numbers = ",".join(map(str, sorted(result.state or ())))
    return {"key": {"S": key}, "sort": {"S": "-"}, "numbers": {"S": numbers}}


def to_state(item: Attributes) -> Numbers:
    return frozenset(map(int, item["numbers"]["S"].split(",")))


class GrowingItems(MemoryItems):
    """A table that notices when a write drops what was there."""

    def __init__(self) -> None:
        super().__init__(("key", "sort"))

    def _try(self, write: Write) -> Outcome:
        before = self.numbers(write.item["key"]["S"])
        outcome = super()._try(write)
        assert before <= self.numbers(write.item["key"]["S"]), "a write dropped numbers"
        return outcome

    def numbers(self, key: str) -> Numbers:
        item = self.stored.get((key, "-"))
        return frozenset() if item is None else to_state(item)


class Interrupted:
    """Items that lets somebody else act before each call: the caller's states are stale then."""

    def __init__(self, items: GrowingItems, others: Iterator[Callable[[], object]]) -> None:
        self._items = items
        self._others = others

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        next(self._others, lambda: None)()
        return self._items.write(writes)


def writer(items: MemoryItems | Interrupted, remembered: int = 1_000) -> Writer:
    return CompareAndSet(
        items, to_item, to_state, remembered=remembered, sleep=lambda _seconds: None
    )


def apply_all(target: Writer, additions: Mapping[str, Numbers]) -> None:
    """Again and again what isn't applied, as an event source mapping does."""
    left = dict(additions)
    for _ in range(20):
        applied = target.apply({key: adding(numbers) for key, numbers in left.items()})
        for key in applied:
            del left[key]
        if not left:
            return
    pytest.fail(f"never applied: {left}")


numbers = st.frozensets(st.integers(0, 9), min_size=1, max_size=4)
batches = st.dictionaries(st.sampled_from(KEYS), numbers, min_size=1)
faults = st.lists(st.sampled_from(["", "", "before", "after"]), max_size=60)


@given(st.lists(st.tuples(st.integers(0, 1), batches), max_size=12), faults)
def test_two_writers_with_stale_states_and_failures_store_the_union(
    turns: list[tuple[int, dict[str, Numbers]]], script: list[str]
) -> None:
    items = GrowingItems()
    left = iter(script)
    items.fault = lambda _write: next(left, "")
    writers = writer(items), writer(items)
    expected: dict[str, set[int]] = {key: set() for key in KEYS}
    for turn, batch in turns:
        apply_all(writers[turn], batch)
        for key, group in batch.items():
            expected[key] |= group
    assert {key: items.numbers(key) for key in KEYS} == expected


@given(batches, st.lists(batches, max_size=10), faults)
def test_writes_of_another_between_computing_and_writing_are_kept(
    mine: dict[str, Numbers], theirs: list[dict[str, Numbers]], script: list[str]
) -> None:
    items = GrowingItems()
    other = writer(items)

    def acting(batch: dict[str, Numbers]) -> Callable[[], None]:
        return lambda: apply_all(other, batch)

    remaining = [acting(batch) for batch in theirs]
    left = iter(script)
    items.fault = lambda _write: next(left, "")
    apply_all(writer(Interrupted(items, iter(remaining))), mine)
    for key in KEYS:
        assert items.numbers(key) >= mine.get(key, frozenset())
    for batch in theirs:
        apply_all(other, batch)  # those that had no turn
    assert {key: items.numbers(key) for key in KEYS} == {
        key: frozenset().union(*(batch.get(key, frozenset()) for batch in (mine, *theirs)))
        for key in KEYS
    }


def test_a_result_is_answered_only_for_what_is_stored() -> None:
    items = GrowingItems()
    items.fault = lambda write: "before" if write.item["key"]["S"] == "b" else ""
    applied = writer(items).apply({key: adding(frozenset({1})) for key in KEYS})
    assert applied == {"a": Union(frozenset({1})), "c": Union(frozenset({1}))}


def test_the_result_is_that_of_the_write_that_won() -> None:
    items = GrowingItems()
    writer(items).apply({"a": adding(frozenset({1, 2}))})
    applied = writer(items).apply({"a": adding(frozenset({2, 3}))})
    assert applied == {"a": Union(frozenset({1, 2, 3}))}


def test_a_write_whose_answer_was_lost_is_not_done_twice() -> None:
    items = GrowingItems()
    script = iter(["after"])
    items.fault = lambda _write: next(script, "")
    applied = writer(items).apply({"a": adding(frozenset({1}))})
    assert applied == {"a": Union(frozenset({1}))}
    assert items.stored["a", "-"]["version"] == {"N": "1"}


def test_a_warm_writer_writes_without_reading() -> None:
    items = GrowingItems()
    warm = writer(items)
    for number in range(10):
        apply_all(warm, {"a": frozenset({number})})
    assert items.statements == 10  # none was refused, so none was needed to learn the state


def test_a_cold_writer_learns_the_state_from_the_refusal() -> None:
    items = GrowingItems()
    apply_all(writer(items), {"a": frozenset({1})})
    items.statements = 0
    apply_all(writer(items), {"a": frozenset({2})})
    assert items.statements == 2
    assert items.numbers("a") == {1, 2}


def test_what_brings_nothing_new_is_not_written() -> None:
    items = GrowingItems()
    warm = writer(items)
    apply_all(warm, {"a": frozenset({1, 2})})
    assert warm.apply({"a": adding(frozenset({2}))}) == {"a": Union(frozenset({1, 2}))}
    assert items.statements == 1


def test_an_item_that_expired_is_written_anew() -> None:
    items = GrowingItems()
    warm = writer(items)
    apply_all(warm, {"a": frozenset({1})})
    items.stored.clear()
    apply_all(warm, {"a": frozenset({2})})
    assert items.stored["a", "-"] == {
        "key": {"S": "a"},
        "sort": {"S": "-"},
        "numbers": {"S": "2"},
        "version": {"N": "1"},
    }


def test_an_item_that_newer_code_wrote_is_left_alone_and_holds_up_no_other() -> None:
    def to_state_or_reject(item: Attributes) -> Numbers:
        if item["numbers"]["S"] == "newer":
            raise Rejected("is of a newer format")
        return to_state(item)

    items = GrowingItems()
    newer = {"key": {"S": "a"}, "sort": {"S": "-"}, "numbers": {"S": "newer"}}
    items.stored["a", "-"] = {**newer, "version": {"N": "7"}}
    plain = MemoryItems(("key", "sort"))
    plain.stored = items.stored
    target: Writer = CompareAndSet(plain, to_item, to_state_or_reject, sleep=lambda _seconds: None)
    changes = {"a": adding(frozenset({1})), "b": adding(frozenset({2}))}
    assert target.apply(changes).keys() == {"b"}
    assert items.stored["a", "-"] == {**newer, "version": {"N": "7"}}


def test_the_states_that_were_written_longest_ago_are_forgotten_first() -> None:
    items = GrowingItems()
    small = writer(items, remembered=2)
    for key in KEYS:
        apply_all(small, {key: frozenset({1})})
    items.statements = 0
    apply_all(small, {"c": frozenset({2})})
    apply_all(small, {"b": frozenset({2})})
    assert items.statements == 2
    apply_all(small, {"a": frozenset({2})})
    assert items.statements == 4  # refused once, since it had been forgotten


def test_memory_is_bounded_by_what_states_weigh() -> None:
    items = GrowingItems()
    heavy: Writer = CompareAndSet(items, to_item, to_state, weigh=len, remembered=5)
    apply_all(heavy, {"a": frozenset({1, 2, 3}), "b": frozenset({1, 2, 3})})
    items.statements = 0
    apply_all(heavy, {"b": frozenset({4})})  # 3 of 5: still known
    assert items.statements == 1
    apply_all(heavy, {"a": frozenset({4})})
    assert items.statements == 3


def test_a_state_that_nobody_changes_any_more_is_forgotten() -> None:
    items, now = GrowingItems(), [0.0]
    forgetful: Writer = CompareAndSet(
        items, to_item, to_state, remembered_seconds=120, clock=lambda: now[0]
    )
    apply_all(forgetful, {"a": frozenset({1})})
    now[0] = 100
    apply_all(forgetful, {"b": frozenset({1})})
    now[0] = 150
    apply_all(forgetful, {"b": frozenset({2})})
    items.statements = 0
    apply_all(forgetful, {"b": frozenset({3})})
    assert items.statements == 1
    apply_all(forgetful, {"a": frozenset({2})})
    assert items.statements == 3  # refused once, since it had been forgotten
    assert items.numbers("a") == {1, 2}


class Stubborn:
    """A table whose writes always fail, and that somebody else can't mend."""

    def __init__(self, outcome: Outcome) -> None:
        self.calls = 0
        self.outcome = outcome

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        self.calls += 1
        return [self.outcome] * len(writes)


def test_attempts_end_and_wait_a_few_seconds_in_all() -> None:
    waits: list[float] = []
    stubborn = Stubborn(Failed())
    target: Writer = CompareAndSet(stubborn, to_item, to_state, sleep=waits.append)
    assert target.apply({"a": adding(frozenset({1}))}) == {}
    assert stubborn.calls == ROUNDS == 8
    # 0.04 s doubling to 2.56 s, each between half and the whole of it: 5.08 s at most
    assert len(waits) == 7
    assert 2.54 <= sum(waits) <= 5.08
    assert all(later > earlier / 2 for earlier, later in itertools.pairwise(waits))


def test_what_the_role_may_not_write_is_tried_once() -> None:
    forbidden = Stubborn(Denied())
    target: Writer = CompareAndSet(forbidden, to_item, to_state)
    assert target.apply({"a": adding(frozenset({1}))}) == {}
    assert forbidden.calls == 1


def test_only_what_failed_is_tried_again() -> None:
    calls: list[list[str]] = []

    class Once:
        def write(self, writes: Sequence[Write]) -> list[Outcome]:
            names = [write.item["key"]["S"] for write in writes]
            calls.append(names)
            return [Failed() if name == "b" and len(calls) == 1 else Written() for name in names]

    target: Writer = CompareAndSet(Once(), to_item, to_state, sleep=lambda _seconds: None)
    target.apply({key: adding(frozenset({1})) for key in KEYS})
    assert calls == [["a", "b", "c"], ["b"]]
