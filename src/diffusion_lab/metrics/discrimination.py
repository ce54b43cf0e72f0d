"""Whether a straight line tells real pictures from fake ones: P-IDS and U-IDS (Zhao et al. 2021, CoModGAN)."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 2  # pictures for each feature: below, a plane separates any two sets, and both scores are 0


def inception_discriminative_score(
    real: Tensor, fake: Tensor, paired: bool = False, least: int | None = None
) -> dict[str, Tensor]:
    """P-IDS and U-IDS, float64 (n,), with the score as their mean; more is better, 0.5 is what equal sets have.

    A linear support vector machine is trained on the features. U-IDS is the share of pictures that it takes for the
    other kind; P-IDS the share of completions that it finds more real than the very picture that they complete.

    Args:
        real: features (n, d).
        fake: features (n, d), row i of the same picture as real's; nothing is said of unpaired sets.
        paired: whether they are.
        least: pictures that it needs; None is twice d, for as many again are in the other set and a plane separates any
            2 d points (Cover 1965). NaN below.
    """
    n, d = fake.shape
    if not paired or n < (_LEAST * d if least is None else least):
        return dict.fromkeys(("p_ids", "u_ids"), torch.tensor(torch.nan, dtype=torch.float64, device=fake.device))
    x, y = fake.double(), real.double()
    plane = support_vectors(torch.cat([y, x]), torch.cat([y.new_ones(n), -x.new_ones(n)]))
    of_real, of_fake = (side @ plane[:-1] + plane[-1] for side in (y, x))
    wrong = ((of_real <= 0).double() + (of_fake > 0).double()) / 2
    return {"p_ids": (of_fake > of_real).double(), "u_ids": wrong}


def support_vectors(features: Tensor, signs: Tensor, penalty: float = 1.0, rounds: int = 100) -> Tensor:
    """The plane (d + 1,), its offset last, of ``min |w|^2 / 2 + C sum_i max(0, 1 - s_i w . (x_i, 1))^2``, float64.

    That is what liblinear, and by it scikit-learn's ``LinearSVC``, minimises: squared hinge, the offset penalised like
    the rest. Newton's method (Mangasarian 2002); the function is strictly convex and quadratic in pieces, so that a few
    rounds reach its minimum.

    Args:
        features: (n, d).
        signs: (n,), 1 or -1.
        penalty: C.
        rounds: at most.
    """
    x = torch.cat([features.double(), features.new_ones(len(features), 1).double()], dim=1)
    x = x * signs.double()[:, None]
    w = x.new_zeros(x.shape[1])
    identity = torch.eye(len(w), dtype=x.dtype, device=x.device)

    def cost(w: Tensor) -> Tensor:
        return w.square().sum() / 2 + penalty * (1 - x @ w).clamp(min=0).square().sum()

    for _ in range(rounds):
        inside = x[x @ w < 1]
        gradient = w - 2 * penalty * inside.T @ (1 - inside @ w)
        if gradient.norm() <= 1e-9 * (1 + w.norm()):
            break
        step = torch.linalg.solve(identity + 2 * penalty * inside.T @ inside, gradient)
        length, slope, before = 1.0, gradient @ step, cost(w)
        while cost(w - length * step) > before - 1e-4 * length * slope and length > 1e-10:  # Armijo
            length /= 2
        w = w - length * step
    return w
