"""Writer schemas: the reading schema with which a device wrote, by its id in Glue."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.clients import client
from telemetry.domain.schema import Schema, versions
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import SchemaSettings, SettingMissing

V = TypeVar("V")
NAME = "reading"
REMEMBERED = 256  # fetched versions, and as many unknown ids; a version takes some 4 kB
MISS_SECONDS = 60.0  # for this time, an id that Glue didn't know isn't asked for again
AWAY_SECONDS = 5.0  # for this time, Glue isn't asked again after it didn't answer
READ_TIMEOUT_SECONDS = 1
NOT_THERE = frozenset({"EntityNotFoundException", "InvalidInputException"})


class Schemas:
    """The schemas of one registry's readings, by version id.

    `known` has the versions that ship with the code: they need no call. Others are fetched once.
    `glue` makes Glue's client on first use, since that costs 45 ms of CPU and is rarely needed.
    `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        glue: Callable[[], Any],
        registry: str,
        known: Mapping[UUID, Schema],
        clock: Callable[[], float],
    ) -> None:
        self._glue = glue
        self._registry = registry
        self._known = known
        self._clock = clock
        self._fetched: OrderedDict[UUID, Schema] = OrderedDict()
        self._missed: OrderedDict[UUID, tuple[float, str]] = OrderedDict()
        self._away_until = float("-inf")

    def writer(self, schema_id: UUID) -> Schema:
        """Return the schema with this id.

        Raise Rejected if the registry's readings have no such version, and Unavailable if Glue
        doesn't answer now.
        """
        known = self._known.get(schema_id)
        if known is not None:
            return known
        if schema_id in self._fetched:
            self._fetched.move_to_end(schema_id)
            return self._fetched[schema_id]
        missed_at, reason = self._missed.get(schema_id, (float("-inf"), ""))
        if self._clock() < missed_at + MISS_SECONDS:
            raise _rejected(schema_id, reason)
        return self._fetch(schema_id)

    def _fetch(self, schema_id: UUID) -> Schema:
        answer = self._ask(schema_id)
        reason = "is of no schema version" if answer is None else self._unfit(answer)
        if answer is None or reason:
            _remember(self._missed, schema_id, (self._clock(), reason))
            raise _rejected(schema_id, reason)
        schema: Schema = json.loads(answer["SchemaDefinition"])
        _remember(self._fetched, schema_id, schema)
        return schema

    def _ask(self, schema_id: UUID) -> dict[str, Any] | None:
        """Return Glue's answer, None if it knows no such version; raise Unavailable."""
        if self._clock() < self._away_until:
            raise Unavailable(f"Glue didn't answer within the last {AWAY_SECONDS:.0f} s")
        try:
            answer: dict[str, Any] = self._glue().get_schema_version(SchemaVersionId=str(schema_id))
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in NOT_THERE:
                return None
            self._away_until = self._clock() + AWAY_SECONDS
            raise Unavailable(f"Glue's GetSchemaVersion: {error}") from error
        if answer["Status"] == "PENDING":
            raise Unavailable(f"schema version {schema_id} is being checked")
        return answer

    def _unfit(self, answer: Mapping[str, Any]) -> str:
        """Return why a version isn't one of a reading's; "" if it is one."""
        arn = answer["SchemaArn"]
        if not arn.endswith(f":schema/{self._registry}/{NAME}"):
            return f"is of another schema, {arn.rpartition(':schema/')[2]}"
        if answer["Status"] != "AVAILABLE":
            return f"is of a version whose status is {answer['Status']}"
        return "" if answer["DataFormat"] == "AVRO" else f"is of {answer['DataFormat']}, not AVRO"


def _rejected(schema_id: UUID, reason: str) -> Rejected:
    right = f"ids are those of the versions of {NAME} in this pipeline's Glue registry"
    return Rejected(f"{reason}; {right}", field="schema_id", value=str(schema_id))


def _remember(memory: OrderedDict[UUID, V], schema_id: UUID, value: V) -> None:
    """Remember a value, and forget the one that is unused for longest."""
    memory[schema_id] = value
    memory.move_to_end(schema_id)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def known_ids(setting: str) -> dict[UUID, Schema]:
    """Return the versions that ship with the code, by the ids in READING_SCHEMA_IDS.

    Ids of this stack's registry are in the versions' order; ids of other registries are written
    `id=version`. Raise SettingMissing for any other entry.
    """
    shipped = {schema["version"]: schema for schema in versions(NAME)}
    known = {}
    for position, entry in enumerate(setting.split(","), 1):
        schema_id, _, number = entry.partition("=")
        try:
            known[UUID(schema_id)] = shipped[int(number or position)]
        except (ValueError, KeyError):
            wanted = f"an id, or id=version with a version of 1 to {len(shipped)}"
            raise SettingMissing(f"READING_SCHEMA_IDS: {entry!r} is not {wanted}") from None
    return known


def schemas(settings: SchemaSettings) -> Schemas:
    """Return the schemas with which to read devices' records."""
    glue = partial(client, "glue", attempts=1, read_timeout_seconds=READ_TIMEOUT_SECONDS)
    known = known_ids(settings.reading_schema_ids)
    return Schemas(glue, settings.registry_name, known, time.monotonic)
