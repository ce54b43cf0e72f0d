"""Figures of a set of completions, each as what every picture adds to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from lightning.fabric import Fabric
from torch import Tensor

from diffusion_lab.evaluation.reference import Features
from diffusion_lab.metrics import (
    frechet_distance_from_moments,
    frechet_shares,
    frechet_shares_mixed,
    kernel_shares,
    moments,
)

SetMeasure = Callable[[Tensor, Tensor, bool], dict[str, Tensor]]
"""(features of the real pictures (m, d), of the completions (n, d), whether row i of both is of the same picture) ->
figures by name: of each picture (n,), with the figure as their mean, or the figure alone (); NaN where there is none.

`kernel` is one, and `precision_recall` and `inception_discriminative_score` of `diffusion_lab.metrics` are two."""


def kernel(real: Tensor, fake: Tensor, paired: bool = False) -> dict[str, Tensor]:
    """KID, the squared kernel distance; there is none of fewer than 4 pictures."""
    if min(len(real), len(fake)) < 4:
        return {"kid": torch.tensor(torch.nan, dtype=torch.float64)}
    return {"kid": kernel_shares(real, fake, paired)}


def frechet(real: Features, fake: Features, paired: bool) -> Tensor:
    """FID: (n,) with FID as its mean; FID alone () where completions are too many to be kept; NaN of one picture."""
    if fake.each is not None and real.each is not None:
        few = min(len(real.each), len(fake.each)) < 2
        return _nothing() if few else frechet_shares(real.each, fake.each, paired)
    sums = moments(real.each) if real.sums is None and real.each is not None else real.sums
    assert sums is not None
    if fake.each is not None:
        return _nothing() if len(fake.each) < 2 else frechet_shares_mixed(sums, fake.each)
    assert fake.sums is not None
    return frechet_distance_from_moments(sums, fake.sums)


def figures(
    measures: Mapping[str, SetMeasure], real: Features, fake: Features, paired: bool, fabric: Fabric
) -> dict[str, Tensor]:
    """FID and all others on the CPU; the first rank computes them, and all ranks have the same."""
    found: dict[str, Tensor] = {}
    if fabric.is_global_zero:
        found["fid"] = frechet(real, fake, paired)
        for measure in measures.values():
            if real.each is not None and fake.each is not None:
                found |= measure(real.each, fake.each, paired)
    shared: dict[str, Tensor] = fabric.broadcast({name: values.double().cpu() for name, values in found.items()})
    return shared


def _nothing() -> Tensor:
    return torch.tensor(torch.nan, dtype=torch.float64)
