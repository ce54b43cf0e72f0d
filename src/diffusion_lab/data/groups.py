"""``data=celeba`` and ``data=folder`` of the command line: data modules of a source that takes ``data.root``."""

from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.data.celeba import ADVICE, CelebA
from diffusion_lab.data.crops import Crop
from diffusion_lab.data.datamodule import FaceData
from diffusion_lab.data.degradations import Degrade
from diffusion_lab.data.folder import Folder
from diffusion_lab.data.jitter import Jitter
from diffusion_lab.data.labels import Labels
from diffusion_lab.data.masks import MaskFn


def celeba(
    root: Path | str | None,
    crop: Crop,
    image_size: int,
    batch_size: int,
    mask: MaskFn,
    seed: int,
    cache: Path | str,
    num_workers: int = 0,
    flip: bool = True,
    download: bool = False,
    mirror: str | None = None,
    labels: Labels | None = None,
    degrade: Degrade | None = None,
    window: int | None = None,
    jitter: Jitter | None = None,
) -> FaceData:
    """CelebA's faces; the arguments are those of :class:`CelebA` and :class:`FaceData`.

    Raises:
        ValueError: the root is None.
    """
    if root is None:
        raise ValueError(f"data=celeba needs data.root=<folder>: {ADVICE}.")
    source = CelebA(root, index=cache, download=download, mirror=mirror)
    return FaceData(
        source, crop, image_size, batch_size, mask, seed, cache, num_workers, flip, labels, degrade, window, jitter
    )


def folder(
    root: Path | str | None,
    crop: Crop,
    image_size: int,
    batch_size: int,
    mask: MaskFn,
    seed: int,
    cache: Path | str,
    num_workers: int = 0,
    flip: bool = True,
    name: str | None = None,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    split_seed: int = 0,
    labels: Labels | None = None,
    degrade: Degrade | None = None,
    window: int | None = None,
    jitter: Jitter | None = None,
) -> FaceData:
    """The pictures of any folder; the arguments are those of :class:`Folder` and :class:`FaceData`.

    Raises:
        ValueError: the root is None, or the shares cannot be shares.
    """
    if root is None:
        raise ValueError("data=folder needs data.root=<folder with pictures>; data=faces runs on the built-in faces.")
    source = Folder(root, name, shares, split_seed)
    return FaceData(
        source, crop, image_size, batch_size, mask, seed, cache, num_workers, flip, labels, degrade, window, jitter
    )
