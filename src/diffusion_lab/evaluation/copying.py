"""Copy and paste: what a method that had learned its training pictures by heart would do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lab.evaluation.methods import Method
from diffusion_lab.evaluation.reference import PictureSet, pixels_sha256
from diffusion_lab.pictures import to_float, to_uint8

_AT_A_TIME = 4_000_000  # values of training pictures, 32 MB as float64


def nearest_face(training: PictureSet, ring: float = 0.0) -> Method:
    """The hole of the training picture that agrees best with the known pixels: the least squared difference of them.

    The sums are of whole numbers and exact. Of several that agree as well it takes the first; where nothing is known
    they all do.

    Args:
        training: the pictures to choose from, as large as those that are completed. They are read some at a time.
        ring: width of the known border of the hole, as a fraction of the picture's side, over which the mean colour of
            the pasted picture is made that of the given one; 0 pastes it as it is.
    """
    if not 0 <= ring <= 1:
        raise ValueError(f"ring must be in [0, 1], a fraction of the picture's side, got {ring}.")

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        if image.shape[-1] != training.images.shape[-1]:
            sides = f"{training.images.shape[-1]} pixels and are pasted into pictures of {image.shape[-1]}"
            raise ValueError(f"The training pictures have {sides}: give both the same size.")
        # MPS has no float64, which the sums need.
        images, known = (x.cpu() if x.device.type == "mps" else x for x in (to_uint8(image), ~mask))
        pasted = to_float(training[best_match(images, known, training).cpu()]).to(image)
        border = _border(mask, round(ring * image.shape[-1]))
        difference = ((image - pasted) * border).sum(dim=(2, 3), keepdim=True)
        pasted = pasted + difference / border.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        return torch.where(mask, pasted.clamp(-1, 1), image)

    pictures = f"{len(training)} pictures {pixels_sha256(training, len(training))}"
    return Method("nearest face", fill, identity=f"of {pictures}, ring {ring:g}")


def best_match(images: Tensor, known: Tensor, training: PictureSet) -> Tensor:
    """Which of the training pictures agrees best with the known pixels of each picture: int64 (B,).

    ``sum_known (x - t)^2 = |x|^2 - 2 x . t + 1 . t^2`` in float64: two products of matrices for many pictures at once.

    Args:
        images: uint8 (B, 3, S, S).
        known: bool (B, 1, S, S).
        training: pictures of the same size.
    """
    of_known = (images.double() * known).flatten(1)  # (B, 3 S S)
    where = known.double().flatten(1)  # (B, S S)
    least = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
    best = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    step = max(1, _AT_A_TIME // images[0].numel())
    for start in range(0, len(training), step):
        some = training[list(range(start, min(start + step, len(training))))].to(images.device).double()
        apart = where @ some.square().sum(dim=1).flatten(1).T - 2 * of_known @ some.flatten(1).T  # (B, step)
        value, index = apart.min(dim=1)
        best = torch.where(value < least, index + start, best)
        least = torch.minimum(value, least)
    return best


def _border(mask: Tensor, width: int) -> Tensor:
    """The known pixels up to so many from the hole, float (B, 1, S, S)."""
    wide = F.max_pool2d(mask.float(), 2 * width + 1, stride=1, padding=width)
    return wide * ~mask
