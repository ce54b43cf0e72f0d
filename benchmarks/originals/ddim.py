"""ermongroup/ddim: DDIM's own program."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffusion_lab.diffusion import paths, samplers, schedule
from diffusion_lab.diffusion.sampling import Sampler

from .comparing import (
    SHAPE,
    Comparison,
    Draws,
    Network,
    Peer,
    apart,
    cpu_for_cuda,
    drawing,
    each,
    levels_of,
    ours,
    walk,
)

LINEAR = schedule.linear()
ENDS = {"beta_start": 1e-4, "beta_end": 0.02, "num_diffusion_timesteps": 1000}


def betas(name: str, make: Callable[[], schedule.NoiseSchedule]) -> float:
    from runners.diffusion import get_beta_schedule

    theirs = torch.from_numpy(get_beta_schedule(name, **ENDS))
    return each(make().alpha_bar[1:], (1 - theirs).cumprod(0))


def quadratic_times(steps: int = 50) -> list[int]:
    """As `sample_image` of their runner writes them out."""
    return [int(t) for t in torch.linspace(0, (1000 * 0.8) ** 0.5, steps, dtype=torch.float64).square()]


def grid(theirs: list[int], path: Callable[..., Tensor]) -> float:
    """The largest distance in t, as a share of T."""
    expected = torch.tensor([*(t + 1 for t in reversed(theirs)), 0], dtype=torch.float64)
    return float((LINEAR.time(path(LINEAR, steps=len(theirs))) - expected).abs().max() / 1000)


def chain(steps: str, sampler: Sampler, times: list[int], **options: float) -> float:
    from functions import denoising

    x_T = Draws(["x_T"], dtype=torch.float64)()
    levels = levels_of(LINEAR.alpha_bar[1:], [*reversed(times), -1])
    with drawing(Draws(dtype=torch.float64)), cpu_for_cuda():
        theirs, _ = getattr(denoising, steps)(x_T, times, Network(LINEAR.alpha_bar), LINEAR.betas, **options)
    assert theirs[-1].shape == SHAPE
    return apart(walk(ours(LINEAR), sampler, levels, x_T, Draws(dtype=torch.float64)), theirs[-1])


EVERY_20TH = list(range(0, 1000, 20))
DDIM = Peer(
    "ermongroup/ddim",
    "e8df66cf02e457719930748b5c26e37e3126dfdd",
    [
        Comparison("alpha-bar, linear", partial(betas, "linear", schedule.linear)),
        Comparison("alpha-bar, quad", partial(betas, "quad", schedule.quadratic)),
        Comparison("alpha-bar, const", partial(betas, "const", partial(schedule.constant, beta=0.02))),
        Comparison("alpha-bar, jsd", partial(betas, "jsd", schedule.jsd)),
        Comparison(
            "alpha-bar, sigmoid",
            partial(betas, "sigmoid", schedule.sigmoid),
            "another curve of that name: theirs is of the betas, ours of alpha-bar (Jabri et al. 2022)",
            math.inf,
        ),
        *(
            Comparison(
                f"DDIM in 50 steps, eta {eta:g}, float64",
                partial(chain, "generalized_steps", samplers.ddim(eta=eta, clip=False), EVERY_20TH, eta=eta),
            )
            for eta in (0.0, 0.5, 1.0)
        ),
        Comparison(
            "DDIM in 50 steps at their quadratic t, float64",
            partial(chain, "generalized_steps", samplers.ddim(clip=False), quadratic_times(), eta=0.0),
        ),
        Comparison(
            "ancestral, large variance, clipped, 50 steps, float64",
            partial(chain, "ddpm_steps", samplers.ddpm(variance_mix=1.0), EVERY_20TH),
        ),
        Comparison(
            "uniform t of 50 steps, share of T",
            partial(grid, EVERY_20TH, paths.uniform_path),
            "ours begins at T, where x_T is pure noise; theirs is `sampler=ddim_strided`",
            0.02,
        ),
        Comparison(
            "quadratic t of 50 steps, share of T",
            partial(grid, quadratic_times(), paths.quadratic_path),
            "the paper's tau ends near T; their program ends at .8 T and visits t = 1 twice",
            0.2,
        ),
    ],
    missing=("lmdb", "tensorboard"),
)
