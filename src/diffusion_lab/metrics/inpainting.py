"""What separates a completed picture from the true one, picture by picture.

All measures are called alike, ``measure(images, target, mask) -> (B,)``, on the 8-bit pictures that a person would
see, and return one value per picture, so that rows of any grouping (by mask area, by attribute) can be made of them.
`PictureMean` makes a torchmetrics Metric of any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]


def psnr(images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of the whole picture in dB, float64 (B,): ``10 log10(255^2 / MSE)``.

    Infinite for equal pictures.

    Args:
        images: uint8 (B, 3, H, W).
        target: uint8 (B, 3, H, W), the true pictures.
        mask: not looked at.
    """
    mse = (_exact(images) - _exact(target)).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / mse)


def ssim(images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity of Wang et al. (2004), float64 (B,), at most 1, reached by equal pictures.

    Gaussian window of 11 pixels and sigma 1.5, K = (0.01, 0.03), the mean over channels and over the windows that lie
    inside the picture, as scikit-image and Wang's own code have it. torchmetrics averages over mirrored borders as
    well, which is half of all windows at 32 pixels.

    Args:
        images: uint8 (B, 3, H, W), at least 11 pixels on each side.
        target: uint8 (B, 3, H, W), the true pictures.
        mask: not looked at.
    """
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"SSIM's window needs pictures of at least 11 pixels, got {tuple(images.shape[-2:])}.")
    x, y = _exact(images), _exact(target)
    window = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=x.dtype, device=x.device) / 1.5).square())
    window = window / window.sum()

    def local(z: Tensor) -> Tensor:
        kernel = window.expand(z.shape[1], 1, 1, -1)
        z = F.conv2d(z, kernel, groups=z.shape[1])  # (B, 3, H, W - 10)
        return F.conv2d(z, kernel.mT, groups=z.shape[1])  # (B, 3, H - 10, W - 10)

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def l1_hole(images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference inside the hole, float64 (B,), with pictures in [0, 1]; 0 where there is no hole.

    Args:
        images: uint8 (B, 3, H, W).
        target: uint8 (B, 3, H, W), the true pictures.
        mask: bool (B, 1, H, W), True in the hole.
    """
    difference = ((_exact(images) - _exact(target)).abs() * mask).sum(dim=(1, 2, 3)) / 255
    return difference / (images.shape[1] * mask.sum(dim=(1, 2, 3)).clamp(min=1))


def seam(images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """How hard the hole's border jumps, over how hard it does in truth: float64 (B,), right at 1.

    The mean absolute step of the luma between neighbours of which one lies in the hole. Above 1: a visible seam; below:
    smeared over. Half a grey level is the least that a step counts, so that it is 1 too where the hole has no border.

    Args:
        images: uint8 (B, 3, H, W).
        target: uint8 (B, 3, H, W), the true pictures.
        mask: bool (B, 1, H, W), True in the hole.
    """
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=images.device).view(1, 3, 1, 1)
    made, true = ((_exact(x) * luma).sum(dim=1, keepdim=True) for x in (images, target))
    steps, pairs = made.new_zeros(2, len(made)), made.new_zeros(len(made))
    for dim in (-2, -1):
        border = mask.int().diff(dim=dim) != 0  # (B, 1, ...) True between a known pixel and the hole
        steps += torch.stack([(x.diff(dim=dim).abs() * border).sum(dim=(1, 2, 3)) for x in (made, true)])
        pairs += border.sum(dim=(1, 2, 3))
    made_step, true_step = (steps / pairs.clamp(min=1)).clamp(min=0.5).unbind()
    return made_step / true_step


def hole_crop(images: Tensor, mask: Tensor, side: int = 299) -> Tensor:
    """The smallest square around each hole, cut out and enlarged bilinearly: uint8 (B, 3, side, side).

    The whole picture where there is no hole.

    Args:
        images: uint8 (B, 3, S, S).
        mask: bool (B, 1, S, S), True in the hole.
        side: in pixels; that of Inception's own pictures spares it another resizing.
    """
    crops = []
    for image, hole in zip(images, mask[:, 0], strict=True):
        rows, columns = (hole.any(dim=dim).nonzero().flatten().tolist() or [0, len(hole) - 1] for dim in (1, 0))
        width = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        top, left = (min(max((ends[0] + ends[-1] + 1 - width) // 2, 0), len(hole) - width) for ends in (rows, columns))
        cut = image[None, :, top : top + width, left : left + width].float()
        crops.append(F.interpolate(cut, (side, side), mode="bilinear", antialias=True))
    return torch.cat(crops).round().to(torch.uint8)  # means, so that none is below 0 or above 255


def colourfulness(images: Tensor, target: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """How colourful a picture is, float64 (B,); 0 is grey, 15 slightly, 45 quite, 82 highly colourful.

    Hasler and Suesstrunk (2003): with rg = R - G and yb = (R + G) / 2 - B over the picture's pixels, the length of
    their deviations plus .3 times the length of their means.

    Args:
        images: uint8 (B, 3, H, W).
        target: not looked at.
        mask: not looked at.
    """
    red, green, blue = _exact(images).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1).flatten(2)  # (B, 2, HW)
    spread: Tensor = torch.linalg.vector_norm(opponents.std(2, correction=0), dim=1)
    mean: Tensor = torch.linalg.vector_norm(opponents.mean(2), dim=1)
    return spread + 0.3 * mean


def true_colourfulness(images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """`colourfulness` of the true pictures, to stand beside the method's."""
    return colourfulness(target)


class PictureMean(Metric):
    """The mean of a measure over all pictures, on any number of devices: float64 ().

    >>> metric = PictureMean(psnr)
    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> metric.update(images=images, target=images + 1, mask=torch.ones(2, 1, 8, 8, dtype=torch.bool))
    >>> round(metric.compute().item(), 2)
    48.13

    Args:
        measure: ``(images, target, mask) -> (B,)``, such as `psnr` or an `LPIPS`.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, measure: Measure, **kwargs: Any):
        super().__init__(**kwargs)
        self.measure = measure
        # MetricCollection takes metrics for the same whose states have the same names and, once, the same values.
        self._state = f"sum_and_count_{next(_number)}"
        self.add_state(self._state, torch.zeros(2), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, images: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add pictures: uint8 (B, 3, H, W) twice, and bool (B, 1, H, W), True in the hole."""
        values = self.measure(images, target, mask).double()
        held: Tensor = getattr(self, self._state)
        setattr(self, self._state, held + held.new_tensor([values.sum(), len(values)]))

    def compute(self) -> Tensor:
        """The mean over all pictures of all devices; NaN if there were none."""
        held: Tensor = getattr(self, self._state)
        return held[0] / held[1]


_number = count()


def _exact(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        raise ValueError(f"This measure needs 8-bit pictures, got {images.dtype}.")
    return images.double()
