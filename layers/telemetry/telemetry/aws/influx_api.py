"""The part of InfluxDB's HTTP API that writers use: reads their requests, answers as InfluxDB does.

1.x: https://docs.influxdata.com/influxdb/v1/tools/api/, 2.x: https://docs.influxdata.com/influxdb/v2/api/
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from telemetry.aws.http import RETRY_AFTER_SECONDS, header, query_parameter
from telemetry.domain.admission import Poster
from telemetry.domain.decoders.compression import unpacked
from telemetry.domain.influx_mapping import Batch, name_devices, remedy, shipped_mapping, translate
from telemetry.domain.line_protocol import Fault, TooManyLines, parse
from telemetry.domain.reading import shown
from telemetry.errors import Rejected, TooLarge, Unsupported

# Telegraf's outputs.influxdb drops a batch that is answered by 413, so this is as much as an
# invocation takes: 6 MB of JSON. https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MAX_BODY_BYTES = 4 * 1_048_576
V1_WRITE, V2_WRITE, QUERY = "/write", "/api/v2/write", "/query"
VERSION = "1.8-telemetry"  # clients ask for it when they start, and choose the protocol by it
FAULTS_TOLD = 10
HEADER_LENGTH = 500
V2_CODES = {
    400: "invalid",
    403: "forbidden",
    413: "request too large",
    415: "unsupported media type",
    503: "unavailable",
}
CREATE = re.compile(r"\s*CREATE\s+DATABASE\b", re.IGNORECASE)
SHOW = re.compile(r"\s*SHOW\s+DATABASES\b", re.IGNORECASE)

Response = dict[str, Any]


def read(event: dict[str, Any], poster: Poster, now_ms: int) -> Batch:
    """Return the documents in a write's lines; raise Rejected, TooLarge or TooManyLines."""
    precision = query_parameter(event, "precision") or "ns"
    points, faults = parse(_body(event), precision)
    mapping = shipped_mapping()
    batch = translate(points, mapping, poster.device_id, now_ms)
    named = name_devices([*faults, *batch.faults], mapping, poster.device_id)
    return batch._replace(faults=named, precision=precision)


def _body(event: dict[str, Any]) -> bytes:
    """Return the request's bytes, unpacked; raise Rejected, Unsupported or TooLarge."""
    body = event.get("body") or ""
    try:
        is_base64 = event.get("isBase64Encoded")
        data = base64.b64decode(body) if is_base64 else body.encode(errors="surrogatepass")
    except ValueError as error:
        raise Rejected(f"is not base64: {error}", field="body") from None
    if len(data) > MAX_BODY_BYTES:
        raise TooLarge(f"has more than {MAX_BODY_BYTES} bytes; send it in parts", field="body")
    return unpacked(data, header(event, "content-encoding"), MAX_BODY_BYTES)


def written(
    event: dict[str, Any], faults: Sequence[Fault], dropped: int, ignored: Counter[str]
) -> Response:
    """Return 204 if every point was accepted whole or ignored, otherwise 400 with the faults.

    `dropped` is the number of points that weren't accepted; accepted points may have refused
    fields. InfluxDB says "partial write" even if it drops a single point. Old Telegrafs look for
    these words: they would resend points that are refused in other words for ever.
    """
    if not faults:
        return _empty({"X-Telemetry-Ignored": _header(_ignored(ignored))} if ignored else {})
    told = "; ".join(str(fault) for fault in faults[:FAULTS_TOLD])
    more = f"; and {len(faults) - FAULTS_TOLD} more" if len(faults) > FAULTS_TOLD else ""
    message = f"partial write: {told}{more} dropped={dropped}"
    return _error(event, 400, message, line=faults[0].line)


def nothing_stored(event: dict[str, Any], batch: Batch) -> Response:
    """Return 400 if no field of any point is a metric, so that a wrong setup is noticed.

    Clients don't send such points again: they drop points that a 400 calls partial.
    """
    dropped = len(batch.left_out)
    fields = _ignored(batch.ignored)
    told = f"partial write: no field is a metric: {fields}; {remedy(batch.left_out)}"
    return _error(event, 400, f"{told} dropped={dropped}", {"X-Telemetry-Ignored": _header(fields)})


def unavailable(event: dict[str, Any]) -> Response:
    """Return 503: neither the stream nor the overflow queue took all readings."""
    message = "The pipeline can't take all of it now; send it again, it won't be counted twice."
    return _error(event, 503, message, {"Retry-After": str(RETRY_AFTER_SECONDS)})


def refuse(event: dict[str, Any], error: Rejected) -> Response:
    """Return the answer to a request of which nothing was accepted."""
    status = 413 if isinstance(error, TooLarge | TooManyLines) else 400
    if isinstance(error, Unsupported):
        status = 415
    value = "" if error.value is None else f"; it is {shown(error.value)!r}"
    return _error(event, status, f"{error}{value}")


def forbid(event: dict[str, Any]) -> Response:
    """Return 403 for a caller that is neither a device nor a gateway."""
    return _error(event, 403, "Only a device or a gateway writes.")


def answer(event: dict[str, Any]) -> Response:
    """Answer the questions of starting clients: /ping, and CREATE and SHOW DATABASES at /query."""
    if event["resource"] != QUERY:
        return _empty({})
    query = query_parameter(event, "q")
    if query is None:
        query = _form(event).get("q", [""])[0]
    result: dict[str, Any] = {"statement_id": 0}
    if CREATE.match(query):
        text = "nothing is created: readings are kept by device, whatever the database"
        result["messages"] = [{"level": "warning", "text": text}]
    elif SHOW.match(query):
        result["series"] = [{"name": "databases", "columns": ["name"]}]
    else:
        reason = "is not answered here; GET /devices/{device_id}/windows has the readings"
        return refuse(event, Rejected(reason, field="q", value=query))
    return _json(200, {"results": [result]}, {})


def _form(event: dict[str, Any]) -> dict[str, list[str]]:
    """Return the fields of a form in the body; none if it has more than InfluxDB's clients send."""
    try:
        return parse_qs(event.get("body") or "", max_num_fields=20)
    except ValueError:  # more fields
        return {}


def _ignored(fields: Counter[str]) -> str:
    """Return the names of fields that aren't metrics, each with its count."""
    names = [f"{name} ({times})" for name, times in fields.most_common(FAULTS_TOLD)]
    more = len(fields) - len(names)
    return ", ".join([*names, f"and {more} more"] if more else names)


def _error(
    event: dict[str, Any],
    status: int,
    message: str,
    headers: dict[str, str] | None = None,
    line: int | None = None,
) -> Response:
    if event["resource"] == V2_WRITE:
        body: dict[str, Any] = {"code": V2_CODES[status], "message": message}
        return _json(status, body if line is None else {**body, "line": line}, headers or {})
    told = {"X-Influxdb-Error": _header(message), **(headers or {})}
    return _json(status, {"error": message}, told)


def _header(text: str) -> str:
    """Return a text as a header's value: printable ASCII, cut to HEADER_LENGTH."""
    plain = "".join(each if " " <= each <= "~" else "?" for each in text)
    return plain if len(plain) <= HEADER_LENGTH else plain[:HEADER_LENGTH] + "..."


def _json(status: int, body: Any, headers: dict[str, str]) -> Response:
    return {
        "statusCode": status,
        "headers": {
            "Content-Type": "application/json",
            "X-Influxdb-Version": VERSION,
            **headers,
        },
        "body": json.dumps(body, ensure_ascii=False),
    }


def _empty(headers: dict[str, str]) -> Response:
    return {"statusCode": 204, "headers": {"X-Influxdb-Version": VERSION, **headers}, "body": ""}
