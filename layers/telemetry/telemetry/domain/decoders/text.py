"""JSON: one document, a list of documents, or one a line."""

import json
from typing import Any

from telemetry.domain.decoders.bounds import too_many
from telemetry.errors import Rejected


def json_documents(data: bytes, most: int) -> list[Any]:
    """The documents in a list; one object alone is a document, too. Raises Rejected."""
    body = json_value(data)
    documents = body if isinstance(body, list) else [body]
    if not documents or len(documents) > most:
        reason = f"has {len(documents)} elements; a request brings 1 to {most}"
        raise Rejected(reason, field="body")
    return documents


def lines(data: bytes, most: int) -> list[Any]:
    """The document of each line that isn't blank, or the Rejected of a line that isn't JSON."""
    found = [line for line in data.split(b"\n") if line and not line.isspace()]
    if not found:
        raise Rejected(f"has no lines; a request brings 1 to {most}", field="body")
    if len(found) > most:
        raise Rejected(too_many(most), field="body")
    return [_line(line) for line in found]


def _line(line: bytes) -> Any:
    try:
        return json_value(line)
    except Rejected as error:
        return Rejected(error.reason, value=line.decode("utf-8", "replace"))


def json_value(data: bytes) -> Any:
    """The value that JSON stands for; raises Rejected."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise Rejected(f"is not JSON: {error}", field="body") from None
    except RecursionError:
        raise Rejected("is nested too deeply", field="body") from None
