"""Only its user can use an embedded AWS: web pages and other users' processes can't.

Requests are written byte by byte here, because no library would send them.
"""

import hashlib
import http.client
import json
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import boto3
import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from emulator.sigv4 import Key, link, relay_proof
from tests.contract.conftest import ROOT, embedded_client
from tests.contract.emulator.test_permissions import Account

REGION = "us-east-1"
SECRET = "what nobody else may read"
TARGET = "secretsmanager.GetSecretValue"
JSON = "application/x-amz-json-1.1"
REFUSED = (400, 403)
CONSTANT_KEYS = ("test", "", "000000000000", "123456789012")
FOREIGN_ORIGINS = (
    "https://evil.example",
    "http://evil.example",
    "null",
    "",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://localhost:{port}",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "file://",
)
OWN_ADDRESSES = (
    "/_ministack/health",
    "/_ministack/ready",
    "/_ministack/config",
    "/_ministack/reset",
    "/_ministack/ses/messages",
    "/_ministack/sqs/messages",
    "/_ministack/sns/sms-messages",
    "/_ministack/transfer/sftp-ports",
    "/_ministack/iot/ca.pem",
    "/_ministack/rds/ca.pem",
    "/_ministack/rds/iam-auth",
    "/_ministack/elasticache/ca.pem",
    "/_ministack/eks-auth/000000000000/a/b/cccccccccccccccc",
    "/_ministack/lambda-code/000000000000/us-east-1/f",
    "/_ministack/lambda-layers/000000000000/us-east-1/l/1/content",
    "/_ministack/cfn-response/a",
    "/_ministack/cfn-signal/a",
    "/_localstack/health",
    "/health",
    "/_aws/lambda-url/a/",
    "/_aws/execute-api/a",
    "/restapis/a/v1/_user_request_/b",
    "/latest/meta-data/iam/security-credentials/",
    "/oauth2/authorize",
    "/login",
    "/logout",
    "/pool/.well-known/jwks.json",
    "/v2/",
    "/iceberg/v1/config",
    "/graphql",
)


class Answer(NamedTuple):
    """Status, headers by name in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: str


class QueryAuth(SigV4QueryAuth):
    """Signs a body in the query, which botocore does only for forms."""

    body = b""

    def payload(self, request: AWSRequest) -> str:  # noqa: ARG002 - botocore's
        return hashlib.sha256(self.body).hexdigest()


class UnsignedAuth(SigV4Auth):
    """Signs no body."""

    def payload(self, request: AWSRequest) -> str:  # noqa: ARG002 - botocore's
        return "UNSIGNED-PAYLOAD"


class AuthWithout(SigV4Auth):
    """Leaves one header unsigned."""

    left_out = ""

    def headers_to_sign(self, request: AWSRequest) -> Any:
        found = super().headers_to_sign(request)
        del found[self.left_out]
        return found


class Place:
    """An embedded AWS, with a secret in it."""

    def __init__(self, endpoint: str) -> None:
        self.host = urlsplit(endpoint).netloc
        self.port = int(self.host.rpartition(":")[2])
        self.name = f"secret-{uuid.uuid4().hex[:12]}"
        secrets = embedded_client(endpoint, "secretsmanager")
        secrets.create_secret(Name=self.name, SecretString=SECRET)
        self.endpoint = endpoint

    @property
    def body(self) -> bytes:
        return json.dumps({"SecretId": self.name}).encode()

    def request(self, **headers: str) -> AWSRequest:
        """Return a request for the secret, not signed yet."""
        given = {"X-Amz-Target": TARGET, "Content-Type": JSON, "Host": self.host, **headers}
        return AWSRequest("POST", self.endpoint + "/", given, self.body)

    def signed(
        self, key: Key = ROOT, token: str | None = None, service: str = "secretsmanager", **of: str
    ) -> AWSRequest:
        """Return a request for the secret, signed in its headers."""
        request = self.request(**of)
        SigV4Auth(Credentials(key.key_id, key.secret, token), service, REGION).add_auth(request)
        return request

    def in_query(self, key: Key = ROOT, seconds: int = 60, **of: str) -> AWSRequest:
        """Return a request for the secret, signed in its query."""
        request = self.request(**of)
        request.data = b""  # otherwise it would go into the query
        credentials = Credentials(*key)
        auth = QueryAuth(credentials, "secretsmanager", REGION, expires=seconds)
        auth.body = self.body
        auth.add_auth(request)
        request.data = self.body
        return request

    def send(self, request: AWSRequest, **more: str) -> Answer:
        """Send a request as it is, with more headers."""
        url = urlsplit(str(request.url))
        path = url.path + (f"?{url.query}" if url.query else "")
        headers = [*request.headers.items(), *more.items()]
        return self.exchange(str(request.method), path, headers, request.data or b"")

    def exchange(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b""
    ) -> Answer:
        """Send a request of any method, path and headers; a header may be repeated."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            connection.putheader("Host", self.host)
        if "content-length" not in names and "transfer-encoding" not in names:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers:
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        text = answer.read().decode("utf-8", "replace")
        connection.close()
        return Answer(answer.status, found, text)

    def raw(self, text: str) -> str:
        """Send bytes; return the answer's first line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(text.encode("latin-1"))
            return connection.recv(65_536).decode("latin-1").partition("\r\n")[0]


@pytest.fixture
def place(embedded_endpoint: str, aws_environment: None) -> Place:  # noqa: ARG001
    return Place(embedded_endpoint)


def is_refused(answer: Answer) -> bool:
    """Return whether an answer is a refusal that a page couldn't read."""
    tells_pages = any(name.startswith("access-control-") for name in answer.headers)
    return answer.status in REFUSED and SECRET not in answer.body and not tells_pages


def test_the_root_key_reads_the_secret_by_header_and_by_query(place: Place) -> None:
    for answer in (place.send(place.signed()), place.send(place.in_query())):
        assert answer.status == 200
        assert SECRET in answer.body
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("origin", [None, "https://evil.example"])
def test_an_unsigned_request_is_refused(place: Place, origin: str | None) -> None:
    more = {"Origin": origin} if origin else {}
    assert is_refused(place.send(place.request(), **more))


@pytest.mark.parametrize("key_id", CONSTANT_KEYS)
def test_a_well_known_key_is_refused(place: Place, key_id: str) -> None:
    for secret in ("test", "", ROOT.secret):
        key = Key(key_id, secret)
        assert is_refused(place.send(place.signed(key)))
        assert is_refused(place.send(place.in_query(key)))
    scope = f"{time.strftime('%Y%m%d', time.gmtime())}/{REGION}/secretsmanager/aws4_request"
    query = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={key_id}%2F{quote(scope, safe='')}"
    headers = [("X-Amz-Target", TARGET), ("Content-Type", JSON)]
    for path in (f"/?{query}", f"/?{query.lower()}", f"/?AWSAccessKeyId={key_id}&Signature=a"):
        assert is_refused(place.exchange("POST", path, headers, place.body))
    old = [*headers, ("Authorization", f"AWS {key_id}:signature")]
    assert is_refused(place.exchange("POST", "/", old, place.body))


def test_the_right_key_with_a_wrong_secret_is_refused(place: Place) -> None:
    wrong = Key(ROOT.key_id, "not the secret")
    assert is_refused(place.send(place.signed(wrong)))
    assert is_refused(place.send(place.in_query(wrong)))


def test_a_signature_is_valid_within_fifteen_minutes_of_its_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent_after(minutes: float, by: str = "signed") -> int:
        moved = datetime.now(UTC) + timedelta(minutes=minutes)
        moved = moved.replace(tzinfo=None)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: moved)
        request: AWSRequest = getattr(place, by)()
        monkeypatch.undo()
        return place.send(request).status

    assert sent_after(-14) == sent_after(14) == 200
    assert sent_after(-16) in REFUSED
    assert sent_after(16) in REFUSED
    assert sent_after(-24 * 60) in REFUSED
    assert sent_after(-0.5, "in_query") == 200
    assert sent_after(-2, "in_query") in REFUSED  # it was valid for a minute
    assert sent_after(16, "in_query") in REFUSED


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1"])
def test_a_signature_for_another_host_is_refused(place: Place, host: str) -> None:
    foreign = host.format(port=place.port)
    for request in (place.signed(Host=foreign), place.in_query(Host=foreign)):
        del request.headers["Host"]
        assert is_refused(place.send(request, Host=place.host))
        assert is_refused(place.send(request, Host=foreign))
        assert is_refused(place.send(request, Host=place.host, X_Forwarded_Host=foreign))


def test_a_signature_that_leaves_out_the_host_or_an_amazon_header_is_refused(place: Place) -> None:
    for left_out in ("host", "x-amz-target"):
        request = place.request()
        auth = AuthWithout(Credentials(*ROOT), "secretsmanager", REGION)
        auth.left_out = left_out
        auth.add_auth(request)
        assert left_out not in request.headers["Authorization"]
        assert is_refused(place.send(request))


def test_a_body_that_is_not_the_signed_one_is_refused(place: Place) -> None:
    signed = place.signed()
    signed.data = place.body.replace(b"secret-", b"secret_")
    assert is_refused(place.send(signed))
    declared = place.request()
    declared.headers["X-Amz-Content-SHA256"] = hashlib.sha256(b"another").hexdigest()
    SigV4Auth(Credentials(*ROOT), "secretsmanager", REGION).add_auth(declared)
    assert is_refused(place.send(declared))


def test_only_s3_accepts_a_body_that_is_not_signed(place: Place) -> None:
    request = place.request(**{"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    UnsignedAuth(Credentials(*ROOT), "secretsmanager", REGION).add_auth(request)
    assert is_refused(place.send(request))


def test_credentials_in_two_places_or_twice_in_one_are_refused(place: Place) -> None:
    header, query = place.signed(), place.in_query()
    twice = [*header.headers.items(), ("Authorization", header.headers["Authorization"])]
    assert is_refused(place.exchange("POST", "/", twice, place.body))
    other = [("Authorization", "Bearer a"), *header.headers.items()]
    assert is_refused(place.exchange("POST", "/", other, place.body))
    url = urlsplit(str(query.url))
    both = [*header.headers.items()]
    assert is_refused(place.exchange("POST", f"/?{url.query}", both, place.body))
    asked = list(place.request().headers.items())
    for doubled in ("X-Amz-Credential=test%2Fa", "x-amz-credential=test%2Fa", "X-Amz-Signature=0"):
        for path in (f"/?{doubled}&{url.query}", f"/?{url.query}&{doubled}"):
            assert is_refused(place.exchange("POST", path, asked, place.body))


def test_query_credentials_count_however_they_are_encoded(place: Place) -> None:
    url, asked = urlsplit(str(place.in_query().url)), list(place.request().headers.items())
    encoded = url.query.replace("X-Amz-Algorithm", "%58-Amz-Algorithm")
    assert SECRET in place.exchange("POST", f"/?{encoded}", asked, place.body).body
    forged = encoded.replace(ROOT.key_id, "test")
    assert is_refused(place.exchange("POST", f"/?{forged}", asked, place.body))
    lower = "&".join(
        name.lower() + "=" + value
        for name, _, value in (part.partition("=") for part in url.query.split("&"))
    )
    assert is_refused(place.exchange("POST", f"/?{lower}", asked, place.body))


def test_names_of_headers_are_of_any_case_and_bodies_may_come_in_chunks(place: Place) -> None:
    request = place.signed()
    lower = [(name.lower(), value) for name, value in request.headers.items()]
    assert SECRET in place.exchange("POST", "/", lower, place.body).body
    upper = [(name.upper(), value) for name, value in request.headers.items()]
    assert SECRET in place.exchange("POST", "/", upper, place.body).body

    def in_chunks(body: bytes) -> Answer:
        headers = [*request.headers.items(), ("Transfer-Encoding", "chunked")]
        return place.exchange("POST", "/", headers, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    assert SECRET in in_chunks(place.body).body
    assert is_refused(in_chunks(place.body + b" "))


@pytest.mark.parametrize("path", OWN_ADDRESSES)
def test_the_emulators_own_paths_need_the_root_key(place: Place, path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        assert is_refused(place.exchange(method, path, []))
        assert is_refused(place.exchange(method, path, [("Origin", f"http://{place.host}")]))


def test_roles_cannot_use_the_emulators_own_paths(place: Place) -> None:
    account = Account(place.endpoint)
    account.grant("*")
    key = Key(account.key["AccessKeyId"], account.key["SecretAccessKey"])
    assert SECRET in place.send(place.signed(key)).body
    for signer, status in ((key, 403), (ROOT, 200)):
        url = urlsplit(link(signer, "GET", place.host, "/_ministack/health"))
        assert place.exchange("GET", f"{url.path}?{url.query}", []).status == status


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_of_another_origin_is_refused_even_with_the_right_key(
    place: Place, origin: str
) -> None:
    sent = origin.format(port=place.port)
    assert is_refused(place.send(place.signed(), Origin=sent))
    assert is_refused(place.send(place.in_query(), Origin=sent))
    for method in ("GET", "POST", "OPTIONS"):
        answer = place.exchange(method, "/_aws/execute-api/a/v1/x", [("Origin", sent)])
        assert is_refused(answer)


def test_a_page_of_the_instances_own_origin_is_accepted(place: Place) -> None:
    own = f"http://127.0.0.1:{place.port}"
    assert SECRET in place.send(place.signed(), Origin=own, Sec_Fetch_Site="same-origin").body
    twice = [*place.signed().headers.items(), ("Origin", own), ("Origin", "https://evil.example")]
    assert is_refused(place.exchange("POST", "/", twice, place.body))


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/bucket", "/bucket/key", "/_aws/execute-api/a/v1/x"])
def test_a_preflight_allows_nothing(place: Place, method: str, path: str) -> None:
    asked = [
        ("Origin", "https://evil.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,x-amz-target"),
        ("Access-Control-Request-Private-Network", "true"),
    ]
    assert is_refused(place.exchange(method, path, asked))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_marked_by_the_browser_as_another_pages_is_refused(
    place: Place, site: str
) -> None:
    assert is_refused(place.send(place.signed(), Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors"))
    visit = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert SECRET in place.send(place.signed(), Sec_Fetch_Site=site, **visit).body
    framed = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
    assert is_refused(place.send(place.signed(), Sec_Fetch_Site=site, **framed))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost",
        "a.localhost:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.2:{port}", "0.0.0.0:{port}",
        "bucket.s3.amazonaws.com", "a.execute-api.us-east-1.amazonaws.com:{port}", "",
    ],
)  # fmt: skip
def test_a_host_that_is_not_loopback_with_the_instances_port_is_refused(
    place: Place, host: str
) -> None:
    named = host.format(port=place.port)
    assert is_refused(place.send(place.signed(Host=named)))
    assert is_refused(place.exchange("GET", "/_aws/execute-api/a/v1/x", [("Host", named)]))


def test_a_request_names_its_host_once(place: Place) -> None:
    path = "/_aws/execute-api/a/v1/x"
    assert place.raw(f"GET {path} HTTP/1.0\r\n\r\n").split()[1] in ("400", "403")
    assert place.raw(f"GET {path} HTTP/1.1\r\n\r\n").split()[1] in ("400", "403")
    hosts = f"Host: {place.host}\r\nHost: evil.example\r\n"
    assert place.raw(f"GET {path} HTTP/1.1\r\n{hosts}\r\n").split()[1] in ("400", "403")
    absolute = f"GET http://evil.example{path} HTTP/1.1\r\nHost: {place.host}\r\n\r\n"
    assert place.raw(absolute).split()[1] in ("400", "403")


def test_a_relay_is_trusted_if_it_knows_the_secret(place: Place) -> None:
    reached_as = "172.17.0.1:4321"
    request = place.signed(Host=reached_as)
    del request.headers["Host"]

    def relayed(proof: str, **more: str) -> Answer:
        headers = {"X_Relayed_Host": reached_as, "X_Relay_Proof": proof, **more}
        return place.send(request, Host=place.host, **headers)

    proof = relay_proof(ROOT.secret, reached_as)
    assert SECRET in relayed(proof).body
    assert is_refused(relayed(relay_proof("another", reached_as)))
    assert is_refused(relayed(relay_proof(ROOT.secret, "172.17.0.1:1")))
    assert is_refused(relayed(""))
    assert is_refused(relayed(proof, Origin=f"http://{reached_as}"))
    signed_elsewhere = place.signed()
    wrong = {"X_Relayed_Host": reached_as, "X_Relay_Proof": proof}
    assert is_refused(place.send(signed_elsewhere, **wrong))


class Bucket:
    """A bucket with an object."""

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self.s3: Any = boto3.client(
            "s3", endpoint_url=place.endpoint, config=Config(signature_version="s3v4")
        )
        self.s3.create_bucket(Bucket=self.name)
        self.key = "a b/ü+~%2F/../é"
        self.s3.put_object(Bucket=self.name, Key=self.key, Body=SECRET)


@pytest.fixture
def bucket(place: Place) -> Iterator[Bucket]:
    own = Bucket(place)
    yield own
    for each in own.s3.list_objects_v2(Bucket=own.name).get("Contents", []):
        own.s3.delete_object(Bucket=own.name, Key=each["Key"])
    own.s3.delete_bucket(Bucket=own.name)


def test_a_presigned_link_is_valid_only_for_its_own_request(place: Place, bucket: Bucket) -> None:
    made = bucket.s3.generate_presigned_url(
        "get_object", {"Bucket": bucket.name, "Key": bucket.key}, ExpiresIn=60
    )
    url = urlsplit(made)
    path = f"{url.path}?{url.query}"
    assert place.exchange("GET", path, []).body == SECRET
    assert is_refused(place.exchange("GET", path, [("Origin", "https://evil.example")]))
    assert is_refused(place.exchange("DELETE", path, []))
    assert is_refused(place.exchange("PUT", path, [], b"another"))
    longer = path.replace("X-Amz-Expires=60", "X-Amz-Expires=61")
    assert is_refused(place.exchange("GET", longer, []))
    assert is_refused(place.exchange("GET", path.replace("~", "-", 1), []))
    assert is_refused(place.exchange("GET", url.path, []))
    assert is_refused(place.exchange("GET", f"/{bucket.name}", []))


def test_an_upload_by_a_presigned_link_stores_its_body(place: Place, bucket: Bucket) -> None:
    made = bucket.s3.generate_presigned_url("put_object", {"Bucket": bucket.name, "Key": "put"})
    url = urlsplit(made)
    assert place.exchange("PUT", f"{url.path}?{url.query}", [], b"by link").status == 200
    assert bucket.s3.get_object(Bucket=bucket.name, Key="put")["Body"].read() == b"by link"


class ChunkedAuth(S3SigV4Auth):
    """Signs a body in chunks: AWS's example of sigv4-streaming.html, in Python."""

    def payload(self, _request: AWSRequest) -> str:
        return "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"

    def chunked(self, request: AWSRequest, *chunks: bytes) -> bytes:
        """Sign the request's head; return its body."""
        request.headers["X-Amz-Decoded-Content-Length"] = str(sum(map(len, chunks)))
        request.headers["Content-Encoding"] = "aws-chunked"
        self.add_auth(request)
        value, body = request.headers["Authorization"].rpartition("Signature=")[2], b""
        for chunk in (*chunks, b""):
            empty, own = (hashlib.sha256(each).hexdigest() for each in (b"", chunk))
            timestamp, scope = request.context["timestamp"], self.credential_scope(request)
            kind = "AWS4-HMAC-SHA256-PAYLOAD"
            value = self.signature("\n".join((kind, timestamp, scope, value, empty, own)), request)
            body += f"{len(chunk):x};chunk-signature={value}\r\n".encode() + chunk + b"\r\n"
        return body


def test_an_upload_signed_chunk_by_chunk_is_stored_if_each_signature_is_valid(
    place: Place, bucket: Bucket
) -> None:
    for changed, status in ((False, 200), (True, 403)):
        request = AWSRequest(
            "PUT", f"{place.endpoint}/{bucket.name}/chunks", {"Host": place.host}, b""
        )
        auth = ChunkedAuth(Credentials(*ROOT), "s3", REGION)
        body = auth.chunked(request, b"first " * 2000, b"second")
        if changed:
            body = body.replace(b"second", b"SECOND")
        found = place.exchange("PUT", f"/{bucket.name}/chunks", [*request.headers.items()], body)
        assert found.status == status
    stored = bucket.s3.get_object(Bucket=bucket.name, Key="chunks")["Body"].read()
    assert stored == b"first " * 2000 + b"second"


def test_a_link_to_a_functions_code_is_signed(place: Place) -> None:
    account = Account(place.endpoint)
    function = account.function(account.role("lambda"))
    found = account.root("lambda").get_function(FunctionName=function)["Code"]["Location"]
    url = urlsplit(found)
    host = [("Host", url.netloc)]
    assert place.exchange("GET", f"{url.path}?{url.query}", host).body.startswith("PK")
    assert is_refused(place.exchange("GET", url.path, host))


def guessed_key(function: str, role: str) -> tuple[Key, str]:
    """Return the key of a function's role as the unchanged emulator derives it from names."""
    digest = hashlib.sha256(f"{function}:{role}".encode()).hexdigest()
    secret, token = (
        hashlib.sha256(f"{kind}:{digest}".encode()).hexdigest() for kind in ("secret", "token")
    )
    return Key(f"ASIA{digest[:16].upper()}", secret), token


def test_the_keys_of_a_functions_role_cannot_be_guessed(place: Place) -> None:
    account = Account(place.endpoint)
    role = account.role("lambda", "secretsmanager:GetSecretValue")
    function = account.function(role)
    account.root("lambda").invoke(FunctionName=function)
    key, token = guessed_key(function, role)
    assert is_refused(place.send(place.signed(key, token)))


def test_a_session_needs_its_token_and_its_own_secret(place: Place) -> None:
    account = Account(place.endpoint)
    role = account.role("lambda", "secretsmanager:GetSecretValue")
    found = account.root("sts").assume_role(RoleArn=role, RoleSessionName="one")["Credentials"]
    key, token = Key(found["AccessKeyId"], found["SecretAccessKey"]), found["SessionToken"]
    assert SECRET in place.send(place.signed(key, token)).body
    assert is_refused(place.send(place.signed(key)))
    assert is_refused(place.send(place.signed(key, token[:-1] + "x")))
    assert is_refused(place.send(place.signed(Key(key.key_id, ROOT.secret), token)))
    assert is_refused(place.send(place.signed(ROOT, token)))


SENDS = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "s.sendto(b'', ('127.0.0.1', 9)); return s.getsockname()[0]"
)


def address_of_sender(account: Account) -> str:
    """Return the address from which a function sends a datagram, as the X-Ray SDK does."""
    function = account.function(account.role("lambda"), SENDS)
    answer = account.root("lambda").invoke(FunctionName=function)
    found: str = json.loads(answer["Payload"].read())
    return found


def test_a_functions_datagrams_leave_from_loopback(place: Place) -> None:
    assert address_of_sender(Account(place.endpoint)) == "127.0.0.1"


@pytest.mark.parametrize("header", ["", "Origin: null\r\n"])
def test_a_refusal_before_the_body_has_come_says_that_the_connection_ends(
    place: Place, header: str
) -> None:
    request = f"POST / HTTP/1.1\r\nHost: {place.host}\r\n{header}Content-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", place.port), timeout=30) as connection:
        connection.sendall(request.encode())
        answer = b""
        while part := connection.recv(65_536):  # until the server ends the connection
            answer += part
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
