"""One pipeline for all tests of this folder: the real template, deployed to an embedded AWS."""

from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO

import pytest
from rich.console import Console

from local.instance import named
from local.view import Steps

pytest.register_assert_rewrite("tests.pipeline.deployed")  # before it is imported

from tests.pipeline.deployed import Pipeline  # noqa: E402
from tests.pipeline.instances import cause_of, own_instance  # noqa: E402
from tests.pipeline.notices import Notices  # noqa: E402


@pytest.fixture(scope="session")
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """The pipeline, on the instance that `--instance` names, or on one that ends with the tests.

    If it can't be brought up, the cause is printed once, and no test runs.
    """
    name = request.config.getoption("--instance")
    with ExitStack() as closing:
        try:
            own = own_instance(Steps(Console(file=StringIO())))
            instance = named(name) if name else closing.enter_context(own)
            deployed = closing.enter_context(Pipeline(instance))
        except Exception as error:  # noqa: BLE001 - whatever it is, each test would tell it again
            pytest.exit(cause_of(error), returncode=1)
        yield deployed


@pytest.fixture(scope="session")
def notices(pipeline: Pipeline) -> Notices:
    """The notices at subscribers of the topic and of the bus."""
    return Notices(pipeline)
