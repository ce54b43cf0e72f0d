"""Pictures decoded, cropped and resized once, kept as uint8 in a memory-mapped file.

A cache is a folder named after all that shaped it. It takes its name only when it is whole, and is never changed.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from diffusion_lab.data.crops import Crop, Wider
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.source import SPLITS, Source
from diffusion_lab.files import flush

VERSION = 2  # of decode, crop and resize: a change that alters a pixel must raise it
RESAMPLING = Image.Resampling.LANCZOS  # of PIL, which widens its support when shrinking and so does not alias
CORRUPT_PER_PICTURE = 1 / 1000  # more than this share of a source's pictures stops the build
_CHUNK = 64  # pictures that a thread takes at a time
_LISTED = 20  # corrupt pictures that an error names
_DATA, _META = "images.bin", "meta.json"


class Pictures:
    """A split of a cache: uint8 (N, 3, size, size) behind a memory map.

    Pickled as the path of its folder, so that workers of any start method share the file's pages.

    Args:
        folder: what :func:`build` returned.
    """

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        self.folder = folder
        self.digest: str = meta["digest"]
        self.names: Sequence[str] = meta["names"]
        self.replaced: Mapping[str, str] = meta["replaced"]  # corrupt picture -> the neighbour that stands in for it
        shape = (len(self.names), 3, meta["size"], meta["size"])
        flat = torch.from_file(str(folder / _DATA), shared=False, size=int(np.prod(shape)), dtype=torch.uint8)
        self.images = flat.view(shape)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.names)

    def __getitem__(self, indices: Tensor | list[int]) -> Tensor:
        """Copy of the pictures of those indices, uint8 (n, 3, size, size)."""
        return self.images.index_select(0, torch.as_tensor(indices, dtype=torch.int64))

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Pickle as the folder."""
        return type(self), (self.folder,)


def build(source: Source, split: str, crop: Crop | Wider, size: int, cache: Path) -> Path:
    """Make the cache of a split unless it is there, and return its folder.

    Safe to call from any number of processes: one builds, the others wait for it.

    Args:
        source: where the pictures come from.
        split: one of train, valid, test.
        crop: the square to keep.
        size: side to resize that square to, in pixels.
        cache: folder of all caches; made if need be.

    Raises:
        OSError: the source has no such data, too many pictures are corrupt, or the disk is too small.
        ValueError: the split holds no pictures, or the crop does not fit.
    """
    facts = (source.name, source.digest, split, crop, size, RESAMPLING.name, VERSION)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    label = re.sub(r"[^a-z0-9]+", "-", source.name.lower()).strip("-")
    folder = cache.absolute() / f"{label}-{split}-{crop.name}-{size}-{digest[:16]}"
    if _whole(folder):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if _whole(folder):  # another process built it while this one waited
            return folder
        if folder.exists():
            warnings.warn(f"the picture cache '{folder}' is damaged and is made anew", stacklevel=2)
            shutil.rmtree(folder)
        names = source.names(split)
        if not names:
            counts = ", ".join(f"{each} {len(source.names(each))}" for each in SPLITS)
            raise ValueError(
                f"The {split} split of {source.name} holds no pictures ({counts}); add some to it, or of a folder give "
                "it a larger share with data.shares."
            )
        _require_space(cache, len(names) * 3 * size * size)
        with _published(folder) as unfinished:
            allowed = int(CORRUPT_PER_PICTURE * sum(len(source.names(each)) for each in SPLITS))
            replaced = _decode_all(source, names, crop, size, unfinished / _DATA, allowed)
            meta = {"digest": digest, "size": size, "names": list(names), "replaced": replaced}
            text = json.dumps({**meta, "sha256": _sum(meta)}, indent=1)
            (unfinished / _META).write_text(text, encoding="utf-8")
    if replaced:
        warnings.warn(f"{len(replaced)} corrupt pictures of {source.name} were replaced: {replaced}.", stacklevel=2)
    return folder


def _whole(folder: Path) -> bool:
    """Whether a cache is there, with all of its bytes; whether they are the right ones would take a reading of it."""
    try:
        meta = json.loads((folder / _META).read_bytes())
        length = len(meta["names"]) * 3 * meta["size"] ** 2
        return bool(meta.get("sha256", "") in ("", _sum(meta)) and (folder / _DATA).stat().st_size == length)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sum(meta: Mapping[str, object]) -> str:
    """The sha256 of a cache's facts, without that itself."""
    facts = {key: value for key, value in meta.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _published(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name when the block ends well and vanishes when it does not."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed; the caller holds the lock
    unfinished.mkdir()
    try:
        yield unfinished
        for file in unfinished.iterdir():
            flush(file)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    flush(folder.parent)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed * 1.01 + 2**20 > free:
        raise OSError(
            f"The picture cache needs {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free; "
            "make room, or set paths.cache to another disk."
        )


def _decode_all(
    source: Source, names: Sequence[str], crop: Crop | Wider, size: int, file: Path, allowed: int
) -> Mapping[str, str]:
    """Fill a file with every picture; returns which corrupt picture was replaced by which neighbour."""
    corrupt: dict[int, str] = {}
    stride = 3 * size * size
    # Written, not mapped: where the disk fills up after all, a write fails and a page of a map kills the process.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)

    def decode_chunk(start: int) -> int:
        indices = range(start, min(start + _CHUNK, len(names)))
        images = np.zeros((len(indices), 3, size, size), np.uint8)
        for image, index in zip(images, indices, strict=True):
            try:
                picture = decode(source.read(names[index]))
            except OSError as error:
                corrupt[index] = f"{names[index]} ({error})"
                continue
            image[:] = np.asarray(crop(picture).resize((size, size), RESAMPLING)).transpose(2, 0, 1)
        _write(descriptor, images.tobytes(), start * stride, file)
        return len(indices)

    # Threads, not processes: PIL decodes and resizes outside the GIL, and nothing must be pickled or forked.
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with _progress() as progress:
            task = progress.add_task(f"Preparing {source.name} at {size} px", total=len(names))
            for done in pool.map(decode_chunk, range(0, len(names), _CHUNK)):
                progress.advance(task, done)
        if len(corrupt) > allowed:
            listed = [corrupt[index] for index in sorted(corrupt)]
            more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
            raise OSError(
                f"{len(listed)} pictures of {source.name} cannot be read, where {allowed} (0.1 %) may be; "
                f"repair or remove them: {'; '.join(listed[:_LISTED])}{more}."
            )
        neighbours = {index: _next_whole(index, corrupt, len(names)) for index in sorted(corrupt)}
        for index, neighbour in neighbours.items():
            _write(descriptor, os.pread(descriptor, stride, neighbour * stride), index * stride, file)
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(descriptor)
    return {names[index]: names[neighbour] for index, neighbour in neighbours.items()}


def _write(descriptor: int, data: bytes, offset: int, file: Path) -> None:
    try:
        written = os.pwrite(descriptor, data, offset)
    except OSError as error:
        raise OSError(f"The picture cache cannot be written to {file.parent.parent}: {error.strerror}.") from None
    if written != len(data):
        raise OSError(f"The disk of {file.parent.parent} is full; make room, or set paths.cache to another disk.")


def _next_whole(index: int, corrupt: Mapping[int, str], count: int) -> int:
    return next(each % count for each in range(index + 1, index + count + 1) if each % count not in corrupt)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On terminals only: a notebook's bar needs ipywidgets, and a log shows the codes that move a cursor.
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
