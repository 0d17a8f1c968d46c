"""A browser for the tests of this folder, and a pipeline for them to look at."""

from collections.abc import Iterator
from io import StringIO

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from local.instance import named
from local.view import Steps
from tests.browser.chromium import HOW_TO_INSTALL, NOT_LOOKED_AT, executable
from tests.browser.pages import REBOUND, ForeignSite
from tests.pipeline.deployed import Pipeline
from tests.pipeline.instances import own_instance


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, to which the name REBOUND is loopback, as DNS could make it any name."""
    found = executable()
    if found is None:
        pytest.exit(HOW_TO_INSTALL, returncode=NOT_LOOKED_AT)
    rules = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=[rules])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that knows nothing of the others."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """Deployed to the instance that `--instance` names, or to one that ends with the tests."""
    name = request.config.getoption("--instance")
    if name:
        with Pipeline(named(name)) as deployed:
            yield deployed
        return
    steps = Steps(Console(file=StringIO()))
    with own_instance(steps) as instance, Pipeline(instance) as deployed:
        yield deployed


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[ForeignSite]:
    """A site of somebody else's, on another port of this machine."""
    with ForeignSite() as site:
        yield site
