"""guided-diffusion's schedules, process, respacing and steps beside ours."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion import paths, process, samplers, schedule
from diffusion_lab.diffusion.sampling import Sampler

from .comparing import SHAPE, Draws, Network, apart, drawing, each, levels_of, ours, walk

LINEAR = schedule.linear()


def program() -> ModuleType:
    """Their diffusion."""
    from guided_diffusion import gaussian_diffusion

    return gaussian_diffusion


def diffusion(variance: str = "FIXED_SMALL", respacing: str = "1000", steps: int = 1000, **options: Any) -> Any:
    """Their process, linear, predicting eps."""
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps

    gd = program()
    return SpacedDiffusion(
        use_timesteps=space_timesteps(steps, respacing),
        betas=gd.get_named_beta_schedule("linear", steps),
        model_mean_type=gd.ModelMeanType.EPSILON,
        model_var_type=gd.ModelVarType[variance],
        **{"loss_type": gd.LossType.MSE, **options},
    )


def betas(name: str, make: Callable[..., schedule.NoiseSchedule], steps: int) -> float:
    theirs = program().get_named_beta_schedule(name, steps)
    return each(make(steps).alpha_bar[1:], torch.from_numpy((1 - theirs).cumprod()))


def every_t() -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    """Their process, t from 0 to 999, our levels there, and a picture and noise for each."""
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 1000, 3, 2, 2, generator=generator)
    return diffusion(), torch.arange(1000), LINEAR.alpha_bar[1:], x_0, eps


def noised() -> float:
    theirs, t, level, x_0, eps = every_t()
    return apart(process.add_noise(x_0, eps, level), theirs.q_sample(x_0, t, eps))


def posterior() -> float:
    theirs, t, level, x_0, x = every_t()
    mean, variance, _ = theirs.q_posterior_mean_variance(x_0, x, t)
    above = LINEAR.alpha_bar[:-1]
    return max(
        apart(process.posterior_mean(x, x_0, level, above), mean),
        each(process.posterior_variance(level, above), variance[:, 0, 0, 0]),
    )


def from_one_another() -> float:
    theirs, t, level, x, other = every_t()
    return max(
        apart(process.x_0_from_eps(x, other, level), theirs._predict_xstart_from_eps(x, t, other)),
        apart(process.eps_from_x_0(x, other, level), theirs._predict_eps_from_xstart(x, t, other)),
    )


def rescaled_times() -> float:
    """What the network is told with "rescale_timesteps"."""
    from diffusion_lab.networks.checkpoints.told import by_scaled_index

    t = torch.arange(4000)
    theirs = diffusion(respacing="4000", steps=4000, rescale_timesteps=True)._wrap_model(lambda x, t: t)
    table = schedule.linear(4000)
    return each(by_scaled_index(table, table.alpha_bar[1:]), theirs(t, t))


# Respacing


def sections(counts: str) -> float:
    theirs = diffusion(respacing=counts)
    expected = levels_of(theirs.alphas_cumprod, range(theirs.num_timesteps - 1, -2, -1))
    return each(paths.section_path(LINEAR, [int(count) for count in counts.split(",")]), expected)


def lists_of_sections() -> float:
    """The share of 1,100 lists whose t are not theirs."""
    from guided_diffusion.respace import space_timesteps

    lists = [[count] for count in range(1, 1001)] + [[count, 2 * count, 3 * count] for count in range(1, 101)]
    off = 0
    for counts in lists:
        expected = LINEAR.alpha_bar[[*(t + 1 for t in sorted(space_timesteps(1000, counts), reverse=True)), 0]]
        mine = paths.section_path(LINEAR, counts)
        off += not torch.equal(mine, expected)
    return off / len(lists)


def striding() -> float:
    theirs = diffusion(respacing="ddim50")
    expected = levels_of(theirs.alphas_cumprod, range(49, -2, -1))
    return each(samplers.ddim_strided(50).path(LINEAR), expected)


# Steps


def chain(
    variance: str, sampler: Sampler, clip: bool = True, eta: float | None = None, respacing: str = "25,15,10"
) -> float:
    """All steps of their loop beside ours, on the same levels."""
    learned = variance == "LEARNED_RANGE"
    theirs = diffusion(variance, respacing)
    network, x_T = Network(LINEAR.alpha_bar, learned), Draws(["x_T"])()
    levels = levels_of(theirs.alphas_cumprod, range(theirs.num_timesteps - 1, -2, -1))
    loop = theirs.p_sample_loop if eta is None else partial(theirs.ddim_sample_loop, eta=eta)
    with drawing(Draws()):
        expected = loop(network, SHAPE, noise=x_T, clip_denoised=clip, device=torch.device("cpu"))
    return apart(walk(ours(LINEAR, learned), sampler, levels, x_T, Draws()), expected)


def ddim(variance: str, eta: float, clip: bool) -> float:
    return chain(variance, samplers.ddim(eta=eta, clip=clip), clip, eta)
