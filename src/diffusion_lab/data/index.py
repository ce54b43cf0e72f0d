"""CelebA's text files as arrays, parsed once: every process would otherwise parse four files of 202,599 lines."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.files import replacing

PARTITION = "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"
LANDMARKS = "list_landmarks_align_celeba.txt"
IDENTITIES = "identity_CelebA.txt"
LISTS = (PARTITION, ATTRIBUTES, LANDMARKS, IDENTITIES)

T = TypeVar("T")


@dataclass(frozen=True)
class Index:
    """What CelebA's lists say of N pictures; all but the partition are None where the file is not there."""

    names: NDArray[np.str_]  # (N,) file names, in the partition's order
    partition: NDArray[np.int8]  # (N,) 0 = train, 1 = valid, 2 = test
    attribute_names: NDArray[np.str_] | None  # (A,)
    attributes: NDArray[np.bool_] | None  # (N, A)
    landmarks: NDArray[np.int16] | None  # (N, 5, 2) of (x, y) in pixels of the 178x218 picture
    identities: NDArray[np.int32] | None  # (N,)

    def save(self, file: Path) -> None:
        """Write to a ``.npz`` file in one step: a reader sees the whole of it or nothing."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with replacing(file) as fresh:
            np.savez(fresh, **{name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def load(cls, file: Path) -> "Index":
        """Read what :meth:`save` wrote.

        Raises:
            OSError: there is no such file.
        """
        with np.load(file) as arrays:
            return cls(**{field.name: arrays.get(field.name) for field in fields(cls)})


def parse(folder: Path) -> Index:
    """Read CelebA's lists in a folder; of the four only the partition must be there.

    Raises:
        OSError: the partition cannot be read.
        ValueError: a list does not look like CelebA's.
    """
    partition = dict(_rows(folder / PARTITION, 0, 1))
    names = list(partition)
    numbers = _array(folder / PARTITION, names, partition)[:, 0]
    if not np.isin(numbers, (0, 1, 2)).all():
        raise ValueError(f"{folder / PARTITION} must say 0, 1 or 2 (train, valid, test) after every name.")
    attribute_names = None
    if (folder / ATTRIBUTES).exists():
        with (folder / ATTRIBUTES).open() as lines:
            next(lines)
            attribute_names = np.array(next(lines).split())
    width = 0 if attribute_names is None else len(attribute_names)
    return Index(
        names=np.array(names),
        partition=numbers.astype(np.int8),
        attribute_names=attribute_names,
        attributes=_optional(folder / ATTRIBUTES, names, 2, width, lambda rows: rows > 0),
        landmarks=_optional(folder / LANDMARKS, names, 2, 10, lambda rows: rows.reshape(-1, 5, 2).astype(np.int16)),
        identities=_optional(folder / IDENTITIES, names, 0, 1, lambda rows: rows[:, 0].astype(np.int32)),
    )


def _optional(
    file: Path, names: Sequence[str], header: int, width: int, convert: Callable[[NDArray[np.int32]], T]
) -> T | None:
    if not file.exists():
        return None
    return convert(_array(file, names, dict(_rows(file, header, width))))


def _rows(file: Path, header: int, width: int) -> Iterator[tuple[str, list[str]]]:
    """(name, values) of each line behind the header."""
    with file.open() as lines:
        for number, line in enumerate(lines, 1):
            cells = line.split()
            if number <= header or not cells:
                continue
            if len(cells) != width + 1:
                raise ValueError(f"Line {number} of {file} is not a name and {width} numbers: {line.strip()[:60]!r}.")
            yield cells[0], cells[1:]


def _array(file: Path, names: Sequence[str], rows: dict[str, list[str]]) -> NDArray[np.int32]:
    try:
        return np.array([rows[name] for name in names]).astype(np.int32)
    except KeyError as missing:
        raise ValueError(f"{file} has no line for {missing}, which {PARTITION} lists.") from None
    except ValueError as error:
        raise ValueError(f"{file} holds something that is not a whole number: {error}.") from None
