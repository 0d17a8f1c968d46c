"""One pipeline for all tests of this folder: the real template, deployed to an embedded AWS."""

from collections.abc import Iterator
from io import StringIO

import pytest
from rich.console import Console

from emulator.errors import StepFailed
from local.instance import unused
from local.session import brought_up
from local.view import Steps

pytest.register_assert_rewrite("tests.pipeline.deployed")  # before it is imported

from tests.pipeline.deployed import RETENTION_DAYS, Pipeline  # noqa: E402
from tests.pipeline.notices import Notices  # noqa: E402


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Pipeline]:
    """By `sam build` and `sam deploy`, as `python -m local up` does it, with IAM enforced.

    It ends with the tests, and also when they are killed: the embedded AWS then misses its starter.
    """
    instance = unused("test")
    parameters = {"WindowRetentionDays": str(RETENTION_DAYS)}
    try:
        with brought_up(instance, Steps(Console(file=StringIO())), parameters) as aws:
            try:
                with Pipeline(instance) as deployed:
                    yield deployed
            finally:
                aws.stop()
    except StepFailed as error:
        pytest.fail("\n".join([str(error), *error.tail]))
    finally:
        instance.remove()


@pytest.fixture(scope="session")
def notices(pipeline: Pipeline) -> Notices:
    """What reaches the subscribers of the topic and of the bus."""
    return Notices(pipeline)
