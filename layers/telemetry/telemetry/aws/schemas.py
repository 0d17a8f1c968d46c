"""Writer schemas: the version of a reading that a device wrote with, by its id in Glue."""

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
REMEMBERED = 256  # versions fetched, and as many misses; a version takes some 4 kB
MISS_SECONDS = 60.0  # so long an id that Glue didn't know isn't asked for again
AWAY_SECONDS = 5.0  # so long Glue isn't asked after it didn't answer
READ_TIMEOUT_SECONDS = 1
NOT_THERE = frozenset({"EntityNotFoundException", "InvalidInputException"})


class Schemas:
    """The schemas of one registry's readings, by version id.

    `known` are the ids of versions that ship with the code: they need no call. Others are fetched
    once. `glue` gives Glue's client: making it costs 45 ms of CPU, and most devices' versions are
    known. `clock` gives seconds that only go forward.
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
        """The schema that has this id.

        Raises Rejected where the registry's readings have no such version, Unavailable where Glue
        can't be asked now.
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
        """Glue's answer; None if it knows no such version."""
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
        """What keeps a version from being a reading's; nothing if it is one."""
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
    """Keep a value as the latest, and let go of the one longest unused."""
    memory[schema_id] = value
    memory.move_to_end(schema_id)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def known_ids(setting: str) -> dict[UUID, Schema]:
    """The versions that ship with the code, by the ids in READING_SCHEMA_IDS.

    Ids of this stack's registry come in the versions' order; those of other registries as
    `id=version`. Raises SettingMissing for what is neither.
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
    """The schemas that devices' records are read with."""
    glue = partial(client, "glue", attempts=1, read_timeout_seconds=READ_TIMEOUT_SECONDS)
    known = known_ids(settings.reading_schema_ids)
    return Schemas(glue, settings.registry_name, known, time.monotonic)
