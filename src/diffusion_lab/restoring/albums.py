"""Many pictures: which there are, each with its mask, and where it goes."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.data.folder import SUFFIXES, picture_files

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """What is to be made.

    Args:
        name: path below the folder that it comes from, with forward slashes.
        image: its file.
        masks: files that may be its mask: one, if all is well; None where nobody asked for masks.
        output: file that it goes to; with several completions, others beside it.
    """

    name: str
    image: Path
    masks: tuple[Path, ...] | None
    output: Path

    @property
    def mask(self) -> Path | None:
        """The file of its mask; None where nobody asked for masks.

        Raises:
            ValueError: if there is none, or more than one.
        """
        if self.masks is None:
            return None
        if len(self.masks) != 1:
            said = ", ".join(map(str, self.masks)) or "none"
            raise ValueError(f"of masks it must have one of its name, whatever the suffix, and has {said}")
        return self.masks[0]

    def facts(self) -> Facts:
        """By which it is known again: its name, and size and time of the files that it is made of."""
        stats = [path.stat() for path in (self.image, *(self.masks or ())) if path.exists()]
        return {"image": self.name, "of": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}


def listed(image: Path, mask: Path | None, output: Path) -> list[Picture]:
    """The pictures that a folder or a pattern names, each with its mask, and where it goes: ``.png``, of the same name.

    Args:
        image: a folder, all of whose pictures are meant, those in folders below too; or a pattern such as
            ``photos/*.jpg``, in which ``**`` goes any number of folders down.
        mask: a file for all of them; or a folder or a pattern, of which each has the one with its own name, whatever
            their suffixes; None for none.
        output: a folder; what lies there is never an image.

    Raises:
        FileNotFoundError: if there are no pictures, or no masks.
        ValueError: if two pictures would become the same file, or one would be overwritten.
    """
    aside = output.resolve()
    images = [
        (name, path)
        for name, path in _found(image)
        if aside not in path.resolve().parents or aside == _root(image).resolve()
    ]
    if not images:
        raise FileNotFoundError(f"image={image} names no pictures: name a folder or a pattern that has some")
    every: tuple[Path, ...] | None = None
    named: dict[str, list[Path]] = {}
    if mask is not None and (mask.is_dir() or is_pattern(mask)):
        for name, path in _found(mask):
            named.setdefault(_stem(name), []).append(path)
        if not named:
            raise FileNotFoundError(f"mask={mask} names no masks: name a folder or a pattern that has some")
    elif mask is not None:
        every = (mask,)
    pictures = []
    taken: dict[Path, str] = {}
    read = {path.resolve() for _, path in images} | {path.resolve() for paths in named.values() for path in paths}
    for name, path in images:
        goes = output / f"{_stem(name)}.png"
        if goes in taken:
            raise ValueError(f"{taken[goes]} and {name} would both become {goes}: give one of them another name")
        if goes.resolve() in read:
            raise ValueError(f"{goes} would be overwritten, and is one of the pictures or masks: name another output")
        taken[goes] = name
        masks = None if mask is None else every or tuple(named.get(_stem(name), ()))
        pictures.append(Picture(name, path, masks, goes))
    return pictures


def is_pattern(path: Path) -> bool:
    """Whether a path stands for others; one with brackets alone is a name, of a file that may be missing."""
    return not path.exists() and bool({"*", "?"} & set(str(path)))


def _root(pattern: Path) -> Path:
    """The folder below which names count: up to the first part of a pattern that is one."""
    if pattern.is_dir():
        return pattern
    plain = [*Path(pattern).parts]
    first = next(number for number, part in enumerate(plain) if glob.has_magic(part))
    return Path(*plain[:first])


def _found(place: Path) -> list[tuple[str, Path]]:
    root = _root(place)
    if place.is_dir():
        names = picture_files(place)
    else:
        found = sorted(glob.glob(str(place), recursive=True))
        names = [Path(each).relative_to(root).as_posix() for each in found if not Path(each).is_dir()]
        names = [name for name in names if Path(name).suffix.lower() in {*SUFFIXES, ".gif"}]
    return [(name, root / name) for name in names]


def _stem(name: str) -> str:
    return str(Path(name).with_suffix("").as_posix())
