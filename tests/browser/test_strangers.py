"""What a page of another site gets of an instance that is up: nothing."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from playwright.sync_api import Frame, Page

from emulator import embedded
from local.deployment import client
from local.instance import State, state_of, unused
from local.tools import tool
from tests.browser.pages import REBOUND, TRY_ALL, ForeignSite, sandboxed
from tests.pipeline.deployed import Pipeline
from tests.waiting import Patience

SECRET = "what no page may read"
UNSEEN = ("a function, unseen", "a reset")
"""What a page may send without being told of the answer: that is a refusal too."""


def leaked_link(state: State) -> str:
    """A link that the root key signed, to an object that is there: a page may have come by it."""
    endpoint = f"http://127.0.0.1:{state.port}"
    s3: Any = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=state.access_key,
        aws_secret_access_key=state.secret_key,
        region_name=state.region,
        config=Config(signature_version="s3v4"),
    )
    s3.create_bucket(Bucket="linked")
    allowed = {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}
    s3.put_bucket_cors(Bucket="linked", CORSConfiguration={"CORSRules": [allowed]})
    s3.put_object(Bucket="linked", Key="key", Body=f"'{SECRET}'", ContentType="text/javascript")
    found: str = s3.generate_presigned_url("get_object", {"Bucket": "linked", "Key": "key"})
    return found


class Attempts:
    """All that a page tries; the statuses of the answers are noted."""

    def __init__(self, state: State, secret: str, api: str, link: str) -> None:
        self.given = {
            "base": f"http://127.0.0.1:{state.port}",
            "secret": secret,
            "api": urlsplit(api).path,
            "link": link,
        }
        self.state = state
        self.statuses: list[int] = []

    def made_by(self, page: Page, frame: Page | Frame) -> dict[str, str]:
        """Have a page, or a frame in it, try all; what it got of each attempt."""
        # Playwright tells of no answer that the browser keeps from the page; the browser does.
        network = page.context.new_cdp_session(frame)
        urls, beacons, answers = dict[str, str](), set[str](), list[tuple[str, int]]()

        def note(sent: dict[str, Any]) -> None:
            urls[sent["requestId"]] = sent["request"]["url"]
            if sent["type"] == "Ping":
                beacons.add(sent["requestId"])

        network.send("Network.enable")
        network.on("Network.requestWillBeSent", note)
        network.on(
            "Network.responseReceivedExtraInfo",
            lambda answer: answers.append((answer["requestId"], answer["statusCode"])),
        )
        found: dict[str, str] = frame.evaluate(TRY_ALL, self.given)
        patience = Patience(10)  # for the beacon's answer, which a page doesn't get
        while not (beacons and beacons <= {name for name, _ in answers}):
            assert not patience.is_over(), "the beacon got no answer"
            page.wait_for_timeout(20)
        base = self.given["base"]
        self.statuses = [status for name, status in answers if urls.get(name, "").startswith(base)]
        return found

    def functions(self) -> list[str]:
        """The functions that pages have made."""
        found = client(self.state, "lambda").list_functions()["Functions"]
        return [each["FunctionName"] for each in found if each["FunctionName"] == "from-a-web-page"]


@pytest.fixture(scope="module")
def attempts(pipeline: Pipeline) -> Attempts:
    state = pipeline.state
    secret = state.outputs["AdminSecretArn"]
    return Attempts(state, secret, state.api_url, leaked_link(state))


@pytest.mark.parametrize("place", ["127.0.0.1", "localhost", "null", "file"])
def test_a_page_of_another_site_gets_nothing(
    page: Page, elsewhere: ForeignSite, attempts: Attempts, place: str, tmp_path: Any
) -> None:
    frame: Page | Frame = page
    if place == "file":
        (tmp_path / "page.html").write_text("<!doctype html><title>a file</title>")
        page.goto(f"file://{tmp_path}/page.html")
    else:
        name = "127.0.0.1" if place == "null" else place
        page.goto(f"http://{name}:{elsewhere.port}/")
        frame = sandboxed(page) if place == "null" else page
    got = attempts.made_by(page, frame)
    told = {name: answer for name, answer in got.items() if answer != "refused"}
    assert told == dict.fromkeys(UNSEEN, "opaque")
    assert set(attempts.statuses) <= {400, 403}
    assert len(attempts.statuses) >= 10  # they did reach it
    assert attempts.functions() == []


def test_a_name_that_leads_to_loopback_is_no_way_in(page: Page, attempts: Attempts) -> None:
    base = attempts.given["base"].replace("127.0.0.1", REBOUND)
    for path in (f"{attempts.given['api']}/health", "/"):
        answer = page.goto(base + path)
        assert answer is not None
        assert answer.status == 403
    rebound = Attempts(attempts.state, "", attempts.given["api"], attempts.given["link"])
    rebound.given |= attempts.given | {
        "base": base,
        "link": attempts.given["link"].replace("127.0.0.1", REBOUND),
    }
    got = rebound.made_by(page, page)
    assert set(rebound.statuses) == {403}
    assert not [answer for answer in got.values() if SECRET in answer or "SecretString" in answer]
    assert rebound.functions() == []


def test_a_page_of_the_instances_own_origin_may_ask_the_api(page: Page, pipeline: Pipeline) -> None:
    state = pipeline.state
    page.goto(f"{state.api_url}/health")
    ask = """async ([url, token, body]) => {
        const headers = {Authorization: `Bearer ${token}`, "Content-Type": "application/json"};
        const answer = await fetch(url, {method: body ? "POST" : "GET", headers, body});
        return [answer.status, await answer.text()];
    }"""
    alerts = page.evaluate(ask, [f"{state.api_url}/alerts", state.tokens["operator"], None])
    assert alerts[0] == 200
    body = json.dumps({"recorded_at": pipeline_now(page), "temperature": 20})
    device = next(name for name in state.tokens if name.startswith("device-"))
    url = f"{state.api_url}/devices/{device}/readings"
    assert page.evaluate(ask, [url, state.tokens[device], body])[0] == 202


def pipeline_now(page: Page) -> int:
    """The browser's time, in ms."""
    now: int = page.evaluate("Date.now()")
    return now


@pytest.fixture(scope="module")
def unguarded() -> Iterator[State]:
    """An embedded AWS that lets everybody in, with a secret in it."""
    own = unused("open")
    own.create()
    aws = embedded.start(
        own, tool("aws", "python"), with_mappings=False, without=("origins", "signatures")
    )
    try:
        state = state_of(aws)
        secrets = client(state, "secretsmanager")
        secrets.create_secret(Name="admin", SecretString=SECRET)
        yield state
    finally:
        aws.stop()
        own.remove()


def test_the_same_attempts_succeed_where_nothing_is_guarded(
    page: Page, elsewhere: ForeignSite, unguarded: State
) -> None:
    page.goto(f"http://127.0.0.1:{elsewhere.port}/")
    attempts = Attempts(unguarded, "admin", "/_aws/execute-api/a/v1", leaked_link(unguarded))
    got = attempts.made_by(page, page)
    assert SECRET in got["secret by test"]
    assert SECRET in got["secret by twelve digits"]
    assert SECRET in got["a link that leaked"]
    assert got["a script"] == "loaded"
    assert client(unguarded, "secretsmanager").list_secrets()["SecretList"] == []  # it was reset
