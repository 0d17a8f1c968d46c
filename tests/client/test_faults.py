"""The device as a process, for a few seconds; `make client-faults` runs it for longer."""

from pathlib import Path

from tests.client.faults import Journal, Trouble, problems, suffer
from tests.client.servers import Pipeline, serving


def test_a_device_that_is_killed_cut_off_and_answered_wrongly_loses_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    trouble = Trouble(seed=5)
    with serving(Pipeline(trouble)) as pipeline:
        journal = suffer(pipeline.url, tmp_path, seconds=3.0, seed=5)
        assert problems(journal, pipeline) == []
    assert len(journal.recorded) > 20
    assert journal.kills >= 2
    assert journal.cuts >= 1
    assert journal.dropped >= 1
    assert len(trouble.answers) > 2


def test_each_possible_fault_is_detected() -> None:
    right = [(1, 0, 0), (2, 0, 1)]
    assert Journal(right, [1, 2], 0, 0, 0).problems == []
    assert Journal([*right, (2, 0, 2)], [1, 2], 0, 0, 0).problems != []
    assert Journal(right, [1], 0, 0, 0).problems != []
    assert Journal(right, [1, 2, 2], 0, 0, 0).problems != []
    assert Journal(right, [1, 2, 3], 0, 0, 0).problems != []
    assert Journal(right, [1, 2, 3], 1, 0, 0).problems == []
