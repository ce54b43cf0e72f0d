"""What is evaluated: a name, a way to fill holes, and how often it asks a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import to_float, to_uint8

Fill = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(image (B, 3, H, W) in [-1, 1], mask (B, 1, H, W), seeds int64 (B,)) -> completed picture, shaped as the image."""


@dataclass(frozen=True)
class Method:
    """A method under test.

    Args:
        name: how the report calls it.
        fill: completes pictures and leaves the known pixels alone.
        network_calls: network evaluations that one picture costs.
    """

    name: str
    fill: Fill
    network_calls: int = 0


def diffusion(
    name: str,
    inpainter: Inpainter,
    sampler: Sampler | None = None,
    attributes: Mapping[str, float] | None = None,
) -> Method:
    """An inpainter as a method; None samples as its recipe says, and says nothing of what the faces shall be like."""
    told = inpainter.attributes(attributes) if attributes else None

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        wanted = None if told is None else told.to(image.device).expand(len(image), -1)
        completed: Tensor = inpainter(image, mask, seeds=seeds, sampler=sampler, attributes=wanted)
        return completed

    return Method(name, fill, inpainter.network_calls(sampler))


def mean_fill() -> Method:
    """The mean colour of the known pixels, mid-grey where none is known: what any method must beat."""
    return Method("mean fill", _mean)


def telea(radius: float = 0.1) -> Method:
    """Telea's fast marching (2004), as OpenCV has it; the radius is a fraction of the picture's side."""

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        import cv2  # late: nobody who wants no baseline waits for it

        return _by_opencv(cv2.INPAINT_TELEA, radius, image, mask)

    return Method("Telea", fill)


def navier_stokes(radius: float = 0.1) -> Method:
    """Bertalmio's Navier-Stokes inpainting (2001), as OpenCV has it; the radius is a fraction of the picture's side."""

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        import cv2

        return _by_opencv(cv2.INPAINT_NS, radius, image, mask)

    return Method("Navier-Stokes", fill)


def _mean(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
    known = ~mask
    count = known.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return torch.where(mask, (image * known).sum(dim=(2, 3), keepdim=True) / count, image)


def _by_opencv(algorithm: int, radius: float, image: Tensor, mask: Tensor) -> Tensor:
    import cv2

    pictures = to_uint8(image.masked_fill(mask, 0.0)).permute(0, 2, 3, 1).cpu().numpy()
    holes = mask[:, 0].to(torch.uint8).cpu().numpy()
    pixels = max(1.0, radius * image.shape[-1])
    filled = [cv2.inpaint(x, hole, pixels, algorithm) for x, hole in zip(pictures, holes, strict=True)]
    completed = to_float(torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2)).to(image)
    return torch.where(mask, completed, image)
