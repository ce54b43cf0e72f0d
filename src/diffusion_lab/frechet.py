"""The Frechet distance between two sets of features.

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


def frechet_shares(real: Tensor, fake: Tensor, paired: bool = False) -> Tensor:
    """What each fake picture adds to the squared Frechet distance: float64 (n,), with the distance as their mean.

    The distance plus its influence function at each picture: the bootstrap of this mean is that of the distance to
    first order. The plain bootstrap draws some pictures twice, which makes FID larger, by a tenth or more, and its
    spread too wide; this one is not biased. Of picture i, with ``R_1 R_2^T = U diag(s) V^T`` and n pictures a set,
    ``2 (mu_1 - mu_2) . (x_i - mu_1) + n |R_1i|^2 - n sum_k s_k U_ik^2``, centred.

    Args:
        real: features (m, d), m >= 2.
        fake: features (n, d), n >= 2.
        paired: row i of both is of the same picture, so that drawing it draws both; else the real set is a fixed ruler.
    """
    (mean_1, root_1), (mean_2, root_2) = _centred(fake), _centred(real)
    values, of_fake, of_real = _influences(mean_1, root_1, mean_2, root_2)
    return values + (of_fake + of_real if paired else of_fake)


def frechet_shares_mixed(sums: Tensor, fake: Tensor) -> Tensor:
    """`frechet_shares` of fake pictures (n, d) against a real set of which only its `moments` are known."""
    mean, covariance = mean_and_covariance(sums)
    value, of_fake, _ = _influences(*_centred(fake), mean, _root(covariance))
    return value + of_fake


def _assemble(difference: Tensor, traces: Tensor, trace_of_root: Tensor) -> Tensor:
    return (difference.square().sum() + traces - 2 * trace_of_root).clamp(min=0)  # rounding may leave -1e-12


def _influences(mean_1: Tensor, root_1: Tensor, mean_2: Tensor, root_2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distance (), and the influence on it of each row of either root, both with mean 0."""
    # Beyond d rows a set, both roots are turned into triangles: the singular values stay, and rows come back by Q.
    (q_1, r_1), (q_2, r_2) = (torch.linalg.qr(x) if len(x) > x.shape[1] else (None, x) for x in (root_1, root_2))
    u, s, vh = torch.linalg.svd(r_1 @ r_2.T, full_matrices=False)
    distance = _assemble(mean_1 - mean_2, root_1.square().sum() + root_2.square().sum(), s.sum())
    influences = []
    for root, q, vectors, towards in ((root_1, q_1, u, mean_1 - mean_2), (root_2, q_2, vh.T, mean_2 - mean_1)):
        n = len(root)
        rows = vectors if q is None else q @ vectors
        each = 2 * (n - 1) ** 0.5 * root @ towards + n * root.square().sum(dim=1) - n * rows.square() @ s
        influences.append(each - each.mean())
    return distance, *influences


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
