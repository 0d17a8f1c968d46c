"""Closes a gap of the embedded AWS: changes made by PartiQL reach streams and replicas.

On AWS a table's stream and its replicas get every change. The emulator (1.5.33) omits the changes
of PartiQL's INSERT and UPDATE.
"""

import threading
from collections.abc import Callable
from typing import Any

Response = tuple[int, dict[str, str], bytes]


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    announce_changes(modules.service("dynamodb"))


def announce_changes(dynamodb: Any) -> None:
    """Make `ministack.services.dynamodb` send PartiQL's writes to streams and replicas."""
    running = threading.local()  # .changes: (table, old item, new item) of the current statement
    set_item = dynamodb._set_item

    def noting_set_item(table: dict[str, Any], pk: Any, sk: Any, item: Any) -> Any:
        old_item = set_item(table, pk, sk, item)
        changes = getattr(running, "changes", None)
        if changes is not None:
            changes.append((table, old_item, item))
        return old_item

    def announcing(statement: Callable[..., Response]) -> Callable[..., Response]:
        def run(*args: Any) -> Response:
            running.changes = []
            try:
                response = statement(*args)
                changes = running.changes
            finally:
                running.changes = None
            for table, old_item, item in changes:
                event = "INSERT" if old_item is None else "MODIFY"
                dynamodb._emit_stream_event(table["TableName"], event, old_item, item)
            return response

        return run

    dynamodb._set_item = noting_set_item
    dynamodb._partiql_insert = announcing(dynamodb._partiql_insert)
    dynamodb._partiql_update = announcing(dynamodb._partiql_update)
