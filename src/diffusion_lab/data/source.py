"""What a source of pictures is: names in three splits, and the bytes behind a name."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

SPLITS = ("train", "valid", "test")


class Source(Protocol):
    """Pictures by name, in the splits train, valid and test.

    Built cheaply and used from many threads: nothing is read before it is asked for.
    """

    @property
    def name(self) -> str:
        """What the data are called in every reported number, for example ``"CelebA"``."""

    @property
    def digest(self) -> str:
        """Identifies the content by names, sizes and times of the files, without reading them."""

    def prepare(self) -> None:
        """Download what is missing if that was asked for, and check what is there; called by one process.

        Raises:
            OSError: something is missing; the message says what was looked for, where, and how to go on.
        """

    def names(self, split: str) -> Sequence[str]:
        """Ordered names of the pictures of a split."""

    def read(self, name: str) -> bytes:
        """The encoded picture of that name."""

    @property
    def attribute_names(self) -> Sequence[str]:
        """Names of the attributes; empty where they are not known."""

    def attributes(self, split: str) -> Tensor | None:
        """Bool (N, attributes) of the pictures of a split; None where they are not known."""

    def landmarks(self, split: str) -> Tensor | None:
        """int16 (N, 5, 2) of (x, y) in stored pixels: eyes, nose, mouth corners; None where they are not known."""

    def identities(self, split: str) -> Tensor | None:
        """int32 (N,) number of the person; None where it is not known."""


def split_number(split: str) -> int:
    """Place of a split in :data:`SPLITS`.

    Raises:
        ValueError: there is no such split.

    Examples:
        >>> split_number("valid")
        1
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")
    return SPLITS.index(split)


def files_digest(files: Iterable[Path]) -> str:
    """Hash of the names, sizes and modification times of files, in hex."""
    facts = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
