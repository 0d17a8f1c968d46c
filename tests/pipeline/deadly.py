"""A handler whose process a record kills: a test deploys it in place of a function's own.

In the deployed folder `stage.py` is the function's own handler.py, and `fault.json` has the text
that is deadly in a record's bytes.
"""

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import stage  # type: ignore[import-not-found]

TEXT: str = json.loads(Path(__file__).with_name("fault.json").read_text())["text"]


def handler(event: dict[str, Any], context: Any) -> Any:
    """Die if a record is deadly; otherwise call the function's own handler."""
    for record in event["Records"]:
        if TEXT.encode() in base64.b64decode(record["kinesis"]["data"]):
            os.kill(os.getpid(), signal.SIGKILL)
    return stage.handler(event, context)
