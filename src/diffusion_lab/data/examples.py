"""From indices to a batch of pictures and masks, all of it at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion_lab.data.batches import Draw
from diffusion_lab.data.cache import Pictures
from diffusion_lab.data.degradations import Degrade, unchanged
from diffusion_lab.data.masks import MaskFn, drawn, evaluation_mask
from diffusion_lab.data.words import words

Frames = Callable[[Tensor, Sequence[int]], Tensor]
"""(uint8 (B, 3, K, K), a key >= 0 each) -> uint8 (B, 3, size, size): a square of each, in a frame of its own."""


class Batch(NamedTuple):
    """Pictures with the holes to fill in them: uint8 as they come out of the cache, float32 where they are used."""

    image: Tensor  # (B, 3, H, W), uint8, or float32 in [-1, 1] after `floats`
    mask: Tensor  # bool (B, 1, H, W), True = hole
    index: Tensor  # type: ignore[assignment]  # hides tuple.index; int64 (B,) place of the picture in its split
    key: Tensor  # int64 (B,) >= 0, a hash of (seed, epoch, index): seeds noise and level of the example
    attributes: Tensor  # float32 (B, A), 1 where one holds; A is 0 where nothing is known of the faces
    given: Tensor  # as image, what a person would hand in of the picture; the picture itself for holes


class TrainingExamples(Dataset[Batch]):
    """Pictures flipped and cut at random, with random masks and degradations; all by (seed, epoch, index) alone.

    Args:
        pictures: the training split.
        mask: draws the holes.
        seed: of the run.
        flip: mirror every other picture.
        attributes: (N, A) of all pictures; None where nothing is known of them.
        degrade: makes of a picture what is given of it.
        window: side of the square that is cut out of each picture at a random place, in pixels; None is all of it.
        frame: cuts pictures in frames that are drawn by a key each; None takes them as they are.
    """

    def __init__(
        self,
        pictures: Pictures,
        mask: MaskFn,
        seed: int,
        flip: bool,
        attributes: Tensor | None = None,
        degrade: Degrade = unchanged,
        window: int | None = None,
        frame: Frames | None = None,
    ) -> None:
        self.pictures, self.mask, self.seed, self.flip = pictures, mask, seed, flip
        self.attributes = _unknown(pictures) if attributes is None else attributes
        self.degrade, self.window, self.frame = degrade, window, frame

    def __getitems__(self, draw: Draw) -> Batch:
        """The whole batch of a draw."""
        pixels = self.pictures[draw.indices]
        # Key, mask and flip have words of their own: noise seeded by the same number as the mask would follow it.
        drawn_by = words(6, (self.seed, draw.epoch), draw.indices.numpy())
        _, of_mask, of_flip, of_degradation, of_window, of_frame = drawn_by.T.tolist()
        if self.frame is not None:
            pixels = self.frame(pixels, of_frame)
        if self.flip:
            pixels = mirror(pixels, torch.tensor(of_flip) % 2 == 1)
        if self.window is not None:
            pixels = windows(pixels, self.window, of_window)
        mask = drawn(self.mask, pixels.shape[-1], of_mask)
        given = self.degrade(pixels, mask, of_degradation)
        return Batch(pixels, mask, draw.indices, torch.tensor(drawn_by[:, 0]), self.attributes[draw.indices], given)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)


class EvaluationExamples(Dataset[Batch]):
    """Whole pictures, with masks, degradations and keys by their index alone: the same in every epoch and run.

    Args:
        pictures: the validation or test split.
        mask: draws the holes.
        attributes: (N, A) of all pictures; None where nothing is known of them.
        degrade: makes of a picture what is given of it.
    """

    def __init__(
        self, pictures: Pictures, mask: MaskFn, attributes: Tensor | None = None, degrade: Degrade = unchanged
    ) -> None:
        self.pictures, self.mask, self.degrade = pictures, mask, degrade
        self.attributes = _unknown(pictures) if attributes is None else attributes

    def __getitems__(self, indices: Tensor) -> Batch:
        """The whole batch of those indices."""
        pixels = self.pictures[indices]
        numbers: list[int] = indices.tolist()
        mask = torch.stack([evaluation_mask(self.mask, pixels.shape[-1], index) for index in numbers])
        keys = torch.tensor(words(1, (), indices.numpy())[:, 0])
        given = self.degrade(pixels, mask, degradation_keys(numbers))
        return Batch(pixels, mask, indices, keys, self.attributes[indices], given)

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


def floats(batch: Batch) -> Batch:
    """The batch with its pictures in [-1, 1], made where they are: a quarter of the bytes has travelled there."""
    image = to_float(batch.image)
    return batch._replace(image=image, given=image if batch.given is batch.image else to_float(batch.given))


def windows(pixels: Tensor, side: int, words: Sequence[int]) -> Tensor:
    """A square of each picture, uint8 ``(B, 3, side, side)``, whose place its word draws evenly.

    Raises:
        ValueError: if the pictures are smaller.
    """
    rows, columns = (size - side + 1 for size in pixels.shape[-2:])
    if min(rows, columns) < 1:
        raise ValueError(f"data.window={side} is larger than the pictures, which are {tuple(pixels.shape[-2:])}.")
    places = [divmod(word % (rows * columns), columns) for word in words]
    return torch.stack(
        [x[:, top : top + side, left : left + side] for x, (top, left) in zip(pixels, places, strict=True)]
    )


def degradation_keys(indices: Sequence[int]) -> list[int]:
    """What the degradations of a validation or test split are drawn by: the pictures' indices alone."""
    made: list[int] = words(2, (), np.array(indices))[:, 1].tolist()
    return made


def _unknown(pictures: Pictures) -> Tensor:
    """No attributes, of so many pictures."""
    return torch.empty(len(pictures), 0)
