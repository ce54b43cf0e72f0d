"""Theorems on the bound: above the likelihood, by as much as the closed form says, and tight when it can be."""

import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.likelihood import beta_variance, bound, clipped_variance, density, discretised
from diffusion_lab.diffusion.mixture import GivenTheRest, gaussian
from diffusion_lab.diffusion.paths import Path, uniform_path
from diffusion_lab.diffusion.sampling import keep_clean
from diffusion_lab.diffusion.schedule import linear

C, MU = 0.3, 0.7
FACE = gaussian([MU], [[C**2]])
NLL = 0.5 * math.log2(2 * math.pi * math.e * C**2)


def noise_like(x: Tensor, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(x.shape, generator=generator, dtype=torch.float64)


def faces(count: int) -> Tensor:
    """Faces whose moments are exactly the distribution's: quantiles, standardised."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = torch.special.ndtri(u)
    return (MU + C * (z - z.mean()) / z.std(unbiased=False)).reshape(count, 1, 1)


class OptimalVariance:
    """The optimal denoiser with the variance that the reverse process of a Gaussian really has."""

    condition_channels = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        said = FACE(x[:, :1], level, condition)  # all channels are equal
        index = int((self.path == level[0]).nonzero()[0])
        a, b = float(self.path[index]), float(self.path[index + 1])
        # x' given x for jointly Gaussian (x', x): Var(x') - Cov^2 / Var(x).
        here, there = a * C**2 + 1 - a, b * C**2 + 1 - b
        variance = there - (a / b) * there**2 / here
        beta = 1 - a / b
        tilde = (1 - b) / (1 - a) * beta
        if b == 1:  # the first step's lower end is the second's beta-tilde
            before = float(self.path[index - 1]) if index else a
            tilde = (1 - a) / (1 - before) * (1 - before / a) if index else beta
        span = math.log(beta) - math.log(tilde)
        mix = (math.log(variance) - math.log(tilde)) / span
        return Prediction(said.x_0, said.eps, torch.full_like(x, mix))


def prior_gap(path: Path) -> float:
    """KL(q(x_T) || N(0, 1)) of the marginal, which no reverse process can get rid of."""
    g = float(path[0])
    variance, mean = g * C**2 + 1 - g, math.sqrt(g) * MU
    return 0.5 * (variance + mean**2 - 1 - math.log(variance)) / math.log(2)


@pytest.mark.parametrize("steps", [2, 5, 50, 1000])
def test_with_optimal_mean_and_variance_the_bound_is_the_likelihood(steps):
    path = uniform_path(linear(), steps)
    x_0 = faces(2000)
    found = bound(OptimalVariance(path), path, x_0, Condition(), noise_like(x_0), decoder=density)
    deviation = found.total.std().item() / math.sqrt(len(x_0))
    assert found.total.mean().item() == pytest.approx(NLL + prior_gap(path), abs=4 * deviation + 1e-9)
    assert found.steps.shape == (2000, steps - 1)


def closed_form(path: Path, first_variance: float) -> float:
    """Expected bound with the optimal mean and beta-tilde, term by term, in bits."""
    levels = path.tolist()
    g = levels[0]
    bits = 0.5 * (g * (C**2 + MU**2) - g - math.log1p(-g)) / math.log(2)
    for a, b in itertools.pairwise(levels):
        uncertainty = C**2 * (1 - a) / (a * C**2 + 1 - a)  # E (x_0 - optimal x_0)^2
        beta = 1 - a / b
        if b < 1:
            tilde = (1 - b) / (1 - a) * beta
            bits += 0.5 * b * beta**2 / (1 - a) ** 2 * uncertainty / tilde / math.log(2)
        else:
            bits += 0.5 * (math.log(2 * math.pi * first_variance) + uncertainty / first_variance) / math.log(2)
    return bits


FIRST = [(beta_variance, 1e-4, 0.953), (clipped_variance, 5.4531e-5, 1.116)]
"""DDPM's text says sigma_1^2 = beta_1; the programs, guided-diffusion's posterior_variance[1]: its value there."""


@pytest.mark.parametrize(("first", "variance", "expected"), FIRST)
def test_the_gap_with_beta_tilde_is_the_closed_form(first, variance, expected):
    """Issue 3's .953 bits is for a last step of variance beta_1; iDDPM's clipped one costs .163 bits more here."""
    assert pytest.approx(0.310, abs=5e-4) == NLL
    path = uniform_path(linear(), 1000)
    assert closed_form(path, variance) == pytest.approx(expected, abs=5e-4)
    x_0 = faces(4000)
    found = bound(FACE, path, x_0, Condition(), noise_like(x_0), decoder=density, first_variance=first)
    deviation = found.total.std().item() / math.sqrt(len(x_0))
    assert found.total.mean().item() == pytest.approx(closed_form(path, variance), abs=4 * deviation)
    assert deviation < 0.045


@pytest.mark.parametrize("learned", [None, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("mix", [0.0, 1.0])
@pytest.mark.parametrize(("first", "variance", "_"), FIRST)
def test_the_first_variance_is_the_named_one_whatever_the_others_are(first, variance, _, mix, learned):
    """guided-diffusion: FIXED_SMALL and FIXED_LARGE both begin with it, a learned range leads from it to beta_1."""
    path, x_0 = uniform_path(linear(), 1000)[-3:], faces(20)
    read = []

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        said = FACE(x, level, condition)
        return Prediction(said.x_0, said.eps, None if learned is None else torch.full_like(x, learned))

    def decoder(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        read.append(log_variance.exp().unique())
        return density(x_0, mean, log_variance)

    model.condition_channels = 0
    options = {"decoder": decoder, "variance_mix": mix, "first_variance": first}
    bound(model, path, x_0, Condition(), noise_like(x_0), **options)
    (found,) = read[-1].tolist()
    assert found == pytest.approx(variance ** (1 - (learned or 0)) * 1e-4 ** (learned or 0), rel=1e-4)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [3, 20])
def test_the_bound_is_above_the_likelihood(mix, steps):
    path, x_0 = uniform_path(linear(), steps), faces(4000)
    found = bound(FACE, path, x_0, Condition(), noise_like(x_0), decoder=density, variance_mix=mix)
    assert found.total.mean().item() > NLL
    assert bool((found.steps.mean(0) > 0).all())
    assert bool((found.prior >= 0).all())


@pytest.mark.parametrize("first", [0.05, 0.4, 0.8])
def test_the_prior_is_the_divergence_of_the_noisiest_pictures(first):
    """Of q(x_T | x_0) from N(0, 1), by PyTorch's distributions: on a path that begins where much is still seen."""
    path, x_0 = torch.tensor([first, 0.9, 1.0], dtype=torch.float64), faces(7)
    found = bound(FACE, path, x_0, Condition(), noise_like(x_0), decoder=density)
    noisy = Normal(first**0.5 * x_0.flatten(), (1 - first) ** 0.5)
    standard = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    torch.testing.assert_close(found.prior, kl_divergence(noisy, standard) / math.log(2))


def test_the_hole_given_the_rest_is_bounded_per_dimension_of_the_hole():
    covariance = [[0.3, 0.2, 0.1], [0.2, 0.4, 0.0], [0.1, 0.0, 0.2]]
    whole = gaussian([0.1, -0.2, 0.0], covariance)
    hole = torch.tensor([True, True, False])
    given = whole.covariance[hole][:, hole] - torch.outer(whole.covariance[hole, 2], whole.covariance[2, hole]) / 0.2
    nll = (0.5 * torch.logdet(2 * math.pi * math.e * given) / 2 / math.log(2)).item()
    generator = torch.Generator().manual_seed(0)
    n = 3000
    z = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    x_0 = (whole.mean + z @ torch.linalg.cholesky(whole.covariance).T).reshape(n, 1, 3)
    condition = Condition(known=x_0, mask=hole.expand(n, 1, 3))
    path = uniform_path(linear(), 200)
    found = bound(
        GivenTheRest(whole, hole),
        path,
        x_0,
        condition,
        noise_like(x_0),
        decoder=density,
        variance_mix=0.9,
        constrain=keep_clean,
    )
    error = 4 * found.total.std().item() / math.sqrt(n)
    assert nll - error < found.total.mean().item() < nll + 0.15 + error


class Pointwise:
    """Says of every number what it would say of it alone, and knows of known pixels."""

    condition_channels = 3

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        return Prediction(0.3 * x + 0.1, 0.5 * x)


def test_what_is_known_costs_nothing_and_is_not_counted():
    """Where each number is said by itself, the hole costs what it costs as a picture of its own."""
    path, x_0 = uniform_path(linear(), 6), torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(3, 2, 4)
    mask, draw, again = torch.tensor([True, True, False, False]).expand(3, 1, 4), noise_like(x_0), noise_like(x_0)
    of_hole = bound(Pointwise(), path, x_0, Condition(known=x_0, mask=mask), draw, decoder=density)
    alone = bound(Pointwise(), path, x_0[..., :2], Condition(), lambda: again()[..., :2], decoder=density)
    for found, expected in ((of_hole.prior, alone.prior), (of_hole.steps, alone.steps), (of_hole.total, alone.total)):
        torch.testing.assert_close(found, expected)
    assert torch.equal(of_hole.levels, path[:-2])  # those of the KLs: neither the decoder's nor the data's
    with pytest.raises(FrozenInstanceError):
        of_hole.prior = alone.prior


def test_a_single_step_is_all_decoder():
    """Its variance is its own beta, by either name; what is left is the prior."""
    path, x_0 = torch.tensor([0.4, 1.0], dtype=torch.float64), faces(5)
    for first in (clipped_variance, beta_variance):
        draw = noise_like(x_0)
        x = 0.4**0.5 * x_0 + 0.6**0.5 * noise_like(x_0)()
        found = bound(Pointwise(), path, x_0, Condition(), draw, decoder=density, first_variance=first)
        expected = -Normal(0.3 * x + 0.1, 0.6**0.5).log_prob(x_0)[:, 0, 0] / math.log(2)
        torch.testing.assert_close(found.decoder, expected)
        assert found.steps.shape == (5, 0)
        torch.testing.assert_close(found.total, found.prior + expected)


def test_where_nobody_says_otherwise_the_bound_is_of_ddpms_program():
    """8-bit pictures, beta-tilde, and that of the second step for the first; nothing is clipped."""
    values = (torch.arange(12, dtype=torch.float64).reshape(3, 1, 4) * 20 + 7) / 127.5 - 1
    path = uniform_path(linear(), 5)
    plain, said = (
        bound(Pointwise(), path, values, Condition(), noise_like(values), **options).total
        for options in (
            {},
            {"variance_mix": 0.0, "first_variance": clipped_variance, "decoder": discretised},
        )
    )
    assert torch.equal(plain, said)


def test_a_model_without_condition_is_refused_for_a_part_of_the_picture():
    x_0 = faces(2).expand(2, 1, 3)
    mask = torch.tensor([True, False, True]).expand(2, 1, 3)
    model = gaussian([0.0] * 3, torch.eye(3).tolist())
    with pytest.raises(ValueError, match="difference of two of its bounds is no bound"):
        bound(model, uniform_path(linear(), 5), x_0, Condition(known=x_0, mask=mask), noise_like(x_0))
    whole = Condition(known=x_0, mask=torch.ones_like(mask))
    assert bool(bound(model, uniform_path(linear(), 5), x_0, whole, noise_like(x_0)).total.isfinite().all())


@pytest.mark.parametrize("levels", [[0.1, 0.5], [0.1, 0.5, 0.3, 1.0], [0.1, 0.5, 0.5, 1.0]])
def test_a_path_that_is_no_reverse_process_is_refused(levels):
    x_0 = faces(2)
    said = f"a bound needs levels that rise to 1, got {len(levels)} from {levels[0]} to {levels[-1]:.4g}$"
    with pytest.raises(ValueError, match=said):
        bound(FACE, torch.tensor(levels, dtype=torch.float64), x_0, Condition(), noise_like(x_0))


@pytest.mark.parametrize("deviation", [0.002, 0.01, 0.1, 1.0])
def test_the_discretised_decoder_is_a_distribution_over_256_values(deviation):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean in (-1.3, -0.999, 0.0, 0.5):
        log_p = discretised(values, torch.full_like(values, mean), torch.full_like(values, 2 * math.log(deviation)))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("deviation", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("mean", [-0.7, 0.0, 0.5])
def test_a_value_has_the_gaussians_mass_between_its_neighbours(mean, deviation):
    """By SciPy's normal distribution; the two ends have all that lies beyond (DDPM eq. 13)."""
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    found = discretised(values, torch.full_like(values, mean), torch.full_like(values, 2 * math.log(deviation)))
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    mass = np.diff(norm.cdf(edges, mean, deviation))
    assert found.exp().numpy() == pytest.approx(mass, rel=1e-6, abs=1e-12)


def test_every_channel_is_a_dimension():
    """Three equal channels cost as many bits per dimension as one of them."""
    path, x_0 = uniform_path(linear(), 20), faces(50)
    totals = []
    for channels in (1, 3):
        draw = noise_like(x_0)
        several = x_0.expand(-1, channels, -1)
        noise = lambda draw=draw, several=several: draw().expand_as(several)  # noqa: E731
        totals.append(bound(OptimalVariance(path), path, several, Condition(), noise, decoder=density).total)
    torch.testing.assert_close(totals[0], totals[1])


def test_the_model_is_shown_x_as_it_was_trained_to_see_it():
    seen = []

    class Watched:
        condition_channels = 4

        def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
            seen.append(x)
            return Prediction(torch.zeros_like(x), x)

    path, x_0 = uniform_path(linear(), 5), faces(4).expand(-1, 1, 2)
    mask = torch.tensor([True, False]).expand(4, 1, 2)
    bound(
        Watched(),
        path,
        x_0,
        Condition(known=x_0, mask=mask),
        noise_like(x_0),
        decoder=density,
        constrain=keep_clean,
    )
    assert len(seen) == 5
    for x in seen:
        assert torch.equal(x[..., 1], x_0[..., 1])
        assert not torch.equal(x[..., 0], x_0[..., 0])
