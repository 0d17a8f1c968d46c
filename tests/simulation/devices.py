"""Devices: their measurements, how they send, and what they remember of the answers."""

import asyncio
import json
import math
import random
from base64 import b64encode
from collections.abc import Coroutine, Mapping
from typing import Any

from emulator.mappings.ports import NotInvoked
from tests import writers
from tests.simulation import judge
from tests.simulation.conditions import Conditions
from tests.simulation.iot import Publication
from tests.simulation.judge import HOT, RANGES, THAWING, Judged, Rule
from tests.simulation.options import Options
from tests.simulation.region import Region
from tests.simulation.ways import INFLUX, NEWEST, WAYS, Way

Json = dict[str, Any]
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PAUSE_SECONDS = (0.5, 8.0)
SHARES = {"battery": (0.3, 2, 4), "pressure": (0.15, 950, 1050)}
"""The share of readings that have a metric, and its range."""
FREEZER_OFFSET = 56
"""How much colder a freezer is than other devices; its rule is as much lower."""
SENSORS_MAX = 3
CONTRADICTED_SECONDS = (50.0, 240.0)
BATCH_MOST = 100
SKEWS_MS = (-90_000, 100_000, -3 * HOUR_MS, -26 * HOUR_MS, 20 * 60_000, -400 * DAY_MS, 800 * DAY_MS)
REFUSED_SKEWS_MS = {20 * 60_000, -400 * DAY_MS, 800 * DAY_MS}
ACCEPTED, WRITTEN, REFUSED, UNAVAILABLE = 202, 204, 400, 503


def temperature_of(celsius: float, options: Options) -> float:
    """Return a usual temperature; of a freezer, one as far from its rule."""
    return round(celsius - FREEZER_OFFSET, 2) if options.freezers else celsius


def odd_values(rule: Rule) -> tuple[float, ...]:
    """Return temperatures at the ends of the valid range and at the rule's thresholds."""
    low, high = RANGES["temperature"]
    above, clears_below = rule.above, rule.clears_below
    thresholds: tuple[float, ...] = (above, math.nextafter(above, high), math.nextafter(above, low))
    thresholds += (clears_below, math.nextafter(clears_below, low), int(clears_below) - 1)
    return (low, high, float(low), float(high), -0.0, 0, *thresholds)


class Device:
    """A device. Its plan is drawn from the seed; its sending depends on the answers."""

    def __init__(self, conditions: Conditions, regions: Mapping[str, Region], index: int) -> None:
        self._conditions = conditions
        self._regions = regions
        self._options = conditions.options
        self._chance = random.Random(f"{conditions.seed}/device/{index}")
        # of other names in other courses: each bucket of the alerts' index has some
        self.device_id = f"device-{conditions.seed}-{index}"
        neighbour = f"device-{conditions.seed}-{(index + 1) % conditions.options.devices}"
        self._others = neighbour if neighbour != self.device_id else "device-0x"
        self._rule = THAWING if conditions.options.freezers else HOT
        self._is_punctual = self._chance.random() < 0.5
        self.region = self._chance.choice(sorted(regions))
        is_wrong = self._happens("wrong_clock")
        self._skew_ms = self._chance.choice(SKEWS_MS) if is_wrong else 0
        self._is_refused = self._skew_ms in REFUSED_SKEWS_MS
        self.sent: list[Json] = []
        """Every document that it meant, as often as it sent it; not the bad ones."""
        self.sensors_sent: list[Json] = []
        """Every document of a sensor behind it, with the sensor's name."""
        self._sent_to: dict[str, list[Json]] = {}
        self._meant_in_part: list[Json] = []
        """What is right of documents that aren't, wherever it sent them."""
        self.published: list[Publication] = []
        self.way = self._chance.choice(WAYS)
        self._sending: list[asyncio.Task[None]] = []
        self._used: set[int] = set()
        self.acknowledged: list[tuple[str, Json]] = []
        """The documents that an answer said were accepted, with the region that answered."""
        self.misjudged: list[str] = []

    # What it measures

    def temperatures(self, count: int) -> list[float]:
        """Return calm temperatures with up to two spells of heat, near or far apart; calm last."""
        chance = self._chance
        values: list[float] = [round(chance.uniform(20, 36), 2) for _ in range(count)]
        last = int(count * 0.75)
        starts = [chance.randrange(max(1, last)) for _ in range(chance.choice([0, 1, 2]))]
        for start in chance.choice([starts, [0, last - 1]]):
            flutters = self._happens("flutter")
            for place in range(start, min(last, start + chance.randint(1, 12))):
                if not flutters or chance.random() < 0.5:
                    values[place] = round(chance.uniform(38.01, 55), 2)
            if start and chance.random() < 0.3:
                values[start - 1] = 37.5
        values = [temperature_of(value, self._conditions.options) for value in values]
        odd = odd_values(self._rule)
        for place in range(last):
            if self._happens("odd_values"):
                digits = chance.uniform(values[place] - 1, values[place] + 1)
                cools = place and values[place - 1] > self._rule.above
                touching = (self._rule.clears_below,) * 4 if cools else ()
                values[place] = chance.choice((*odd, digits, *touching))
        return values

    def document(self, at_ms: int, temperature: float) -> Json:
        while at_ms in self._used:
            at_ms += 1
        self._used.add(at_ms)
        document = {"recorded_at": at_ms, "temperature": temperature}
        for metric, (share, low, high) in SHARES.items():
            if self._chance.random() < share:
                document[metric] = self._value(metric, round(self._chance.uniform(low, high), 2))
        return document

    def _value(self, metric: str, usual: float) -> float:
        """Return a usual value of a metric, or one at an end of its range."""
        if not self._happens("odd_values"):
            return usual
        low, high = RANGES[metric]
        return self._chance.choice([low, high, float(low) or -0.0, usual + 1 / 3])

    # How it sends it

    async def run(self) -> None:
        """Measure and send until time is up."""
        conditions, chance = self._conditions, self._chance
        options = conditions.options
        count = int(options.minutes * 60 / options.period_seconds)
        waiting: list[Json] = []
        before = self._rule.clears_below
        for temperature in self.temperatures(count):
            is_recovery = before > self._rule.above and temperature < self._rule.clears_below
            before = temperature
            await asyncio.sleep(self._pause_seconds(is_recovery))
            measured = self.document(conditions.now_ms() + self._skew_ms, temperature)
            if self._happens("new_firmware"):
                self.way = chance.choice(WAYS)
                conditions.history.note(self.device_id, "sends as", self.way.name)
            if self._happens("poison"):
                conditions.poison_instants.add(measured["recorded_at"])
            if self._happens("hours_late"):
                old_ms = conditions.now_ms() - chance.randint(1, 20) * HOUR_MS
                old = temperature_of(round(chance.uniform(20, 50), 2), options)
                waiting.append(self.document(old_ms, old))
            parts = self._parts(measured)
            if is_recovery and self._happens("contradicted"):
                self._contradict(measured)
            if self._happens("elsewhere"):
                other = next(each for each in sorted(self._regions) if each != self.region)
                self._send([parts.pop()], 0.0, self._if_there(other))
            waiting += parts
            if self._happens("late"):
                self._send(waiting, chance.uniform(1, 150))
                waiting = []
            elif not self._happens("burst"):
                chance.shuffle(waiting)
                self._send(waiting, 0.0)
                waiting = []
            if self.sent and self._happens("restart"):
                self._send(self.sent[-chance.randint(1, 20) :], 0.0)
        self._send(waiting, 0.0)

    def _pause_seconds(self, is_recovery: bool) -> float:
        """Return the time to the next measurement; some calm down at an exact full minute."""
        if is_recovery and self._is_punctual:
            return 60 - (self._conditions.now_ms() % 60_000) / 1000
        return self._conditions.options.period_seconds * self._chance.uniform(0.5, 1.5)

    def _contradict(self, measured: Json) -> None:
        """Send a calm reading again as a hot one, when its episode is cleared, maybe."""
        temperature = temperature_of(round(self._chance.uniform(39, 55), 2), self._options)
        seconds = self._chance.uniform(*CONTRADICTED_SECONDS)
        self._send([measured | {"temperature": temperature}], seconds)

    def _parts(self, measured: Json) -> list[Json]:
        """One document or several that say the same."""
        chance, parts = self._chance, [measured]
        if self._happens("apart"):
            instant = {"recorded_at": measured["recorded_at"]}
            humidity = self._value("humidity", round(chance.uniform(0, 100), 1))
            parts.append(instant | {"humidity": humidity})
        if self._happens("disagreeing"):
            low, high = RANGES["temperature"]
            other = round(measured["temperature"] + chance.choice([-0.5, 0.5]), 2)
            parts.append(measured | {"temperature": min(max(other, low), high)})
        return parts

    def _happens(self, fault: str) -> bool:
        return self._conditions.happens(fault, self._chance)

    def _send(self, documents: list[Json], delay_seconds: float, region: str | None = None) -> None:
        """Send documents later, to a region that may be another one than the device's."""
        self.sent += documents
        if documents:
            self._begin(
                self._send_until_taken(list(documents), delay_seconds, self.way, WAYS, region)
            )

    def _begin(self, sending: Coroutine[Any, Any, None]) -> None:
        self._sending.append(asyncio.create_task(sending))

    async def finished(self) -> None:
        """Wait until all sent documents were answered."""
        while self._sending:
            await self._sending.pop(0)

    def leave(self, lost: str, other: str) -> None:
        """Send documents of a lost region again, to the other region, and stay there.

        Whole, as the newest firmware does: what an older one leaves out would be gone.
        """
        if self.region == lost:
            self.region = other
        again = self._sent_to.get(lost, []) + self._meant_in_part
        documents = list({json.dumps(each): each for each in again}.values())
        for first in range(0, len(documents), BATCH_MOST):
            batch = documents[first : first + BATCH_MOST]
            way = self._chance.choice(NEWEST)
            self._begin(self._send_until_taken(batch, 0.0, way, NEWEST))

    async def _send_until_taken(
        self,
        documents: list[Json],
        delay_seconds: float,
        way: Way,
        ways: tuple[Way, ...],
        region: str | None = None,
    ) -> None:
        await asyncio.sleep(delay_seconds)
        region, whole = self._if_there(region or self.region), documents
        while documents:
            documents = await self._send_once(region, way, documents)
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
            if self._happens("other_region"):
                region = self._chance.choice(sorted(self._regions))
            region = self._if_there(region)
            if self._happens("other_way"):
                way, documents = self._chance.choice(ways), whole

    def _if_there(self, region: str) -> str:
        """Return a region, or the other one if it is lost."""
        if not self._regions[region].is_lost:
            return region
        (other,) = [each for each in self._regions if each != region]
        return other

    async def _send_once(self, region: str, way: Way, documents: list[Json]) -> list[Json]:
        """Send once; return the documents to send again."""
        self._sent_to.setdefault(region, []).extend(documents)
        meant = [way.meant(document) for document in documents]
        self.sent += [each for each in meant if each not in documents]
        instants = [document["recorded_at"] for document in documents]
        self._conditions.history.note(self.device_id, "sends to", region, way.name, instants)
        if way.topic:
            return await self._publish(region, way, meant)
        if way.route == INFLUX:
            return await self._write_points(region, way, meant)
        return await self._post(region, way, meant)

    # Over HTTPS

    async def _post(self, region: str, way: Way, documents: list[Json]) -> list[Json]:
        own, bad, sensors = documents, self._bad_bodies(way), list[Json]()
        is_gateway = self._happens("gateway")
        if is_gateway:
            own, bad, sensors = self._named(own), self._named(bad), self._sensors()
        body = [*own, *sensors, *bad]
        response = await self._request(region, way, body, is_gateway)
        if response is not None and response["statusCode"] == UNAVAILABLE:
            self._conditions.hits["not taken"] += 1
        if response is None or response["statusCode"] not in {ACCEPTED, REFUSED, UNAVAILABLE}:
            return own
        answer = json.loads(response["body"])
        if "rejected" not in answer:  # nothing of it was looked at
            if response["statusCode"] == UNAVAILABLE:
                return own
            self.misjudged.append(f"{self.device_id}: was told {answer} of {way.name} {body}")
            return []
        found = self._judged(own, sensors, bad)
        not_taken = self._compare(answer, found, body)
        for index, (document, each) in enumerate(zip(body, found, strict=True)):
            if each.metrics and index not in not_taken:
                self._acknowledge(region, document, each)
        return [own[index] for index in sorted(not_taken) if index < len(own)]

    def _compare(self, answer: Json, found: list[Judged], body: list[Any]) -> set[int]:
        """Check an answer against the expected one; return the documents that weren't taken."""
        refused = {refusal["index"] for refusal in answer["rejected"]}
        if refused != {index for index, each in enumerate(found) if not each.metrics}:
            self.misjudged.append(f"{self.device_id}: refused {refused} of {body}")
        not_taken = set(answer.get("not_taken", []))
        partly = {refusal["index"] for refusal in answer["partly"]}
        in_part = {i for i, each in enumerate(found) if each.metrics and not each.is_whole}
        if partly != in_part - not_taken:
            self.misjudged.append(f"{self.device_id}: took {partly} of {body} in part")
        accepted = len(body) - len(refused) - len(not_taken)
        if answer["accepted"] != accepted:
            told = f"{answer['accepted']} accepted, not {accepted}"
            self.misjudged.append(f"{self.device_id}: was told {told}")
        return not_taken

    def _acknowledge(self, region: str, document: Json, found: Judged) -> None:
        """Record the acknowledged readings; of sensors, only those that no lost region can lose."""
        taken = {"recorded_at": document["recorded_at"], **found.metrics}
        if document.get("device_id", self.device_id) == self.device_id:
            self.acknowledged.append((region, taken))
        elif not self._options.region_loss:
            self.acknowledged.append((region, {"device_id": document["device_id"], **taken}))

    async def _write_points(self, region: str, way: Way, documents: list[Json]) -> list[Json]:
        """Post as InfluxDB's clients do, and handle the answer as they do."""
        response = await self._request(region, way, documents, is_gateway=False)
        status = response and response["statusCode"]
        if status == WRITTEN:
            self.acknowledged += [(region, document) for document in documents]
        elif status != REFUSED:
            return documents
        elif all(each.is_whole for each in self._judged(documents, [], [])):
            self.misjudged.append(f"{self.device_id}: was told {response} of {documents}")
        return []

    def _sensors(self) -> list[Json]:
        """Return documents of sensors behind this device, which are sent once, without a retry."""
        chance, now_ms, documents = self._chance, self._conditions.now_ms(), []
        for sensor in range(1, chance.randint(2, SENSORS_MAX + 1)):
            celsius = round(chance.uniform(20, 50), 2)
            documents.append(
                {
                    "device_id": f"{self.device_id}-{sensor}",
                    "recorded_at": now_ms,
                    "temperature": temperature_of(celsius, self._options),
                }
            )
        self.sensors_sent += documents
        return documents

    def _named(self, documents: list[Any]) -> list[Any]:
        """Return documents that name their device, as a gateway's must."""
        names = {"device_id": self.device_id}
        return [names | each if isinstance(each, dict) else each for each in documents]

    def _judged(self, documents: list[Json], sensors: list[Json], bad: list[Any]) -> list[Judged]:
        """Return the expected answer about documents, also about those that came with them."""
        late = set() if not self._is_refused else self._used - self._good_instants()
        body = [{} if each["recorded_at"] in late else each for each in documents]
        now_ms, count = self._conditions.now_ms(), len(documents)
        found = judge.judged([*body, *bad], self.device_id, now_ms)
        others = [judge.judged_alone(each, each["device_id"], now_ms) for each in sensors]
        return [*found[:count], *others, *found[count:]]

    def _mean_part_of(self, document: Any) -> None:
        """Record the valid part of a document: the pipeline must take it."""
        (found,) = judge.judged([document], self.device_id, self._conditions.now_ms())
        if found.metrics:
            self._meant_in_part.append({"recorded_at": document["recorded_at"], **found.metrics})
            self.sent.append(self._meant_in_part[-1])

    def _good_instants(self) -> set[int]:
        """Return the valid instants of a device whose clock is otherwise refused."""
        now_ms = self._conditions.now_ms()
        return {at_ms for at_ms in self._used if now_ms - DAY_MS < at_ms < now_ms + 1}

    def _bad_bodies(self, way: Way) -> list[Any]:
        if not self._happens("bad_body"):
            return []
        now_ms = self._conditions.now_ms()
        of_any_format: list[Any] = [
            {"recorded_at": now_ms, "temperature": 412.0},
            {"recorded_at": now_ms},
            {"recorded_at": now_ms, "temperature": 44.0, "device_id": self._others},
            {"recorded_at": now_ms, "temperature": float("nan")},
            {"recorded_at": now_ms, "temperature": 412.0, "humidity": 41.5},
        ]
        of_json = [{"recorded_at": "yesterday", "temperature": 20.0}, "not a reading"]
        bad = self._chance.choice(of_any_format + [[], of_json][not way.is_binary])
        self._mean_part_of(bad)
        return [bad]

    async def _request(
        self, region: str, way: Way, body: list[Any], is_gateway: bool
    ) -> Json | None:
        """Send an API request; return None without an answer."""
        conditions = self._conditions
        grant = {"subject": self.device_id, "role": "device"}
        if is_gateway:
            grant |= {"role": "gateway", "prefix": self.device_id}
        event: Json = {
            "httpMethod": "POST",
            "resource": "/readings" if is_gateway else way.route,
            "pathParameters": None if is_gateway else {"device_id": self.device_id},
            "requestContext": {"authorizer": grant},
            "headers": {"content-type": way.content_type},
            "body": b64encode(way.written(self.device_id, body)).decode(),
            "isBase64Encoded": True,
        }
        if way.is_zipped:
            event["headers"]["content-encoding"] = "gzip"
        try:
            answer = await self._regions[region].lambda_.invoke("ingest", event)
        except NotInvoked:
            return None
        if answer.function_error is not None or conditions.happens("lost_ack"):
            conditions.history.note(self.device_id, "gets no answer from", region)
            return None
        response: Json = answer.payload
        return response

    # Over MQTT

    async def _publish(self, region: str, way: Way, documents: list[Json]) -> list[Json]:
        """Publish documents, one message each or all in one; return those without a PUBACK."""
        once = [each for place, each in enumerate(documents) if each not in documents[:place]]
        left = []
        for group in [[each] for each in once] if way.is_single else [once]:
            whole: list[Any] = list(group)
            if self._happens("bad_message"):
                if way.is_single or self._chance.random() < 0.3:
                    self._begin(self._publish_bad(region))
                else:
                    whole.insert(self._chance.randint(0, len(whole)), self._bad(way))
            if not await self._message(region, way.message(self.device_id, whole)):
                left += group
        return left

    async def _message(self, region: str, message: Publication) -> bool:
        """Publish a message; return whether it was acknowledged."""
        self.published.append(message)
        return await self._regions[region].iot.publish(message)

    async def _publish_bad(self, region: str) -> None:
        """Publish a message that isn't a reading, unchanged, until it is acknowledged."""
        topic, payload, documents = self._bad_message()
        while True:
            message = Publication(
                f"telemetry/{self.device_id}/{topic}", payload, self.device_id, documents
            )
            self._conditions.history.note(self.device_id, "publishes to", region, topic, payload)
            if await self._message(region, message):
                return
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
            region = self._if_there(region)

    def _bad(self, way: Way) -> Json:
        """Return a document with a fault that the format can express."""
        at_ms = self._conditions.now_ms()
        bad: list[Json] = [
            {"recorded_at": at_ms, "temperature": 412.0},
            {"recorded_at": at_ms + 20 * 60_000, "temperature": 44.0},
            {"recorded_at": at_ms, "temperature": 44.0, "device_id": self._others},
            {"recorded_at": at_ms, "temperature": 412.0, "humidity": 41.5},
        ]
        if not way.is_binary:
            bad += [{"recorded_at": at_ms, "temperature": "44"}, {"temperature": 44.0}]
        document = self._chance.choice(bad)
        self._mean_part_of(document)
        return document

    def _bad_message(self) -> tuple[str, bytes, list[Any] | None]:
        """Return a message with a fault: its topic, its bytes, its documents if it has any."""
        at_ms = self._conditions.now_ms()
        hot = {"recorded_at": at_ms, "temperature": 44.0}
        unreadable = [
            ("readings", b"not JSON"),
            ("batch/xml", b"<reading/>"),
            ("batch/avro", writers.glue([{"device_id": self.device_id, **hot}])[:-3]),
            ("batch/protobuf", b"\xff\xff"),
        ]
        documents: list[Json] = [
            {"recorded_at": at_ms, "temperature": "44"},
            {"recorded_at": at_ms, "temperature": 412.0},
            {"recorded_at": "yesterday", "temperature": 44.0},
            {"recorded_at": at_ms + 20 * 60_000, "temperature": 44.0},
            {"recorded_at": at_ms},
            {"temperature": 44.0},
            {"recorded_at": at_ms, "humidity": 41.5, "colour": "red"},
            {"recorded_at": at_ms, "temperature": 412.0, "humidity": 41.5},
            hot | {"device_id": self._others},
            hot | {"received_at": at_ms},
            hot | {"via": "mqtt"},
        ]
        if self._chance.random() < 0.25:
            return (*self._chance.choice(unreadable), None)
        document = self._chance.choice(documents)
        self._mean_part_of(document)
        return "readings", json.dumps(document).encode(), [document]
