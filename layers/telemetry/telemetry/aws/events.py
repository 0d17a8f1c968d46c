"""The events that functions take, by their shape; any other event is refused with a sentence.

The keys of each service's events are from its page in AWS's guides
(https://docs.aws.amazon.com/lambda/latest/dg/lambda-services.html); `sam local generate-event` has
samples.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from telemetry.domain.reading import shown
from telemetry.errors import UnexpectedEvent

KEYS_TOLD = 6


class Shape(NamedTuple):
    """A kind of event: its description, and a test whether an event is of this kind."""

    words: str
    fits: Callable[[dict[str, Any]], bool]


def expect(function: str, event: Any, *shapes: Shape) -> None:
    """Raise UnexpectedEvent if an event has none of the shapes that a function takes."""
    if isinstance(event, dict) and any(shape.fits(event) for shape in shapes):
        return
    words = ", or ".join(shape.words for shape in shapes)
    raise UnexpectedEvent(f"{function} got {described(event)}; it takes {words}")


def records_with(
    name: str, kind: type, *names: str, within: Iterable[str] = ()
) -> Callable[[dict[str, Any]], bool]:
    """Return a test for batches whose every record has `names`, and a `name` of type `kind`.

    `within` are fields that this value must have. A batch may be empty: tools that warm functions
    up send empty batches.
    """
    inner = tuple(within)

    def fits(event: dict[str, Any]) -> bool:
        records = event.get("Records")
        return isinstance(records, list) and all(map(is_right, records))

    def is_right(record: Any) -> bool:
        if not isinstance(record, dict) or not all(each in record for each in names):
            return False
        value: Any = record.get(name)
        is_right_kind = isinstance(value, kind)
        return is_right_kind and all(each in value for each in inner)

    return fits


def routes(*known: str) -> Shape:
    """Return the shape of REST API requests in a proxy integration's form, to these paths."""

    def fits(event: dict[str, Any]) -> bool:
        is_request = isinstance(event.get("requestContext"), dict) and "httpMethod" in event
        return is_request and event.get("resource") in known

    return Shape(f"a request of API Gateway's REST API to {' or '.join(known)}", fits)


def tasks(*known: str) -> Shape:
    """Return the shape of a state machine's input with one of these tasks."""
    words = f"a task of its state machine: {', '.join(known)}"
    return Shape(words, lambda event: event.get("task") in known)


def _is_schedule(event: dict[str, Any]) -> bool:
    return event.get("source") == "aws.events" and event.get("detail-type") == "Scheduled Event"


def _is_message(event: Mapping[str, Any]) -> bool:
    return {"topic", "device_id", "body", "received_at"} <= event.keys()


def _is_authorization(event: dict[str, Any]) -> bool:
    texts = event.get("authorizationToken"), event.get("methodArn")
    return event.get("type") == "TOKEN" and all(isinstance(text, str) for text in texts)


OF_STREAM = ("data", "sequenceNumber", "partitionKey", "approximateArrivalTimestamp")
STREAM = Shape(
    "a batch of a Kinesis stream (Records, each with kinesis and eventID)",
    records_with("kinesis", dict, "eventID", within=OF_STREAM),
)
CHANGES = Shape(
    "a batch of a DynamoDB table's stream (Records, each with dynamodb and eventID)",
    records_with("dynamodb", dict, "eventID", within=["SequenceNumber"]),
)
MESSAGES = Shape(
    "a batch of an SQS queue (Records, each with body and messageId)",
    records_with("body", str, "messageId"),
)
SCHEDULE = Shape("EventBridge's scheduled event", _is_schedule)
NOTHING = Shape("{} by hand", lambda event: not event)
MESSAGE = Shape(
    "a message that an IoT rule hands on (topic, device_id, body, received_at)", _is_message
)
AUTHORIZATION = Shape("a request of API Gateway to a TOKEN authorizer", _is_authorization)


def options(*known: str) -> Shape:
    """Return the shape of an operator's input with these keys, all of them optional."""
    words = f"an operator's {{}}, with {' and '.join(known)} if wanted"
    return Shape(words, lambda event: event.keys() <= set(known))


# Other services' events: a key that only they have, and their description. The order matters.
SOURCES: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (lambda event: "elb" in _within(event, "requestContext"), "a request of a load balancer"),
    (lambda event: "connectionId" in _within(event, "requestContext"), "a WebSocket's message"),
    (
        lambda event: "http" in _within(event, "requestContext"),
        "a request of an HTTP API or a function URL",
    ),
    (lambda event: "methodArn" in event, "a request of API Gateway to an authorizer"),
    (lambda event: "httpMethod" in event, "a request of API Gateway's REST API"),
    (lambda event: "awslogs" in event, "data of CloudWatch Logs"),
    (lambda event: "deliveryStreamArn" in event, "records of Firehose"),
    (lambda event: "rmqMessagesByQueue" in event, "messages of Amazon MQ"),
    (lambda event: "triggerSource" in event or "identityPoolId" in event, "a trigger of Cognito"),
    (lambda event: "invokingEvent" in event, "an event of AWS Config"),
    (lambda event: "CodePipeline.job" in event, "a job of CodePipeline"),
    (lambda event: "StackId" in event, "a request of CloudFormation"),
    (lambda event: "invocationSchemaVersion" in event, "a job of S3 Batch Operations"),
    (lambda event: "alarmData" in event, "an alarm of CloudWatch"),
    (lambda event: "bot" in event, "a request of Lex"),
    (lambda event: "session" in event or "directive" in event, "a request of Alexa"),
    (lambda event: "detail-type" in event, "an event of EventBridge"),
    (_is_message, "a message that an IoT rule hands on"),
    (lambda event: "task" in event, "a task of a state machine"),
)
# Services whose events have an eventSource.
SERVICES = {
    "aws:sqs": "messages of SQS",
    "aws:sns": "notifications of SNS",
    "aws:kinesis": "records of a Kinesis stream",
    "aws:dynamodb": "records of a DynamoDB table's stream",
    "aws:s3": "notifications of S3",
    "aws:ses": "mail of SES",
    "aws:kafka": "records of Kafka (MSK)",
    "SelfManagedKafka": "records of Kafka",
    "aws:mq": "messages of Amazon MQ",
    "aws:docdb": "changes of DocumentDB",
}


def described(event: Any) -> str:
    """Describe an event, without values that may be secret: "messages of SQS (2)"."""
    if event is None:
        return "no event"
    if not isinstance(event, dict):
        return f"no object but a {type(event).__name__}"
    if not event:
        return "an empty event"
    records = event.get("Records")
    if isinstance(records, list):
        return _described_records(records)
    source = event.get("eventSource")
    words = SERVICES.get(source) if isinstance(source, str) else None
    words = words or next((each for fits, each in SOURCES if fits(event)), None)
    if words is None:
        return f"an event with {_names(event)}, of an unknown source"
    told = ("httpMethod", "path", "resource", "source", "detail-type", "task")
    more = [str(shown(event[name])) for name in told if isinstance(event.get(name), str)]
    return f"{words} ({' '.join(more)})" if more else words


def _described_records(records: list[Any]) -> str:
    if not records:
        return "an event whose list of Records is empty"
    first = records[0] if isinstance(records[0], dict) else {}
    source = first.get("eventSource") or first.get("EventSource")
    if not isinstance(source, str):
        source = None
    if "cf" in first:
        return "a request of CloudFront"
    words = SERVICES.get(source or "")
    if words:
        return f"{words} ({len(records)})"
    named = f" of {shown(source)}" if source else f" with {_names(first)}"
    return f"{len(records)} records{named}"


def _within(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = event.get(name)
    return inner if isinstance(inner, dict) else {}


def _names(event: Iterable[Any]) -> str:
    names = [str(shown(name)) for name in event]
    some = ", ".join(names[:KEYS_TOLD])
    return (f"{some} and more" if len(names) > KEYS_TOLD else some) or "nothing in it"
