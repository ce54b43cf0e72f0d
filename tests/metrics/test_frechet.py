import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.kid import poly_mmd

from diffusion_lab.metrics import (
    frechet_distance,
    frechet_distance_from_moments,
    frechet_distance_mixed,
    kernel_distance,
    moments,
)


def features(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Positive, correlated, skewed: like those of a network's last ReLU."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / d**0.5
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix
    return (x * scale + shift).relu() + 0.01 * x


def all_forms(real: Tensor, fake: Tensor) -> list[float]:
    return [
        frechet_distance(real, fake).item(),
        frechet_distance_from_moments(moments(real), moments(fake)).item(),
        frechet_distance_mixed(real, moments(fake)).item(),
        frechet_distance_mixed(fake, moments(real)).item(),
    ]


def torch_fidelity(real: Tensor, fake: Tensor) -> float:
    stats = [fid_features_to_statistics(x) for x in (real, fake)]
    return fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize(("n", "m"), [(500, 500), (300, 700)])
def test_every_form_agrees_with_torch_fidelity_to_1e_6(n: int, m: int) -> None:
    real, fake = features(n, 64, seed=0), features(m, 64, seed=1, shift=0.3, scale=1.2)
    assert all_forms(real, fake) == pytest.approx([torch_fidelity(real, fake)] * 4, rel=1e-6)


def test_agrees_with_the_matrix_square_root() -> None:
    real, fake = features(400, 48, seed=0), features(400, 48, seed=1, shift=0.2)
    a, b = (np.cov(x.numpy(), rowvar=False) for x in (real, fake))
    difference = (real.mean(0) - fake.mean(0)).numpy()
    expected = difference @ difference + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert all_forms(real, fake) == pytest.approx([expected] * 4, rel=1e-8)


def test_fewer_pictures_than_features() -> None:
    """Singular covariances: eigenvalues that are zero but for rounding make the reference itself uncertain."""
    real, fake = features(40, 256, seed=0), features(50, 256, seed=1, shift=0.3)
    exact = frechet_distance(real, fake).item()
    assert exact == pytest.approx(torch_fidelity(real, fake), rel=1e-4)
    assert all_forms(real, fake) == pytest.approx([exact] * 4, rel=1e-6)


def test_dead_and_tied_features_do_no_harm() -> None:
    real, fake = features(300, 32, seed=0), features(300, 32, seed=1, shift=0.3)
    padded = [torch.cat([x, torch.zeros(len(x), 4), x[:, :3]], dim=1) for x in (real, fake)]
    values = all_forms(*padded)
    assert values == pytest.approx([values[0]] * 4, rel=1e-6)


def test_closed_forms() -> None:
    x = features(200, 16, seed=0)
    variance = x.var(dim=0).sum().item()
    assert all_forms(x, x) == pytest.approx([0] * 4, abs=1e-7)
    assert all_forms(x, x + 0.5) == pytest.approx([16 * 0.25] * 4, rel=1e-9)  # moved: the squared distance
    mean = x.mean(dim=0)
    assert all_forms(x, mean + 3 * (x - mean)) == pytest.approx([4 * variance] * 4, rel=1e-9)  # (3 - 1)^2 tr(S)


def test_moments_of_parts_add_up() -> None:
    x = features(100, 8, seed=0)
    torch.testing.assert_close(moments(x[:33]) + moments(x[33:]), moments(x), rtol=1e-12, atol=1e-12)


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


def test_kernel_distances_error_is_the_jackknifes() -> None:
    """Each picture of either set left out in turn (Efron and Stein 1981)."""
    real, fake = features(9, 8, seed=0), features(7, 8, seed=1, shift=0.5)

    def variance(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return (len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values)

    def without(x: torch.Tensor, i: int) -> torch.Tensor:
        return torch.cat([x[:i], x[i + 1 :]])

    of_real = [kernel_distance(without(real, i), fake)[0].item() for i in range(len(real))]
    of_fake = [kernel_distance(real, without(fake, i))[0].item() for i in range(len(fake))]
    error = (variance(of_real) + variance(of_fake)) ** 0.5
    assert kernel_distance(real, fake)[1].item() == pytest.approx(error, rel=1e-9)


def test_kernel_distance_of_one_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.ones(1, 4), torch.ones(3, 4))
