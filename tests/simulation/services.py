"""The services of one region that functions, rules and mappings use."""

from tests.simulation.conditions import Conditions
from tests.simulation.queues import Bucket, Queue, object_created
from tests.simulation.streams import Stream
from tests.simulation.tables import Table

STACK = "telemetry"
WINDOWS, ALERTS = "windows", "alerts"
FAILURES = "failures"


class Services:
    """The stream, the queues and the bucket of one region, and the tables of all regions."""

    def __init__(self, conditions: Conditions, name: str, tables: dict[str, Table]) -> None:
        self.conditions = conditions
        self.name = name
        self.is_lost = False
        self.tables = tables
        self.alerts_stream = tables[ALERTS].replicas[name].stream
        now_ms = conditions.now_ms
        self.stream = Stream(now_ms, lambda: conditions.is_out("kinesis", name))
        dead = Queue("dead-letters", now_ms)
        notices = Queue("notices", now_ms, 180, conditions.options.receives_max, dead)
        plain = [Queue(each, now_ms) for each in ("overflow", FAILURES)]
        self.queues = {queue.name: queue for queue in (*plain, notices, dead)}
        self.buckets = {FAILURES: Bucket(FAILURES, announce=self._announce)}
        self.published: dict[str, list[str]] = {"sns": [], "bus": []}

    def _announce(self, key: str) -> None:
        if key.startswith("aws/lambda/"):
            self.queues[FAILURES].send(object_created(FAILURES, key))
