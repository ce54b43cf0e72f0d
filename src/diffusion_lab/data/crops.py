"""Named crops: the square of a picture that a model sees. The name goes with every reported number.

Published CelebA-64 figures use at least three different crops and cannot be compared across them.
"""

from dataclasses import dataclass

import numpy as np
from PIL.Image import Image, fromarray

CELEBA_WIDTH, CELEBA_HEIGHT = 178, 218


@dataclass(frozen=True)
class Crop:
    """A square cut out of a picture.

    Args:
        name: how reports call it.
        side: side of the square in pixels; None is the largest that fits.
        corner: (left, top) in pixels; None centres the square, rounding towards the top left.
        eyes: (x, y) of the left and the right eye, as one looks at the picture, in pixels of the square; None if it
            says nothing of where a face lies. CelebA's are 40 pixels apart, and the built-in faces' 45.5 (`faces.find`,
            the mean of 200): these lie between, 6 % from both.
    """

    name: str
    side: int | None = None
    corner: tuple[int, int] | None = None
    eyes: tuple[tuple[float, float], tuple[float, float]] | None = None

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the square in a picture of that size.

        Raises:
            ValueError: the picture is too small.

        Examples:
            >>> center148().box(178, 218)
            (15, 35, 163, 183)
        """
        side = min(width, height) if self.side is None else self.side
        left, top = ((width - side) // 2, (height - side) // 2) if self.corner is None else self.corner
        if left < 0 or top < 0 or left + side > width or top + side > height:
            raise ValueError(
                f"The crop {self.name} does not fit into a picture of {width}x{height} pixels; use "
                "data.crop._target_=diffusion_lab.data.crops.full, or larger pictures."
            )
        return left, top, left + side, top + side

    def seen(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of what a model of this crop is best shown of a picture of any size.

        In an aligned picture, CelebA's 178x218 or an enlargement of it, the face lies where the crop expects it; of
        others nothing is known, and the largest square in the centre is taken.

        Examples:
            >>> center148().seen(356, 436)
            (30, 70, 326, 366)
            >>> center148().seen(400, 300)
            (50, 0, 350, 300)
        """
        if width < CELEBA_WIDTH or abs(width * CELEBA_HEIGHT - height * CELEBA_WIDTH) >= CELEBA_HEIGHT:
            return full().box(width, height)
        left, top, right, bottom = (
            round(edge * width / CELEBA_WIDTH) for edge in self.box(CELEBA_WIDTH, CELEBA_HEIGHT)
        )
        return left, top, right, bottom

    def __call__(self, picture: Image) -> Image:
        """The square of that picture.

        Raises:
            ValueError: the picture is too small.
        """
        return picture.crop(self.box(*picture.size))


@dataclass(frozen=True)
class Wider:
    """A crop and what lies around it, as far as so many of its pixels; beyond the picture's edges they are repeated.

    Args:
        crop: in the middle.
        rim: on each side, in pixels of the picture.
    """

    crop: Crop
    rim: int

    @property
    def name(self) -> str:
        """As the crop is called, and how much wider this is."""
        return f"{self.crop.name}-rim{self.rim}"

    def __call__(self, picture: Image) -> Image:
        """The square of that picture.

        Raises:
            ValueError: the picture is too small for the crop.
        """
        left, top, right, bottom = self.crop.box(*picture.size)
        rows = np.arange(top - self.rim, bottom + self.rim).clip(0, picture.height - 1)
        columns = np.arange(left - self.rim, right + self.rim).clip(0, picture.width - 1)
        return fromarray(np.asarray(picture)[rows][:, columns])


def center140() -> Crop:
    """The 140 pixel square in the centre: tight on CelebA's faces; Soft Truncation and score_sde."""
    return Crop("center140", 140, eyes=((48.5, 73.4), (91.5, 73.4)))


def center148() -> Crop:
    """The 148 pixel square in the centre: the usual one of CelebA's generative models."""
    return Crop("center148", 148, eyes=((52.5, 77.4), (95.5, 77.4)))


def ddim128() -> Crop:
    """DDIM's 128 pixel square around (x, y) = (89, 121), which is the face in CelebA's 178x218."""
    return Crop("ddim128", 128, (89 - 64, 121 - 64), eyes=((42.5, 55.4), (85.5, 55.4)))


def full() -> Crop:
    """The largest square in the centre of a picture of any size."""
    return Crop("full")


def named(name: str) -> Crop:
    """The crop that a model's recipe names; `full` for one that another project cut by.

    Example:
        >>> named("center140").side
        140
    """
    return {crop.name: crop for crop in (center140(), center148(), ddim128())}.get(name, full())
