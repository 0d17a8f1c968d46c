"""A function that records each batch, and fails on batches with certain numbers.

A test deploys it with `told.json`: {fails_on, seconds, log}.
"""

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

TOLD: dict[str, Any] = json.loads(Path(__file__).with_name("told.json").read_text())


def handler(event: dict[str, Any], _context: object) -> None:
    records = [
        (each["kinesis"]["partitionKey"], int(base64.b64decode(each["kinesis"]["data"])))
        for each in event["Records"]
    ]
    time.sleep(TOLD["seconds"])
    has_failed = any(number in TOLD["fails_on"] for _, number in records)
    line = json.dumps({"failed": has_failed, "records": records})
    file = os.open(TOLD["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{line}\n".encode())  # in one write: several of this function run at once
    os.close(file)
    if has_failed:
        raise RuntimeError("fails as the test wants it")
