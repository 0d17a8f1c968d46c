"""Devices: what they measure, how they send it, and what they remember of the answers."""

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

from local.mappings.ports import NotInvoked

if TYPE_CHECKING:
    from tests.simulation.world import World

Json = dict[str, Any]
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PAUSE_SECONDS = (0.5, 8.0)
SKEWS_MS = (-90_000, 100_000, -3 * HOUR_MS, -26 * HOUR_MS, 20 * 60_000, -400 * DAY_MS, 800 * DAY_MS)
REFUSED_SKEWS_MS = {20 * 60_000, -400 * DAY_MS, 800 * DAY_MS}
ACCEPTED, REFUSED, UNAVAILABLE = 202, 400, 503


class Device:
    """One device: its plan is drawn from the seed, its sending depends on the answers it gets."""

    def __init__(self, world: "World", index: int) -> None:
        self._world = world
        self._chance = random.Random(f"{world.seed}/device/{index}")
        self._neighbour = f"device-{(index + 1) % world.options.devices}"
        self.device_id = f"device-{index}"
        self.region = self._chance.choice(sorted(world.regions))
        is_wrong = self._happens("wrong_clock")
        self._skew_ms = self._chance.choice(SKEWS_MS) if is_wrong else 0
        self._is_refused = self._skew_ms in REFUSED_SKEWS_MS
        self.sent: list[Json] = []
        """Every document that it meant, as often as it sent it; not the bad ones."""
        self._sent_to: dict[str, list[Json]] = {}
        self._sending: list[asyncio.Task[None]] = []
        self._used: set[int] = set()
        self.acknowledged: dict[int, list[Json]] = {}
        """By instant, the documents that an answer said were accepted."""
        self.misjudged: list[str] = []

    # What it measures

    def temperatures(self, count: int) -> list[float]:
        """Calm, with up to two spells of heat, near each other or far apart; calm at the end."""
        chance = self._chance
        values = [round(chance.uniform(20, 36), 2) for _ in range(count)]
        last = int(count * 0.75)
        starts = [chance.randrange(max(1, last)) for _ in range(chance.choice([0, 1, 2]))]
        for start in chance.choice([starts, [0, last - 1]]):
            flutters = self._happens("flutter")
            for place in range(start, min(last, start + chance.randint(1, 12))):
                if not flutters or chance.random() < 0.5:
                    values[place] = round(chance.uniform(38.01, 55), 2)
            if start and chance.random() < 0.3:
                values[start - 1] = 37.5
        return values

    def document(self, at_ms: int, temperature: float) -> Json:
        while at_ms in self._used:
            at_ms += 1
        self._used.add(at_ms)
        return {"recorded_at": at_ms, "temperature": temperature}

    # How it sends it

    async def run(self) -> None:
        """Measure and send until its time is over."""
        options, chance, world = self._world.options, self._chance, self._world
        count = int(options.minutes * 60 / options.period_seconds)
        waiting: list[Json] = []
        for temperature in self.temperatures(count):
            await asyncio.sleep(options.period_seconds * chance.uniform(0.5, 1.5))
            measured = self.document(world.now_ms() + self._skew_ms, temperature)
            if self._happens("poison"):
                world.poison_instants.add(measured["recorded_at"])
            if self._happens("hours_late"):
                old_ms = world.now_ms() - chance.randint(1, 20) * HOUR_MS
                waiting.append(self.document(old_ms, round(chance.uniform(20, 50), 2)))
            waiting += self._parts(measured)
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

    def _parts(self, measured: Json) -> list[Json]:
        """One document or several that say the same."""
        chance, parts = self._chance, [measured]
        if self._happens("apart"):
            instant = {"recorded_at": measured["recorded_at"]}
            parts.append(instant | {"humidity": round(chance.uniform(0, 100), 1)})
        if self._happens("disagreeing"):
            other = round(measured["temperature"] + chance.choice([-0.5, 0.5]), 2)
            parts.append(measured | {"temperature": other})
        return parts

    def _happens(self, fault: str) -> bool:
        return self._world.happens(fault, self._chance)

    def _send(self, documents: list[Json], delay_seconds: float) -> None:
        self.sent += documents
        if documents:
            task = asyncio.create_task(self._post_until_taken(list(documents), delay_seconds))
            self._sending.append(task)

    async def finished(self) -> None:
        """Wait until all that it sent was answered."""
        while self._sending:
            await self._sending.pop(0)

    def leave(self, lost: str, other: str) -> None:
        """Send again what went to a region that is lost; go to the other one for good."""
        if self.region == lost:
            self.region = other
        self._send(self._sent_to.get(lost, []), 0.0)

    async def _post_until_taken(self, documents: list[Json], delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        region = self.region
        while documents:
            documents = await self._post(region, documents)
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
            if self._happens("other_region"):
                region = self._chance.choice(sorted(self._world.regions))
            if self._world.regions[region].is_lost:
                (region,) = [each for each in self._world.regions if each != region]

    async def _post(self, region: str, documents: list[Json]) -> list[Json]:
        """Send once; what is to be sent again."""
        self._sent_to.setdefault(region, []).extend(documents)
        bad = self._bad_bodies()
        body = [*documents, *bad]
        instants = [document["recorded_at"] for document in documents]
        self._world.history.note(self.device_id, "posts to", region, instants, f"{len(bad)} bad")
        response = await self._request(region, body)
        if response is not None and response["statusCode"] == UNAVAILABLE:
            self._world.hits["not taken"] += 1
        if response is None or response["statusCode"] not in {ACCEPTED, REFUSED, UNAVAILABLE}:
            return documents
        answer = json.loads(response["body"])
        refused = {refusal["index"] for refusal in answer["rejected"]}
        expected = set(range(len(documents), len(body)))
        if self._is_refused:
            expected |= {
                index
                for index, document in enumerate(documents)
                if document["recorded_at"] not in self._good_instants()
            }
        if refused != expected:
            self.misjudged.append(f"{self.device_id}: refused {refused} of {body}")
        not_taken = set(answer.get("not_taken", []))
        accepted = len(body) - len(refused) - len(not_taken)
        if answer["accepted"] != accepted:
            told = f"{answer['accepted']} accepted, not {accepted}"
            self.misjudged.append(f"{self.device_id}: was told {told}")
        for index, document in enumerate(documents):
            if index not in refused and index not in not_taken:
                self.acknowledged.setdefault(document["recorded_at"], []).append(document)
        return [documents[index] for index in sorted(not_taken) if index < len(documents)]

    def _good_instants(self) -> set[int]:
        """The instants of a device whose clock is refused that are right all the same."""
        now_ms = self._world.now_ms()
        return {at_ms for at_ms in self._used if now_ms - DAY_MS < at_ms < now_ms + 1}

    def _bad_bodies(self) -> list[Any]:
        if not self._happens("bad_body"):
            return []
        now_ms = self._world.now_ms()
        others = self._neighbour if self._neighbour != self.device_id else "device-0x"
        return [
            self._chance.choice(
                [
                    {"recorded_at": now_ms, "temperature": 412.0},
                    {"recorded_at": now_ms},
                    {"recorded_at": "yesterday", "temperature": 20.0},
                    {"recorded_at": now_ms, "temperature": 44.0, "device_id": others},
                    "not a reading",
                    {"recorded_at": now_ms, "temperature": float("nan")},
                ]
            )
        ]

    async def _request(self, region: str, body: list[Any]) -> Json | None:
        """An API request; None where no answer comes back."""
        world = self._world
        event = {
            "httpMethod": "POST",
            "resource": "/devices/{device_id}/readings",
            "pathParameters": {"device_id": self.device_id},
            "requestContext": {"authorizer": {"subject": self.device_id, "role": "device"}},
            "body": json.dumps(body),
        }
        try:
            answer = await world.regions[region].lambda_.invoke("ingest", event)
        except NotInvoked:
            return None
        if answer.function_error is not None or world.happens("lost_ack"):
            world.history.note(self.device_id, "gets no answer from", region)
            return None
        response: Json = answer.payload
        return response
