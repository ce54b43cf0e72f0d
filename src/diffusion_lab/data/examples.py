"""From indices to a batch of floats and masks, all of it at once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from diffusion_lab.data.batches import Draw
from diffusion_lab.data.cache import Pictures
from diffusion_lab.data.masks import MaskFn, evaluation_mask


class Batch(NamedTuple):
    """Pictures with the holes to fill in them."""

    image: Tensor  # float32 (B, 3, H, W) in [-1, 1]
    mask: Tensor  # bool (B, 1, H, W), True = hole
    index: Tensor  # type: ignore[assignment]  # hides tuple.index; int64 (B,) place of the picture in its split
    key: Tensor  # int64 (B,) >= 0, a hash of (seed, epoch, index): seeds noise and level of the example
    attributes: Tensor  # float32 (B, A), 1 where one holds; A is 0 where nothing is known of the faces


class TrainingExamples(Dataset[Batch]):
    """Pictures flipped at random, with random masks; both by (seed, epoch, index) alone.

    Args:
        pictures: the training split.
        mask: draws the holes.
        seed: of the run.
        flip: mirror every other picture.
        attributes: (N, A) of all pictures; None where nothing is known of them.
    """

    def __init__(
        self, pictures: Pictures, mask: MaskFn, seed: int, flip: bool, attributes: Tensor | None = None
    ) -> None:
        self.pictures, self.mask, self.seed, self.flip = pictures, mask, seed, flip
        self.attributes = _unknown(pictures) if attributes is None else attributes

    def __getitems__(self, draw: Draw) -> Batch:
        """The whole batch of a draw."""
        pixels = self.pictures[draw.indices]
        # Key, mask and flip have words of their own: noise seeded by the same number as the mask would follow it.
        words = [_words(3, self.seed, draw.epoch, index) for index in draw.indices.tolist()]
        if self.flip:
            pixels = mirror(pixels, torch.tensor([flip % 2 == 1 for _, _, flip in words]))
        size, generator = pixels.shape[-1], Generator()
        mask = torch.stack([self.mask(size, generator.manual_seed(word)) for _, word, _ in words])
        keys = torch.tensor([key for key, _, _ in words])
        return Batch(to_float(pixels), mask, draw.indices, keys, self.attributes[draw.indices])

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)


class EvaluationExamples(Dataset[Batch]):
    """Pictures as they are, with masks and keys by their index alone: the same in every epoch and run.

    Args:
        pictures: the validation or test split.
        mask: draws the holes.
        attributes: (N, A) of all pictures; None where nothing is known of them.
    """

    def __init__(self, pictures: Pictures, mask: MaskFn, attributes: Tensor | None = None) -> None:
        self.pictures, self.mask = pictures, mask
        self.attributes = _unknown(pictures) if attributes is None else attributes

    def __getitems__(self, indices: Tensor) -> Batch:
        """The whole batch of those indices."""
        pixels = self.pictures[indices]
        numbers: list[int] = indices.tolist()
        mask = torch.stack([evaluation_mask(self.mask, pixels.shape[-1], index) for index in numbers])
        keys = torch.tensor([_words(1, index)[0] for index in numbers])
        return Batch(to_float(pixels), mask, indices, keys, self.attributes[indices])

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)


def mirror(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the pictures (B, C, H, W) that are chosen by a bool (B,), left to right and in place.

    Examples:
        >>> mirror(torch.tensor([[[[1, 2]]], [[[3, 4]]]]), torch.tensor([False, True])).flatten().tolist()
        [1, 2, 4, 3]
    """
    rows, which = pixels.numpy(), chosen.numpy()  # NumPy copies the chosen rows faster and torch turns them faster
    rows[which] = torch.from_numpy(rows[which]).flip(3).numpy()
    return pixels


def to_float(pixels: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1].

    Examples:
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    return pixels.float().sub_(127.5).mul_(1 / 127.5)  # exact at both ends, and twice as fast as dividing


def _unknown(pictures: Pictures) -> Tensor:
    """No attributes, of so many pictures."""
    return torch.empty(len(pictures), 0)


def _words(count: int, *entropy: int) -> list[int]:
    """Independent numbers in [0, 2^63) that depend on the entropy alone."""
    words: list[int] = (np.random.SeedSequence(entropy).generate_state(count, np.uint64) >> 1).tolist()
    return words
