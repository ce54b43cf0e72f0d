"""Whether one set of features lies in the other, neighbour by neighbour, where FID mixes fidelity and variety.

A ball around each picture of a set reaches to its k-th neighbour in that set. Precision: the share of fake pictures
in a ball of a real one; recall: of real pictures in a ball of a fake one (Kynkaanniemi et al. 2019, k = 3). Density: in
how many real balls a fake picture lies, over k; coverage: the share of real balls in which one lies (Naeem et al. 2020,
k = 5), which one outlier cannot feign.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.metrics.blocks import blocks


def precision_recall(
    real: Tensor, fake: Tensor, paired: bool = False, neighbours: int = 3, around: int = 5
) -> dict[str, Tensor]:
    """Precision, recall, density and coverage, float64, each with its figure as its mean.

    Precision and density are of each fake picture (n,), recall and coverage of each real one (m,). The balls are held
    fixed: drawing a picture twice would leave it a ball of no size. NaN where a set has too few pictures for k.

    Args:
        real: features (m, d).
        fake: features (n, d).
        paired: whether row i of both is of the same picture; if not, recall and coverage are their means alone, ().
        neighbours: k of precision and recall.
        around: k of density and coverage.
    """
    x, y = fake.double(), real.double()
    names = ("precision", "recall", "density", "coverage")
    if min(len(x), len(y)) <= max(neighbours, around):
        return dict.fromkeys(names, x.new_tensor(torch.nan))
    near_fake, (near_real, wide_real) = _radii(x, neighbours)[0], _radii(y, neighbours, around)
    precise, dense = [], []
    recalled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    nearest = torch.full_like(wide_real, torch.inf)
    for rows, radii in zip(blocks(x), blocks(near_fake), strict=True):
        distances = torch.cdist(rows, y)  # (rows, m)
        precise.append((distances <= near_real).any(dim=1))
        dense.append((distances <= wide_real).sum(dim=1).double() / around)
        recalled |= (distances <= radii[:, None]).any(dim=0)
        nearest = torch.minimum(nearest, distances.min(dim=0).values)
    each = (torch.cat(precise), recalled, torch.cat(dense), nearest <= wide_real)
    figures = {name: values.double() for name, values in zip(names, each, strict=True)}
    return figures if paired else figures | {name: figures[name].mean() for name in ("recall", "coverage")}


def _radii(x: Tensor, *neighbours: int) -> list[Tensor]:
    """How far it is from each picture to its k-th neighbour, for each k."""
    nearest = torch.cat([torch.cdist(rows, x).topk(max(neighbours) + 1, largest=False).values for rows in blocks(x)])
    return [nearest[:, k] for k in neighbours]  # the first is the picture itself
