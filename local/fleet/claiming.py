"""A device that claims a certificate of its own: fleet provisioning, from the device's side.

It connects with a claim's certificate, makes a key that never leaves it, requests a certificate for
that key, and has itself registered as a thing. It would do the same on AWS.
https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html#claim-based
"""

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from emulator.mqtt.certificates import Pair, put
from local.errors import LocalError, NoAnswer

FROM_CSR = "$aws/certificates/create-from-csr/json"
ANSWER_SECONDS_MAX = 60.0


def template_topic(template: str) -> str:
    """Return the topic of requests to provision by a template."""
    return f"$aws/provisioning-templates/{template}/provision/json"


class Claimant:
    """A connection with a claim's certificate; sends requests and waits for their answers."""

    def __init__(self, client: paho.Client) -> None:
        """Take the connection's messages."""
        self._client = client
        self._answers: queue.Queue[tuple[str, Any]] = queue.Queue()
        client.on_message = self._on_message
        client.on_subscribe = lambda *_details: self._answers.put(("subscribed", None))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._answers.put((message.topic, json.loads(message.payload)))

    def _next(self, topic: str) -> tuple[str, Any]:
        try:
            return self._answers.get(timeout=ANSWER_SECONDS_MAX)
        except queue.Empty:
            raise NoAnswer(f"no answer on {topic} within {ANSWER_SECONDS_MAX:.0f} s") from None

    def ask(self, topic: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; raise LocalError for a rejected one."""
        self._client.subscribe([(f"{topic}/accepted", 1), (f"{topic}/rejected", 1)])
        self._next(topic)
        self._client.publish(topic, json.dumps(request), qos=1)
        answer_topic, payload = self._next(topic)
        if answer_topic.endswith("/rejected"):
            error = f"{payload['errorCode']}: {payload['errorMessage']}"
            raise LocalError(f"{topic} is rejected: {error}")
        answer: dict[str, Any] = payload
        return answer


@contextmanager
def claiming(port: int, authority: Path, claim: Pair, client_id: str) -> Iterator[Claimant]:
    """Connect with a claim's certificate; raise LocalError if the broker refuses it."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False)
    client.tls_set(str(authority), str(claim.certificate), str(claim.key))
    connected: queue.Queue[Any] = queue.Queue()
    client.on_connect = lambda *details: connected.put(details[3])
    claimant = Claimant(client)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        reason = connected.get(timeout=ANSWER_SECONDS_MAX)
        if reason.is_failure:
            raise LocalError(f"the broker doesn't let the claim in: {reason}")
        yield claimant
    finally:
        client.disconnect()
        client.loop_stop()
        client._reset_sockets()  # noqa: SLF001 - paho leaves the sockets that wake its thread open


def claim_certificate(
    claimant: Claimant, template: str, device_id: str, files: Pair
) -> dict[str, Any]:
    """Register a device's thing, write its certificate to `files`; return the template's answer.

    Raise LocalError if a request is rejected; nothing is written then.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    made = claimant.ask(FROM_CSR, {"certificateSigningRequest": request.public_bytes(pem).decode()})
    wanted = {
        "certificateOwnershipToken": made["certificateOwnershipToken"],
        "parameters": {"DeviceId": device_id},
    }
    provisioned = claimant.ask(template_topic(template), wanted)
    put(files.certificate, made["certificatePem"].encode())
    form = serialization.PrivateFormat.PKCS8
    put(files.key, key.private_bytes(pem, form, serialization.NoEncryption()))
    return provisioned
