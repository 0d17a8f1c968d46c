"""Requests of devices that IoT Core answers over MQTT: fleet provisioning, as JSON.

https://docs.aws.amazon.com/iot/latest/developerguide/fleet-provision-api.html
The embedded AWS makes the answers (`emulator/gaps/iot.py`).
"""

import base64
import json
import re

from emulator.mappings.aws import ApiError, Endpoint
from emulator.mappings.ports import OutsideProblem
from emulator.mqtt.rules import Unreachable
from emulator.mqtt.spool import Published

ANSWERED = re.compile(
    r"\$aws/(certificates/create(-from-csr)?|provisioning-templates/[^/]+/provision)/json"
)
API = ("iot", "Local", "application/json")


class AwsServices:
    """IoT's services on an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Call the endpoint as the account's root."""
        self._endpoint = endpoint

    def answer(self, message: Published) -> tuple[str, bytes] | None:
        """Return the answer's topic and payload; None for CBOR and for other topics."""
        if not ANSWERED.fullmatch(message.topic):
            return None
        request = {
            "topic": message.topic,
            "payload": base64.b64encode(message.payload).decode(),
            "client_id": message.client_id,
            "certificate_id": message.principal,
        }
        try:
            reply = self._endpoint.call(API, "AnswerDevice", request, role_arn="")
        except (OutsideProblem, ApiError) as error:
            raise Unreachable(str(error)) from error
        return f"{message.topic}/{reply['kind']}", json.dumps(reply["document"]).encode()
