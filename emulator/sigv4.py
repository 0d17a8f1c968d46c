"""AWS Signature Version 4: check a request's signature; sign a link.

Rules: "Create a signed AWS API request",
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html;
for S3's payload hashes and chunks "Authenticating Requests (AWS Signature Version 4)",
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html. A request
carries its signature in the Authorization header or in the query, not in both. Other algorithms are
refused.

It uses only the standard library, because the emulator's interpreter has none of the project's
dependencies.
"""

import calendar
import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote_plus

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_SECONDS_MAX = 15 * 60
"""The largest allowed difference between a request's time and the receiver's."""
EXPIRES_SECONDS_MAX = 7 * 24 * 3600
TIMESTAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
SCOPE_PARTS = 5  # key, date, region, service, aws4_request
UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_CHUNKS = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
CHUNKS_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
HASH = re.compile(r"[0-9a-f]{64}")
EMPTY_HASH = hashlib.sha256(b"").hexdigest()
CONTENT_HASH = "x-amz-content-sha256"
S3 = "s3"  # only here may a body be unsigned, and the path is signed as sent
IN_QUERY = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
)
OLD_IN_QUERY = ("awsaccesskeyid",)
"""Query parameters of Signature Version 2."""

Pairs = tuple[tuple[str, str], ...]


class Refused(Exception):
    """A request isn't signed, or is signed wrongly; `code` is AWS's error code."""

    def __init__(self, code: str, message: str) -> None:
        """Keep AWS's error code and a message for the sender."""
        super().__init__(message)
        self.code = code
        self.message = message


class Key(NamedTuple):
    """An access key."""

    key_id: str
    secret: str


@dataclass(frozen=True)
class Request:
    """A received request.

    `path` and `query` are as sent, still encoded. Header names are in lower case.
    """

    method: str
    path: str
    query: str
    headers: Pairs

    def values(self, name: str) -> list[str]:
        """Return the values of a header, in the order sent."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str:
        """Return a header's value, empty if it is missing; raise Refused if it was sent twice."""
        values = self.values(name)
        if len(values) > 1:
            raise Refused("IncompleteSignature", f"the header {name} is sent {len(values)} times")
        return values[0] if values else ""

    def parameters(self) -> Pairs:
        """Return the query's names and values, decoded, in the order sent."""
        parts = (part.partition("=") for part in self.query.split("&") if part)
        return tuple((unquote_plus(name), unquote_plus(value)) for name, _, value in parts)


@dataclass(frozen=True)
class Signature:
    """A request's signature, and what the request states about it."""

    key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    value: str
    timestamp: str
    token: str
    expires: int | None = None
    """Seconds for which a link is valid; None if the signature is in a header."""

    @property
    def scope(self) -> str:
        """The scope in the signed text."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def signature_of(request: Request) -> Signature | None:
    """Return a request's signature, unchecked; None if it carries no AWS credentials.

    Raises Refused for a signature that is incomplete, given twice, or of another algorithm.
    """
    authorizations = [each for each in request.values("authorization") if each.startswith("AWS")]
    names = [name.lower() for name, _ in request.parameters()]
    in_query = {name.lower() for name in IN_QUERY} & set(names)
    if any(name in names for name in OLD_IN_QUERY):
        raise Refused("UnsupportedSignature", f"only {ALGORITHM} is supported")
    if authorizations and in_query:
        message = "credentials are in the Authorization header and in the query; send one of them"
        raise Refused("IncompleteSignature", message)
    if authorizations:
        return in_header(request)
    return in_link(request) if in_query else None


def in_header(request: Request) -> Signature:
    """Return the signature in a request's Authorization header."""
    algorithm, _, rest = request.value("authorization").partition(" ")
    if algorithm != ALGORITHM:
        raise Refused("UnsupportedSignature", f"only {ALGORITHM} is supported, not {algorithm}")
    fields = [part.strip().partition("=") for part in rest.split(",")]
    given = {name: value for name, _, value in fields}
    if sorted(name for name, _, _ in fields) != ["Credential", "Signature", "SignedHeaders"]:
        message = "Authorization needs Credential, SignedHeaders and Signature, each once"
        raise Refused("IncompleteSignature", message)
    timestamp = request.value("x-amz-date") or timestamp_of(request.value("date"))
    return Signature(
        *scope_of(given["Credential"]),
        signed_headers=tuple(given["SignedHeaders"].split(";")),
        value=given["Signature"],
        timestamp=timestamp,
        token=request.value("x-amz-security-token"),
    )


def in_link(request: Request) -> Signature:
    """Return the signature in a request's query."""
    given = [(n, v) for n, v in request.parameters() if n.lower() in map(str.lower, IN_QUERY)]
    found = dict(given)
    missing = set(IN_QUERY) - {"X-Amz-Security-Token"} - found.keys()
    if missing or len(found) != len(given) or not found.keys() <= set(IN_QUERY):
        needed = ", ".join(sorted(missing)) or "each name once, in AWS's spelling"
        raise Refused("IncompleteSignature", f"the query's credentials need {needed}")
    if found["X-Amz-Algorithm"] != ALGORITHM:
        raise Refused("UnsupportedSignature", f"only {ALGORITHM} is supported")
    expires = found["X-Amz-Expires"]
    if not re.fullmatch("[0-9]{1,6}", expires) or not 1 <= int(expires) <= EXPIRES_SECONDS_MAX:
        message = f"X-Amz-Expires is {expires!r}: seconds were expected, 1 to {EXPIRES_SECONDS_MAX}"
        raise Refused("AuthorizationQueryParametersError", message)
    return Signature(
        *scope_of(found["X-Amz-Credential"]),
        signed_headers=tuple(found["X-Amz-SignedHeaders"].split(";")),
        value=found["X-Amz-Signature"],
        timestamp=found["X-Amz-Date"],
        token=found.get("X-Amz-Security-Token", ""),
        expires=int(expires),
    )


def scope_of(credential: str) -> tuple[str, str, str, str]:
    """Return the key id, date, region and service of a Credential; raise Refused."""
    parts = credential.split("/")
    if len(parts) != SCOPE_PARTS or parts[4] != "aws4_request" or not all(parts):
        message = f"Credential is {credential!r}: key/date/region/service/aws4_request was expected"
        raise Refused("IncompleteSignature", message)
    key_id, date, region, service, _ = parts
    return key_id, date, region, service


def timestamp_of(date: str) -> str:
    """Return a Date header's time in the form of X-Amz-Date; empty if it can't be read."""
    try:
        seconds = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return ""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


@lru_cache(maxsize=64)
def seconds_of(timestamp: str) -> int:
    """Return a signature's time in seconds since 1970; raise Refused if it isn't a time."""
    if TIMESTAMP.fullmatch(timestamp):
        try:
            return calendar.timegm(time.strptime(timestamp, "%Y%m%dT%H%M%SZ"))
        except ValueError:
            pass
    message = f"the request's time is {timestamp!r}: X-Amz-Date as 20261127T093000Z was expected"
    raise Refused("IncompleteSignature", message)


def check_time(signature: Signature, now: float) -> None:
    """Raise Refused if a request's time is too far from `now`, in seconds since 1970."""
    signed_at = seconds_of(signature.timestamp)
    if signature.timestamp[:8] != signature.date:
        message = f"Credential has {signature.date}, the request has {signature.timestamp}"
        raise Refused("SignatureDoesNotMatch", message)
    is_link = signature.expires is not None
    latest = signed_at + (signature.expires if signature.expires is not None else SKEW_SECONDS_MAX)
    if now > latest:
        message = f"signed at {signature.timestamp}, which was valid for {latest - signed_at} s"
        raise Refused("AccessDenied" if is_link else "RequestTimeTooSkewed", f"expired: {message}")
    if signed_at > now + SKEW_SECONDS_MAX:
        message = f"signed at {signature.timestamp}, which is over {SKEW_SECONDS_MAX} s from now"
        raise Refused("RequestTimeTooSkewed", message)


def payload_of(signature: Signature, request: Request) -> str | None:
    """Return the body hash that was signed, or its substitute; None if the body must be hashed.

    Raises Refused for a substitute if the service isn't S3.
    """
    declared = request.value(CONTENT_HASH)
    if signature.expires is not None and signature.service == S3:
        return declared if CONTENT_HASH in signature.signed_headers and declared else UNSIGNED
    if not declared or HASH.fullmatch(declared):
        return declared or None
    if signature.service != S3 or declared not in (
        UNSIGNED,
        UNSIGNED_CHUNKS,
        CHUNKS,
        CHUNKS_TRAILER,
    ):
        message = f"{CONTENT_HASH} is {declared!r}: the body's SHA-256 in hexadecimal was expected"
        raise Refused("InvalidArgument", message)
    return declared


def check(signature: Signature, request: Request, secret: str, payload: str) -> None:
    """Raise Refused unless the signature is the one made with the secret.

    `payload`: the body's hash, or its substitute (`payload_of`).
    """
    check_signed_headers(signature, request)
    value = signed(signature, request, secret, payload)
    if not hmac.compare_digest(value.encode(), signature.value.encode()):
        message = (
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method."
        )
        raise Refused("SignatureDoesNotMatch", message)


def check_signed_headers(signature: Signature, request: Request) -> None:
    """Raise Refused unless Host and all x-amz- headers are signed."""
    names = signature.signed_headers
    wanted = {"host", *(name for name, _ in request.headers if name.startswith("x-amz-"))}
    if list(names) != sorted({name.lower() for name in names}):
        message = f"SignedHeaders is {';'.join(names)!r}: lower case, sorted, each once is right"
        raise Refused("IncompleteSignature", message)
    if not wanted <= set(names):
        unsigned = ", ".join(sorted(wanted - set(names)))
        message = f"There were headers present in the request which were not signed: {unsigned}"
        raise Refused("AccessDenied", message)


def check_body(declared: str, signature: Signature, secret: str, chunks: list[bytes]) -> None:
    """Raise Refused unless a body is the one that was signed. `declared`: see `payload_of`."""
    if declared in (UNSIGNED, UNSIGNED_CHUNKS):
        return
    if declared in (CHUNKS, CHUNKS_TRAILER):
        check_chunks(signature, secret, b"".join(chunks))
    elif hash_of(chunks) != declared:
        message = f"The provided '{CONTENT_HASH}' header does not match what was computed."
        raise Refused("XAmzContentSHA256Mismatch", message)


def hash_of(chunks: list[bytes]) -> str:
    """Return the SHA-256 of a body, in hexadecimal."""
    digest = hashlib.sha256()
    for each in chunks:
        digest.update(each)
    return digest.hexdigest()


def check_chunks(signature: Signature, secret: str, body: bytes) -> None:
    """Raise Refused unless each chunk of a body and its trailer are signed.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html, -streaming-trailers.html.
    """
    key = signing_key(secret, signature.date, signature.region, signature.service)
    previous, size, at = signature.value, -1, 0

    def follows(kind: str, *hashes: str) -> str:
        text = "\n".join((kind, signature.timestamp, signature.scope, previous, *hashes))
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    while size != 0:
        head, found, _ = body[at : at + 200].partition(b"\r\n")
        match = re.fullmatch(rb"([0-9a-fA-F]{1,12});chunk-signature=([0-9a-f]{64})", head)
        if not found or match is None:
            raise Refused("IncompleteBody", "a chunk of the body has no size and signature")
        size, start = int(match[1], 16), at + len(head) + 2
        digest = hashlib.sha256(body[start : start + size]).hexdigest()
        value = follows(f"{ALGORITHM}-PAYLOAD", EMPTY_HASH, digest)
        if not hmac.compare_digest(value.encode(), match[2]):
            raise Refused("SignatureDoesNotMatch", "a chunk of the body has a wrong signature")
        previous, at = value, start + size + (2 if size else 0)
    lines = [line for line in body[at:].split(b"\r\n") if line]
    if lines:
        *trailers, last = lines
        name, _, given = last.partition(b":")
        text = b"".join(line + b"\n" for line in trailers)
        value = follows(f"{ALGORITHM}-TRAILER", hashlib.sha256(text).hexdigest())
        if name != b"x-amz-trailer-signature" or not hmac.compare_digest(value.encode(), given):
            raise Refused("SignatureDoesNotMatch", "the body's trailer has a wrong signature")


def signed(signature: Signature, request: Request, secret: str, payload: str) -> str:
    """Return the signature that the secret gives: 64 hexadecimal digits."""
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        headers.setdefault(name, []).append(" ".join(value.split()))
    canonical = "\n".join(
        (
            request.method,
            request.path if signature.service == S3 else quote(normal(request.path), safe="/~"),
            query_of(request),
            *(f"{name}:{','.join(headers.get(name, ()))}" for name in signature.signed_headers),
            "",
            ";".join(signature.signed_headers),
            payload,
        )
    )
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    text = "\n".join((ALGORITHM, signature.timestamp, signature.scope, digest))
    key = signing_key(secret, signature.date, signature.region, signature.service)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def query_of(request: Request) -> str:
    """Return the query as it is signed: sorted, encoded, without the signature."""
    pairs = [
        (quote(name, safe="~"), quote(value, safe="~"))
        for name, value in request.parameters()
        if name != "X-Amz-Signature"
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def normal(path: str) -> str:
    """Return a path without empty segments, `.` and `..`, as all services but S3 sign it."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


@lru_cache(maxsize=1024)
def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """Return the signing key of a day, a region and a service."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def link(key: Key, method: str, host: str, path: str, seconds: int = 600) -> str:
    """Return a signed link to `path` on `host`, valid for `seconds`.

    It is signed as a link to S3 for every service, because such a link needs no body hash.
    """
    timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    signature = Signature(
        *(key.key_id, timestamp[:8], "us-east-1", S3), ("host",), "", timestamp, "", seconds
    )
    values = {
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{key.key_id}/{signature.scope}",
        "X-Amz-Date": timestamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    query = "&".join(f"{name}={quote(value, safe='~')}" for name, value in values.items())
    request = Request(method, path, query, (("host", host),))
    value = signed(signature, request, key.secret, UNSIGNED)
    return f"http://{host}{path}?{query}&X-Amz-Signature={value}"


def relay_proof(secret: str, host: str) -> str:
    """Return a relay's proof that it knows the secret and was called as `host`."""
    return hmac.new(secret.encode(), f"relayed from {host}".encode(), hashlib.sha256).hexdigest()
