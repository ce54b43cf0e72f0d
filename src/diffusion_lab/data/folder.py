"""Any folder of pictures, split by a hash of their names."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from diffusion_lab import files
from diffusion_lab.data.source import SPLITS, split_number

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".heic", ".heif", ".bmp", ".tif", ".tiff"}
KINDS = "png, jpg, webp, avif, heic, bmp, tif"


def picture_files(folder: Path) -> list[str]:
    """Sorted paths, with forward slashes, of the pictures below a folder; hidden files are skipped.

    What has a picture's name is listed, whether it can be read or not; a folder that cannot be listed is warned of.

    Raises:
        OSError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to read pictures from.")
    found = (
        Path(parent, file).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder, onerror=_skip)
        for file in names
        if not file.startswith(".") and Path(file).suffix.lower() in SUFFIXES
    )
    return sorted(found)


def _skip(error: OSError) -> None:
    warnings.warn(f"{error.filename} cannot be listed ({error.strerror}): its pictures are left out.", stacklevel=2)


def _facts(file: Path) -> tuple[int, int]:
    """Size and time of a file; of a link that leads nowhere its own."""
    try:
        stat = file.stat()
    except OSError:
        stat = file.lstat()
    return stat.st_size, stat.st_mtime_ns


class Folder:
    """Source of every png, jpg, webp, avif, heic, bmp and tif below a folder.

    A picture's split depends on its own path below the folder alone: adding or removing others does not move it.

    Args:
        root: the folder.
        name: what to call these data in reports; None is the folder's name.
        shares: of train, valid and test, in any unit.
        seed: another one splits otherwise.

    Raises:
        ValueError: the shares cannot be shares.
    """

    def __init__(
        self, root: Path | str, name: str | None = None, shares: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
    ) -> None:
        if len(shares) != len(SPLITS) or min(shares) < 0 or not sum(shares) > 0:
            raise ValueError(f"data.shares are three numbers >= 0 for {', '.join(SPLITS)}, got {list(shares)}.")
        self.root = Path(root).expanduser()
        self.name = self.root.absolute().name if name is None else name
        self.seed = seed
        self.thresholds = [each / sum(shares) for each in accumulate(shares)]

    def prepare(self) -> None:
        """Check that there are pictures.

        Raises:
            OSError: there is no such folder, or no picture in it.
        """
        _ = self._splits

    def names(self, split: str) -> Sequence[str]:
        """Sorted paths below the folder of a split's pictures."""
        return self._splits[split_number(split)]

    def read(self, name: str) -> bytes:
        """The file of that name.

        Raises:
            OSError: it cannot be read.
        """
        return files.content(self.root / name)

    @property
    def attribute_names(self) -> Sequence[str]:
        """Not known of a folder."""
        return ()

    def attributes(self, split: str) -> None:
        """Not known of a folder."""

    def landmarks(self, split: str) -> None:
        """Not known of a folder."""

    def identities(self, split: str) -> None:
        """Not known of a folder."""

    @cached_property
    def digest(self) -> str:
        """Hash of the split and of the path, size and time of every picture."""
        facts = [(name, *_facts(self.root / name)) for split in self._splits for name in split]
        return hashlib.sha256(repr((self.seed, self.thresholds, facts)).encode()).hexdigest()

    @cached_property
    def _splits(self) -> Sequence[Sequence[str]]:
        splits: list[list[str]] = [[] for _ in SPLITS]
        for name in picture_files(self.root):
            splits[self._number(name)].append(name)
        if not any(splits):
            raise FileNotFoundError(
                f"There are no pictures ({KINDS}) in {self.root}; set data.root to a folder that has some, "
                "or run on the built-in faces with data=faces."
            )
        return splits

    def _number(self, name: str) -> int:
        key = f"{self.seed}/{name}".encode(errors="surrogateescape")  # a name may be no UTF-8
        u = int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64
        return next((i for i, threshold in enumerate(self.thresholds) if u < threshold), len(SPLITS) - 1)
