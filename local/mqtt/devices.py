"""Devices that speak MQTT, as the local run makes and simulates them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local.deployment import client
from local.errors import LocalError
from local.instance import Instance
from local.mqtt import certificates
from local.mqtt.certificates import Pair
from local.recorded import DEVICE_ID_PATTERN

REGISTRARS = 4


def mqtt_authority(folder: Path) -> Path:
    """Return the file by which a client knows the broker."""
    return certificates.pair(folder, certificates.AUTHORITY).certificate


def issue_certificates(instance: Instance, devices: Iterable[str]) -> dict[str, Pair]:
    """Make devices' certificates and make them known to IoT; return their files by device."""
    state = instance.load()
    policy_name = state.outputs["DevicePolicyName"]

    def issue(device_id: str) -> Pair:
        if not DEVICE_ID_PATTERN.fullmatch(device_id):
            raise LocalError(
                f"'{device_id}' isn't a device id: letters, digits, - and _, at most 128"
            )
        files = certificates.device(instance.folder, device_id)
        certificates.register(client(state, "iot"), device_id, policy_name, files.certificate)
        return files

    wanted = list(devices)
    with ThreadPoolExecutor(REGISTRARS) as pool:
        return dict(zip(wanted, pool.map(issue, wanted), strict=True))
