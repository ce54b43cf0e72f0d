"""Content credentials (C2PA): a finished picture says, signed, which model made a part of it.

A picture is signed as it was encoded, so no pixel of it changes. Nothing here asks the network: there is no time-stamp,
and a signature holds for as long as its certificate does.
"""

import io
import logging
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from diffusion_lab import files
from diffusion_lab.pictures import SYNTHETIC, png

log = logging.getLogger(__name__)

CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""What C2PA calls the signatures on a curve."""
SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},  # one would be larger than most of the pictures
    "verify": {"verify_after_sign": True},
}


class Credentials:
    """Signs pictures. The private key is read once and shown nowhere.

    Args:
        chain: PEM file of certificates, the signer's before those of its issuers.
        key: PEM file of the signer's private key, without a password.

    Raises:
        ValueError: if a file cannot be read, or the two do not fit each other or what they are for, or the extra is
            missing.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        try:
            import c2pa  # late: few services sign
            import cryptography  # noqa: F401
        except ImportError:
            raise ValueError(
                "content credentials need packages that are not installed: uv sync --extra credentials"
            ) from None
        pair = _pair(chain, key)
        try:
            signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(*pair, None))
            context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS), signer)
            self._builder: Callable[[dict[str, Any]], Any] = partial(c2pa.Builder, context=context)
            self.signed(png(Image.new("RGB", (1, 1))), "a trial")
        except c2pa.C2paError as error:
            said = str(error).partition(": ")[2].partition("\n")[0]
            raise ValueError(
                f"the certificates '{chain}' cannot sign pictures ({said}): docs/serving.md says what they need"
            ) from None

    def signed(self, picture: bytes, model: str) -> bytes:
        """A picture with its credentials; they are checked before it is handed out.

        Args:
            picture: a finished PNG, JPEG or WebP.
            model: that made it: name@number, or the beginning of its weights' SHA-256.
        """
        name, _, number = model.rpartition("@")
        made = {
            "claim_generator_info": [{"name": "diffusion_lab", "version": version("diffusion_lab")}],
            # Of the picture that was handed in it is known that there was one. It is named, as c2pa.opened wants it.
            "ingredients": [{"label": "given", "title": "the picture before", "relationship": "parentOf"}],
            "assertions": [
                {
                    "label": "c2pa.actions.v2",
                    "data": {
                        "actions": [
                            {"action": "c2pa.opened", "parameters": {"ingredientIds": ["given"]}},
                            {
                                "action": "c2pa.edited",
                                "digitalSourceType": SYNTHETIC,
                                "softwareAgent": {"name": name or "diffusion_lab", "version": number},
                            },
                        ]
                    },
                }
            ],
        }
        kind, signed = Image.open(io.BytesIO(picture)).get_format_mimetype(), io.BytesIO()
        with self._builder(made) as builder:
            builder.sign(kind, io.BytesIO(picture), signed)
        return signed.getvalue()


def named(chain: str | None, key: str | None) -> Credentials | None:
    """Those that a configuration names by its two files; None where it names none.

    Raises:
        ValueError: as of `Credentials`, or if one of the two is missing.
    """
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise ValueError("content credentials are signed by two files: name both credentials.chain and credentials.key")
    return Credentials(Path(chain), Path(key))


def _pair(chain: Path, key: Path) -> tuple[str, bytes, bytes]:
    """The algorithm, the certificates and the private key as C2PA takes them, which fit each other.

    Raises:
        ValueError: if they do not, or there are none.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    given = [_content(path, what) for path, what in ((chain, "certificates"), (key, "private key"))]
    try:
        certificates = x509.load_pem_x509_certificates(given[0])
    except ValueError:
        raise ValueError(f"'{chain}' holds no certificates: name a PEM file of them, the signer's first") from None
    try:
        private = load_pem_private_key(given[1], password=None)
    except TypeError:
        raise ValueError(f"the private key '{key}' has a password: take it away with openssl pkey -in ...") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"'{key}' holds no private key: name a PEM file of one") from None
    if private.public_key() != certificates[0].public_key():
        raise ValueError(
            f"the private key '{key}' is not that of the first certificate of '{chain}': name two files that belong "
            "together, the signer's certificate before those of its issuers"
        )
    match private:
        case ec.EllipticCurvePrivateKey(curve=curve) if curve.name in CURVES:
            algorithm = CURVES[curve.name]
        case ed25519.Ed25519PrivateKey():
            algorithm = "ed25519"
        case rsa.RSAPrivateKey():
            algorithm = "ps256"
        case _:
            raise ValueError(f"C2PA knows no signatures by the private key '{key}': make one on the curve P-256")
    signer = certificates[0]
    log.info("pictures are signed for %s, until %s", signer.subject.rfc4514_string(), signer.not_valid_after_utc)
    return (
        algorithm,
        b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates),
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _content(path: Path, what: str) -> bytes:
    try:
        return files.content(path)
    except OSError as error:
        raise ValueError(f"the {what} '{path}' cannot be read ({error}): name a PEM file") from None
