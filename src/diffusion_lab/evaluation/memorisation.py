"""Whether a method copies what it was trained on: the nearest training picture of each completion and each truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from lightning.fabric import Fabric
from torch import Tensor

from diffusion_lab.evaluation.reference import KEPT, PictureSet, reduced
from diffusion_lab.metrics.nearest import nearest

SHEET = ("truth", "completion", "its nearest", "truth's nearest")
_ROUNDING = 1e-4  # relative; the features of a picture hang on its neighbours in the batch by less


class Part:
    """Pictures `start` to `stop` of a set, as a set.

    Args:
        pictures: the set.
        start: its first.
        stop: its last, excluded.
    """

    def __init__(self, pictures: PictureSet, start: int, stop: int) -> None:
        self._pictures, self._start = pictures, start
        self.images = pictures.images[start:stop]
        self.digest = f"{pictures.digest}[{start}:{stop}]"

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.images)

    def __getitem__(self, indices: Tensor | list[int]) -> Tensor:
        """Pictures of those indices, uint8 (n, 3, S, S)."""
        return self._pictures[torch.as_tensor(indices) + self._start]


def parts(pictures: PictureSet) -> Sequence[PictureSet]:
    """A set in parts that are small enough for their features to be kept; one that is small enough is its only part."""
    if len(pictures) <= KEPT:
        return [pictures]
    return [Part(pictures, start, min(start + KEPT, len(pictures))) for start in range(0, len(pictures), KEPT)]


@dataclass(frozen=True)
class Training:
    """The pictures that a model was trained on, with their features; on every rank, 8 KB a picture of Inception's.

    Args:
        pictures: themselves.
        features: float32 (m, d) of each part, in order.
        truths: float32 (n, d), features of the pictures that are evaluated, in order.
        fabric: the ranks, which share the search.
    """

    pictures: PictureSet
    features: Sequence[Tensor]
    truths: Tensor
    fabric: Fabric

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """How far the nearest training picture is from each of n, float64 (n,), and which it is, int64 (n,)."""
        n, rank = len(features), self.fabric.global_rank
        mine = features[rank :: self.fabric.world_size]
        least = torch.full((len(mine),), torch.inf, dtype=torch.float64, device=features.device)
        place, start = torch.zeros(len(mine), dtype=torch.int64, device=features.device), 0
        for part in self.features if len(mine) else []:
            distance, index = nearest(mine, part)
            place = torch.where(distance < least, index + start, place)
            least, start = torch.minimum(distance, least), start + len(part)
        distances = torch.zeros(n, dtype=torch.float64, device=features.device)
        places = torch.zeros(n, dtype=torch.int64, device=features.device)
        distances[rank :: self.fabric.world_size], places[rank :: self.fabric.world_size] = least, place
        return reduced(distances, self.fabric).cpu(), reduced(places, self.fabric).cpu()

    @cached_property
    def own(self) -> tuple[Tensor, Tensor]:
        """What `nearest` says of the truths."""
        return self.nearest(self.truths)

    def figures(self, features: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What is said of completions (n, d): float64 (n,) each, and which training picture is nearest, int64 (n,)."""
        distances, places = self.nearest(features)
        own, _ = self.own
        nearer = (distances < own * (1 - _ROUNDING)).double()
        return {"training_distance": distances, "true_training_distance": own, "nearer_than_truth": nearer}, places

    def sheet(self, chosen: Tensor, truths: Tensor, completions: Tensor, places: Tensor) -> Tensor:
        """Truth, completion, and the nearest training picture of either: uint8 (k, 4, 3, S, S).

        Args:
            chosen: which of the n pictures, (k,).
            truths: of those, uint8 (k, 3, S, S).
            completions: of those, uint8 (k, 3, S, S).
            places: nearest training picture of each of n completions.
        """
        columns = (truths, completions, self.pictures[places[chosen]], self.pictures[self.own[1][chosen]])
        return torch.stack([column.cpu() for column in columns], dim=1)
