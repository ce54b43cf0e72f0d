import itertools

import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from diffusion_lab.metrics import kernel_distance, kernel_shares
from features import features


def test_kernel_distance_is_the_unbiased_mmd() -> None:
    real, fake = features(60, 32, seed=0), features(60, 32, seed=1, shift=0.5)
    gram = [(a @ b.T / 32 + 1) ** 3 for a, b in ((real, real), (real, fake), (fake, fake))]
    value, _ = kernel_distance(real, fake)
    n = 60
    off = [(g.sum() - g.diagonal().sum()) / (n * (n - 1)) for g in (gram[0], gram[2])]
    assert value.item() == pytest.approx((off[0] + off[1] - 2 * gram[1].mean()).item(), rel=1e-12)
    assert value.item() == pytest.approx(poly_mmd(real, fake).item(), rel=1e-6)


def test_kernel_distance_has_no_bias_and_knows_its_error() -> None:
    draws = [kernel_distance(features(12, 16, seed=2 * i), features(12, 16, seed=2 * i + 1)) for i in range(300)]
    values = torch.stack([value for value, _ in draws])
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    # Jackknife variances are too large on average, never much too small (Efron and Stein 1981).
    assert 0.9 < torch.stack([error for _, error in draws]).square().mean().sqrt() / values.std() < 2


@pytest.mark.parametrize(("n", "m"), [(9, 7), (3, 3)])
def test_kernel_distances_error_is_the_jackknifes(n: int, m: int) -> None:
    """Each picture of either set left out in turn (Efron and Stein 1981)."""
    real, fake = features(n, 8, seed=0), features(m, 8, seed=1, shift=0.5)

    def variance(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return (len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values)

    def without(x: torch.Tensor, i: int) -> torch.Tensor:
        return torch.cat([x[:i], x[i + 1 :]])

    of_real = [kernel_distance(without(real, i), fake)[0].item() for i in range(len(real))]
    of_fake = [kernel_distance(real, without(fake, i))[0].item() for i in range(len(fake))]
    error = (variance(of_real) + variance(of_fake)) ** 0.5
    assert kernel_distance(real, fake)[1].item() == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 2), (2, 2)])
def test_kernel_distance_of_two_pictures_is_a_number_whose_error_nobody_knows(n: int, m: int) -> None:
    """Kernels (x y + 1)^3 by hand: 64 between three and one, 8 between ones, 1 with nought."""
    real, fake = torch.ones(n, 1), torch.zeros(m, 1)
    real[0] = 3
    between_real = 64 if n == 2 else (64 + 64 + 8) / 3
    value, error = kernel_distance(real, fake)
    assert value.item() == pytest.approx(between_real + 1 - 2)
    assert error.isnan()


def test_kernel_distance_of_one_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.ones(1, 4), torch.ones(3, 4))


def test_unpaired_shares_are_the_kernel_distance() -> None:
    real, fake = features(1100, 8, seed=0), features(1060, 8, seed=1, shift=0.5)  # more than one block of rows
    value, _ = kernel_distance(real, fake)
    assert kernel_shares(real, fake).mean().item() == pytest.approx(value.item(), rel=1e-9)


def test_paired_shares_leave_out_a_picture_with_itself() -> None:
    """The one-sample U-statistic of Gretton et al. (2012, lemma 6, eq. 3), pair by pair."""
    real, fake = features(12, 6, seed=0), features(12, 6, seed=1, shift=0.5)

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 6 + 1) ** 3)

    terms = [
        k(fake[i], fake[j]) + k(real[i], real[j]) - k(fake[i], real[j]) - k(real[i], fake[j])
        for i in range(12)
        for j in range(12)
        if i != j
    ]
    assert kernel_shares(real, fake, paired=True).mean().item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    assert kernel_shares(real, real, paired=True).abs().max() < 1e-12  # a perfect method
    assert kernel_distance(real, real)[0] < 0


@pytest.mark.parametrize("shift", [0.0, 0.4])
@pytest.mark.parametrize("paired", [True, False])
def test_shares_know_the_spread(paired: bool, shift: float) -> None:
    """Where sets are alike the jackknife is sqrt(2) too wide; shares are not, there or elsewhere."""
    fixed, n = features(200, 8, seed=10_000), 24
    values, errors = [], []
    for seed in range(400):
        fake = features(n, 8, seed=2 * seed, shift=shift)
        shares = kernel_shares(features(n, 8, seed=2 * seed + 1) if paired else fixed, fake, paired)
        values.append(shares.mean())
        errors.append(shares.var(correction=1) / n)
    assert 0.85 < torch.stack(errors).mean().sqrt() / torch.stack(values).std() < 1.15


def test_shares_spread_as_hoeffdings_terms_say() -> None:
    """Their squares about KID sum to n^2 (4 z_1 / n + 2 z_2 / (n (n - 1))), by the jackknife and what pairs leave.

    z_2 is the mean square of ``h_ij - m_i - m_j + KID``, m the means by picture, over pairs with n (n - 3) degrees of
    freedom; the jackknife's has 4 z_2 where this has 2.
    """
    n = 14
    real, fake = features(n, 6, seed=0), features(n, 6, seed=1, shift=0.6)

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 6 + 1) ** 3)

    h = {
        (i, j): k(fake[i], fake[j]) + k(real[i], real[j]) - k(fake[i], real[j]) - k(real[i], fake[j])
        for i, j in itertools.permutations(range(n), 2)
    }
    kid = sum(h.values()) / len(h)
    m = [sum(h[i, j] for j in range(n) if j != i) / (n - 1) for i in range(n)]
    z_2 = sum((value - m[i] - m[j] + kid) ** 2 for (i, j), value in h.items()) / (n * (n - 3))
    jackknife = sum(4 * (mean - kid) ** 2 for mean in m) / n**2
    variance = jackknife - 2 * z_2 / (n * (n - 1))
    assert jackknife / 2 < variance < 0.99 * jackknife  # or there would be nothing to see here
    shares = kernel_shares(real, fake, paired=True)
    assert (shares - kid).square().sum().item() / n**2 == pytest.approx(variance, rel=1e-9)


def test_shares_of_three_pictures_are_an_error() -> None:
    with pytest.raises(ValueError, match="needs 4 pictures"):
        kernel_shares(torch.ones(3, 4), torch.ones(3, 4))
    with pytest.raises(ValueError, match="2 real ones"):
        kernel_shares(torch.ones(1, 4), torch.ones(4, 4))


def test_shares_of_four_pictures_against_two() -> None:
    real, fake = features(2, 6, seed=0), features(4, 6, seed=1, shift=0.5)
    assert kernel_shares(real, fake).mean().item() == pytest.approx(kernel_distance(real, fake)[0].item(), rel=1e-9)
