"""The Frechet distance between two sets of features, and its small-sample companion, the kernel distance.

``FID = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))`` in float64 (Heusel et al. 2017, eq. 6). Only the
last term costs anything. With ``S_i = R_i^T R_i`` it is the sum of the singular values of ``R_1 R_2^T``:

- up to d pictures a set (2048) the features themselves are kept: ``R`` is the centred features over ``sqrt(n - 1)``, so
  the term is the nuclear norm of their n x n cross-Gram. Exact where few pictures make covariances singular;
- beyond, sums are kept, which fit in one matrix whatever n: ``R_1`` is then a Cholesky factor, and the singular values
  are the roots of the eigenvalues of the symmetric ``R_1 S_2 R_1^T``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moments(features: Tensor) -> Tensor:
    """The sums that the distance needs, in one float64 matrix (d + 1, d + 1): that of the outer products of ``(1, f)``.

    Row 0 holds n and the sum of the features, the rest the sum of their outer products, so moments of two sets add.

    >>> moments(torch.tensor([[2.0], [3.0]])).tolist()
    [[2.0, 5.0], [5.0, 13.0]]
    """
    x = features.double()
    x = torch.cat([x.new_ones(len(x), 1), x], dim=1)
    return x.T @ x


def mean_and_covariance(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d) from `moments` of at least two pictures."""
    n = sums[0, 0]
    mean = sums[0, 1:] / n
    return mean, (sums[1:, 1:] - n * torch.outer(mean, mean)) / (n - 1)


def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Squared Frechet distance, float64 (), of two sets of kept features (n, d) and (m, d); n, m >= 2.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> round(frechet_distance(x, x + 1).item(), 12)  # the same shape, moved by (1, 1)
    2.0
    """
    (mean_1, root_1), (mean_2, root_2) = _centred(real), _centred(fake)
    trace = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    return _assemble(mean_1 - mean_2, root_1.square().sum() + root_2.square().sum(), trace)


def frechet_distance_from_moments(real: Tensor, fake: Tensor) -> Tensor:
    """Squared Frechet distance, float64 (), from the `moments` of two sets; singular covariances are fine.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> round(frechet_distance_from_moments(moments(x), moments(x + 1)).item(), 12)
    2.0
    """
    (mean_1, covariance_1), (mean_2, covariance_2) = mean_and_covariance(real), mean_and_covariance(fake)
    root = _root(covariance_1)
    trace = _sum_of_roots(root @ covariance_2 @ root.T)
    return _assemble(mean_1 - mean_2, covariance_1.trace() + covariance_2.trace(), trace)


def frechet_distance_mixed(features: Tensor, sums: Tensor) -> Tensor:
    """Squared Frechet distance, float64 (), of a small set (n, d) of kept features and a large one's `moments`."""
    mean_1, root = _centred(features)
    mean_2, covariance = mean_and_covariance(sums)
    trace = _sum_of_roots(root @ covariance @ root.T)
    return _assemble(mean_1 - mean_2, root.square().sum() + covariance.trace(), trace)


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """KID and its standard error, float64 (), of features (n, d) and (m, d): unbiased at any n, m >= 2.

    The squared maximum mean discrepancy (Binkowski et al. 2018) with the kernel ``(x . y / d + 1)^3``, over all pairs
    and without subsets. The standard error is the jackknife's over the pictures of both sets, NaN below 3 of them.
    """
    x, y = real.double(), fake.double()
    n, m, d = len(x), len(y), x.shape[1]
    if min(n, m) < 2:
        raise ValueError(f"The kernel distance needs at least 2 pictures on each side, got {n} and {m}.")
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
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


def _assemble(difference: Tensor, traces: Tensor, trace_of_root: Tensor) -> Tensor:
    return (difference.square().sum() + traces - 2 * trace_of_root).clamp(min=0)  # rounding may leave -1e-12


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    x = features.double()
    mean = x.mean(dim=0)
    return mean, (x - mean) / (len(x) - 1) ** 0.5


def _sum_of_roots(matrix: Tensor) -> Tensor:
    """Sum of the roots of the eigenvalues of a symmetric matrix that has no negative ones."""
    values: Tensor = torch.linalg.eigvalsh(matrix)
    # Rounding makes eigenvalues that are 0 some 1e-16 of the largest, and the roots of those are not small.
    noise = len(values) * torch.finfo(values.dtype).eps * values.max()
    return values.masked_fill(values < noise, 0).sqrt().sum()


def _root(covariance: Tensor) -> Tensor:
    """R with ``R^T R = covariance``: Cholesky's, or where that fails (dead or tied features) the eigenvectors'."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor.T
    values, vectors = torch.linalg.eigh(covariance)
    factor = vectors * values.clamp(min=0).sqrt()
    return factor.T
