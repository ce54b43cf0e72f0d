"""DPS2022/diffusion-posterior-sampling and HJ-harry/MCG_diffusion: steps towards the known pixels by a gradient."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion import samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition
from diffusion_lab.diffusion.sampling import Sampler

from .comparing import (
    Comparison,
    Draws,
    Network,
    Peer,
    apart,
    drawing,
    levels_of,
    middle,
    our_names,
    ours,
    random_picture,
    walk,
)

LINEAR = schedule.linear()
SHAPE = (1, 3, 8, 8)  # their norm is taken over the whole batch


def scene() -> tuple[Tensor, Tensor, Condition]:
    """x_T, what is known (1 outside the hole), and our condition."""
    mask = middle(SHAPE)
    known = torch.where(mask, 0, random_picture(0, SHAPE))
    return Draws(["x_T"], shape=SHAPE)(), (~mask).float(), Condition(known, mask, fill=torch.zeros(SHAPE))


def dps(steps: int, scale: float) -> float:
    from guided_diffusion.condition_methods import get_conditioning_method
    from guided_diffusion.gaussian_diffusion import create_sampler
    from guided_diffusion.measurements import get_noise, get_operator

    x_T, kept, condition = scene()
    operator = get_operator("inpainting", device="cpu")
    method = get_conditioning_method("ps", operator, get_noise("gaussian", sigma=0.0), scale=scale)
    theirs = create_sampler(
        "ddpm", 1000, "linear", "epsilon", "learned_range", False, True, False, timestep_respacing=steps
    )
    with drawing(Draws((name for _ in range(steps) for name in ("z", "unused")), shape=SHAPE)):
        expected = theirs.p_sample_loop(
            Network(LINEAR.alpha_bar, learned=True),
            x_T.clone(),
            operator.forward(condition.known, mask=kept),
            partial(method.conditioning, mask=kept),
            record=False,
            save_root=None,
        )
    levels = levels_of(theirs.alphas_cumprod, range(steps - 1, -2, -1))
    sampler = samplers.dps(steps, scale)
    return apart(walk(ours(LINEAR, learned=True), sampler, levels, x_T, Draws(shape=SHAPE), condition), expected)


def their_mcg(steps: int, x_T: Tensor, kept: Tensor, known: Tensor) -> tuple[list[Tensor], Tensor]:
    """The picture after each of their steps, and the levels."""
    from guided_diffusion import gaussian_diffusion as gd
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps

    theirs: Any = SpacedDiffusion(
        use_timesteps=space_timesteps(1000, str(steps)),
        betas=gd.get_named_beta_schedule("linear", 1000),
        model_mean_type=gd.ModelMeanType.EPSILON,
        model_var_type=gd.ModelVarType.LEARNED_RANGE,
        loss_type=gd.LossType.MSE,
    )
    with drawing(Draws((name for _ in range(steps) for name in ("z", "g")), shape=SHAPE)):
        walked = theirs.p_sample_loop_progressive(
            Network(LINEAR.alpha_bar, learned=True),
            SHAPE,
            noise=x_T.clone(),
            model_kwargs={"ref_img": known},
            device=torch.device("cpu"),
            mask=kept,
            sample_method="MCG",
        )
        seen = [out["sample"].detach().clone() for out in walked]
    return seen, levels_of(theirs.alphas_cumprod, range(steps - 1, -2, -1))


def mcg(steps: int, until: int) -> float:
    """The hole after `until` of the steps."""
    x_T, kept, condition = scene()
    assert condition.known is not None
    seen, levels = their_mcg(steps, x_T, kept, condition.known)
    signal, sigma = levels[0].sqrt().float(), (1 - levels[0]).sqrt().float()
    start = (x_T - signal * condition.known) / sigma  # the known pixels of x_T stay as they are, as theirs do
    levels = levels[: until + 1]
    sampler: Sampler = samplers.mcg(steps, scale=1.0)
    draws = Draws(our_names(levels, start="start", kept="g"), {"start": start}, SHAPE)
    x = walk(ours(LINEAR, learned=True), sampler, levels, x_T, draws, condition)
    hole = (kept == 0).expand(SHAPE)
    return apart(x[hole], seen[until - 1][hole])


PLOTS = ("matplotlib", "matplotlib.pyplot", "motionblur", "motionblur.motionblur")
DPS = Peer(
    "DPS2022/diffusion-posterior-sampling",
    "effbde7325b22ce8dc3e2c06c160c021e743a12d",
    [
        Comparison("100 steps, scale .5, learned range", partial(dps, 100, 0.5), rounding=1e-4),
        Comparison("100 steps, scale 1", partial(dps, 100, 1.0), rounding=1e-4),
    ],
    missing=PLOTS,
)
MCG = Peer(
    "HJ-harry/MCG_diffusion",
    "d5bfd15f580432c31c9aa7ba5a1b20d3b37edb17",
    [
        Comparison("the hole after one of 100 steps", partial(mcg, 100, 1)),
        Comparison(
            "the hole after 100 steps",
            partial(mcg, 100, 100),
            "their program noises known pixels to the level that a step starts from, ours to the one that it reaches",
            0.05,
        ),
    ],
    missing=(*PLOTS, "tensorflow", "sporco", "sporco.metric"),
)
