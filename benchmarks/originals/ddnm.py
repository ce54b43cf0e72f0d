"""wyhuai/DDNM: its sampler over the SVD of the mask, as its main.py runs it without noise in what is known."""

from functools import partial
from types import SimpleNamespace

import torch

from diffusion_lab.diffusion import samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition

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
    merged,
    middle,
    our_names,
    ours,
    random_picture,
    walk,
)

LINEAR = schedule.linear()


def times(steps: int, jump: int, repeats: int) -> list[int]:
    """The t that they visit."""
    from functions.svd_ddnm import get_schedule_jump

    stride = 1000 // steps
    return [max(t * stride, -1) for t in get_schedule_jump(steps, jump, repeats)]


def path(steps: int, jump: int, resamples: int) -> float:
    expected = levels_of(LINEAR.alpha_bar[1:], times(steps, jump, resamples))
    return each(samplers.ddnm(steps, jump, resamples).path(LINEAR), merged(expected))


def chain(steps: int, jump: int = 1, resamples: int = 1, eta: float = 0.85) -> float:
    from functions.svd_ddnm import ddnm_diffusion
    from functions.svd_operators import Inpainting

    known, mask = random_picture(0, SHAPE).double(), middle()
    hole = mask[:1].expand(1, *SHAPE[1:])[0]
    pixels = hole[0].flatten().nonzero().flatten()
    operator = Inpainting(3, SHAPE[-1], torch.cat([3 * pixels + colour for colour in range(3)]), "cpu")
    config = SimpleNamespace(
        diffusion=SimpleNamespace(num_diffusion_timesteps=1000),
        time_travel=SimpleNamespace(T_sampling=steps, travel_length=jump, travel_repeat=resamples),
    )
    levels = levels_of(LINEAR.alpha_bar[1:], times(steps, jump, resamples))
    x_T = draws(["x_T"])()
    seen = operator.A(known.flatten(1))
    with drawing(draws()), cpu_for_cuda():
        theirs, _ = ddnm_diffusion(x_T, Network(LINEAR.alpha_bar), LINEAR.betas, eta, operator, seen, config=config)
    sampler = samplers.ddnm(steps, jump, resamples, eta=eta, clip=False)
    condition = Condition(torch.where(mask, 0, known), mask, fill=torch.zeros_like(known))
    names = our_names(levels, rise="z")  # theirs draws one after the other, whatever for
    return apart(walk(ours(LINEAR), sampler, levels, x_T, draws(names), condition), theirs[0])


draws = partial(Draws, dtype=torch.float64)
DDNM = Peer(
    "wyhuai/DDNM",
    "00b58eac7843a4c99114fd8fa42da7aa2b6808af",
    [
        Comparison("levels of 100 steps", partial(path, 100, 1, 1)),
        Comparison("levels of 100 steps with time travel 10 x 10", partial(path, 100, 10, 10)),
        Comparison("100 steps, eta .85", partial(chain, 100)),
        Comparison("100 steps, eta 0", partial(chain, 100, eta=0.0)),
        Comparison("20 steps with time travel 5 x 3, eta .85", partial(chain, 20, 5, 3)),
    ],
)
