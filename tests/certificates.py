"""Certificates of a signer, made where a test needs them: an authority of a day, and whom it vouches for."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def written_key(
    folder: Path,
    key: Any,
    form: PrivateFormat = PrivateFormat.PKCS8,
    lock: KeySerializationEncryption | None = None,
) -> Path:
    """The file of a private key."""
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, form, lock or NoEncryption()))
    return folder / "key.pem"


def locked_key(folder: Path, key: Any) -> Path:
    """The same, with a password."""
    return written_key(folder, key, lock=BestAvailableEncryption(b"sesame"))


def certificate(
    subject: str,
    key: Any,
    issuer: str,
    signing: Any,
    *,
    authority: bool = False,
    ended: bool = False,
    mail: bool = True,
) -> x509.Certificate:
    """What C2PA asks of a signer's certificate (and, if `mail` is false, less), or an authority's."""
    name, by = (x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, said)]) for said in (subject, issuer))
    now = datetime.now(UTC)
    uses = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    usage = x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **uses)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now - DAY if ended else now + DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if mail and not authority:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        built = built.add_extension(purposes, critical=False)
    return built.sign(signing, hashes.SHA256())


def written_chain(
    folder: Path, key: Any, *, reverse: bool = False, ended: bool = False, mail: bool = True, alone: bool = False
) -> Path:
    """The file of the certificates of a signer and of its authority; `alone`: of an authority that signs itself."""
    root = key if alone else new_key()
    ours = certificate("A test", key, "An authority", root, ended=ended, mail=mail)
    chain = [certificate("An authority", root, "An authority", root, authority=True)]
    chain = chain if alone else [ours, *chain]
    pem = [each.public_bytes(Encoding.PEM) for each in (reversed(chain) if reverse else chain)]
    (folder / "chain.pem").write_bytes(b"".join(pem))
    return folder / "chain.pem"
