"""What faces are like, as numbers: from CelebA's list, or measured from the pixels where nobody has labelled them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from diffusion_lab.data.cache import Pictures
from diffusion_lab.data.crops import CELEBA_HEIGHT, CELEBA_WIDTH, Crop
from diffusion_lab.data.source import Source

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of CelebA's aligned 178x218 pictures."""

REGIONS: Mapping[str, Sequence[Box]] = {
    "hair": [(62, 40, 116, 62)],
    "skin": [(65, 118, 113, 148)],
    "background": [(15, 35, 42, 72), (136, 35, 163, 72)],
}


class Labels(Protocol):
    """Attributes of the pictures of a split."""

    def names(self, source: Source) -> Sequence[str]:
        """Of the attributes."""

    def __call__(self, source: Source, crop: Crop, pictures: Callable[[str], Pictures], split: str) -> Tensor:
        """float32 (N, attributes) of a split, 1 where the attribute holds and 0 where it does not.

        Args:
            source: where the pictures come from.
            crop: the square of them that was kept.
            pictures: the decoded pictures of a split.
            split: train, valid or test.
        """


class Listed:
    """The 40 attributes of CelebA's ``list_attr_celeba.txt``."""

    def names(self, source: Source) -> Sequence[str]:
        """As the list calls them.

        Raises:
            FileNotFoundError: there is no list.
        """
        if not source.attribute_names:
            raise FileNotFoundError(
                f"{source.name} has no list_attr_celeba.txt, so nothing says what its faces are like: put it beside "
                "the partition, or measure attributes from the pixels with labels=measured"
            )
        return source.attribute_names

    def __call__(self, source: Source, crop: Crop, pictures: Callable[[str], Pictures], split: str) -> Tensor:
        """As the list has them."""
        self.names(source)
        values = source.attributes(split)
        assert values is not None
        return values.float()


class Measured:
    """Whether a region of the picture is brighter than in half of the training pictures.

    It stands in for labels where there are none. The regions lie where they do in faces aligned as CelebA's are.

    Args:
        regions: boxes by the name of what they mostly show.
    """

    def __init__(self, regions: Mapping[str, Sequence[Box]] = REGIONS) -> None:
        self.regions = regions

    def names(self, source: Source) -> Sequence[str]:
        """What was measured, ``hair_luminance_above_median`` for one."""
        return [f"{region}_luminance_above_median" for region in self.regions]

    def __call__(self, source: Source, crop: Crop, pictures: Callable[[str], Pictures], split: str) -> Tensor:
        """Against the median of the training split, whatever the split."""
        median = self.luminance(pictures("train").images, crop).median(dim=0).values
        return (self.luminance(pictures(split).images, crop) > median).float()

    def luminance(self, images: Tensor, crop: Crop) -> Tensor:
        """Mean luminance (Rec. 601) of each region, in [0, 255]: float32 (N, regions) of uint8 (N, 3, S, S)."""
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        masks = torch.stack([inside(boxes, crop, images.shape[-1]) for boxes in self.regions.values()])
        means = []
        for start in range(0, len(images), 1024):
            grey = (images[start : start + 1024].cpu() * weights).sum(dim=1)
            means.append(torch.stack([grey[:, mask].mean(dim=1) for mask in masks], dim=1))
        return torch.cat(means)


def inside(boxes: Sequence[Box], crop: Crop, size: int) -> Tensor:
    """Pixels of a crop, resized to `size`, whose middle lies in one of the boxes: bool (size, size).

    Examples:
        >>> from diffusion_lab.data.crops import center148
        >>> inside([(15, 35, 163, 72)], center148(), 4).sum(dim=1).tolist()
        [4, 0, 0, 0]
    """
    left, top, right, _ = crop.box(CELEBA_WIDTH, CELEBA_HEIGHT)
    middles = (torch.arange(size) + 0.5) * (right - left) / size
    x, y = middles + left, (middles + top)[:, None]
    return torch.stack([(x >= a) & (x < c) & (y >= b) & (y < d) for a, b, c, d in boxes]).any(dim=0)
