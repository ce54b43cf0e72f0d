"""The published samplers, each a path, a solver and a wrapper."""

from functools import partial

import torch

from diffusion_lab.diffusion.guidance import Clip
from diffusion_lab.diffusion.sampling import Path, Sampler, untouched
from diffusion_lab.diffusion.schedule import NoiseSchedule, linear
from diffusion_lab.diffusion.solvers import Ancestral


def uniform_path(trained_on: NoiseSchedule, steps: int, schedule: NoiseSchedule | None = None) -> Path:
    """Levels at `steps` + 1 equal distances in t, from T to 0.

    Args:
        trained_on: the schedule that the model was trained on.
        steps: network calls, 1 or more; more than T asks for fractional t.
        schedule: the one to walk instead; None walks the one trained on.
    """
    if steps < 1:
        raise ValueError(f"sampler.steps must be 1 or more, got {steps}")
    walked = schedule or trained_on
    return walked.level(torch.linspace(walked.steps, 0, steps + 1, dtype=torch.float64))


def ddpm(steps: int = 1000, variance_mix: float = 0.0, clip: bool = True) -> Sampler:
    """Ancestral sampling (DDPM algorithm 2), strided as in iDDPM when `steps` < T; variance_mix 1 is the large variance."""
    return Sampler(partial(uniform_path, steps=steps), Ancestral(1.0, variance_mix), Clip if clip else untouched)


def ddim(steps: int = 50, eta: float = 0.0, clip: bool = True) -> Sampler:
    """DDIM (eq. 12): deterministic with eta = 0."""
    return Sampler(partial(uniform_path, steps=steps), Ancestral(eta), Clip if clip else untouched)


def palette(steps: int = 1000, start: float = 1e-4, end: float = 0.09) -> Sampler:
    """Palette's own sampling: a linear schedule of its own over `steps`, the large variance, clipped x_0.

    The published betas belong to 1,000 steps; fewer steps walk the same levels in longer strides.
    """
    walked = linear(1000, start, end)
    return Sampler(partial(uniform_path, steps=steps, schedule=walked), Ancestral(1.0, variance_mix=1.0), Clip)
