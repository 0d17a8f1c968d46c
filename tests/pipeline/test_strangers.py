"""Other users' processes and pages in a browser get nothing of the deployed pipeline."""

import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.pipeline.deployed import Pipeline

REGION = "us-east-1"
TYPES = {
    "secretsmanager": "application/x-amz-json-1.1",
    "kinesis": "application/x-amz-json-1.1",
    "dynamodb": "application/x-amz-json-1.0",
}
PAGE, OTHER_USER = {"Origin": "https://evil.example"}, dict[str, str]()
FUNCTIONS = "/2015-03-31/functions"
CODE = "/_ministack/lambda-code/000000000000/us-east-1"
MADE = "from-a-stranger"
KEYS = ("", "test", "000000000000", "111122223333")


def credentials(service: str, key: str) -> str:
    """Return credentials in a query: a well-known key with a meaningless signature."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = quote(f"{key}/{now[:8]}/{REGION}/{service}/aws4_request", safe="")
    return (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Date={now}"
        f"&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature={'0' * 64}"
    )


class Stranger:
    """A caller who knows the instance's port, but no key."""

    def __init__(self, pipeline: Pipeline, headers: dict[str, str]) -> None:
        self.state = pipeline.state
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.state.port}",
            headers=headers,
            timeout=30,
            trust_env=False,
        )

    def asked(self, method: str, path: str, service: str, **request: object) -> httpx.Response:
        """Ask without credentials and with each well-known pair; return the worst answer."""
        found = [self.http.request(method, path, **request)]  # type: ignore[arg-type]
        for key in KEYS:
            query = f"{path}{'&' if '?' in path else '?'}{credentials(service, key)}"
            found.append(self.http.request(method, query, **request))  # type: ignore[arg-type]
        return min(found, key=lambda answer: answer.status_code)

    def call(self, service: str, target: str, document: Mapping[str, object]) -> httpx.Response:
        """Call an operation of a service with a JSON protocol."""
        headers = {"X-Amz-Target": target, "Content-Type": TYPES[service]}
        return self.asked("POST", "/", service, headers=headers, content=json.dumps(document))


@pytest.fixture(params=[OTHER_USER, PAGE], ids=["another user", "a page"])
def stranger(pipeline: Pipeline, request: pytest.FixtureRequest) -> Iterator[Stranger]:
    own = Stranger(pipeline, request.param)
    with own.http:
        yield own


def test_a_stranger_reads_neither_secrets_nor_readings_nor_code(stranger: Stranger) -> None:
    outputs = stranger.state.outputs
    secret = {"SecretId": outputs["AdminSecretArn"]}
    answers = [
        stranger.call("secretsmanager", "secretsmanager.GetSecretValue", secret),
        stranger.call("dynamodb", "DynamoDB_20120810.Scan", {"TableName": outputs["WindowsTable"]}),
        stranger.call("kinesis", "Kinesis_20131202.ListStreams", {}),
        stranger.asked("GET", "/", "s3"),
        stranger.asked("GET", f"/{outputs['ArchiveBucket']}?list-type=2", "s3"),
        stranger.asked("GET", f"{FUNCTIONS}/telemetry-ingest", "lambda"),
        stranger.asked(
            "GET", "/_ministack/lambda-code/000000000000/us-east-1/telemetry-ingest", "s3"
        ),
    ]
    assert {answer.status_code for answer in answers} <= {400, 403}
    assert not [answer for answer in answers if "SecretString" in answer.text]


def test_a_stranger_makes_and_invokes_no_function(stranger: Stranger, pipeline: Pipeline) -> None:
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("x.py", "def h(e, c):\n    return 1\n")
    body = {
        "FunctionName": MADE,
        "Runtime": "python3.11",
        "Role": "arn:aws:iam::000000000000:role/any",
        "Handler": "x.h",
        "Code": {"ZipFile": code.getvalue().hex()},
    }
    invocation = f"{FUNCTIONS}/telemetry-register/invocations"
    for path, content in ((FUNCTIONS, json.dumps(body)), (invocation, "{}")):
        answer = stranger.asked("POST", path, "lambda", content=content)
        assert answer.status_code in {400, 403}, answer.text
    found = pipeline.aws("lambda").get_paginator("list_functions").paginate()
    assert MADE not in [each["FunctionName"] for page in found for each in page["Functions"]]


def test_a_stranger_neither_resets_nor_configures_the_instance(
    stranger: Stranger, pipeline: Pipeline
) -> None:
    for path in ("reset", "config"):
        answer = stranger.asked("POST", f"/_ministack/{path}", "s3", content="{}")
        assert answer.status_code in {400, 403}
    assert pipeline.aws("kinesis").list_streams()["StreamNames"] != []


def test_the_api_answers_other_users_as_on_aws_and_web_pages_not_at_all(pipeline: Pipeline) -> None:
    url = pipeline.state.api_url
    with httpx.Client(trust_env=False, timeout=30) as http:
        assert http.get(f"{url}/health").status_code == 200
        assert http.get(f"{url}/alerts").status_code == 401
        assert http.get(f"{url}/no/such/route").status_code == 404
        token = {"Authorization": f"Bearer {pipeline.state.tokens['operator']}"}
        assert http.get(f"{url}/alerts", headers=token).status_code == 200
        for origin in ("https://evil.example", "null"):
            answer = http.get(f"{url}/alerts", headers=token | {"Origin": origin})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
        own = {"Origin": f"http://{urlsplit(url).netloc}"}
        assert http.get(f"{url}/alerts", headers=token | own).status_code == 200
