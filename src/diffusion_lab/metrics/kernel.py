"""The kernel distance (KID) between two sets of features: unbiased, so of use where FID has too few pictures.

``MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)`` with the kernel ``k(x, y) = (x . y / d + 1)^3`` (Binkowski et al.
2018), over all pairs and without subsets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.metrics.blocks import ROWS, blocks


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """KID and its standard error, float64 (), of features (n, d) and (m, d): unbiased at any n, m >= 2.

    The standard error is the jackknife's over the pictures of both sets, NaN below 3 of them. It is too wide: by a
    factor of up to ``sqrt(2)``, which it reaches where the two sets are alike. That of `kernel_shares` is not.
    """
    x, y = real.double(), fake.double()
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"The kernel distance needs at least 2 pictures on each side, got {n} and {m}.")
    xx, yy, xy = (_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
    rows_x, rows_y = xx.sum(dim=1) - xx.diagonal(), yy.sum(dim=1) - yy.diagonal()
    total_x, total_y, total_xy = rows_x.sum(), rows_y.sum(), xy.sum()
    value = total_x / (n * (n - 1)) + total_y / (m * (m - 1)) - 2 * total_xy / (n * m)
    if min(n, m) < 3:
        return value, torch.full_like(value, torch.nan)
    without_x = (total_x - 2 * rows_x) / ((n - 1) * (n - 2)) + total_y / (m * (m - 1))
    without_x = without_x - 2 * (total_xy - xy.sum(dim=1)) / ((n - 1) * m)
    without_y = (total_y - 2 * rows_y) / ((m - 1) * (m - 2)) + total_x / (n * (n - 1))
    without_y = without_y - 2 * (total_xy - xy.sum(dim=0)) / (n * (m - 1))
    variance = sum((len(w) - 1) * w.var(correction=0) for w in (without_x, without_y))
    return value, torch.as_tensor(variance).sqrt()


def kernel_shares(real: Tensor, fake: Tensor, paired: bool = False) -> Tensor:
    """What each fake picture adds to KID: float64 (n,), with KID as their mean; n >= 4.

    KID is a mean of ``h_ij`` over pairs of pictures, and picture i's share is ``KID + f 2 (mean_j h_ij - KID)``. With
    f = 1 the variance of their mean would be the jackknife's, ``4 z_1 / n + 4 z_2 / (n (n - 1))`` in Hoeffding's terms,
    where that of KID has ``2 z_2``; f shrinks them to that.

    Args:
        real: features (m, d), m >= 2.
        fake: features (n, d).
        paired: row i of both is of the same picture. Pairs of a picture with itself, which is not drawn apart from it,
            are left out then: with them the distance would be too low, and below 0 for a perfect method.
    """
    x, y = fake.double(), real.double()
    n = len(x)
    if min(n - 2, len(y)) < 2:
        raise ValueError(f"The kernel distance needs 4 pictures and 2 real ones at least, got {n} and {len(y)}.")
    constant = x.new_zeros(())
    towards = x.new_zeros(n)  # of an unpaired picture, its mean kernel with the real ones
    if not paired:
        diagonal = _kernel(y[:, None], y[:, None]).sum()
        whole = torch.stack([_kernel(rows, y).sum() for rows in blocks(y)]).sum()
        constant = (whole - diagonal) / (len(y) * (len(y) - 1))
        towards = torch.cat([_kernel(rows, y).mean(dim=1) for rows in blocks(x)])
    sums, squares = [], x.new_zeros(())
    for start in range(0, n, ROWS):
        block = slice(start, start + ROWS)
        h = _kernel(x[block], x) - towards[block, None] - towards + constant  # h_ij: (rows, n)
        if paired:
            h = h + _kernel(y[block], y) - _kernel(x[block], y) - _kernel(y[block], x)
        h.diagonal(start).zero_()
        sums.append(h.sum(dim=1))
        squares = squares + h.square().sum()
    means = torch.cat(sums) / (n - 1)
    value = means.mean()
    deviations = 2 * (means - value)
    jackknife = deviations.square().sum() / n**2
    residual = squares - 2 * n * means.square().sum() + n * (n + 1) * value.square()  # sum of (h_ij - means + KID)^2
    excess = 2 * residual / (n * (n - 3)) / (n * (n - 1))
    share = torch.where(jackknife > 0, 1 - excess / jackknife, 1.0).clamp(0.5, 1)
    return value + share.sqrt() * deviations


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT / a.shape[-1] + 1) ** 3
