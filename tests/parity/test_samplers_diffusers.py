"""Trajectories equal diffusers' step by step, both fed the same levels, the same noise and the same network."""

from collections.abc import Callable

import diffusers
import pytest
import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Epsilon, Prediction, Velocity
from diffusion_lab.diffusion.flow import FlowVelocity, at_flow_time, flow, flow_time
from diffusion_lab.diffusion.guidance import Clip, DynamicThreshold
from diffusion_lab.diffusion.sampling import Rows, Sampler, Wrap, sample, untouched
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.diffusion.solvers import DDIM, Ancestral, DPMSolver, Heun, Solver

# numpy of diffusers' tensors, in their own code
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 3, 4, 4)
TABLES = {
    "linear": {"beta_schedule": "linear"},
    "quadratic": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
tables = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
counts = pytest.mark.parametrize("steps", [5, 10, 50])


def output(x: Tensor, level: Tensor) -> Tensor:
    """A network that is smooth in x and in the level, and nothing that any solver is exact for."""
    gamma = level.to(x).reshape(-1, 1, 1, 1)
    return torch.tanh(1.5 * x + gamma) - 0.3 * x.flip(3) * gamma.sqrt()


def x_T() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def ours(path: Tensor, solver: Solver, wrap: Wrap = untouched, reads: Epsilon | Velocity | None = None) -> list[Tensor]:
    """Our x after every step; the noise is diffusers', one generator for the batch."""
    generator = torch.Generator().manual_seed(1)

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        return (reads or Epsilon()).read(output(x, level), x, level)

    seen: list[Tensor] = []

    def keep(rows: Rows, prediction: Prediction) -> None:
        seen.append(rows.x)

    def noise() -> Tensor:
        return torch.randn(SHAPE, generator=generator)

    sample(model, Sampler(lambda _: path, solver, wrap), linear(), x_T(), Condition(), noise, on_step=keep)
    return seen


def assert_equal(mine: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b.to(a), rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def by_time(scheduler, **options: object) -> tuple[list[Tensor], Tensor]:
    """Their x after every step, and the levels that they visited: of t, then 1."""
    generator = torch.Generator().manual_seed(1)
    levels = [scheduler.alphas_cumprod[t].double() for t in scheduler.timesteps]
    x, seen = x_T(), []
    for t, level in zip(scheduler.timesteps, levels, strict=True):
        said = output(x, level.expand(len(x)))
        x = scheduler.step(said, t, x, generator=generator, **options).prev_sample
        seen.append(x)
    return seen, torch.stack([*levels, torch.ones((), dtype=torch.float64)])


@counts
@tables
@pytest.mark.parametrize(("variance_type", "mix"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm(table, steps, variance_type, mix, clip):
    """clip_sample as named; the final step adds no noise on both sides."""
    scheduler = diffusers.DDPMScheduler(**table, variance_type=variance_type, clip_sample=clip)
    scheduler.set_timesteps(steps)
    theirs, path = by_time(scheduler)
    assert_equal(ours(path, Ancestral(mix), Clip if clip else untouched), theirs)


@counts
@tables
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim(table, steps, eta, clip):
    """clip_sample with use_clipped_model_output (our eps agrees with x_0); set_alpha_to_one: the end is level 1."""
    scheduler = diffusers.DDIMScheduler(**table, clip_sample=clip, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    theirs, path = by_time(scheduler, eta=eta, use_clipped_model_output=True)
    assert_equal(ours(path, DDIM(eta), Clip if clip else untouched), theirs)


@counts
def test_ddim_on_a_zero_terminal_schedule_with_v(steps):
    """rescale_betas_zero_snr, trailing spacing; diffusers reads v."""
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    theirs, path = by_time(scheduler)
    assert path[0] < 1e-12
    assert_equal(ours(path, DDIM(0.0), reads=Velocity()), theirs)


@counts
def test_dynamic_thresholding(steps):
    """Thresholding with its ratio .95 and no upper limit on the threshold."""
    scheduler = diffusers.DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1e9)
    scheduler.set_timesteps(steps)
    theirs, path = by_time(scheduler)
    assert_equal(ours(path, Ancestral(), lambda model: DynamicThreshold(model, 0.95)), theirs)


def by_sigma(scheduler, sigmas: Tensor, scaled: Callable[[Tensor, Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
    """Their x after every step, as ours: divided by sqrt(1 + sigma^2) where they keep x / signal."""
    stochastic = not isinstance(scheduler, diffusers.HeunDiscreteScheduler)
    noise = {"generator": torch.Generator().manual_seed(1)} if stochastic else {}
    levels = 1 / (1 + sigmas.double().square())
    scheduler.set_begin_index(0)  # where two levels share a rounded t, they would start at the second
    x, seen = scaled(x_T(), 1 / levels[0].sqrt()), []
    for t, level, next_level in zip(scheduler.timesteps, levels[:-1], levels[1:], strict=True):
        said = output(scaled(x, level.sqrt()), level.expand(len(x)))
        x = scheduler.step(said, t, x, **noise).prev_sample
        seen.append(scaled(x, next_level.sqrt()))
    return seen, levels


@counts
@tables
@pytest.mark.parametrize(("algorithm", "eta"), [("dpmsolver++", 0.0), ("sde-dpmsolver++", 1.0)])
@pytest.mark.parametrize(
    "spacing", [{}, {"use_karras_sigmas": True}, {"use_lu_lambdas": True}], ids=["t", "karras", "lu"]
)
def test_dpm_solver(table, steps, algorithm, eta, spacing):
    """Order 2 midpoint, final_sigmas_type zero (a last step of order 1), no thresholding, lower_order_final off."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **table, **spacing, algorithm_type=algorithm, solver_order=2, final_sigmas_type="zero", lower_order_final=False
    )
    scheduler.set_timesteps(steps)
    theirs, path = by_sigma(scheduler, scheduler.sigmas, lambda x, factor: x)
    assert_equal(ours(path, DPMSolver(eta)), theirs)


@counts
@tables
@pytest.mark.parametrize("karras", [True, False])
def test_heun(table, steps, karras):
    """clip_sample off; their sigmas repeat the inner levels, as our path does."""
    scheduler = diffusers.HeunDiscreteScheduler(**table, use_karras_sigmas=karras, clip_sample=False)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas
    theirs, _ = by_sigma(scheduler, sigmas, lambda x, factor: (x.double() * factor).float())
    # Their list has one entry a network call: a, b, b, c, c, ..., and 0; ours is the same list.
    assert_equal(ours(1 / (1 + sigmas.double().square()), Heun()), theirs)


@counts
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(steps, shift):
    """Euler's method in flow's t; their x is z, x over signal and sigma, and so is what their network sees."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    path = at_flow_time(scheduler.sigmas.double())
    z, theirs = x_T(), []
    for t, level, end in zip(scheduler.timesteps, path, path[1:], strict=False):
        z = scheduler.step(output(z, level.expand(len(z))), t, z).prev_sample
        theirs.append(z * float(end.sqrt() + (1 - end).sqrt()))

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        shown = x * FlowVelocity().scale(level).to(x).reshape(-1, 1, 1, 1)
        return FlowVelocity().read(output(shown, level), x, level)

    mine: list[Tensor] = []

    def keep(rows: Rows, prediction: Prediction) -> None:
        mine.append(rows.x)

    sample(model, Sampler(lambda _: path, DDIM()), linear(), x_T(), Condition(), x_T, on_step=keep)
    assert_equal(mine, theirs)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels(shift):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift).sigmas
    torch.testing.assert_close(flow_time(flow(1000, shift).alpha_bar[1:].flip(0)).float(), theirs, rtol=0, atol=1e-6)
