"""Gaps of the embedded AWS, closed: which metric an alarm watches, and when it goes off.

On AWS each combination of dimensions is a metric of its own, and an alarm watches one
("Metrics concepts", https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html);
it counts breaching periods, and does with missing ones as it is told
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html). The
emulator (1.5.33) throws all metrics of a name together, over all the periods, and looks at no
alarm unless a value comes; it knows no alarm on a Metrics Insights query
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-metrics-insights-alarms.html).

Of such queries the form SELECT … FROM … WHERE … with `=` is known, for one time series. Others,
and metric math, are refused, since nothing here would evaluate them. An alarm is evaluated when a
value of its metric comes, and when it is described.
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
"""CloudWatch looks at so many periods more for values in place of missing ones, as in the tables
of the page on missing data."""
ALWAYS_IGNORING = "AWS/DynamoDB"
"""Alarms on this namespace ignore missing data, whatever they say (the same page)."""
INVALID, BAD_REQUEST = "ValidationError", 400
TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z_][A-Za-z0-9_]*|\S)""")

Document = dict[str, Any]
Point = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]


class Query(NamedTuple):
    """A Metrics Insights query. `dimensions`: their names, exactly; None for any."""

    statistic: str
    metric: str
    namespace: str
    dimensions: frozenset[str] | None
    values: dict[str, str]

    def matches(self, dimensions: dict[str, str]) -> bool:
        """Whether a metric with these dimensions is among those that are asked for."""
        if self.dimensions is not None and self.dimensions != set(dimensions):
            return False
        return all(dimensions.get(name) == value for name, value in self.values.items())


class Exactly(dict[str, str]):
    """Dimensions that a request names: none are dimensions too, not any."""

    def __bool__(self) -> bool:
        """Return True; the emulator takes what is false for any."""
        return True


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    cloudwatch = modules.service("cloudwatch")
    watch_one_metric(cloudwatch)
    take_queries(cloudwatch, modules.service("cloudformation.provisioners"))


def watch_one_metric(cloudwatch: Any) -> None:
    """Make the emulator's `ministack.services.cloudwatch` look at exactly the metric asked for."""
    describe, dimensions = cloudwatch._describe_alarms, cloudwatch._dims_from_list

    def evaluate_and_describe(*request: Any, **options: Any) -> Response:
        cloudwatch._evaluate_all_alarms()
        found: Response = describe(*request, **options)
        return found

    cloudwatch._describe_alarms = evaluate_and_describe
    cloudwatch._dims_from_list = lambda given: Exactly(dimensions(given))
    cloudwatch._evaluate_alarm = lambda alarm: evaluate(cloudwatch, alarm, time.time())


def take_queries(cloudwatch: Any, provisioners: Any) -> None:
    """Make alarms on Metrics Insights queries, by the API and by CloudFormation."""
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
    """Return the one query of an alarm; raises ValueError for those that aren't known."""
    if not isinstance(queries, list) or len(queries) != 1:
        raise ValueError("Metrics: metric math isn't supported here: one query is")
    (query,) = queries
    if not query.get("Expression"):
        raise ValueError("Metrics: a MetricStat isn't supported here: use MetricName and Namespace")
    parse(query["Expression"])
    if str(query.get("ReturnData", True)).lower() != "true":
        raise ValueError("Metrics: exactly one query must have ReturnData true")
    if not query.get("Period"):
        raise ValueError("Metrics: Period must not be null for a Metrics Insights query")
    return {**query, "Period": int(query["Period"]), "ReturnData": True}


def parse(expression: str) -> Query:
    """Read SELECT fn(metric) FROM "ns" | SCHEMA("ns", name…) [WHERE name = 'value' [AND …]].

    Raises ValueError with what isn't known here.
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
        """Start at the first of them."""
        self._tokens = list(tokens)
        self._expression = expression

    def unknown(self, token: str) -> ValueError:
        """Return what is raised at a token that isn't known here."""
        return ValueError(f"Metrics: '{token}' isn't supported here: {self._expression}")

    def next(self) -> str:
        """Take the next token."""
        if not self._tokens:
            raise self.unknown("the end")
        return self._tokens.pop(0)

    def has(self, word: str) -> bool:
        """Take the next token if it is this word."""
        is_next = bool(self._tokens) and self._tokens[0].upper() == word
        if is_next:
            self.next()
        return is_next

    def expect(self, word: str) -> None:
        """Take this word."""
        if not self.has(word):
            raise self.unknown(self.next())

    def name(self) -> str:
        """Take a name, in double quotes or without."""
        token = self.next()
        if not re.fullmatch(r'"[^"]+"|\w+', token):
            raise self.unknown(token)
        return token.strip('"')

    def separated(self, separator: str) -> Iterator[str]:
        """Take names."""
        yield self.name()
        while self.has(separator):
            yield self.name()

    def conditions(self) -> Iterator[tuple[str, str]]:
        """Take conditions that all hold."""
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
        """Find nothing more."""
        if self._tokens:
            raise self.unknown(self.next())


def watched(alarm: Document) -> tuple[str, str]:
    """The namespace and name of the metrics that an alarm watches."""
    if alarm.get("Metrics"):
        query = parse(alarm["Metrics"][0]["Expression"])
        return query.namespace, query.metric
    return alarm.get("Namespace") or "", alarm.get("MetricName") or ""


def points_of(cloudwatch: Any, alarm: Document) -> Iterator[Point]:
    """Return all points of what an alarm watches."""
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
    """What an alarm makes of the points of a period."""
    if alarm.get("Metrics"):
        return parse(alarm["Metrics"][0]["Expression"]).statistic
    return str(alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average")


def datapoints(cloudwatch: Any, alarm: Document, now: float) -> list[float | None]:
    """The latest periods' values, the oldest first; None for a period that has none."""
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
    """The state of an alarm by its datapoints, the oldest first, by the page on missing data."""
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
    """Bring an alarm to its state, and do what it does then."""
    if not all(watched(alarm)) or alarm.get("ComparisonOperator") not in COMPARISONS:
        return
    values = datapoints(cloudwatch, alarm, now)
    old, new = alarm["StateValue"], state(values, alarm)
    if old == new:
        return
    shown = ", ".join("none" if value is None else f"{value:g}" for value in values)
    compared = f"{alarm['ComparisonOperator']} {alarm['Threshold']:g}"
    reason = f"Threshold Crossed: {statistic_of(alarm)} of the latest periods: {shown}; {compared}"
    alarm |= {"StateValue": new, "StateReason": reason, "StateUpdatedTimestamp": int(now)}
    cloudwatch._record_history(alarm["AlarmName"], old, new, reason)
    cloudwatch._dispatch_alarm_actions(alarm, old, new, reason)
    cloudwatch._evaluate_parent_alarms(alarm)
