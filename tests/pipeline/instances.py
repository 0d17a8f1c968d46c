"""Instances that the tests of this folder bring up, by the real `sam build` and `sam deploy`."""

from collections.abc import Iterator
from contextlib import contextmanager

from emulator.errors import StepFailed
from local.instance import Instance, unused
from local.session import brought_up
from local.view import Steps

RETENTION_DAYS = 400  # a year of recorded readings fits
PARAMETERS = {"WindowRetentionDays": str(RETENTION_DAYS)}


@contextmanager
def own_instance(
    steps: Steps,
    built_by: Instance | None = None,
    parameters: dict[str, str] = PARAMETERS,
) -> Iterator[Instance]:
    """Bring up an instance like `python -m local up`, with IAM enforced.

    It ends with the block; also when this process is killed: its embedded AWS misses its starter.
    """
    instance = unused("test")
    try:
        with brought_up(instance, steps, parameters, built_by) as aws:
            try:
                yield instance
            finally:
                aws.stop()
    finally:
        instance.remove()


def cause_of(error: Exception) -> str:
    """Return the cause of a failed start: the last lines of a failed tool, or the error."""
    tail = error.tail if isinstance(error, StepFailed) else []
    return "\n  ".join([f"the pipeline isn't up: {error}", *tail])
