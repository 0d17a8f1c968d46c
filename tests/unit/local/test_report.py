import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from local.fleet.ledger import Ledger
from local.fleet.reading import Reading
from local.trial.check import Comparison, Difference
from local.trial.monitor import Snapshot
from local.trial.pending import OUT_OF_TIME, Slowness
from local.trial.report import Report, Verdict, advice, balance, not_taken, print_verdict, problems

LATE = Difference("a", "window count", 21, 20, may_come=True)
TOO_MANY = Difference("a", "window count", 21, 31)
WAITING = Slowness(waiting={"records for aggregate": 12}, still_seconds=120)
UNANSWERED_CHECK = Slowness(no_answer="GET /alerts: no answer (timed out)")
OUT_OF_THEIR_TIME = Slowness(out_of_time={"query": 3})


def accounting(accepted: int, stored: int, duplicate: int = 0, unaccounted: int = 0) -> Any:
    aggregate = {"foreign": 0, "stored": stored, "duplicate": duplicate, "quarantined": 0}
    stages = {"ingest": {"accepted": accepted}, "aggregate": aggregate}
    return {"stages": stages, "unaccounted": unaccounted}


def report(
    *differences: Difference,
    slowness: Slowness | None = None,
    unanswered: int = 0,
    accepted: int = 1,
    quarantined: int = 0,
    **more: Any,
) -> Report:
    ledger = Ledger()
    ledger.accept(Reading("a", at, {"temperature": 20.0}) for at in range(accepted))
    ledger.give_up(Reading("a", 1000 + at, {"temperature": 20.0}) for at in range(unanswered))
    seen = SimpleNamespace(latest=Snapshot(0.0, quarantined=quarantined), first_alert_at=None)
    posting = SimpleNamespace(first_post_at=None, last_answer_at=None)
    made = Report(ledger, cast("Any", seen), cast("Any", posting), 40, is_checked=True, **more)
    made.comparison = Comparison(list(differences))
    made.slowness = slowness or Slowness()
    made.problems += problems(made)
    return made


def told(of: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_verdict(of, console)
    return cast("io.StringIO", console.file).getvalue()


@pytest.mark.parametrize("slowness", [Slowness(), WAITING, UNANSWERED_CHECK, OUT_OF_THEIR_TIME])
def test_more_than_was_sent_is_wrong_however_slow_the_machine_is(slowness: Slowness) -> None:
    assert report(TOO_MANY, LATE, slowness=slowness).verdict is Verdict.WRONG
    assert report(quarantined=1, slowness=slowness).verdict is Verdict.WRONG


def test_beside_other_devices_their_bad_record_and_pending_work_are_not_this_runs() -> None:
    beside = report(quarantined=1, slowness=WAITING, is_alone=False)
    assert beside.verdict is Verdict.RIGHT
    assert "1 reading in quarantine since the start, maybe of other devices" in told(beside)
    assert "1 reading in quarantine" in told(report(quarantined=1))
    assert report(LATE, quarantined=1, is_alone=False).verdict is Verdict.WRONG
    assert report(LATE, slowness=WAITING, is_alone=False).verdict is Verdict.UNKNOWN
    assert report(slowness=WAITING).verdict is Verdict.UNKNOWN


def test_one_of_a_thing_is_told_in_the_singular() -> None:
    one = report(quarantined=1, unanswered=1, left_out=1)
    one.ledger.counts.resent = one.windows_checked = one.alerts_expected = 1
    one.devices, one.settled_at, one.slowness = 1, 1.0, Slowness(repeats=1)
    text = told(one)
    for noun in ("reading", "device", "window", "alert", "row", "call", "different one"):
        assert f"1 {noun} " in text.replace(":", " ").replace(",", " ").replace("\n", " ")
        assert f"1 {noun}s" not in text


def test_unsent_rows_are_reported() -> None:
    assert list(not_taken(report())) == []
    assert list(not_taken(report(left_out=2))) == [
        (
            "2 rows of the file left out, in part or whole: another row has their device and time, "
            "and a larger value"
        )
    ]


def test_missing_readings_are_lost_once_no_pending_work_is_left() -> None:
    assert report(LATE).verdict is Verdict.WRONG
    assert report(LATE, slowness=OUT_OF_THEIR_TIME).verdict is Verdict.WRONG
    assert report(LATE, unanswered=5).verdict is Verdict.WRONG
    assert report(LATE, slowness=WAITING).verdict is Verdict.UNKNOWN
    assert report(LATE, slowness=UNANSWERED_CHECK).verdict is Verdict.UNKNOWN


def test_an_unanswered_check_and_unsearchable_windows_give_no_verdict() -> None:
    assert report(slowness=UNANSWERED_CHECK).verdict is Verdict.UNKNOWN
    unsure = report()
    unsure.comparison.unsearched = 1
    assert unsure.verdict is Verdict.UNKNOWN
    assert report(accepted=0, unanswered=3).verdict is Verdict.UNKNOWN
    assert report(accepted=0).verdict is Verdict.WRONG


def test_a_missing_count_may_be_that_of_a_function_that_timed_out() -> None:
    missing = accounting(3, 1, unaccounted=2)
    assert report(accounting=missing).verdict is Verdict.WRONG
    ran_out = report(accounting=missing, slowness=OUT_OF_THEIR_TIME)
    assert ran_out.verdict is Verdict.UNKNOWN
    assert report(accounting=accounting(0, 1)).verdict is Verdict.WRONG


def test_unanswered_readings_are_reported_and_not_a_fault() -> None:
    right = report(unanswered=1_887)
    right.comparison.unanswered_there = 1_645
    assert right.verdict is Verdict.RIGHT
    text = told(right)
    assert "✓ nothing lost" in text
    assert (
        "1,887 readings got no answer, so each may be there or not; the windows have 1,645" in text
    )


def test_a_too_slow_machine_is_reported_with_signs_and_a_remedy() -> None:
    slow = Slowness(
        waiting={"records for aggregate": 1_200},
        still_seconds=120,
        repeats=7,
        out_of_time={"query": 3, "alert": 4},
    )
    text = told(report(LATE, slowness=slow))
    assert "? couldn't tell: this machine was too slow" in text
    assert "✓" not in text
    assert "✗" not in text
    assert "still to do: 1,200 records for aggregate; none of it moved for 120 s" in text
    assert "the check repeated 7 calls" in text
    assert "functions timed out (aws.log): alert 4, query 3" in text
    assert "fewer devices (--devices 10) or a lower --rate" in text


def test_an_unanswered_check_is_blamed_on_the_machine_only_if_functions_timed_out() -> None:
    failing = Slowness(no_answer="GET /alerts answered 502: Internal server error")
    assert "? couldn't tell: the API didn't answer the check" in told(report(slowness=failing))
    failing.out_of_time = {"query": 3}
    assert "? couldn't tell: this machine was too slow" in told(report(slowness=failing))


@pytest.mark.parametrize(
    ("devices", "fewer"), [(200, "(--devices 50) or"), (3, "(--devices 1) or"), (1, "a lower")]
)
def test_the_advice_for_a_slow_machine_is_fewer_devices_where_there_are_fewer(
    devices: int, fewer: str
) -> None:
    assert f"{fewer} " in advice(devices)
    assert ("fewer devices" in advice(devices)) is (devices > 1)


def test_exit_codes_are_as_documented() -> None:
    assert {each.name: each.value for each in Verdict} == {"RIGHT": 0, "WRONG": 1, "UNKNOWN": 3}


def test_the_accounting_adds_up_in_its_line() -> None:
    assert balance(accounting(10, 8, 2)) == (
        "10 accepted, by the pipeline's accounting: 8 stored, 2 duplicate, 0 quarantined, "
        "0 unaccounted"
    )
    # of the run that the audit saw: 4,408 counted by ingest, whose other calls were ended
    assert balance(accounting(4_408, 6_053, 8_267)) == (
        "4,408 accepted, by the pipeline's accounting: 6,053 stored, 8,267 duplicate, "
        "0 quarantined, 0 unaccounted; 9,912 more ended than were counted as accepted: their "
        "request ended before its count, or their delivery was repeated"
    )


def test_functions_that_timed_out_are_found_in_the_log() -> None:
    line = "12:00:01 WARNING Lambda telemetry-aggregate timed out after 30s — killing worker"
    assert [found[1] for found in OUT_OF_TIME.finditer(line)] == ["aggregate"]


def test_a_full_disk_is_reported_as_the_cause() -> None:
    full = Slowness(fault="the disk is full, or was (aws.log): 3 MB are free")
    missing = report(LATE, slowness=full)
    assert missing.verdict is Verdict.UNKNOWN
    assert "? couldn't tell: the disk is full" in told(missing)
    assert "3 MB are free" in told(missing)
    assert "fewer devices" not in told(missing)


def test_a_wrong_isolation_is_wrong_unless_functions_timed_out() -> None:
    assert report(unsure=["tried twice"]).verdict is Verdict.WRONG
    assert report(unsure=["tried twice"], slowness=OUT_OF_THEIR_TIME).verdict is Verdict.UNKNOWN
