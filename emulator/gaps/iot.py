"""Closes gaps of the embedded AWS in IoT: the certificate authority, and fleet provisioning.

The emulator (1.5.33) signs certificates as its own authority. It answers fleet provisioning only to
clients of its own MQTT broker, which is off here (its TLS listener binds every interface). Here it
signs as the instance's authority, which `emulator.mqtt` trusts, and answers requests that the
broker of `emulator.mqtt` passes on.
"""

import base64
import json
import secrets
import time
from pathlib import Path
from typing import Any

OPERATION = "Local.AnswerDevice"
"""The broker's request to the emulator. It isn't an operation of AWS."""
FROM_CSR_TOPIC = "$aws/certificates/create-from-csr/json"
OK_STATUS = 200

Document = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]
Reply = tuple[str, Document]
"""The last level of the answer's topic, `accepted` or `rejected`, and the answer."""


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    iot, folder = modules.service("iot"), modules.folder / "mqtt"
    sign_as(iot, folder / "authority.pem", folder / "authority.key")
    answer_devices(iot)


def sign_as(iot: Any, certificate: Path, key: Path) -> None:
    """Make `ministack.services.iot` sign certificates as this authority."""

    def authority() -> tuple[str, str]:
        try:
            return certificate.read_text(), key.read_text()
        except OSError as error:  # the emulator then answers 503
            raise RuntimeError(f"the broker hasn't made its authority yet: {error}") from error

    iot._ensure_ca = authority


def answer_devices(iot: Any) -> None:
    """Make `ministack.services.iot` answer MQTT requests passed on by `emulator.mqtt.services`."""
    route = iot._route_request

    async def route_or_answer(
        method: str, path: str, headers: dict[str, str], body: bytes, query: Any
    ) -> Response:
        if (headers or {}).get("x-amz-target") != OPERATION:
            found: Response = await route(method, path, headers, body, query)
            return found
        answered: Response = iot.json_response(await answer(iot, json.loads(body)))
        return answered

    iot._route_request = route_or_answer


async def answer(iot: Any, request: Document) -> Document:
    """Return the answer to a message {"topic", "payload" (base64), "client_id", "certificate_id"}.

    It is {"kind", "document"}; topics are those of `emulator.mqtt.services.ANSWERED`.
    """
    topic, payload = request["topic"], base64.b64decode(request["payload"])
    if topic == FROM_CSR_TOPIC:
        kind, document = create_from_csr(iot, payload)
    else:
        connection = {
            "clientId": request["client_id"],
            "claimCertificateId": request["certificate_id"],
        }
        operation = iot._parse_fleet_provisioning_topic(topic)
        where = iot.get_account_id(), iot.get_region()
        kind, document = await iot._fleet_provisioning_reply(
            *where, *operation, payload, connection
        )
    return {"kind": kind, "document": document}


def create_from_csr(iot: Any, payload: bytes) -> Reply:
    """Make a certificate for a device's own key; the device may register a thing with it.

    https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html#create-cert-csr
    """
    try:
        request = json.loads(payload)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        rejected: Reply = iot._fleet_rejected("InvalidPayload", "Message cannot be parsed")
        return rejected
    status, _, body = iot._create_certificate_from_csr(request, {})
    if status != OK_STATUS:
        refused: Reply = iot._fleet_rejected("InvalidCSR", json.loads(body)["message"], status)
        return refused
    made = json.loads(body)
    number, token = made["certificateId"], secrets.token_urlsafe(48)
    iot._certificates[number]["status"] = "PENDING_ACTIVATION"
    iot._drop_expired(iot._ownership_tokens)
    iot._ownership_tokens[token] = {
        "certificateId": number,
        "expiration": time.time() + iot._OWNERSHIP_TOKEN_SECONDS,
    }
    document = {
        "certificateOwnershipToken": token,
        "certificateId": number,
        "certificatePem": made["certificatePem"],
    }
    return "accepted", document
