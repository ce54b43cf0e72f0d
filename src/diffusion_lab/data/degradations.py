"""What a person would hand in of a picture: its luma, its JPEG, a small copy of it enlarged, a coarse filling.

A degradation is a pure function of 8-bit pictures, their regions and a key each: what it draws follows from the key
alone. All of it happens in 8 bits, since what is handed in is a file.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

Degrade = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""(pictures uint8 (B, 3, H, W), region bool (B, 1, H, W), a key >= 0 each) -> what is given, shaped as the pictures.

Outside the region what is given is the picture."""


def unchanged(pixels: Tensor, region: Tensor, keys: Sequence[int]) -> Tensor:
    """The picture itself, whose region nobody will look at."""
    return pixels


def luma(pixels: Tensor, region: Tensor, keys: Sequence[int]) -> Tensor:
    """The region's brightness, three times: .299 red + .587 green + .114 blue (Rec. 601), rounded as Pillow does.

    Example:
        >>> red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
        >>> luma(red, torch.ones(1, 1, 1, 1, dtype=torch.bool), [0]).flatten().tolist()
        [76, 76, 76]
    """
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=pixels.device)  # of 65,536
    grey = (pixels.int() * weights[:, None, None]).sum(1, keepdim=True) + 0x8000 >> 16
    return torch.where(region, grey.to(torch.uint8), pixels)


def jpeg(pixels: Tensor, region: Tensor, keys: Sequence[int], quality: tuple[int, int] = (5, 30)) -> Tensor:
    """The region as a JPEG file keeps it, by Pillow, colours at half the resolution.

    Args:
        pixels: pictures.
        region: of them that is given so.
        keys: draw the qualities.
        quality: least and most, 1 to 95, drawn evenly; the two may be one.

    Raises:
        ValueError: for qualities that are none.
    """
    least, most = quality
    if not 1 <= least <= most <= 95:
        raise ValueError(f"JPEG's quality must be in 1..95, the least first, got {least} and {most}")
    kept = []
    for picture, key in zip(pixels.permute(0, 2, 3, 1).numpy(), keys, strict=True):
        drawn = int(torch.randint(least, most + 1, (), generator=drawing(key)))
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=drawn)
        kept.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.where(region, torch.stack(kept).permute(0, 3, 1, 2), pixels)


def reduced(pixels: Tensor, region: Tensor, keys: Sequence[int], factors: Sequence[int] = (4, 8)) -> Tensor:
    """The region of a copy so many times smaller (means over squares, in 8 bits), enlarged again (bicubic).

    Args:
        pixels: pictures.
        region: of them that is given so.
        keys: draw the factors.
        factors: drawn evenly; 1 leaves the picture as it is.

    Raises:
        ValueError: if the sides are no multiples of a factor.
    """
    chosen = torch.tensor([factors[int(torch.randint(len(factors), (), generator=drawing(key)))] for key in keys])
    given = pixels.clone()
    for factor in sorted(set(factors)):
        given[chosen == factor] = enlarged(shrunk(pixels[chosen == factor], factor), factor)
    return torch.where(region, given, pixels)


def noisy_reduced(
    pixels: Tensor,
    region: Tensor,
    keys: Sequence[int],
    factor: int = 4,
    noise: float = 0.0,
    blur: float = 0.0,
    shade: float = 0.0,
) -> Tensor:
    """What a coarser model would have filled the region with: its true content at `factor` times less, enlarged.

    A square that is known in part has the mean of its known pixels, as `cascade.reduced` has it. The coarser model's
    own fillings are no truth, though: noise, blur and a wrong shade, whose strengths are drawn for each picture, make
    the finer one distrust them (conditioning augmentation, Ho et al. 2021, "Cascaded Diffusion Models", section 4).

    Args:
        pixels: pictures.
        region: of them that is given so.
        keys: draw what is random.
        factor: 1 is the picture itself.
        noise: the largest deviation of white noise, in units of the range [-1, 1]; 0 is none.
        blur: the largest deviation of a Gaussian blur, in coarse pixels.
        shade: deviation of what is added to each colour of the whole region, in units of the range [-1, 1].

    Raises:
        ValueError: if the sides are no multiples of the factor.
    """
    filling = shrunk(pixels, factor).float()
    share = F.avg_pool2d((~region).float(), factor)
    known = F.avg_pool2d(torch.where(region, 0, pixels).float(), factor) / share.clamp(min=1 / factor**2)
    for row, key in zip(filling, keys, strict=True):
        generator = drawing(key ^ 2)
        deviation = blur * float(torch.rand((), generator=generator))
        if deviation > 0.1:  # less is none between pixels
            row[:] = blurred(row, deviation)
        row += 127.5 * shade * torch.randn(3, 1, 1, generator=generator)
    coarse = enlarged(torch.where(share == 0, filling, known).round().clamp(0, 255).to(torch.uint8), factor)
    if noise > 0:
        coarse = noised(coarse, keys, (0.0, 127.5 * noise))
    return torch.where(region, coarse, pixels)


def noisy(pixels: Tensor, region: Tensor, keys: Sequence[int], deviation: tuple[float, float] = (10.0, 50.0)) -> Tensor:
    """The region with Gaussian noise added, as a camera does in the dark.

    Args:
        pixels: pictures.
        region: of them that is given so.
        keys: draw deviation and noise.
        deviation: least and most, of 255, drawn evenly.
    """
    return torch.where(region, noised(pixels, keys, deviation), pixels)


def either(pixels: Tensor, region: Tensor, keys: Sequence[int], degradations: Sequence[Degrade]) -> Tensor:
    """One of several degradations, drawn by the key, where the region is the whole picture; the picture elsewhere.

    So one model learns several tasks (Palette, section 5.5): the region says whether something is to be painted anew,
    or a whole picture to be restored.

    Args:
        pixels: pictures.
        region: of each.
        keys: draw the degradation, and what it draws itself.
        degradations: drawn evenly.
    """
    whole = region.flatten(1).all(1).tolist()
    given = pixels.clone()
    for i in range(len(keys)):
        if whole[i]:
            degrade = degradations[int(torch.randint(len(degradations), (), generator=drawing(keys[i] ^ 1)))]
            given[i : i + 1] = degrade(pixels[i : i + 1], region[i : i + 1], keys[i : i + 1])
    return given


def drawing(key: int) -> Generator:
    """The randomness of a key."""
    return Generator().manual_seed(key)


def shrunk(pixels: Tensor, factor: int) -> Tensor:
    """Means over squares of `factor` pixels, uint8.

    Raises:
        ValueError: if the sides are no multiples of it.
    """
    if factor < 1 or pixels.shape[-1] % factor or pixels.shape[-2] % factor:
        raise ValueError(f"pictures of {pixels.shape[-1]}x{pixels.shape[-2]} cannot be made {factor} times smaller")
    return F.avg_pool2d(pixels.double(), factor).round().to(torch.uint8)


def enlarged(pixels: Tensor, factor: int) -> Tensor:
    """`factor` times larger, bicubic as Pillow has it, uint8."""
    large = F.interpolate(pixels.float(), scale_factor=factor, mode="bicubic", antialias=True)
    return large.round().clamp(0, 255).to(torch.uint8)


def blurred(picture: Tensor, deviation: float) -> Tensor:
    """A float picture (3, H, W) after a Gaussian of that deviation in pixels, 7 pixels wide."""
    import cv2

    return torch.from_numpy(cv2.GaussianBlur(picture.permute(1, 2, 0).numpy(), (7, 7), deviation)).permute(2, 0, 1)


def noised(pixels: Tensor, keys: Sequence[int], deviation: tuple[float, float]) -> Tensor:
    """Pictures with Gaussian noise of a deviation that is drawn evenly for each, uint8."""
    added = torch.empty(pixels.shape)
    for row, key in zip(added, keys, strict=True):
        generator = drawing(key)
        drawn = float(torch.empty(()).uniform_(*deviation, generator=generator))
        torch.randn(row.shape, generator=generator, out=row).mul_(drawn)
    return (pixels + added).round().clamp(0, 255).to(torch.uint8)
