"""Every solver's options crossed with everything that a prediction may carry, against what the papers state of x'."""

import itertools
import math

import pytest
import torch
from gaussians import exact_moments
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.guidance import (
    ClassifierFree,
    ClassifierGuidance,
    Clip,
    DynamicThreshold,
    ShiftedMean,
    after_step,
)
from diffusion_lab.diffusion.mixture import gaussian
from diffusion_lab.diffusion.paths import uniform_path
from diffusion_lab.diffusion.sampling import Sampler, sample
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.diffusion.solvers import DDIM, Ancestral, DPMSolver, Heun, Solver, all_of_it
from diffusion_lab.diffusion.zero_shot import Blind, PosteriorGuide

X_0 = 0.7
LEVELS = [0.05, 0.3, 0.6, 0.95, 1.0]
MIXES = [None, 0.0, 0.5, 1.0]
GRADIENT = 0.4

WITHOUT_A_SAY: dict[str, Solver] = {
    **{f"ddim, eta {eta:g}": DDIM(eta) for eta in (0, 0.01, 0.5, 1)},
    **{f"ddnm, eta {eta:g}": DDIM(eta, all_of_it) for eta in (0, 0.01, 0.85, 1)},
    **{f"dpm-solver, eta {eta:g}": DPMSolver(eta) for eta in (0, 0.5, 1)},
    "heun": Heun(),
}
"""Solvers in which neither a learned variance nor a guide's gradient has a say."""


def knows(variance_mix: float | None, gradient: float | None):
    """A model that knows the picture and reads the noise off x; its predictions carry what they are told."""

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        gamma = level.reshape(-1, *[1] * (x.ndim - 1))
        carried = [None if value is None else torch.full_like(x, value) for value in (variance_mix, gradient)]
        return Prediction(X_0 + 0 * x, (x - gamma.sqrt() * X_0) / (1 - gamma).sqrt(), *carried)

    return model


def moments(solver: Solver, model, levels: list[float], of_q: bool = True) -> tuple[float, float]:
    """Exact mean and variance where the path ends, from q(x | x_0) at its first level, or from N(0, 1)."""
    path = torch.tensor(levels, dtype=torch.float64)
    mean, deviation = (math.sqrt(levels[0]) * X_0, math.sqrt(1 - levels[0])) if of_q else (0.0, 1.0)

    def run(x_T: Tensor, noise) -> Tensor:
        sampler = Sampler(lambda _: path, solver)
        return sample(model, sampler, linear(), mean + deviation * x_T, Condition(), noise)

    found, covariance = exact_moments(run, n=1, draws=len(path))
    return found.item(), covariance.item()


@pytest.mark.parametrize("gradient", [None, GRADIENT])
@pytest.mark.parametrize("carried", MIXES)
@pytest.mark.parametrize("solver", WITHOUT_A_SAY.values(), ids=WITHOUT_A_SAY.keys())
def test_given_the_picture_x_follows_the_forward_process_at_every_level(solver, carried, gradient):
    """DDIM, lemma 1: eq. 12 keeps q(x' | x_0) = N(signal' x_0, sigma'^2) for any variance; so do exact solutions."""
    for end in range(2, len(LEVELS) + 1):
        mean, variance = moments(solver, knows(carried, gradient), LEVELS[:end])
        assert mean == pytest.approx(math.sqrt(LEVELS[end - 1]) * X_0, abs=1e-12)
        assert variance == pytest.approx(1 - LEVELS[end - 1], abs=1e-12)


def ancestral(levels: list[float], mix: float, gradient: float) -> tuple[float, float]:
    """Moments after ancestral steps: regression of x' on x in the joint Gaussian q(x', x | x_0), and what Sigma adds.

    The forward process is x = ratio x' + noise of variance beta. Small is what x leaves open of x', large is beta.
    """
    mean, variance = math.sqrt(levels[0]) * X_0, 1 - levels[0]
    for here, there in itertools.pairwise(levels):
        ratio = math.sqrt(here / there)
        covariance, large = ratio * (1 - there), 1 - ratio**2
        gain = covariance / (1 - here)
        small = (1 - there) - covariance * gain
        last = there == 1  # it has no noise, and DDPM's sigma_1^2 is beta_1
        added = large if last else small ** (1 - mix) * large**mix  # iDDPM eq. 15
        mean = math.sqrt(there) * X_0 + gain * (mean - math.sqrt(here) * X_0) + added * gradient  # ADM, algorithm 1
        variance = gain**2 * variance + (0 if last else added)
    return mean, variance


@pytest.mark.parametrize("gradient", [None, GRADIENT])
@pytest.mark.parametrize("carried", MIXES)
@pytest.mark.parametrize("option", [0.0, 0.5, 1.0])
def test_ancestral_steps_add_the_variance_that_was_learned_or_asked_for(option, carried, gradient):
    mix = option if carried is None else carried
    for end in range(2, len(LEVELS) + 1):
        found = moments(Ancestral(option), knows(carried, gradient), LEVELS[:end])
        assert found == pytest.approx(ancestral(LEVELS[:end], mix, 0.0), abs=1e-12)
        if gradient is not None:
            shifted = moments(ShiftedMean(option), knows(carried, gradient), LEVELS[:end])
            assert shifted == pytest.approx(ancestral(LEVELS[:end], mix, gradient), abs=1e-12)
    with pytest.raises(AssertionError, match="wants a guide that heeds `after_step`"):
        moments(ShiftedMean(option), knows(carried, None), LEVELS)


@pytest.mark.parametrize("carried", MIXES)
def test_with_the_optimal_denoiser_ddim_makes_the_data_at_any_eta(carried):
    """N(.7, .3^2), 50 steps: a learned range of beta once made .965 of eta .01 and .575 of eta .5."""
    face = gaussian([X_0], [[0.3**2]])

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        said = face(x, level, condition)
        return Prediction(said.x_0, said.eps, None if carried is None else torch.full_like(x, carried))

    deviations = {}
    for steps in (50, 200):
        path = uniform_path(linear(), steps).tolist()
        for eta in (0.0, 0.001, 0.01, 0.5, 1.0):
            mean, variance = moments(DDIM(eta), model, path, of_q=False)
            deviations[steps, eta] = math.sqrt(variance)
            assert mean == pytest.approx(X_0, abs=0.03)
    assert all(abs(deviations[200, eta] - 0.3) < abs(deviations[50, eta] - 0.3) < 0.05 for eta in (0.0, 0.01, 0.5, 1.0))
    # Nothing jumps as eta leaves 0, and eta 1 is DDPM with the small variance.
    assert deviations[50, 0.001] == pytest.approx(deviations[50, 0.0], abs=1e-4)
    assert deviations[50, 1.0] == pytest.approx(0.25292, abs=6e-6)


WRAPS = {
    "clip": Clip,
    "threshold": DynamicThreshold,
    "free": ClassifierFree,
    "guided": lambda model: ClassifierGuidance(model, lambda x, *_: x.flatten(1).sum(1)),
    "guided after": lambda model: ClassifierGuidance(model, lambda x, *_: x.flatten(1).sum(1), heed=after_step),
    "blind": Blind,
    "dps": PosteriorGuide,
}


@pytest.mark.parametrize("carried", MIXES)
@pytest.mark.parametrize("wrap", WRAPS.keys())
def test_no_wrap_drops_what_a_prediction_carries(wrap, carried):
    x, mask = torch.randn(2, 1, 3, dtype=torch.float64), torch.ones(2, 1, 3, dtype=torch.bool)
    condition = Condition(known=x, mask=mask, attributes=torch.ones(2, 1), fill=x)
    said = WRAPS[wrap](knows(carried, GRADIENT))(x, torch.tensor([0.2, 0.6], dtype=torch.float64), condition)
    kept = None if said.variance_mix is None else said.variance_mix.unique().tolist()
    assert kept == (None if carried is None else [carried])
    own = {"guided after": [1.0], "dps": [0.0]}  # of the sum of x; of known pixels that are all hole
    assert said.gradient is not None
    assert said.gradient.unique().tolist() == own.get(wrap, [GRADIENT])
