"""A device that claims a certificate of its own: fleet provisioning, from the device's side.

It comes with a claim's certificate, makes a key that never leaves it, has a certificate made for
that, and asks for a thing with it. Nothing here is the broker's: it would do the same on AWS.
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
    """Return the topic by which a template is asked to provision."""
    return f"$aws/provisioning-templates/{template}/provision/json"


class Claimant:
    """A connection by a claim's certificate, and the answers that come on it."""

    def __init__(self, client: paho.Client) -> None:
        """Ask on a connection."""
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
        came_on, found = self._next(topic)
        if came_on.endswith("/rejected"):
            raise LocalError(f"{topic} is rejected: {found['errorCode']}: {found['errorMessage']}")
        answer: dict[str, Any] = found
        return answer


@contextmanager
def claiming(port: int, authority: Path, claim: Pair, client_id: str) -> Iterator[Claimant]:
    """Connect by a claim's certificate; raise LocalError when it isn't let in."""
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
        client._reset_sockets()  # noqa: SLF001 - paho leaves those open by which it wakes its thread


def claim_certificate(
    claimant: Claimant, template: str, device_id: str, files: Pair
) -> dict[str, Any]:
    """Get a device a thing, and a certificate in `files`; return what the template answered.

    Raise LocalError when it is rejected; there is nothing in `files` then.
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
