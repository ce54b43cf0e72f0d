"""Masks over the eyes, the nose and the mouth of aligned faces."""

from collections.abc import Sequence

from torch import Generator, Tensor

from diffusion_lab.data.crops import CELEBA_HEIGHT, CELEBA_WIDTH, Crop
from diffusion_lab.data.masks.drawing import sheet, uniforms

# (x, y, half width, half height) of ellipses in pixels of CelebA's aligned 178x218 pictures
EYES = (89.0, 111.0, 44.0, 15.0)
NOSE = (89.0, 130.0, 18.0, 20.0)
MOUTH = (89.0, 153.0, 31.0, 15.0)


class Landmarks:
    """A mask function that covers one or more features of a face aligned as CelebA's are.

    Args:
        crop: the crop of the pictures, which moves the features.
        features: ellipses to choose from, as (x, y, half width, half height) in pixels of the 178x218 picture.
        chance: of each feature to be covered; where none was, one of them is.

    Raises:
        ValueError: there are no features, or the crop does not fit into 178x218.
    """

    def __init__(
        self,
        crop: Crop,
        features: Sequence[tuple[float, float, float, float]] = (EYES, NOSE, MOUTH),
        chance: float = 0.5,
    ) -> None:
        if not features:
            raise ValueError("A landmark mask needs at least one feature, got none.")
        left, top, right, _ = crop.box(CELEBA_WIDTH, CELEBA_HEIGHT)
        side = right - left
        self.features = [((x - left) / side, (y - top) / side, w / side, h / side) for x, y, w, h in features]
        self.chance = chance

    def __call__(self, size: int, generator: Generator) -> Tensor:
        """A mask of ellipses 0.9 to 1.3 times as large as the features, bool (1, size, size)."""
        u = uniforms(1 + 2 * len(self.features), generator)
        surely = int(next(u) * len(self.features))
        covered = [next(u) < self.chance for _ in self.features]
        covered[surely] |= not any(covered)
        page = sheet(size)
        draw = page.cleared()
        for (x, y, w, h), cover in zip(self.features, covered, strict=True):
            scale = 0.9 + 0.4 * next(u)
            if cover:
                left, top = (x - w * scale) * size, (y - h * scale) * size
                right, bottom = left + 2 * w * scale * size - 1, top + 2 * h * scale * size - 1  # both ends are drawn
                draw.ellipse((left, top, max(left, right), max(top, bottom)), fill=1)
        return page.mask()
