"""What any method has to beat: filling, sharpening and smoothing without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffusion_lab.evaluation.methods import Method
from diffusion_lab.pictures import to_float, to_uint8


def mean_fill() -> Method:
    """The mean colour of the known pixels, mid-grey where none is known: what any method must beat."""
    return Method("mean fill", _mean)


def telea(radius: float = 0.1) -> Method:
    """Telea's fast marching (2004), as OpenCV has it; the radius is a fraction of the picture's side."""

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        import cv2  # late: nobody who wants no baseline waits for it

        return _by_opencv(cv2.INPAINT_TELEA, radius, image, mask)

    return Method("Telea", fill, identity=f"radius {radius:g}")


def navier_stokes(radius: float = 0.1) -> Method:
    """Bertalmio's Navier-Stokes inpainting (2001), as OpenCV has it; the radius is a fraction of the picture's side."""

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        import cv2

        return _by_opencv(cv2.INPAINT_NS, radius, image, mask)

    return Method("Navier-Stokes", fill, identity=f"radius {radius:g}")


def _mean(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
    known = ~mask
    count = known.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return torch.where(mask, (image * known).sum(dim=(2, 3), keepdim=True) / count, image)


def _by_opencv(algorithm: int, radius: float, image: Tensor, mask: Tensor) -> Tensor:
    import cv2

    holes = iter(mask[:, 0].to(torch.uint8).cpu().numpy())
    pixels = max(1.0, radius * image.shape[-1])
    return _each(lambda x: cv2.inpaint(x, next(holes), pixels, algorithm), image.masked_fill(mask, 0.0), mask, image)


def as_it_is(name: str = "as given") -> Method:
    """What is given, untouched: the grey picture, the JPEG file, the bicubic enlargement, the coarse filling."""
    return Method(name, lambda image, mask, seeds: image)


def edge_repeat() -> Method:
    """The pixels at the known part's border, repeated outwards; for holes at the sides."""
    return Method("edge repeat", lambda image, mask, seeds: _continued(image, mask, "edge"))


def mirror() -> Method:
    """The known part, mirrored outwards; for holes at the sides."""
    return Method("mirror", lambda image, mask, seeds: _continued(image, mask, "symmetric"))


def bilateral(diameter: int = 5, colour: float = 30.0, space: float = 2.0) -> Method:
    """Tomasi and Manduchi's bilateral filter (1998), as OpenCV has it.

    Args:
        diameter: of the neighbourhood, in pixels.
        colour: deviation over which colours count as alike, of 255.
        space: deviation over which pixels count as near.
    """

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        import cv2

        return _each(lambda x: cv2.bilateralFilter(x, diameter, colour, space), image, mask, image)

    return Method("bilateral", fill, identity=f"diameter {diameter}, colour {colour:g}, space {space:g}")


def non_local_means(strength: float = 6.0) -> Method:
    """Non-local means in colour (Buades et al. 2005), as OpenCV has it; the strength is of 255."""

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        import cv2

        return _each(lambda x: cv2.fastNlMeansDenoisingColored(x, None, strength, strength), image, mask, image)

    return Method("non-local means", fill, identity=f"strength {strength:g}")


def lanczos(factors: Sequence[int] = (4, 8)) -> Method:
    """The small copy that a bicubic enlargement was made of, enlarged by Lanczos' kernel instead.

    The copy is found by least squares, for each factor; the one that explains the given picture best is taken.

    Args:
        factors: by which the pictures may have been enlarged.
    """

    def enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        given = torch.from_numpy(picture).permute(2, 0, 1).double()
        best = min((_bicubic_source(given, factor) for factor in factors), key=lambda found: found[1])[0]
        small = Image.fromarray(best.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
        return np.asarray(small.resize(picture.shape[1::-1], Image.Resampling.LANCZOS))

    identity = f"factors {', '.join(str(factor) for factor in factors)}"
    return Method("Lanczos", lambda image, mask, seeds: _each(enlarge, image, mask, image), identity=identity)


def _bicubic_source(given: Tensor, factor: int) -> tuple[Tensor, float]:
    """The picture `factor` times smaller whose enlargement is nearest to ``(3, H, W)``, and how far that is."""
    up_rows, up_columns = (_bicubic(side // factor, factor) for side in given.shape[-2:])
    small = torch.linalg.pinv(up_rows) @ given @ torch.linalg.pinv(up_columns).T
    return small, float((up_rows @ small @ up_columns.T - given).square().mean())


def _bicubic(side: int, factor: int) -> Tensor:
    """``(side * factor, side)`` float64: what bicubic enlargement does to a column."""
    impulses = torch.eye(side)[None, None]
    return F.interpolate(impulses, size=(side * factor, side), mode="bicubic", antialias=True)[0, 0].double()


def _continued(image: Tensor, mask: Tensor, mode: Any) -> Tensor:
    """What is known, a rectangle, padded in NumPy's way until it fills the picture."""
    completed = image.clone()
    for filled, x, hole in zip(completed, image, mask[:, 0], strict=True):
        rows, columns = (~hole).any(1).nonzero(), (~hole).any(0).nonzero()
        if len(rows):
            (top, bottom), (left, right) = ((int(k[0]), int(k[-1]) + 1) for k in (rows, columns))
            around = (0, 0), (top, hole.shape[0] - bottom), (left, hole.shape[1] - right)
            filled[:] = torch.from_numpy(np.pad(x[:, top:bottom, left:right].cpu().numpy(), around, mode)).to(x)
    return torch.where(mask, completed, image)


def _each(change: Callable[[NDArray[np.uint8]], NDArray[Any]], image: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """Each picture changed as 8-bit pixels ``(H, W, 3)``, inside the mask alone."""
    changed = np.stack([change(x) for x in to_uint8(image).permute(0, 2, 3, 1).cpu().numpy()])
    return torch.where(mask, to_float(torch.from_numpy(changed).permute(0, 3, 1, 2)).to(known), known)
