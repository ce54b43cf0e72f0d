"""How 8-bit pictures become what a network looks at: each tool has its own way, which moves FID by percents.

A resizing has a name in words, which stands beside every number; which tool it equals is tested against that tool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_SIDE = 299  # pixels that Inception looks at
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # of what it was trained on


@dataclass(frozen=True)
class Resizing:
    """A way from uint8 pictures (N, 3, H, W) to what a network is shown, float32 (N, 3, side, side).

    Args:
        words: how, to stand beside each number: figures of two resizings do not compare.
        prepare: does it.
    """

    words: str
    prepare: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """What the network is shown of pictures."""
        return self.prepare(images)


def antialiased() -> Resizing:
    """Bilinear, blurred before it shrinks; for pictures below 299 pixels pytorch-fid's, but for its scale of grey."""
    return Resizing("bilinear to 299x299, antialiased", _antialiased)


def pytorch_fid() -> Resizing:
    """As pytorch-fid 0.3.0: bilinear without a blur, grey from 0 to 255 made -1 to 1."""
    return Resizing("as pytorch-fid: bilinear to 299x299, not antialiased, x / 127.5 - 1", _pytorch_fid)


def clean_fid() -> Resizing:
    """As clean-fid 0.1.35 in its mode "clean" (Parmar et al. 2022): Pillow's bicubic on floats, cut to 0..255."""
    return Resizing("as clean-fid: bicubic to 299x299, antialiased, cut to 0..255", _clean_fid)


def torch_fidelity() -> Resizing:
    """As torch-fidelity 0.4: bilinear without a blur, of pixels that lie at their upper left corner (TensorFlow 1).

    Enlarged pictures move by up to half a pixel of theirs.
    """
    words = "as torch-fidelity: bilinear to 299x299, not antialiased, from the corner (TensorFlow 1)"
    return Resizing(words, _torch_fidelity)


def dgm_eval(side: int = 224) -> Resizing:
    """As dgm-eval (Stein et al. 2023): Pillow's bicubic resize of 8-bit pictures, then ImageNet's mean and deviation.

    By Pillow itself, picture by picture on the CPU: it rounds after the rows and again after the columns.
    """
    words = f"as dgm-eval: bicubic to {side}x{side}, antialiased, 8-bit, ImageNet's mean and deviation"
    return Resizing(words, partial(_dgm_eval, side=side, scale=_IMAGENET))


def dgm_eval_clip(side: int = 224) -> Resizing:
    """As dgm-eval of CLIP: as `dgm_eval`, with the mean and deviation of what CLIP was trained on."""
    words = f"as dgm-eval: bicubic to {side}x{side}, antialiased, 8-bit, CLIP's mean and deviation"
    return Resizing(words, partial(_dgm_eval, side=side, scale=_CLIP))


def _antialiased(images: Tensor) -> Tensor:
    x = images.float()
    if x.shape[-2:] != (_SIDE, _SIDE):
        x = F.interpolate(x, (_SIDE, _SIDE), mode="bilinear", align_corners=False, antialias=True)
    return (x - 128) / 128


def _pytorch_fid(images: Tensor) -> Tensor:
    return 2 * F.interpolate(images.float() / 255, (_SIDE, _SIDE), mode="bilinear", align_corners=False) - 1


def _clean_fid(images: Tensor) -> Tensor:
    x = F.interpolate(images.float(), (_SIDE, _SIDE), mode="bicubic", align_corners=False, antialias=True)
    return (x.clamp(0, 255) - 128) / 128


def _torch_fidelity(images: Tensor) -> Tensor:
    (top, below, down), (left, right, across) = (_between(length, images.device) for length in images.shape[-2:])
    rows = images.float()[..., top, :], images.float()[..., below, :]  # (N, 3, 299, W) each
    upper, lower = (row[..., left] + (row[..., right] - row[..., left]) * across for row in rows)
    return (upper + (lower - upper) * down[:, None] - 128) / 128


def _between(length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of the result, i, the row before ``i length / 299``, the one after it, and how far it is between."""
    at = torch.arange(_SIDE, dtype=torch.float32, device=device) * (length / _SIDE)
    before = at.floor().long()
    return before, (before + 1).clamp(max=length - 1), at - before


def _dgm_eval(images: Tensor, side: int, scale: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    pictures = (Image.fromarray(picture) for picture in images.permute(0, 2, 3, 1).cpu().numpy())
    resized = [np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in pictures]
    x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device) / 255
    mean, deviation = torch.tensor(scale, device=x.device).view(2, 3, 1, 1)
    shown: Tensor = (x - mean) / deviation
    return shown
