"""A handler that dies with half of its writes done: a test deploys it in a function's place.

In the deployed folder `stage.py` is the function's own handler.py, and `fault.json` says how to
die, one time after another.
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
    """The table, until half of a batch is written."""

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
    """The next death that is due; each leaves a mark, since memory may go with it."""
    for number, death in enumerate(FAULT["deaths"]):
        try:
            Path(FAULT["marks"], f"{number}-{death}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return str(death)
    return None


stage.DynamoItems = DyingItems
handler = stage.handler
