"""Certificates of devices that speak MQTT, in an instance's folder."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emulator.mqtt import certificates
from emulator.mqtt.certificates import CLAIM, Pair
from local.deployment import client
from local.errors import LocalError
from local.fleet.claiming import claim_certificate, claiming
from local.fleet.recorded import DEVICE_ID_PATTERN
from local.instance import Instance

REGISTRARS = 4


def mqtt_authority(folder: Path) -> Path:
    """Return the file of the certificate authority that signed the broker's certificate."""
    return certificates.pair(folder, certificates.AUTHORITY).certificate


def check_id(device_id: str) -> None:
    """Raise LocalError if the id can't be a device's id and its thing's name."""
    if not DEVICE_ID_PATTERN.fullmatch(device_id):
        raise LocalError(f"'{device_id}' isn't a device id: letters, digits, - and _, at most 128")
    if device_id.startswith(f"{CLAIM}-"):
        raise LocalError(
            f"'{device_id}' begins with {CLAIM}-, which is for client ids of devices without a "
            "name: take another name"
        )


def issue_certificates(instance: Instance, devices: Iterable[str]) -> dict[str, Pair]:
    """Make certificates of devices and register them with IoT; return their files by device."""
    state = instance.deployed()
    policy_name = state.outputs["DevicePolicyName"]

    def issue(device_id: str) -> Pair:
        check_id(device_id)
        files = certificates.device(instance.folder, device_id)
        iot = client(state, "iot")
        certificates.register_device(iot, device_id, policy_name, files.certificate)
        return files

    wanted = list(devices)
    with ThreadPoolExecutor(REGISTRARS) as pool:
        return dict(zip(wanted, pool.map(issue, wanted), strict=True))


def claim(instance: Instance, device_id: str) -> Pair:
    """Get a device its own certificate by a claim; return its files.

    Raise LocalError if it gets none: the template is disabled, or its hook refuses the device.
    """
    check_id(device_id)
    state = instance.deployed()
    template, policy_name = (
        state.outputs[name] for name in ("ProvisioningTemplateName", "ClaimPolicyName")
    )
    claim_files = certificates.claim(instance.folder)
    certificates.register(client(state, "iot"), policy_name, claim_files.certificate)
    files = certificates.device_files(instance.folder, device_id)
    where = state.mqtt_port, mqtt_authority(instance.folder)
    with claiming(*where, claim_files, f"{CLAIM}-{device_id}") as claimant:
        claim_certificate(claimant, template, device_id, files)
    return files
