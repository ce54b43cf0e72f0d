import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from diffusion_lab.metrics import (
    frechet_distance,
    frechet_distance_from_moments,
    frechet_distance_mixed,
    frechet_shares,
    frechet_shares_mixed,
    moments,
)
from features import features


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


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_distance_has_the_features_unit_squared(unit: float) -> None:
    """So what counts as noise of rounding is relative; covariances are singular."""
    real, fake = features(40, 64, seed=0), features(50, 64, seed=1, shift=0.3)
    exact = frechet_distance(real, fake).item()
    assert all_forms(unit * real, unit * fake) == pytest.approx([unit**2 * exact] * 4, rel=1e-6)


def test_moments_of_parts_add_up() -> None:
    x = features(100, 8, seed=0)
    torch.testing.assert_close(moments(x[:33]) + moments(x[33:]), moments(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 8), (40, 90, 8), (20, 30, 48)])
def test_shares_are_the_distance_and_its_derivative(n: int, m: int, d: int) -> None:
    """A picture that weighs a little more or less than the others moves the distance by its share's excess."""
    real, fake = features(m, d, seed=0), features(n, d, seed=1, shift=0.3, scale=1.2)
    distance = frechet_distance(real, fake)
    for paired in {False, n == m}:
        shares = frechet_shares(real, fake, paired)
        assert shares.shape == (n,)
        assert shares.mean().item() == pytest.approx(distance.item(), rel=1e-9)
        for i in (0, n // 2, n - 1):
            more = 1e-4

            def heavier(x: Tensor, more: float, i: int = i) -> Tensor:
                return (moments(x) + more * moments(x[i : i + 1])) * len(x) / (len(x) + more)

            up, down = (
                frechet_distance_from_moments(heavier(real, by) if paired else moments(real), heavier(fake, by))
                for by in (more, -more)
            )
            derivative = n * (up - down).item() / (2 * more)
            assert (shares[i] - distance).item() == pytest.approx(derivative, abs=1e-7 * distance.item())
    torch.testing.assert_close(frechet_shares_mixed(moments(real), fake), frechet_shares(real, fake), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("n", "m", "d", "decomposed"), [(60, 50, 8, (8, 8)), (20, 30, 48, (20, 30))])
def test_what_is_decomposed_is_as_small_as_can_be(
    n: int, m: int, d: int, decomposed: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pictures there are: of 50,000 nobody could decompose the Gram matrix."""
    asked: list[tuple[int, ...]] = []
    svd = torch.linalg.svd

    def noted(matrix: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        asked.append(tuple(matrix.shape))
        return svd(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", noted)
    frechet_shares(features(m, d, seed=0), features(n, d, seed=1))
    assert asked == [decomposed]


def test_a_perfect_method_has_no_share() -> None:
    real = features(30, 48, seed=0)
    torch.testing.assert_close(frechet_shares(real, real, paired=True), torch.zeros(30, dtype=torch.float64))


def test_shares_know_the_spread_where_the_plain_bootstrap_is_biased_and_too_wide() -> None:
    """Forty pictures with 64 features, completions of half known pictures, 150 times."""
    n, d = 40, 64

    def once(seed: int) -> tuple[Tensor, Tensor]:
        real, other = features(n, d, seed=2 * seed), features(n, d, seed=2 * seed + 1)
        return real, 0.7 * real + 0.3 * other

    values, errors, plain = [], [], []
    generator = torch.Generator().manual_seed(0)
    for seed in range(150):
        real, fake = once(seed)
        shares = frechet_shares(real, fake, paired=True)
        values.append(shares.mean())
        errors.append(shares.var(correction=0) / n)
        if seed < 20:
            drawn = torch.randint(n, (30, n), generator=generator)
            plain.append(torch.stack([frechet_distance(real[i], fake[i]) for i in drawn]))
    spread = torch.stack(values).std()
    resampled = torch.stack(plain)
    assert 0.8 < torch.stack(errors).mean().sqrt() / spread < 1.3
    assert resampled.std(dim=1).mean() > torch.stack(errors).mean().sqrt()
    assert (resampled.mean(dim=1) / torch.stack(values[:20])).min() > 1.03
