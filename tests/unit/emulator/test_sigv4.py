"""The emulator's check of signatures, with AWS's examples and with botocore."""

import hashlib
import hmac
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from emulator import sigv4
from emulator.sigv4 import Key, Refused, Request, Signature

# The key of AWS's documentation, which opens nothing.
EXAMPLE = Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
BUCKET = ("host", "examplebucket.s3.amazonaws.com")
FRIDAY = 1_369_353_600  # 2013-05-24 00:00 UTC, the day of AWS's examples


def accept(request: Request, secret: str = EXAMPLE.secret, body: bytes = b"") -> Signature:
    """Check a request as the emulator does, except its time."""
    signature = sigv4.signature_of(request)
    assert signature is not None
    declared = sigv4.payload_of(signature, request)
    hashed = sigv4.hash_of([body])
    sigv4.check(signature, request, secret, hashed if declared is None else declared)
    sigv4.check_body(hashed if declared is None else declared, signature, secret, [body])
    return signature


def s3_header(signed: str, value: str) -> tuple[str, str]:
    scope = f"{EXAMPLE.key_id}/20130524/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256 Credential={scope},SignedHeaders={signed},Signature={value}"
    return "authorization", text


GET = Request(
    "GET",
    "/test.txt",
    "",
    (
        BUCKET,
        ("range", "bytes=0-9"),
        ("x-amz-content-sha256", sigv4.EMPTY_HASH),
        ("x-amz-date", "20130524T000000Z"),
        s3_header(
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
    ),
)
"""https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, GET Object."""
LINK = Request(
    "GET",
    "/test.txt",
    "X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
    (BUCKET,),
)
"""https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html."""
CHUNKS = (
    (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
    (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
    (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
)
CHUNKED = Request(
    "PUT",
    "/examplebucket/chunkObject.txt",
    "",
    (
        ("host", "s3.amazonaws.com"),
        ("content-encoding", "aws-chunked"),
        ("content-length", "66824"),
        ("x-amz-content-sha256", sigv4.CHUNKS),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-decoded-content-length", "66560"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        s3_header(
            "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;"
            "x-amz-decoded-content-length;x-amz-storage-class",
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        ),
    ),
)
"""https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html."""


def chunked(*changed: int) -> bytes:
    """The body of that example, with changed letters in some chunks."""
    return b"".join(
        b"%x;chunk-signature=%b\r\n%b\r\n"
        % (size, value.encode(), (b"b" if number in changed else b"a") * size)
        for number, (size, value) in enumerate(CHUNKS)
    )


def test_the_examples_of_awss_documentation_have_the_documented_signatures() -> None:
    assert accept(GET).key_id == EXAMPLE.key_id
    assert accept(LINK).expires == 86_400
    accept(CHUNKED, body=chunked())


@pytest.mark.parametrize("changed", [0, 1])
def test_each_chunk_of_a_body_must_have_a_valid_signature(changed: int) -> None:
    with pytest.raises(Refused, match="a chunk of the body has a wrong signature"):
        accept(CHUNKED, body=chunked(changed))
    whole = chunked()
    with pytest.raises(Refused, match="no size and signature"):
        accept(CHUNKED, body=whole[: whole.rindex(b"0;chunk")])


def test_a_link_expires_at_its_time() -> None:
    signature = accept(LINK)
    sigv4.check_time(signature, FRIDAY + 86_400)
    sigv4.check_time(signature, FRIDAY - 900)
    for now in (FRIDAY + 86_401, FRIDAY - 901):
        with pytest.raises(Refused):
            sigv4.check_time(signature, now)


def test_a_header_is_valid_within_fifteen_minutes_of_its_time() -> None:
    signature = accept(GET)
    for now in (FRIDAY - 900, FRIDAY + 900):
        sigv4.check_time(signature, now)
    for now in (FRIDAY - 901, FRIDAY + 901):
        with pytest.raises(Refused) as refused:
            sigv4.check_time(signature, now)
        assert refused.value.code == "RequestTimeTooSkewed"


def changed(request: Request, **to: Any) -> Request:
    return Request(**{**vars(request), **to})


def with_header(request: Request, name: str, value: str) -> Request:
    kept = tuple(pair for pair in request.headers if pair[0] != name)
    return changed(request, headers=(*kept, (name, value)))


AUTHORIZATION = GET.value("authorization")
BROKEN = {
    "another method": changed(GET, method="DELETE"),
    "another path": changed(GET, path="/test.tx"),
    "a query": changed(GET, query="acl"),
    "another host": with_header(GET, "host", "elsewhere.s3.amazonaws.com"),
    "another range": with_header(GET, "range", "bytes=0-8"),
    "another time": with_header(GET, "x-amz-date", "20130524T000001Z"),
    "no time": with_header(GET, "x-amz-date", ""),
    "a header of Amazon's that isn't signed": with_header(GET, "x-amz-acl", "public-read"),
    "another region": with_header(GET, "authorization", AUTHORIZATION.replace("us-east-1", "a")),
    "another service": with_header(GET, "authorization", AUTHORIZATION.replace("/s3/", "/sqs/")),
    "no host signed": with_header(GET, "authorization", AUTHORIZATION.replace("=host;", "=")),
    "a digit more": with_header(GET, "authorization", AUTHORIZATION + "0"),
    "a part twice": with_header(GET, "authorization", AUTHORIZATION + ",Signature=0"),
    "a part less": with_header(GET, "authorization", AUTHORIZATION.rpartition(",")[0]),
    "another algorithm": with_header(
        GET, "authorization", AUTHORIZATION.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")
    ),
    "an old algorithm": with_header(GET, "authorization", "AWS AKIAIOSFODNN7EXAMPLE:0"),
    "no credential": with_header(
        GET, "authorization", AUTHORIZATION.replace("/us-east-1/s3/aws4_request", "")
    ),
    "two headers": changed(GET, headers=(*GET.headers, ("authorization", "Bearer a"))),
    "two times": changed(GET, headers=(*GET.headers, ("x-amz-date", "20130524T000000Z"))),
    "header and query": changed(GET, query="x-amz-credential=a"),
    "header and old query": changed(GET, query="AWSAccessKeyId=a"),
    "a longer link": changed(LINK, query=LINK.query.replace("=86400", "=86401")),
    "an endless link": changed(LINK, query=LINK.query.replace("=86400", "=604801")),
    "a link in other digits": changed(LINK, query=LINK.query.replace("=86400", "=%D9%A3")),
    "a link in lower case": changed(LINK, query=LINK.query.replace("X-Amz-D", "x-amz-d")),
    "a link with a name twice": changed(LINK, query=LINK.query + "&X-Amz-Expires=86400"),
    "a link with more": changed(LINK, query=LINK.query + "&acl"),
    "a link without its time": changed(LINK, query=LINK.query.replace("X-Amz-Date", "Date")),
    "a link with a header of Amazon's": with_header(LINK, "x-amz-acl", "public-read"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_request_that_differs_from_the_signed_one_is_refused(broken: str) -> None:
    with pytest.raises(Refused):
        accept(BROKEN[broken])


def test_a_body_that_differs_from_the_signed_one_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        accept(GET, body=b"another")
    assert refused.value.code == "XAmzContentSHA256Mismatch"
    sigv4.check_body(sigv4.UNSIGNED, accept(LINK), EXAMPLE.secret, [b"anything"])


@pytest.mark.parametrize("declared", [sigv4.UNSIGNED, sigv4.UNSIGNED_CHUNKS, "anything"])
def test_only_s3_accepts_an_unsigned_body(declared: str) -> None:
    request = with_header(GET, "x-amz-content-sha256", declared)
    signature = sigv4.signature_of(request)
    assert signature is not None
    if declared.isupper():
        assert sigv4.payload_of(signature, request) == declared
    of_sqs = Signature(**{**vars(signature), "service": "sqs"})
    with pytest.raises(Refused, match="the body's SHA-256 in hexadecimal was expected"):
        sigv4.payload_of(of_sqs, request)


def test_a_request_without_credentials_has_no_signature() -> None:
    bare = Request("GET", "/", "a=b&X-Amz-Meta=c", (BUCKET, ("authorization", "Bearer a")))
    assert sigv4.signature_of(bare) is None


def received(request: AWSRequest) -> Request:
    """Return a botocore request as it arrives."""
    sent = request.prepare()
    path, _, query = sent.url.partition("//")[2].partition("/")[2].partition("?")
    values: list[tuple[str, Any]] = list(sent.headers.items())  # some are bytes, despite their type
    headers = tuple(
        (name.lower(), value.decode() if isinstance(value, bytes) else str(value))
        for name, value in values
    )
    if not any(name == "host" for name, _ in headers):
        headers = (*headers, ("host", "localhost:1"))
    return Request(str(sent.method), f"/{path}", query, headers)


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
PARTS = ["a", "b c", "ü", "%2F", "~", "+", "..", ".", "", "é%"]
PATHS = st.lists(st.sampled_from(PARTS), max_size=5)
NAMES = TEXT.filter(lambda name: not name.lower().startswith(("x-amz-", "awsaccess")))


@given(PATHS, st.dictionaries(NAMES, TEXT, max_size=3), st.binary(max_size=40), st.booleans())
def test_botocores_signature_is_accepted_only_with_its_secret(
    path: list[str], query: dict[str, str], body: bytes, is_s3: bool
) -> None:
    address = "http://localhost:1/" + "/".join(quote(part, safe="") for part in path)
    if query:
        address += "?" + urlencode(query, quote_via=quote)
    auth, service = (S3SigV4Auth, "s3") if is_s3 else (SigV4Auth, "sqs")
    request = AWSRequest("POST", address, {"Content-Type": "a/b", "X-Amz-Meta": " a  b "}, body)
    request.context["payload_signing_enabled"] = True
    auth(Credentials(*EXAMPLE), service, "eu-west-1").add_auth(request)
    accept(received(request), body=body)
    with pytest.raises(Refused):
        accept(received(request), secret="another", body=body)
    with pytest.raises(Refused):
        accept(received(request), body=body + b" ")


def test_a_link_of_botocores_for_another_service_signs_its_body() -> None:
    request = AWSRequest("GET", "http://localhost:1/?Action=GetCallerIdentity", {}, b"")
    SigV4QueryAuth(Credentials(*EXAMPLE, "token"), "sts", "us-east-1", 60).add_auth(request)
    assert accept(received(request)).token == "token"
    with pytest.raises(Refused):
        accept(received(request), body=b"a body")


def test_a_link_of_our_own_has_a_valid_signature() -> None:
    made = sigv4.link(EXAMPLE, "GET", "localhost:1", "/_own/a b", 60)
    query = made.partition("?")[2]
    accept(Request("GET", "/_own/a b", query, (("host", "localhost:1"),)))
    with pytest.raises(Refused):
        accept(Request("GET", "/_own/a c", query, (("host", "localhost:1"),)))


def test_the_date_header_is_a_requests_time_without_x_amz_date() -> None:
    date = "Fri, 24 May 2013 00:00:00 GMT"
    assert sigv4.timestamp_of(date) == "20130524T000000Z"
    assert sigv4.timestamp_of("yesterday") == ""


def test_a_trailer_of_a_signed_body_is_signed_too() -> None:
    """By the rule of sigv4-streaming-trailers.html; the values are worked out here."""
    signature = accept(CHUNKED, body=chunked())
    key = sigv4.signing_key(EXAMPLE.secret, "20130524", "us-east-1", "s3")
    trailer = b"x-amz-checksum-crc32c:wdBDMA==\n"
    text = "\n".join(
        (
            "AWS4-HMAC-SHA256-TRAILER",
            "20130524T000000Z",
            "20130524/us-east-1/s3/aws4_request",
            CHUNKS[-1][1],
            hashlib.sha256(trailer).hexdigest(),
        )
    )
    value = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    ends = trailer.rstrip() + b"\r\nx-amz-trailer-signature:%b\r\n\r\n"
    body = chunked().removesuffix(b"\r\n")
    sigv4.check_chunks(signature, EXAMPLE.secret, body + ends % value.encode())
    for wrong in (ends % (b"0" * 64), b"x-amz-checksum-crc32c:wdBDMA==\r\n\r\n"):
        with pytest.raises(Refused, match="the body's trailer"):
            sigv4.check_chunks(signature, EXAMPLE.secret, body + wrong)
