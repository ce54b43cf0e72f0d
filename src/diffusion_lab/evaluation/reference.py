"""Features of pictures on one device or many, and the real pictures' side of FID: computed once, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_lab.evaluation.unfinished import Unfinished
from diffusion_lab.files import replacing
from diffusion_lab.metrics import moments

KEPT = 20_000  # pictures whose features are kept, 164 MB of Inception's; of more their sums alone


class Extractor(Protocol):
    """What maps pictures to features, and what identifies it; `diffusion_lab.metrics.InceptionV3` is one."""

    name: str
    digest: str

    @property
    def resize(self) -> str:
        """How it resizes pictures, in words."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, d) of uint8 pictures (N, 3, H, W)."""


class PictureSet(Protocol):
    """A split of pictures, such as `diffusion_lab.data.cache.Pictures`."""

    images: Tensor
    digest: str

    def __len__(self) -> int:
        """Number of pictures."""

    def __getitem__(self, indices: Tensor | list[int]) -> Tensor:
        """Pictures of those indices, uint8 (n, 3, S, S)."""


class Features(NamedTuple):
    """Those of a set of pictures, the same on every rank; one of the two is None.

    Args:
        each: float32 (n, d), in the order of the pictures.
        sums: `diffusion_lab.metrics.moments` of them, where they are too many to be kept.
    """

    each: Tensor | None
    sums: Tensor | None


class Collected:
    """The features of a set of n pictures while they are made, some on each rank."""

    def __init__(self, n: int, fabric: Fabric, device: torch.device):
        self._n, self._fabric, self._device = n, fabric, device
        self._indices: list[Tensor] = []
        self._each: list[Tensor] = []
        self._sums: Tensor | None = None

    def add(self, indices: Tensor, features: Tensor) -> None:
        """Take features (B, d) of the pictures of those indices; ValueError if they are not finite."""
        if not features.isfinite().all():
            raise ValueError("The extractor returned features that are not finite; look at the pictures it was given.")
        features = features.detach().to(self._device)
        if self._n > KEPT:
            sums = moments(features)
            self._sums = sums if self._sums is None else self._sums + sums
        else:
            self._indices.append(indices.to(self._device))
            self._each.append(features.float())

    def joined(self) -> Features:
        """All ranks' features; every rank must ask."""
        held = self._each[0].shape[1] if self._each else 0 if self._sums is None else len(self._sums) - 1
        width = int(reduced(torch.tensor(held, device=self._device), self._fabric, "max"))  # a rank may have none
        if self._n > KEPT:
            nothing = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=self._device)
            return Features(None, reduced(nothing if self._sums is None else self._sums, self._fabric))
        each = torch.zeros(self._n, width, device=self._device)
        if self._each:
            each[torch.cat(self._indices)] = torch.cat(self._each)
        return Features(reduced(each, self._fabric), None)


def reduced(values: Tensor, fabric: Fabric, by: str = "sum") -> Tensor:
    """The sum of what the ranks hold, or their maximum."""
    total = fabric.all_reduce(values, reduce_op=by)
    assert isinstance(total, Tensor)
    return total


def pixels_sha256(pictures: PictureSet, n: int) -> str:
    """Of the first n pictures' pixels, the same on every machine that decodes them alike."""
    sha256 = hashlib.sha256()
    for start in range(0, n, 1024):
        sha256.update(pictures[list(range(start, min(start + 1024, n)))].numpy().tobytes())
    return sha256.hexdigest()


def dealt(n: int, batch_size: int, fabric: Fabric) -> Iterator[Tensor]:
    """Indices of this rank's pictures in batches: each of n on one rank only and none twice; a rank may have none."""
    mine = torch.arange(fabric.global_rank, n, fabric.world_size)
    return (mine[start : start + batch_size] for start in range(0, len(mine), batch_size))


def reference_features(
    extractor: Extractor,
    pictures: PictureSet,
    n: int,
    *,
    fabric: Fabric,
    device: torch.device,
    batch_size: int,
    cache: Path | None,
    unfinished: Unfinished,
    advance: Callable[[int], None],
    name: str = "real",
) -> Features:
    """Those of the first n real pictures: from the cache, or else computed by all ranks.

    Args:
        extractor: its name, digest and resize key the cache.
        pictures: the real ones; their digest keys the cache.
        n: how many.
        fabric: the devices.
        device: where the extractor lives.
        batch_size: pictures at a time.
        cache: folder of cached features; None computes them anew.
        unfinished: keeps what is computed until all of it is.
        advance: told how many pictures were dealt with.
        name: what they are kept by in `unfinished`.
    """
    key = repr((pictures.digest, n, extractor.name, extractor.digest, extractor.resize, "in order"))
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors" if cache else None
    kept: dict[str, Tensor] = fabric.broadcast(_read(file) if file and fabric.is_global_zero else {})
    if kept:
        advance(len(range(fabric.global_rank, n, fabric.world_size)))
        return Features(*(kept[name].to(device) if name in kept else None for name in ("features", "moments")))
    collected = Collected(n, fabric, device)

    def features_of(indices: Tensor) -> dict[str, Tensor]:
        return {"features": extractor(pictures[indices].to(device))}

    for indices in dealt(n, batch_size, fabric):
        collected.add(indices, unfinished.batch(name, indices, partial(features_of, indices))["features"])
        advance(len(indices))
    features = collected.joined()
    if file and fabric.is_global_zero:
        held = {"features": features.each, "moments": features.sums}
        with replacing(file) as fresh:
            save_file({name: x.cpu().contiguous() for name, x in held.items() if x is not None}, fresh)
        unfinished.finish(name)
    return features


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError):  # none yet, or one that a full disk cut short: it is only a cache
        return {}
