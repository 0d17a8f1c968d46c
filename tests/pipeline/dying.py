"""A handler that dies after half of its writes: a test deploys it in place of a function's own.

In the deployed folder `stage.py` is the function's own handler.py, and `fault.json` has the ways to
die, one after another.
"""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import stage  # type: ignore[import-not-found]

FAULT: dict[str, Any] = json.loads(Path(__file__).with_name("fault.json").read_text())


class DyingItems(stage.DynamoItems):  # type: ignore[misc]
    """The table's items; it dies once half of a batch is written."""

    def write(self, writes: Sequence[Any]) -> Any:
        half = len(writes) // 2
        death = next_death() if half else None
        if death is None:
            return super().write(writes)
        super().write(writes[:half])
        if death == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("dies as the test wants it")


def next_death() -> str | None:
    """Return the next death; each leaves a file, because the process's memory may be lost."""
    for number, death in enumerate(FAULT["deaths"]):
        try:
            Path(FAULT["marks"], f"{number}-{death}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return str(death)
    return None


stage.DynamoItems = DyingItems
handler = stage.handler
