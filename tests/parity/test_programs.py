"""Walks of the papers' programs written out from their formulas, on one number per picture in float64.

Beside the programs themselves (guided-diffusion 22e0df8, edm 008a4e5, Janspiry's Palette 136b29f) the package was run
by hand with networks; docs/foreign_weights.md has the differences.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_lab.diffusion import process, samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.sampling import Sampler, sample

Numbers = np.ndarray


def eps_of(x: Numbers, alpha_bar: float) -> Numbers:
    """What stands for a network: bent, and not the same at every level."""
    return np.sin(2 * x + alpha_bar) + 0.3 * x


def denoiser(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
    eps = torch.from_numpy(eps_of(x.numpy(), float(level[0])))
    return Prediction(process.x_0_from_eps(x, eps, level), eps)


def draws(seed: int = 0) -> Callable[[], Numbers]:
    generator = np.random.default_rng(seed)
    return lambda: generator.standard_normal((5, 1))


def ours(sampler: Sampler, x_T: Numbers, trained_on: schedule.NoiseSchedule) -> Numbers:
    noise = draws()
    walked = sample(
        denoiser, sampler, trained_on, torch.from_numpy(x_T), Condition(), lambda: torch.from_numpy(noise())
    )
    return walked.numpy()


def guided_betas(steps: int) -> Numbers:
    """guided-diffusion's linear schedule."""
    return np.linspace(0.1 / steps, 20 / steps, steps)


def guided_ddim(indices: list[int], steps: int, x: Numbers, eta: float) -> Numbers:
    """DDIM over a list of t counted from 0, x_0 clipped and eps derived from it again."""
    alpha_bar, noise = np.cumprod(1 - guided_betas(steps)), draws()
    for i, t in reversed(list(enumerate(indices))):
        now, before = alpha_bar[t], alpha_bar[indices[i - 1]] if i else 1.0
        x_0 = np.clip((x - np.sqrt(1 - now) * eps_of(x, now)) / np.sqrt(now), -1, 1)
        eps = (x - np.sqrt(now) * x_0) / np.sqrt(1 - now)
        sigma = eta * np.sqrt((1 - before) / (1 - now)) * np.sqrt(1 - now / before)
        x = np.sqrt(before) * x_0 + np.sqrt(1 - before - sigma**2) * eps
        if i and eta:
            x = x + sigma * noise()
    return x


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1000, 4000])
def test_ddim_on_strides_is_guided_diffusions(steps: int, eta: float) -> None:
    """--timestep_respacing ddim50 --use_ddim True: t = 0, 20, ... 980 of 1,000."""
    indices = list(range(0, steps, steps // 50))
    assert len(indices) == 50
    x_T = draws(1)()
    found = ours(samplers.ddim_strided(50, eta), x_T, schedule.linear(steps))
    np.testing.assert_allclose(found, guided_ddim(indices, steps, x_T, eta), rtol=1e-9, atol=1e-9)


def test_ddim_on_sections_is_guided_diffusions() -> None:
    """--timestep_respacing 5,3,2 --use_ddim True of 30 steps: three sections of 10, both ends of each included."""
    indices = [0, 2, 4, 7, 9, 10, 14, 19, 20, 29]  # strides 2.25, 4.5 and 9; 14.5 is rounded to the even 14
    x_T = draws(1)()
    found = ours(samplers.ddim_sections([5, 3, 2]), x_T, schedule.linear(30))
    np.testing.assert_allclose(found, guided_ddim(indices, 30, x_T, 0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance_mix", [0.0, 1.0])
def test_palettes_sampling_is_janspirys_with_beta_tilde(variance_mix: float) -> None:
    betas, noise = np.linspace(1e-4, 0.09, 1000), draws()
    gammas = np.cumprod(1 - betas)
    before = np.append(1.0, gammas[:-1])
    variance = betas * (1 - before) / (1 - gammas)
    x_T = x = draws(1)()
    for t in reversed(range(1000)):
        y_0 = np.clip(np.sqrt(1 / gammas[t]) * x - np.sqrt(1 / gammas[t] - 1) * eps_of(x, gammas[t]), -1, 1)
        x = (
            betas[t] * np.sqrt(before[t]) / (1 - gammas[t]) * y_0
            + (1 - before[t]) * np.sqrt(1 - betas[t]) / (1 - gammas[t]) * x
        )
        x = x + np.sqrt(variance[t]) * noise() if t else x
    found = ours(samplers.palette(variance_mix=variance_mix), x_T, schedule.linear(2000, 1e-6, 0.01))
    difference = np.abs(found - x).max()
    assert difference < 1e-9 if variance_mix == 0 else difference > 1e-4


@pytest.mark.parametrize(
    "s", [{}, {"churn": 4.0, "churn_from": 0.05, "churn_to": 50.0}, {"churn": 4.0, "churn_noise": 1.01}]
)
@pytest.mark.parametrize(("sigma_min", "sigma_max"), [(0.002, 80.0), (0.05, 20.0)])
def test_heun_is_edms_algorithm_2(s: dict[str, float], sigma_min: float, sigma_max: float) -> None:
    """In its own terms, y = x / signal and sigma; N = 9."""
    steps, rho, noise = 9, 7, draws()
    churn, low, high = s.get("churn", 0.0), s.get("churn_from", 0.0), s.get("churn_to", math.inf)
    ramp = np.linspace(0, 1, steps)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho

    def slope(y: Numbers, sigma: float) -> Numbers:
        """(y - D) / sigma, which is the noise that the network sees."""
        return eps_of(y / np.sqrt(1 + sigma**2), 1 / (1 + sigma**2))

    latents = draws(1)()
    y = latents * sigmas[0]
    for i, sigma in enumerate(sigmas):
        hot = sigma
        if churn and low <= sigma <= high:
            hot = sigma * (1 + min(churn / steps, math.sqrt(2) - 1))
            y = y + np.sqrt(hot**2 - sigma**2) * s.get("churn_noise", 1.0) * noise()
        after = sigmas[i + 1] if i + 1 < steps else 0.0
        first = slope(y, hot)
        euler = y + (after - hot) * first
        y = y + (after - hot) * (first + slope(euler, after)) / 2 if after else euler
    x_T = latents * sigma_max / np.sqrt(1 + sigma_max**2)
    sampler = samplers.heun(steps, rho, clip=False, sigma_min=sigma_min, sigma_max=sigma_max, **s)
    np.testing.assert_allclose(ours(sampler, x_T, schedule.linear()), y, rtol=1e-8, atol=1e-8)
