"""Certificates of an instance: its own authority, the broker's, and those of devices.

All are in the instance's folder and are removed with it. Only the folder's owner can read the keys.
"""

import datetime as dt
import ipaddress
import os
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = dt.timedelta(days=365)
SKEW = dt.timedelta(minutes=5)
FOLDER = "mqtt"
AUTHORITY, BROKER, CLAIM = "authority", "broker", "claim"


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


def pair(folder: Path, name: str) -> Pair:
    """Return the paths of an instance's certificate, whether it exists or not."""
    return Pair(folder / FOLDER / f"{name}.pem", folder / FOLDER / f"{name}.key")


def prepare(folder: Path) -> None:
    """Make the authority and the broker's certificate, unless they exist."""
    (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
    if not pair(folder, AUTHORITY).key.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of an embedded AWS")])
        usage = key_usage(signs_certificates=True)
        builder = (
            unsigned(name, name, key.public_key(), key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        write(pair(folder, AUTHORITY), builder.sign(key, hashes.SHA256()), key)
    if not pair(folder, BROKER).key.exists():
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        issue(folder, BROKER, ExtendedKeyUsageOID.SERVER_AUTH, names)


def device_files(folder: Path, device_id: str) -> Pair:
    """Return the paths of a device's certificate, whether it exists or not."""
    return pair(folder, f"device-{device_id}")


def device(folder: Path, device_id: str) -> Pair:
    """Make a device's certificate and key, unless they exist; return their paths."""
    files = device_files(folder, device_id)
    if not files.key.exists():
        issue(folder, f"device-{device_id}", ExtendedKeyUsageOID.CLIENT_AUTH, [], device_id)
    return files


def claim(folder: Path) -> Pair:
    """Make a claim's certificate and key, unless they exist; return their paths."""
    files = pair(folder, CLAIM)
    if not files.key.exists():
        issue(folder, CLAIM, ExtendedKeyUsageOID.CLIENT_AUTH, [])
    return files


def issue(
    folder: Path,
    name: str,
    usage: x509.ObjectIdentifier,
    names: list[x509.GeneralName],
    subject: str = "",
) -> None:
    """Make a certificate signed by the authority."""
    authority = pair(folder, AUTHORITY)
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    signer = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101 - as `prepare` made it
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (subject or name)[:64])])
    builder = (
        unsigned(common_name, issuer.subject, key.public_key(), signer.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    write(pair(folder, name), builder.sign(signer, hashes.SHA256()), key)


def unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    """Return a certificate with the fields that all have in common, unsigned."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def key_usage(signs_certificates: bool) -> x509.KeyUsage:
    """Return a key's usage: signing certificates, or TLS connections."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def write(files: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a certificate, then its key: if the key exists, both files are complete."""
    pem = serialization.Encoding.PEM
    put(files.certificate, certificate.public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8
    put(files.key, key.private_bytes(pem, form, serialization.NoEncryption()))


def put(path: Path, data: bytes) -> None:
    """Write a file atomically, readable only by its owner."""
    unfinished = path.with_name(f"{path.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    unfinished.replace(path)


def register_device(iot: Any, device_id: str, policy_name: str, certificate: Path) -> None:
    """Register a device with IoT: its thing, certificate and policy."""
    iot.create_thing(thingName=device_id)
    arn = register(iot, policy_name, certificate)
    iot.attach_thing_principal(thingName=device_id, principal=arn)


def register(iot: Any, policy_name: str, certificate: Path) -> str:
    """Register a certificate with IoT, with a policy; return its ARN."""
    arn: str
    try:
        answer = iot.register_certificate_without_ca(
            certificatePem=certificate.read_text(), status="ACTIVE"
        )
        arn = answer["certificateArn"]
    except iot.exceptions.ResourceAlreadyExistsException as error:
        arn = error.response["resourceArn"]
    iot.attach_policy(policyName=policy_name, target=arn)
    return arn
