"""Keeps a device's readings in SQLite until the telemetry pipeline has taken them."""

from telemetry_client.answers import Rejection, Remedy, Verdict
from telemetry_client.client import Client, ClientOptions
from telemetry_client.errors import ClientError, Conflicting, Invalid, StoreFailed, StoreFull
from telemetry_client.formats import Avro, Format, Json
from telemetry_client.https import Https
from telemetry_client.mqtt import Mqtt
from telemetry_client.pace import PaceOptions
from telemetry_client.store import Status, Store, StoreOptions

__all__ = [
    "Avro",
    "Client",
    "ClientError",
    "ClientOptions",
    "Conflicting",
    "Format",
    "Https",
    "Invalid",
    "Json",
    "Mqtt",
    "PaceOptions",
    "Rejection",
    "Remedy",
    "Status",
    "Store",
    "StoreFailed",
    "StoreFull",
    "StoreOptions",
    "Verdict",
]
