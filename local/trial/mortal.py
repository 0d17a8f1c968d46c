"""A function that fails on one device's readings; `run --poison` deploys it (`local.trial.poison`).

It writes each delivery to a file, which it can because it runs on this machine.
"""

import base64
import json
import os
from typing import Any


def handler(event: dict[str, Any], _context: object) -> None:
    """Write down the delivery; raise if it has the poison record."""
    records = [each["kinesis"] for each in event["Records"]]
    is_deadly = any(each["partitionKey"] == os.environ["POISON"] for each in records)
    readings = {each["sequenceNumber"]: readings_in(each["data"]) for each in records}
    note(json.dumps({"died": is_deadly, "records": readings}))
    if is_deadly:
        raise RuntimeError("a reading killed this function")


def readings_in(data: str) -> int:
    """Return the number of readings in a record: those of a pack, 1 for any other record."""
    try:
        return len(json.loads(base64.b64decode(data))["readings"]["after_ms"])
    except (ValueError, LookupError, TypeError):  # others may put what isn't JSON, or no object
        return 1


def note(line: str) -> None:
    """Append a line in one write, since several workers write at the same time."""
    file = os.open(os.environ["DELIVERIES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
