"""CelebA as it is published: a folder or zip of aligned 178x218 JPEGs beside the official lists."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_lab import files
from diffusion_lab.data import download as downloads
from diffusion_lab.data.index import LISTS, PARTITION, Index, parse
from diffusion_lab.data.source import files_digest, split_number

IMAGES = "img_align_celeba"
ADVICE = (
    "get img_align_celeba.zip and list_eval_partition.txt from CelebA's site "
    "(https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html) and set data.root to their folder, "
    "or run on the built-in faces with data=faces"
)


def built_in_faces() -> Path:
    """Folder of the 2,000 synthetic faces that come with the package, in CelebA's format."""
    return Path(__file__).parent / "faces"


class CelebA:
    """Source of the pictures in a folder that looks like CelebA's.

    Args:
        root: holds ``img_align_celeba.zip`` or the folder ``img_align_celeba``, and ``list_eval_partition.txt``.
            ``list_attr_celeba.txt``, ``list_landmarks_align_celeba.txt`` and ``identity_CelebA.txt`` are read if there.
        name: what to call these data in reports.
        index: folder for the parsed lists, so that the next process need not parse them; None parses every time.
        download: fetch the official files into the root where they are missing.
        mirror: address under which the official files lie under their own names; None is the official Google Drive.
    """

    def __init__(
        self,
        root: Path | str,
        name: str = "CelebA",
        index: Path | str | None = None,
        download: bool = False,
        mirror: str | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = name
        self.index_folder = None if index is None else Path(index).expanduser()
        self.download = download
        self.mirror = mirror

    def prepare(self) -> None:
        """Download if that was asked for, then check that every listed picture is there.

        Raises:
            OSError: something is missing.
            ValueError: a list does not look like CelebA's.
        """
        if self.download:
            downloads.fetch(self.root, self.mirror)
        _ = self._index

    def names(self, split: str) -> Sequence[str]:
        """Ordered file names of a split, for example ``"000001.jpg"``."""
        names: list[str] = self._index.names[self._index.partition == split_number(split)].tolist()
        return names

    def read(self, name: str) -> bytes:
        """The JPEG of that name.

        Raises:
            OSError: it cannot be read.
        """
        member = self._members.get(name)
        if member is None:
            raise FileNotFoundError(f"There is no picture {name} in {self._images}.")
        if self._zip is None:
            return files.content(self._images / member)
        try:
            return self._zip.read(member)  # zipfile locks around the shared file handle
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last one: it is encrypted
            raise OSError(f"damaged in the zip file: {error}") from None

    def attributes(self, split: str) -> Tensor | None:
        """Bool (N, 40) of a split, True where the attribute holds; None without ``list_attr_celeba.txt``."""
        return self._of_split(self._index.attributes, split)

    @property
    def attribute_names(self) -> Sequence[str]:
        """Names of the attributes' columns; empty without ``list_attr_celeba.txt``."""
        names = self._index.attribute_names
        return () if names is None else tuple(names.tolist())

    def landmarks(self, split: str) -> Tensor | None:
        """int16 (N, 5, 2) of (x, y): left eye, right eye, nose, mouth corners; None without their list."""
        return self._of_split(self._index.landmarks, split)

    def identities(self, split: str) -> Tensor | None:
        """int32 (N,) of a split; None without ``identity_CelebA.txt``."""
        return self._of_split(self._index.identities, split)

    @cached_property
    def digest(self) -> str:
        """Hash of the names, sizes and times of the pictures' container and the partition.

        Raises:
            OSError: one of them is missing.
        """
        return files_digest([self._images, self._list(PARTITION)])

    def _of_split(self, rows: "NDArray[Any] | None", split: str) -> Tensor | None:
        return None if rows is None else torch.from_numpy(rows[self._index.partition == split_number(split)])

    def _list(self, name: str) -> Path:
        if not (self.root / name).is_file():
            raise FileNotFoundError(f"{self.root} has no {name}, which says how CelebA is split: {ADVICE}.")
        return self.root / name

    @cached_property
    def _images(self) -> Path:
        """The folder or zip that holds the pictures."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"There is no folder {self.root} to read CelebA from: {ADVICE}.")
        for candidate in (self.root / IMAGES, self.root / f"{IMAGES}.zip"):
            if candidate.exists():
                return candidate
        raise FileNotFoundError(f"{self.root} has neither {IMAGES}.zip nor a folder {IMAGES}: {ADVICE}.")

    @cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        """The open archive; None for a folder."""
        if self._images.is_dir():
            return None
        try:
            return zipfile.ZipFile(self._images)
        except zipfile.BadZipFile:
            raise OSError(f"{self._images} is not a whole zip file, perhaps half a download: {ADVICE}.") from None

    @cached_property
    def _members(self) -> Mapping[str, str]:
        """Where in the folder or zip the picture of a name lies."""
        if self._zip is None:
            return {file.name: file.name for file in self._images.iterdir()}
        return {member.rsplit("/", 1)[-1]: member for member in self._zip.namelist()}

    @cached_property
    def _index(self) -> Index:
        """The parsed lists; an index on disk is only written after every listed picture was found."""
        present = [self.root / name for name in LISTS if (self.root / name).is_file()]
        if self.index_folder is None:
            return self._checked_index()
        file = (
            self.index_folder / f"celeba-index-{files_digest([self._images, self._list(PARTITION), *present])[:16]}.npz"
        )
        try:
            return Index.load(file)
        except FileNotFoundError:
            index = self._checked_index()
            index.save(file)
            return index

    def _checked_index(self) -> Index:
        members = self._members
        self._list(PARTITION)
        index = parse(self.root)
        missing = [name for name in index.names.tolist() if name not in members]
        if missing:
            raise FileNotFoundError(
                f"{self._images} lacks {len(missing):,} of the {len(index.names):,} pictures that {PARTITION} lists, "
                f"the first is {missing[0]}: {ADVICE}."
            )
        return index
