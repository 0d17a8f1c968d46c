"""Closes gaps of the embedded AWS: the metric that an alarm watches, and its evaluation.

On AWS each combination of dimensions is a separate metric, and an alarm watches one of them
("Metrics concepts", https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html).
It counts breaching periods, and treats missing ones by its setting
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html). The
emulator (1.5.33) mixes all metrics of one name over all periods, and evaluates an alarm only when a
value comes. It has no alarms on Metrics Insights queries
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-metrics-insights-alarms.html).

This module supports queries of the form SELECT … FROM … WHERE … with `=`, for one time series. It
refuses other queries and metric math. It evaluates an alarm when a value of its metric comes and
when the alarm is described.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

STATISTICS = {
    "AVG": "Average",
    "COUNT": "SampleCount",
    "MAX": "Maximum",
    "MIN": "Minimum",
    "SUM": "Sum",
}
"""The functions of Metrics Insights, by
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-metrics-insights-querylanguage.html."""
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": float.__gt__,
    "GreaterThanOrEqualToThreshold": float.__ge__,
    "LessThanThreshold": float.__lt__,
    "LessThanOrEqualToThreshold": float.__le__,
}
OK, ALARM, UNKNOWN = "OK", "ALARM", "INSUFFICIENT_DATA"
PERIODS_BEYOND = 2
"""CloudWatch reads this many more periods to replace missing values, as in the tables of the page
on missing data."""
ALWAYS_IGNORING = "AWS/DynamoDB"
"""Alarms on this namespace ignore missing data, whatever their setting (the same page)."""
INVALID, BAD_REQUEST = "ValidationError", 400
TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z_][A-Za-z0-9_]*|\S)""")

Document = dict[str, Any]
Point = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]


class Query(NamedTuple):
    """A Metrics Insights query. `dimensions`: the exact set of names; None for any."""

    statistic: str
    metric: str
    namespace: str
    dimensions: frozenset[str] | None
    values: dict[str, str]

    def matches(self, dimensions: dict[str, str]) -> bool:
        """Return whether the query includes a metric with these dimensions."""
        if self.dimensions is not None and self.dimensions != set(dimensions):
            return False
        return all(dimensions.get(name) == value for name, value in self.values.items())


class Exactly(dict[str, str]):
    """The dimensions of a request; an empty set means a metric without dimensions, not any."""

    def __bool__(self) -> bool:
        """Return True, because the emulator takes a false value for any dimensions."""
        return True


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    cloudwatch = modules.service("cloudwatch")
    watch_one_metric(cloudwatch)
    take_queries(cloudwatch, modules.service("cloudformation.provisioners"))


def watch_one_metric(cloudwatch: Any) -> None:
    """Make `ministack.services.cloudwatch` use exactly the requested metric."""
    describe, dimensions = cloudwatch._describe_alarms, cloudwatch._dims_from_list

    def evaluate_and_describe(*request: Any, **options: Any) -> Response:
        cloudwatch._evaluate_all_alarms()
        found: Response = describe(*request, **options)
        return found

    cloudwatch._describe_alarms = evaluate_and_describe
    cloudwatch._dims_from_list = lambda given: Exactly(dimensions(given))
    cloudwatch._evaluate_alarm = lambda alarm: evaluate(cloudwatch, alarm, time.time())


def take_queries(cloudwatch: Any, provisioners: Any) -> None:
    """Support alarms on Metrics Insights queries, by the API and by CloudFormation."""
    put, record = cloudwatch._put_metric_alarm, provisioners._cw_metric_alarm_record

    def put_alarm(
        parameters: Document, data: Any, is_cbor: bool, is_json: bool = False
    ) -> Response:
        queries = data.get("Metrics") if is_cbor or is_json else None
        if not queries:
            answered: Response = put(parameters, data, is_cbor, is_json)
            return answered
        try:
            known = alarm_query(queries)
        except ValueError as error:
            refused: Response = cloudwatch._error(
                INVALID, str(error), BAD_REQUEST, use_json=is_json, use_cbor=is_cbor
            )
            return refused
        response: Response = put(parameters, data, is_cbor, is_json)
        alarm = cloudwatch._alarms.get(data.get("AlarmName", ""))
        if alarm is not None:
            watch_query(alarm, known)
            cloudwatch._evaluate_alarm(alarm)
        return response

    def record_alarm(name: str, properties: Document) -> Document:
        queries = properties.get("Metrics")
        if not queries:
            found: Document = record(name, properties)
            return found
        known = alarm_query(queries)
        own = {key: value for key, value in properties.items() if key != "Metrics"}
        alarm: Document = record(
            name, own | {"MetricName": "of a query", "Namespace": "of a query"}
        )
        watch_query(alarm, known)
        return alarm

    cloudwatch._put_metric_alarm = put_alarm
    provisioners._cw_metric_alarm_record = record_alarm


def watch_query(alarm: Document, query: Document) -> None:
    """Make an alarm watch a query instead of a metric."""
    for key in ("MetricName", "Namespace", "Dimensions", "Statistic", "ExtendedStatistic", "Unit"):
        alarm.pop(key, None)
    alarm |= {"Metrics": [query], "Period": query["Period"]}


def alarm_query(queries: Any) -> Document:
    """Return the only query of an alarm; raise ValueError if it isn't supported."""
    if not isinstance(queries, list) or len(queries) != 1:
        raise ValueError("Metrics: metric math isn't supported here; use one query")
    (query,) = queries
    if not query.get("Expression"):
        raise ValueError("Metrics: a MetricStat isn't supported here; use MetricName and Namespace")
    parse(query["Expression"])
    if str(query.get("ReturnData", True)).lower() != "true":
        raise ValueError("Metrics: exactly one query must have ReturnData true")
    if not query.get("Period"):
        raise ValueError("Metrics: Period must not be null for a Metrics Insights query")
    return {**query, "Period": int(query["Period"]), "ReturnData": True}


def parse(expression: str) -> Query:
    """Parse SELECT fn(metric) FROM "ns" | SCHEMA("ns", name…) [WHERE name = 'value' [AND …]].

    Raises ValueError that names the unsupported part.
    """
    tokens = TOKEN.findall(expression)
    if not tokens or tokens[0].upper() != "SELECT":
        raise ValueError(f"Metrics: metric math isn't supported here: {expression}")
    read = Reader(tokens, expression)
    read.expect("SELECT")
    function = read.next().upper()
    if function not in STATISTICS:
        raise read.unknown(function)
    read.expect("(")
    metric = read.name()
    read.expect(")")
    read.expect("FROM")
    dimensions: frozenset[str] | None = None
    if read.has("SCHEMA"):
        read.expect("(")
        namespace, *names = read.separated(",")
        dimensions = frozenset(names)
        read.expect(")")
    else:
        namespace = read.name()
    values = dict(read.conditions()) if read.has("WHERE") else {}
    read.end()
    return Query(STATISTICS[function], metric, namespace, dimensions, values)


class Reader:
    """The tokens of a query, from left to right."""

    def __init__(self, tokens: Sequence[str], expression: str) -> None:
        """Start at the first token."""
        self._tokens = list(tokens)
        self._expression = expression

    def unknown(self, token: str) -> ValueError:
        """Return the error for an unsupported token."""
        return ValueError(f"Metrics: '{token}' isn't supported here: {self._expression}")

    def next(self) -> str:
        """Take the next token."""
        if not self._tokens:
            raise self.unknown("the end")
        return self._tokens.pop(0)

    def has(self, word: str) -> bool:
        """Take the next token if it is `word`; return whether it was."""
        is_next = bool(self._tokens) and self._tokens[0].upper() == word
        if is_next:
            self.next()
        return is_next

    def expect(self, word: str) -> None:
        """Take the next token, which must be `word`."""
        if not self.has(word):
            raise self.unknown(self.next())

    def name(self) -> str:
        """Take a name, with or without double quotes."""
        token = self.next()
        if not re.fullmatch(r'"[^"]+"|\w+', token):
            raise self.unknown(token)
        return token.strip('"')

    def separated(self, separator: str) -> Iterator[str]:
        """Take names with separators between them."""
        yield self.name()
        while self.has(separator):
            yield self.name()

    def conditions(self) -> Iterator[tuple[str, str]]:
        """Take conditions joined by AND, as (name, value)."""
        while True:
            name = self.name()
            self.expect("=")
            value = self.next()
            if not value.startswith("'"):
                raise self.unknown(value)
            yield name, value.strip("'")
            if not self.has("AND"):
                return

    def end(self) -> None:
        """Raise ValueError if tokens remain."""
        if self._tokens:
            raise self.unknown(self.next())


def watched(alarm: Document) -> tuple[str, str]:
    """Return the namespace and name of the metrics that an alarm watches."""
    if alarm.get("Metrics"):
        query = parse(alarm["Metrics"][0]["Expression"])
        return query.namespace, query.metric
    return alarm.get("Namespace") or "", alarm.get("MetricName") or ""


def points_of(cloudwatch: Any, alarm: Document) -> Iterator[Point]:
    """Return all points of the metrics that an alarm watches."""
    if not alarm.get("Metrics"):
        dimensions = cloudwatch._dims_key(cloudwatch._dims_from_list(alarm.get("Dimensions") or []))
        yield from cloudwatch._metrics.get((*watched(alarm), dimensions)) or []
        return
    query = parse(alarm["Metrics"][0]["Expression"])
    for (namespace, metric, _), points in list(cloudwatch._metrics.items()):
        is_named = (namespace, metric) == (query.namespace, query.metric)
        if is_named and points and query.matches(points[0]["Dimensions"]):
            yield from points


def statistic_of(alarm: Document) -> str:
    """Return the statistic that an alarm computes over a period's points."""
    if alarm.get("Metrics"):
        return parse(alarm["Metrics"][0]["Expression"]).statistic
    return str(alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average")


def datapoints(cloudwatch: Any, alarm: Document, now: float) -> list[float | None]:
    """Return the values of the latest periods, oldest first; None for a period without value."""
    period, count = alarm["Period"], alarm["EvaluationPeriods"] + PERIODS_BEYOND
    newest = int(now // period)
    buckets: dict[int, list[Point]] = {}
    for point in points_of(cloudwatch, alarm):
        place = int(point["Timestamp"] // period)
        if newest - count < place <= newest:
            buckets.setdefault(place, []).append(point)
    statistic = statistic_of(alarm)
    return [
        cloudwatch._stat_value(cloudwatch._calc_stats(points), statistic, points)
        if (points := buckets.get(place))
        else None
        for place in range(newest - count + 1, newest + 1)
    ]


def state(values: Iterable[float | None], alarm: Document) -> str:
    """Return an alarm's state by its datapoints, oldest first (the page on missing data)."""
    periods, known = alarm["EvaluationPeriods"], [each for each in values if each is not None]
    needed = alarm.get("DatapointsToAlarm") or periods
    treatment = alarm.get("TreatMissingData") or "missing"
    if alarm.get("Namespace") == ALWAYS_IGNORING:
        treatment = "ignore"
    compare = COMPARISONS[alarm["ComparisonOperator"]]
    breaching = [compare(float(each), float(alarm["Threshold"])) for each in known[-periods:]]
    missing = periods - len(breaching)
    if missing and treatment in ("breaching", "notBreaching"):
        breaching += [treatment == "breaching"] * missing
    elif not breaching:
        return UNKNOWN if treatment == "missing" else str(alarm["StateValue"])
    goes_off = sum(breaching) >= min(needed, len(breaching))
    if goes_off and missing and treatment == "ignore":
        return str(alarm["StateValue"])
    return ALARM if goes_off else OK


def evaluate(cloudwatch: Any, alarm: Document, now: float) -> None:
    """Evaluate an alarm: set its state, and run its actions if the state changed."""
    if not all(watched(alarm)) or alarm.get("ComparisonOperator") not in COMPARISONS:
        return
    values = datapoints(cloudwatch, alarm, now)
    old, new = alarm["StateValue"], state(values, alarm)
    if old == new:
        return
    listed = ", ".join("none" if value is None else f"{value:g}" for value in values)
    compared = f"{alarm['ComparisonOperator']} {alarm['Threshold']:g}"
    reason = f"Threshold Crossed: {statistic_of(alarm)} of the latest periods: {listed}; {compared}"
    alarm |= {"StateValue": new, "StateReason": reason, "StateUpdatedTimestamp": int(now)}
    cloudwatch._record_history(alarm["AlarmName"], old, new, reason)
    cloudwatch._dispatch_alarm_actions(alarm, old, new, reason)
    cloudwatch._evaluate_parent_alarms(alarm)
