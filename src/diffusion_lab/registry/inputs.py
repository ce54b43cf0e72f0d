"""What a model saw in training, in the two figures by which a service tells that its visitors send something else."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from diffusion_lab.data.masks import MaskFn


class Images(Protocol):
    """Pictures by index, such as `diffusion_lab.data.cache.Pictures`."""

    def __len__(self) -> int:
        """Number of pictures."""

    def __getitem__(self, indices: Tensor | list[int]) -> Tensor:
        """Pictures of those indices, uint8 (n, 3, S, S)."""


def inputs(pictures: Images, mask: MaskFn, count: int = 1000) -> dict[str, Sequence[float]]:
    """Mask fraction and input brightness of training examples, sorted.

    Args:
        pictures: of the training split; they are taken at equal distances.
        mask: that the model was trained with.
        count: of examples, or fewer where there are fewer pictures.

    Returns:
        By the names that the service's histograms have: ``mask_fraction``, the share of the square that is to be
        filled, and ``input_brightness``, the mean of its known pixels (.5 where none is known); both in [0, 1].
    """
    count = min(count, len(pictures))
    chosen = torch.linspace(0, len(pictures) - 1, count).round().long()
    images = pictures[chosen].float() / 255
    generator = torch.Generator()
    holes = torch.stack([mask(images.shape[-1], generator.manual_seed(i)) for i in range(count)])  # (n, 1, S, S)
    known = (~holes).expand_as(images).double()
    counts = known.flatten(1).sum(dim=1)
    bright = torch.where(counts > 0, (images * known).flatten(1).sum(dim=1) / counts, 0.5)
    fractions = holes.double().flatten(1).mean(dim=1)
    return {
        "mask_fraction": [round(value, 5) for value in sorted(fractions.tolist())],
        "input_brightness": [round(value, 5) for value in sorted(bright.tolist())],
    }
