"""The nearest of many pictures in the space of features."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.metrics.blocks import ROWS, blocks


def nearest(features: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of n pictures how far the nearest of m others is, float64 (n,), and which it is, int64 (n,).

    >>> distance, which = nearest(torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [7.0], [5.0]]))
    >>> distance.tolist(), which.tolist()
    ([1.0, 2.0], [0, 1])

    Args:
        features: (n, d).
        others: (m, d), m >= 1; they may lie on another device, from which they come some at a time.
    """
    distances, places = [], []
    for rows in blocks(features.double()):
        least = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
        place = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for number, some in enumerate(blocks(others)):
            apart, index = torch.cdist(rows, some.to(rows)).min(dim=1)
            place = torch.where(apart < least, index + number * ROWS, place)
            least = torch.minimum(apart, least)
        # Once more, as a difference: by products of matrices a picture is some 1e-6 away from itself.
        distances.append((rows - others[place.to(others.device)].to(rows)).square().sum(dim=1).sqrt())
        places.append(place)
    return torch.cat(distances), torch.cat(places)
