"""Any folder of pictures, split by a hash of their names."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from diffusion_lab.data.source import SPLITS, split_number

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def picture_files(folder: Path) -> list[str]:
    """Sorted paths, with forward slashes, of the pictures below a folder; hidden files are skipped.

    Raises:
        OSError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to read pictures from.")
    found = (
        Path(parent, file).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder)
        for file in files
        if not file.startswith(".") and Path(file).suffix.lower() in SUFFIXES
    )
    return sorted(found)


class Folder:
    """Source of every png, jpg, webp and bmp below a folder.

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
        return (self.root / name).read_bytes()

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
        stats = ((name, (self.root / name).stat()) for split in self._splits for name in split)
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return hashlib.sha256(repr((self.seed, self.thresholds, facts)).encode()).hexdigest()

    @cached_property
    def _splits(self) -> Sequence[Sequence[str]]:
        splits: list[list[str]] = [[] for _ in SPLITS]
        for name in picture_files(self.root):
            splits[self._number(name)].append(name)
        if not any(splits):
            raise FileNotFoundError(
                f"There are no pictures (png, jpg, webp, bmp) in {self.root}; set data.root to a folder that has some, "
                "or run on the built-in faces with data=faces."
            )
        return splits

    def _number(self, name: str) -> int:
        u = int.from_bytes(hashlib.sha256(f"{self.seed}/{name}".encode()).digest()[:8]) / 2**64
        return next((i for i, threshold in enumerate(self.thresholds) if u < threshold), len(SPLITS) - 1)
