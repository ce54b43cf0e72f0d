"""The real pictures' side of FID: computed once, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_lab.files import replacing
from diffusion_lab.metrics import FrechetDistance


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


def add_reference(
    fid: FrechetDistance,
    extractor: Extractor,
    pictures: PictureSet,
    n: int,
    *,
    fabric: Fabric,
    device: torch.device,
    batch_size: int,
    cache: Path | None,
    advance: Callable[[int], None],
) -> None:
    """Add the first n real pictures to a Frechet distance: from the cache, or else computed by all ranks.

    Args:
        fid: what they are added to; over all ranks together every picture counts once.
        extractor: the one of `fid`; its name, digest and resize key the cache.
        pictures: the real ones; their digest keys the cache.
        n: how many.
        fabric: the devices.
        device: where the extractor lives.
        batch_size: pictures at a time.
        cache: folder of cached features; None computes them anew.
        advance: told how many pictures were dealt with.
    """
    key = repr((pictures.digest, n, extractor.name, extractor.digest, extractor.resize))
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors" if cache else None
    kept = _read(file) if file and fabric.is_global_zero else {}
    if fabric.broadcast(bool(kept)):
        if "features" in kept:
            fid.add_features(kept["features"].to(device), real=True)
        elif "moments" in kept:
            fid.add_moments(kept["moments"].to(device), real=True)
        advance(len(range(fabric.global_rank, n, fabric.world_size)))
        return
    mine = torch.arange(fabric.global_rank, n, fabric.world_size)
    for start in range(0, len(mine), batch_size):
        indices = mine[start : start + batch_size]
        fid.update(pictures[indices].to(device), real=True)
        advance(len(indices))
    with fid.sync_context():
        features, sums = fid.side(real=True)
    if file and fabric.is_global_zero:
        held = {"features": features.float()} if features is not None else {"moments": sums} if sums is not None else {}
        with replacing(file) as fresh:
            save_file({name: tensor.cpu().contiguous() for name, tensor in held.items()}, fresh)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError):  # none yet, or one that a full disk cut short: it is only a cache
        return {}
