"""Fetch CelebA's official files, each verified against the checksum that torchvision publishes for it."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from diffusion_lab.files import replacing


def official_files() -> Mapping[str, tuple[str, str]]:
    """File name -> (Google Drive id, MD5) of the official files that a source reads."""
    from torchvision.datasets import CelebA as Official  # slow to import, and only needed to download

    unused = {"list_bbox_celeba.txt"}
    return {name: (drive, md5) for drive, md5, name in Official.file_list if name not in unused}


def fetch(root: Path, mirror: str | None, files: Mapping[str, tuple[str, str]] | None = None) -> None:
    """Download the files that a folder lacks; a file that is there is left as it is.

    Args:
        root: folder to fill; made if need be.
        mirror: address under which the files lie under their own names; None is the official Google Drive.
        files: name -> (Google Drive id, MD5); None is :func:`official_files`.

    Raises:
        OSError: a file cannot be had, or is not the official one.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name, (drive, md5) in (official_files() if files is None else files).items():
        if not (root / name).exists():
            with replacing(root / name) as part:
                if mirror is None:
                    _from_drive(drive, part)
                else:
                    _from_address(f"{mirror.rstrip('/')}/{name}", part)
                _verify(part, md5)


def _from_address(address: str, file: Path) -> None:
    try:
        with urllib.request.urlopen(address) as response, file.open("wb") as target:
            while chunk := response.read(1 << 20):
                target.write(chunk)
    except (urllib.error.URLError, ValueError) as error:
        raise OSError(f"{address} cannot be downloaded ({error}); check data.mirror, or download it by hand.") from None


def _from_drive(drive: str, file: Path) -> None:
    from torchvision.datasets.utils import download_file_from_google_drive

    try:
        download_file_from_google_drive(drive, str(file.parent), file.name)
    except Exception as error:  # whatever the drive, its quota page or the missing gdown did, the way out is the same
        raise OSError(
            f"Google Drive did not give {file.name} ({error}); set data.mirror to an address that has CelebA's files, "
            "or put them into data.root by hand."
        ) from None


def _verify(file: Path, md5: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise OSError(
            f"The download of {file.name} is not CelebA's ({file.stat().st_size:,} bytes, MD5 {found}, not {md5}); "
            "it was removed: try again, or set data.mirror to another address."
        )
