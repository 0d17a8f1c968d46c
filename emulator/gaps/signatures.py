"""Closes gaps of the embedded AWS: each request must be signed correctly with a secret key.

On AWS an account's keys are secret, and a request without a valid signature is refused
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html). The emulator (1.5.33)
accepts an empty key, `test` and any twelve digits as an account's root, with any signature. It
derives the keys of functions' roles from names. It has its own paths, under `/_ministack/` and
elsewhere, without any check. Here the root key is the instance's own (AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY), functions' keys are derived from a secret, and every request is checked
before the emulator gets it (`emulator.sigv4`). As on AWS, only a call of a deployed API needs no
signature, because it has its own authorizer.

The emulator's own paths are only for the root key. Links are signed as AWS signs them: links to a
function's code, to a layer, and for a custom resource's answer.
"""

import os
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from emulator import sigv4
from emulator.sigv4 import Key, Refused, Request, Signature

API_PREFIX = "/_aws/execute-api/"
INVOKE, BY_IAM = "execute-api:Invoke", "AWS_IAM"
OWN_PREFIXES = ("/_ministack/", "/_localstack/", "/health")
LINK_SECONDS = 600
RESPONSE_SECONDS = 7200  # for a custom resource's answer; AWS waits an hour
POLICY_VIOLATION = 1008

Document = dict[str, Any]
Receive = Callable[[], Awaitable[Document]]
Send = Callable[[Document], Awaitable[None]]
App = Callable[[Document, Receive, Send], Awaitable[None]]


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    root = Key(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    evaluator, app = modules.core("iam_evaluator"), modules.app
    evaluator.is_root_access_key = lambda key_id: key_id == root.key_id
    modules.service("sts").is_root_access_key = evaluator.is_root_access_key
    trust_what_is_checked(evaluator, app, modules.service("s3"))
    leave_unknown_routes(app)
    keep_keys_secret(modules.core("lambda_runtime"), modules.service("lambda_svc"))
    sign_links(modules, root)
    app.app = checked(app.app, SignatureCheck(app, evaluator, modules.core("responses"), root))


def trust_what_is_checked(evaluator: Any, app: Any, s3: Any) -> None:
    """Make the emulator check no signature again: a request that reaches it is already checked.

    The emulator still checks permissions.
    """
    key_of = app.extract_access_key_id

    def note_caller(
        _method: str, _path: str, query: Any, raw_headers: Any, handshake: bool = False
    ) -> None:
        del handshake
        headers = {name.decode("latin-1").lower(): v.decode("latin-1") for name, v in raw_headers}
        key_id = key_of(headers, query)
        evaluator._signed_request.set(None)
        evaluator._anonymous.set(not key_id)
        evaluator._verified_key.set(key_id)

    evaluator.pin_signed_request = app.pin_signed_request = note_caller
    s3._verify_presigned_sigv4 = lambda *_request: None


def leave_unknown_routes(app: Any) -> None:
    """Make API Gateway itself answer for a missing route, without a check of permissions.

    Otherwise the emulator would look up permissions of a caller that it may not know.
    """
    enforce, authorization_of = app._enforce_execute_api, app._execute_api_authorization_type

    def enforce_on_routes(
        api_id: str, stage: str, method: str, path: str, *request: Any, iam_action: str = INVOKE
    ) -> Any:
        if iam_action == INVOKE and authorization_of(api_id, stage, method, path) != BY_IAM:
            return None
        return enforce(api_id, stage, method, path, *request, iam_action=iam_action)

    app._enforce_execute_api = enforce_on_routes


def keep_keys_secret(lambda_runtime: Any, lambda_svc: Any) -> None:
    """Make the keys of a function's role depend on a secret, not only on names."""
    credentials_of, secret = lambda_runtime.execution_credentials, secrets.token_hex(32)

    def secret_credentials(config: Document) -> dict[str, str]:
        # The emulator derives them only from the function's ARN.
        found: dict[str, str] = credentials_of(
            {**config, "FunctionArn": f"{config.get('FunctionArn', '')}:{secret}"}
        )
        return found

    lambda_runtime.execution_credentials = secret_credentials
    lambda_svc.execution_credentials = secret_credentials


def sign_links(modules: Any, root: Key) -> None:
    """Sign the links to code and layers, and the links for a custom resource's answer."""
    custom = modules.service("cloudformation.custom_resource")
    waits = modules.service("cloudformation.wait_conditions")
    lambdas = modules.service("lambda_svc")

    def signing(make: Callable[..., str], method: str, seconds: int) -> Callable[..., str]:
        def make_signed(*args: Any) -> str:
            made = urlsplit(make(*args))
            return sigv4.link(root, method, made.netloc, made.path, seconds)

        return make_signed

    lambdas._presigned_code_url = signing(lambdas._presigned_code_url, "GET", LINK_SECONDS)
    lambdas._layer_content_url = signing(lambdas._layer_content_url, "GET", LINK_SECONDS)
    custom._response_url = signing(custom._response_url, "PUT", RESPONSE_SECONDS)
    register = waits.register_handle

    def register_signed(*args: Any) -> tuple[str, str]:
        url, token = register(*args)
        made = urlsplit(url)
        return sigv4.link(root, "PUT", made.netloc, made.path, RESPONSE_SECONDS), token

    waits.register_handle = register_signed


class SignatureCheck:
    """The check of a request's signature and key."""

    def __init__(self, app: Any, evaluator: Any, responses: Any, root: Key) -> None:
        """Use the modules `ministack.app`, `core.iam_evaluator` and `core.responses`."""
        self._app = app
        self._evaluator = evaluator
        self._responses = responses
        self._root = root

    def signature_of(self, request: Request, path: str) -> Signature | None:
        """Return a request's signature with only its time checked; None if it needs none."""
        signature = sigv4.signature_of(request)
        if signature is None:
            if path.startswith(API_PREFIX) and self._app._parse_execute_api_url("", path):
                return None
            raise Refused("MissingAuthenticationToken", "Missing Authentication Token: not signed")
        if path.startswith(OWN_PREFIXES) and signature.key_id != self._root.key_id:
            raise Refused("AccessDenied", f"{path} is only for the instance's root key")
        sigv4.check_time(signature, time.time())
        return signature

    def secret_of(self, signature: Signature) -> str:
        """Return the secret of a signature's key; raise Refused for an invalid key."""
        key_id, evaluator = signature.key_id, self._evaluator
        try:
            account = evaluator.find_iam_access_key_account(key_id)
        except evaluator.AmbiguousAccessKeyError:
            account = ""
        account = account or self._responses._account_from_sts_session(key_id)
        found = evaluator.resolve_credential(key_id, account, signature.token)
        if isinstance(found, evaluator.CredentialResolutionError):
            raise Refused(found.code, found.message)
        secret: str = found.secret_access_key
        return secret

    def refusal(self, scope: Document, request: Request, refused: Refused) -> tuple[Any, ...]:
        """Return status, headers and body of a refusal in the form of the called service."""
        headers = dict(request.headers)
        query: dict[str, list[str]] = {}
        for name, value in request.parameters():
            query.setdefault(name, []).append(value)
        service = self._app.detect_service(request.method, scope["path"], headers, query)
        denied = self._evaluator.AuthError(refused.code, refused.message)
        found: tuple[Any, ...] = self._app._credential_failure(service, "", "", denied, headers)
        return found


def checked(app: App, check: SignatureCheck) -> App:
    """Return the emulator's ASGI application, for correctly signed requests only."""

    async def serve(scope: Document, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        request = request_of(scope)
        try:
            signature = check.signature_of(request, scope["path"])
            if signature is not None:
                receive = await checked_body(
                    signature, check.secret_of(signature), request, receive
                )
        except Refused as refused:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": POLICY_VIOLATION})
                return
            status, headers, body = check.refusal(scope, request, refused)
            await answer(send, status, headers, body)
            return
        await app(scope, receive, send)

    return serve


def request_of(scope: Document) -> Request:
    """Return an ASGI request as `emulator.sigv4.Request`."""
    return Request(
        scope.get("method", "GET"),
        scope["raw_path"].decode("latin-1"),
        scope.get("query_string", b"").decode("latin-1"),
        tuple(
            (name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape"))
            for name, value in scope["headers"]
        ),
    )


async def checked_body(
    signature: Signature, secret: str, request: Request, receive: Receive
) -> Receive:
    """Check a signature and its body; return a `receive` that gives the body once more.

    If the body's hash is declared, the signature is checked before the body is read.
    """
    declared = sigv4.payload_of(signature, request)
    if declared is not None:
        sigv4.check(signature, request, secret, declared)
    messages, chunks = await received(receive)
    if declared is None:
        sigv4.check(signature, request, secret, sigv4.hash_of(chunks))
    else:
        sigv4.check_body(declared, signature, secret, chunks)
    messages.reverse()

    async def replay() -> Document:
        return messages.pop() if messages else await receive()

    return replay


async def received(receive: Receive) -> tuple[list[Document], list[bytes]]:
    """Read a whole request; return the server's messages and the parts of the body."""
    messages: list[Document] = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body"):
            return messages, [each.get("body", b"") for each in messages]


async def answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    """Send the answer to a refused request.

    The request's body may be unread, so the server ends the connection. The answer has to say that:
    otherwise the client's next request may meet the end of the connection instead of an answer.
    """
    lines = {name.lower(): value for name, value in headers.items()}
    lines |= {"content-length": str(len(body)), "connection": "close"}
    encoded = [(name.encode(), value.encode("utf-8")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
