"""Closes a gap of the embedded AWS: Lambda's API of event source mappings.

On AWS (https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html) a mapping
has defaults for all settings, invalid settings are refused, and a mapping's state is that of its
poller. The emulator (1.5.33) stores any settings, forgets TumblingWindowInSeconds and
StartingPositionTimestamp, and shows the requested state. Mappings come by the API and by
CloudFormation; this module handles both. The emulator's own pollers of streams are off, because
`emulator.mappings` delivers streams. The emulator polls queues itself (`sqs_poller`).
"""

import importlib
import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import quote

Response = tuple[int, dict[str, str], bytes]
Document = dict[str, Any]
Resource = tuple[str, Document]
"""CloudFormation's: its id and its attributes."""
Status = Callable[[str], tuple[str, str] | None]
"""Return the engine's state and last result of a mapping, by its UUID; None if unknown."""

STREAMS = frozenset({"kinesis", "dynamodb"})
RANGES = {
    "BatchSize": (1, 10_000),
    "MaximumBatchingWindowInSeconds": (0, 300),
    "ParallelizationFactor": (1, 10),
    "MaximumRecordAgeInSeconds": (-1, 604_800),
    "MaximumRetryAttempts": (-1, 10_000),
    "TumblingWindowInSeconds": (0, 900),
}
BOOLEANS = ("Enabled", "BisectBatchOnFunctionError")
POSITIONS = ("LATEST", "AT_TIMESTAMP", "TRIM_HORIZON")
RESPONSE_TYPES = ("ReportBatchItemFailures",)
DEFAULTS = {
    "BatchSize": 100,
    "MaximumBatchingWindowInSeconds": 0,
    "ParallelizationFactor": 1,
    "MaximumRecordAgeInSeconds": -1,
    "MaximumRetryAttempts": -1,
    "TumblingWindowInSeconds": 0,
    "BisectBatchOnFunctionError": False,
    "FunctionResponseTypes": [],
    "DestinationConfig": {"OnFailure": {}},
}
SETTINGS = (*DEFAULTS, "FilterCriteria")
START = ("StartingPosition", "StartingPositionTimestamp")
INTERNAL = ("Qualifier", "Tags")
NOT_OF_QUEUES = (*START, "LastProcessingResult")
AGE_SECONDS_LEAST = 60
FILTERS_MAX = 10
PATTERN_CHARACTERS_MAX = 4_096
QUEUE_BATCH_WITHOUT_WINDOW_MAX = 10
NO_QUEUE = (
    "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. "
    "SQS Error Message: The specified queue does not exist."
)
CHANGING = {
    (True, True): "Updating",
    (False, True): "Enabling",
    (True, False): "Disabling",
    (False, False): "Disabled",
}
"""The state in an update's answer for a queue's mapping, by (was enabled, is enabled)."""
DESTINATION = re.compile(
    r"arn:aws[a-z-]*:(?:(?:sqs|sns):[a-z0-9-]+:\d{12}:[\w-]+|s3:::[a-z0-9][a-z0-9.-]+[a-z0-9])"
)
INVALID = "InvalidParameterValueException"
RESOURCE = "AWS::Lambda::EventSourceMapping"


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    lambda_svc = modules.service("lambda_svc")
    provisioners = modules.service("cloudformation.provisioners")
    answer_as_aws(lambda_svc, provisioners, engine_status(modules.folder / "mappings.sqlite3"))
    own_pollers_off(lambda_svc)


class Refused(Exception):
    """The request gets AWS's error of this code, message and HTTP status."""

    def __init__(self, code: str, message: str, http_status: int = 400) -> None:
        """Keep AWS's error code, the message and the HTTP status."""
        super().__init__(message)
        self.code = code
        self.http_status = http_status


def answer_as_aws(lambda_svc: Any, provisioners: Any, status: Status) -> None:
    """Make Lambda's module and CloudFormation's provisioners use `MappingApi`."""
    api = MappingApi(lambda_svc, provisioners, status)
    lambda_svc._create_esm = api.create
    lambda_svc._update_esm = api.update
    lambda_svc._esm_response = api.describe
    provisioners._lambda_esm_create = api.create_resource
    handlers = provisioners._RESOURCE_HANDLERS[RESOURCE]
    handlers |= {"create": api.create_resource, "update": api.update_resource}


def own_pollers_off(lambda_svc: Any) -> None:
    """Make the emulator poll only queues."""
    lambda_svc._poll_kinesis = lambda: False
    lambda_svc._poll_dynamodb_streams = lambda: False


def engine_status(path: Path) -> Status:
    """Return a function that reads a mapping's state and last result from the engine's file.

    It opens the file at each call, which takes 0.2 ms: the engine may not have made it yet.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    query = "SELECT state, last_result FROM mapping WHERE uuid = ?"

    def status(uuid: str) -> tuple[str, str] | None:
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as engine:
                row = engine.execute(query, (uuid,)).fetchone()
        except sqlite3.Error:  # no file, no table, or removed meanwhile
            return None
        return (str(row[0]), str(row[1])) if row else None

    return status


class MappingApi:
    """The emulator's operations on mappings, extended by AWS's behaviour."""

    def __init__(self, emulator: Any, provisioners: Any, status: Status) -> None:
        """Keep the emulator's own operations, which are called for the common part."""
        self.emulator = emulator
        self.provisioners = provisioners
        self.status = status
        self.own_create: Callable[[Document], Response] = emulator._create_esm
        self.own_update: Callable[[str, Document], Response] = emulator._update_esm
        self.own_describe: Callable[[Document], Document] = emulator._esm_response
        self.own_create_resource: Callable[..., Resource] = provisioners._lambda_esm_create
        self.own_update_resource: Callable[..., Resource] = provisioners._lambda_esm_update

    def create(self, request: Document) -> Response:
        """Answer CreateEventSourceMapping; the mapping is Creating until the engine reads it."""
        data = without_nulls(request)
        try:
            settings = self.accepted(data)
        except Refused as refused:
            return self.refusal(refused)
        response = self.own_create(data | settings)
        if response[0] != 202:
            return response
        mapping = self.keep(json.loads(response[2])["UUID"], settings)
        is_polled = is_stream(data) or mapping["Enabled"]
        return self.answer(
            self.describe(mapping) | {"State": "Creating" if is_polled else "Disabled"}
        )

    def update(self, uuid: str, request: Document) -> Response:
        """Answer UpdateEventSourceMapping: change all settings in the request, or none."""
        data = without_nulls(request)
        mapping = self.emulator._esms.get(uuid)
        if mapping is None:
            return self.own_update(uuid, data)
        try:
            settings = checked(data, mapping)
            if "FunctionName" in data:
                self.check_unique(data["FunctionName"], mapping["EventSourceArn"], but=uuid)
            function = data.get("FunctionName") or mapping.get("FunctionArn", "")
            self.check_visibility(mapping["EventSourceArn"], function)
        except Refused as refused:
            return self.refusal(refused)
        was_enabled = bool(mapping.get("Enabled", True))
        response = self.own_update(uuid, data | settings)
        if response[0] != 200:
            return response
        description = self.describe(self.keep(uuid, settings))
        if not is_stream(mapping):
            return self.answer(description | {"State": CHANGING[was_enabled, mapping["Enabled"]]})
        changing = {"State": "Updating"} if description["State"] == "Enabled" else {}
        return self.answer(description | changing)

    def create_resource(self, logical_id: str, props: Document, stack: str) -> Resource:
        """Create CloudFormation's resource; raise ValueError if it is refused."""
        data = typed(props)
        try:
            settings = self.accepted(data)
        except Refused as refused:
            raise ValueError(f"{refused.code}: {refused}") from refused
        created = self.own_create_resource(logical_id, data, stack)
        self.keep(created[0], settings)
        return created

    def update_resource(
        self, uuid: str, old_props: Document, new_props: Document, stack: str
    ) -> Resource:
        """Update or replace CloudFormation's resource; raise ValueError if that is refused."""
        old, new = typed(old_props), typed(new_props)
        try:
            settings = checked(new, new)
            self.check_visibility(new.get("EventSourceArn", ""), new.get("FunctionName", ""))
        except Refused as refused:
            raise ValueError(f"{refused.code}: {refused}") from refused
        updated = self.own_update_resource(uuid, old, new, stack)
        self.keep(updated[0], settings)
        return updated

    def accepted(self, data: Document) -> Document:
        """Return a new mapping's settings; raise Refused if AWS wouldn't create it."""
        settings = checked(data, data)
        source = str(data.get("EventSourceArn", ""))
        if is_stream(data):
            settings = deepcopy(DEFAULTS) | settings | checked_start(data)
            self.check_stream(source)
        elif service_of(data) == "sqs":
            self.check_queue(source)
        self.check_unique(data.get("FunctionName", ""), source)
        self.check_visibility(source, data.get("FunctionName", ""))
        return settings

    def check_stream(self, arn: str) -> None:
        """Raise Refused for a missing stream; the emulator itself checks other accounts' ones."""
        spec, error = self.emulator._validate_event_source_arn(arn)
        raise_refused(error)
        if spec.account_id != self.emulator.get_account_id():
            return
        name = spec.resource.split("/")[1]
        if spec.service == "kinesis":
            exists = name in self.provisioners._kinesis._streams
        else:
            dynamodb = self.provisioners._dynamodb
            table = dynamodb._tables.get(name) or {}
            is_enabled = (table.get("StreamSpecification") or {}).get("StreamEnabled")
            is_latest = is_enabled and table.get("LatestStreamArn") == arn
            exists = is_latest or dynamodb.closed_stream(arn)
        if not exists:
            raise Refused(INVALID, f"Stream not found: {arn}")

    def check_queue(self, arn: str) -> None:
        """Raise Refused for a missing queue."""
        _, error = self.emulator._validate_event_source_arn(arn)
        raise_refused(error)
        if self.provisioners._sqs._queue_by_arn(arn) is None:
            raise Refused(INVALID, NO_QUEUE)

    def check_visibility(self, source_arn: str, function: str) -> None:
        """Raise Refused if a queue's messages can reappear before the function's timeout.

        https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html; the message is
        from refused deployments.
        """
        if service_of({"EventSourceArn": source_arn}) != "sqs":
            return
        queue = self.provisioners._sqs._queue_by_arn(source_arn)
        name, qualifier, _ = self.emulator._resolve_existing_esm_function(function)
        _, config = self.emulator._get_func_record_for_qualifier(name, qualifier)
        if queue is None or config is None:
            return
        hidden, timeout = int(queue["attributes"]["VisibilityTimeout"]), int(config["Timeout"])
        if hidden < timeout:
            raise Refused(
                INVALID,
                f"Queue visibility timeout: {hidden} seconds is less than Function timeout: "
                f"{timeout} seconds",
            )

    def check_unique(self, function: str, source_arn: str, but: str = "") -> None:
        """Raise Refused if the function is missing or has another mapping of the source."""
        name, qualifier, error = self.emulator._resolve_existing_esm_function(function)
        raise_refused(error)
        arn = self.emulator._func_arn(name) + (f":{qualifier}" if qualifier else "")
        for mapping in self.emulator._esms.values():
            is_same = (mapping["FunctionArn"], mapping["EventSourceArn"]) == (arn, source_arn)
            if is_same and mapping["UUID"] != but:
                raise Refused("ResourceConflictException", duplicate(mapping, name), 409)

    def keep(self, uuid: str, settings: Document) -> Document:
        """Store a mapping's settings; return the mapping."""
        mapping: Document = self.emulator._esms[uuid]
        mapping["State"] = "Enabled" if mapping.get("Enabled", True) else "Disabled"
        if is_stream(mapping):
            mapping.update(settings)
            mapping["StateTransitionReason"] = "User action"
        if not (mapping.get("FilterCriteria") or {}).get("Filters"):
            mapping.pop("FilterCriteria", None)
        return mapping

    def describe(self, mapping: Document) -> Document:
        """Return the mapping as the API shows it."""
        description = self.own_describe(mapping)
        if not is_stream(mapping):
            hidden = (*INTERNAL, *NOT_OF_QUEUES)
            return {name: value for name, value in description.items() if name not in hidden}
        found = self.status(mapping["UUID"])
        if mapping["State"] != "Deleting":
            description["State"] = state(bool(mapping.get("Enabled", True)), found and found[0])
        description["LastProcessingResult"] = found[1] if found else "No records processed"
        return {name: value for name, value in description.items() if name not in INTERNAL}

    def answer(self, description: Document) -> Response:
        """Return the response to an accepted change."""
        response: Response = self.emulator.json_response(description, 202)
        return response

    def refusal(self, refused: Refused) -> Response:
        """Return the response with AWS's error."""
        response: Response = self.emulator.error_response_json(
            refused.code, str(refused), refused.http_status, {"Type": "User"}
        )
        return response


def is_stream(mapping: Document) -> bool:
    """Return whether the source of a mapping or a request is a stream."""
    return service_of(mapping) in STREAMS


def service_of(mapping: Document) -> str:
    """Return the source's service, which its ARN names."""
    parts = str(mapping.get("EventSourceArn", "")).split(":", 5)
    return parts[2] if len(parts) == 6 else ""


def state(is_wanted: bool, found: str | None) -> str:
    """Return the state that AWS would show, by the requested state and the engine's."""
    is_running = found == "Enabled"
    if is_wanted:
        return "Creating" if found is None else "Enabled" if is_running else "Enabling"
    return "Disabling" if is_running else "Disabled"


def duplicate(mapping: Document, name: str) -> str:
    """Return AWS's message that a mapping exists already."""
    source = mapping["EventSourceArn"]
    advice = f"Please update or delete the existing mapping with UUID {mapping['UUID']}"
    if is_stream(mapping):
        both = f'The event source arn (" {source} ") and function (" {name} ")'
        return f"{both} provided mapping already exists. {advice}"
    both = f'An event source mapping with SQS arn (" {source} ") and function (" {name} ")'
    return f"{both} already exists. {advice}"


def raise_refused(error: Response | None) -> None:
    """Raise Refused for an error response of the emulator."""
    if error:
        document = json.loads(error[2])
        raise Refused(document["__type"], document["message"], error[0])


def without_nulls(request: Document) -> Document:
    """Return a request without the members that are null, which count as missing."""
    return {name: value for name, value in request.items() if value is not None}


def typed(props: Document) -> Document:
    """Return CloudFormation's properties, with texts of numbers and booleans converted."""
    return {name: typed_value(name, value) for name, value in without_nulls(props).items()}


def typed_value(name: str, value: Any) -> Any:
    """Return a property as a number or boolean; other values unchanged, to be refused later."""
    if not isinstance(value, str):
        return value
    if name in BOOLEANS:
        return {"true": True, "false": False}.get(value.lower(), value)
    if name in RANGES and re.fullmatch(r"-?\d+", value):
        return int(value)
    if name == "StartingPositionTimestamp" and re.fullmatch(r"\d+(\.\d*)?", value):
        return float(value)
    return value


# AWS's checks. Its messages write a request's member with a small first letter.


def checked(data: Document, source: Document) -> Document:
    """Return the settings in a request; raise Refused if AWS would refuse them.

    `source` has the EventSourceArn and the values of settings that the request doesn't name.
    """
    given = {name: data[name] for name in SETTINGS if name in data}
    check_shapes(given | {name: data[name] for name in BOOLEANS if name in data})
    if not is_stream(source):
        check_filters(given.get("FilterCriteria", {}))
        check_batches(source | given)
        return {}
    if 0 <= given.get("MaximumRecordAgeInSeconds", -1) < AGE_SECONDS_LEAST:
        raise Refused(
            INVALID,
            "MaximumRecordAgeInSeconds must be either -1 (forever) or between 60 and 604800 "
            "(inclusive)",
        )
    check_filters(given.get("FilterCriteria", {}))
    if "DestinationConfig" in given:
        given["DestinationConfig"] = checked_destination(given["DestinationConfig"])
    return given


def check_batches(mapping: Document) -> None:
    """Raise Refused for a queue's large batch without a window, and a FIFO queue's window.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-parameters.html
    """
    window = mapping.get("MaximumBatchingWindowInSeconds") or 0
    if window and str(mapping.get("EventSourceArn", "")).endswith(".fifo"):
        raise Refused(INVALID, "Batching window is not supported for FIFO queues")
    if (mapping.get("BatchSize") or 0) > QUEUE_BATCH_WITHOUT_WINDOW_MAX and window == 0:
        raise Refused(
            INVALID,
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is "
            "greater than 10",
        )


def check_shapes(given: Document) -> None:
    """Raise one Refused for all values of a wrong type or out of range."""
    constraints = {name: constraint(name, value) for name, value in given.items()}
    violations = [
        f"Value '{shown_value(given[name])}' at '{name[0].lower()}{name[1:]}' failed to satisfy "
        f"constraint: {each}"
        for name, each in constraints.items()
        if each
    ]
    if violations:
        errors = (
            "1 validation error" if len(violations) == 1 else f"{len(violations)} validation errors"
        )
        raise Refused("ValidationException", f"{errors} detected: {'; '.join(violations)}")


def constraint(name: str, value: Any) -> str | None:
    """Return the constraint that a value violates, None if it is valid."""
    if name in BOOLEANS:
        return None if isinstance(value, bool) else "Member must be true or false"
    if name in RANGES:
        return out_of_range(value, *RANGES[name])
    if name == "FunctionResponseTypes":
        is_right = isinstance(value, list) and all(each in RESPONSE_TYPES for each in value)
        allowed = f"Member must satisfy enum value set: [{', '.join(RESPONSE_TYPES)}]"
        return None if is_right else f"Member must satisfy constraint: [{allowed}]"
    return None if isinstance(value, dict) else "Member must be a structure"


def out_of_range(value: Any, least: int, most: int) -> str | None:
    """Return the constraint on a whole number that a value violates, None if it is valid."""
    if isinstance(value, bool) or not isinstance(value, int):
        return "Member must be an integer"
    if value < least:
        return f"Member must have value greater than or equal to {least}"
    if value > most:
        return f"Member must have value less than or equal to {most}"
    return None


def shown_value(value: Any) -> str:
    """Return a value in the form of AWS's messages: a list without quotes."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def checked_start(data: Document) -> Document:
    """Return the starting position of a stream's new mapping; raise Refused if invalid."""
    position, at = (data.get(name) for name in START)
    failed = "at 'startingPosition' failed to satisfy constraint: Member must"
    if position is None:
        raise Refused(INVALID, f"1 validation error detected: Value null {failed} not be null.")
    if position not in POSITIONS:
        raise Refused(
            "ValidationException",
            f"1 validation error detected: Value '{position}' {failed} satisfy enum value set: "
            f"[{', '.join(POSITIONS)}]",
        )
    if position != "AT_TIMESTAMP":
        if at is not None:
            raise Refused(INVALID, f"StartingPositionTimestamp is for AT_TIMESTAMP, not {position}")
        return {"StartingPosition": position}
    if service_of(data) == "dynamodb":
        source = data["EventSourceArn"]
        raise Refused(INVALID, f"Unsupported starting position for arn type: {source}")
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise Refused(
            INVALID,
            "Need to specify a timestamp: AT_TIMESTAMP takes StartingPositionTimestamp in seconds "
            f"since 1970, not {at}",
        )
    if at > time.time():
        raise Refused(INVALID, f"StartingPositionTimestamp cannot be in the future: {at}")
    return {"StartingPosition": position, "StartingPositionTimestamp": at}


def checked_destination(config: Document) -> Document:
    """Return a mapping's destination; raise Refused if a stream's mapping can't have it."""
    if config.get("OnSuccess"):
        raise Refused(
            INVALID, "Unsupported DestinationConfig parameter for given event source mapping type."
        )
    on_failure = config.get("OnFailure") or {}
    if not isinstance(on_failure, dict):
        found = f"DestinationConfig.OnFailure is {shown_value(on_failure)}"
        raise Refused(INVALID, f"{found}: an object with a Destination is needed")
    arn = on_failure.get("Destination")
    if arn and not DESTINATION.fullmatch(str(arn)):
        raise Refused(
            INVALID,
            f"The destination ARN {arn} is invalid: DestinationConfig.OnFailure takes a standard "
            "SQS queue, a standard SNS topic or an S3 bucket; Kafka topics only on AWS",
        )
    return {"OnFailure": on_failure}


def check_filters(criteria: Document) -> None:
    """Raise Refused for too many filters and invalid patterns."""
    filters = criteria.get("Filters") or []
    if not isinstance(filters, list) or not all(isinstance(each, dict) for each in filters):
        found = f"FilterCriteria.Filters is {shown_value(filters)}"
        raise Refused(INVALID, f"{found}: a list of objects with a Pattern is needed")
    if len(filters) > FILTERS_MAX:
        found = f"FilterCriteria.Filters has {len(filters)} filters"
        raise Refused(INVALID, f"{found}: at most {FILTERS_MAX} are possible")
    event_pattern = importlib.import_module("emulator.event_pattern")
    for number, each in enumerate(filters, 1):
        pattern = each.get("Pattern")
        if not isinstance(pattern, str):
            raise Refused(INVALID, "Invalid filter pattern definition.")
        if len(pattern) > PATTERN_CHARACTERS_MAX:
            raise Refused(
                "ValidationException",
                f"1 validation error detected: Value '{pattern}' at 'filterCriteria.filters."
                f"{number}.member.pattern' failed to satisfy constraint: Member must have length "
                f"less than or equal to {PATTERN_CHARACTERS_MAX}",
            )
        try:
            event_pattern.compile_pattern(pattern)
        except event_pattern.InvalidPattern as error:
            raise Refused(INVALID, "Invalid filter pattern definition.") from error
