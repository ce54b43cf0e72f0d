"""andreas128/RePaint: its path and its walk, with a network of learned variance as it was published with."""

from functools import partial
from itertools import pairwise
from typing import Any

import torch

from diffusion_lab.diffusion import paths, samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition

from .comparing import (
    SHAPE,
    Comparison,
    Draws,
    Network,
    Peer,
    apart,
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


class Options(dict[str, Any]):
    """Their configuration: entries are attributes, and what is not said is false."""

    pget = dict.get

    def __getattr__(self, name: str) -> Any:
        return self.get(name, False)


def diffusion(steps: int, options: Options) -> Any:
    """Their process."""
    from guided_diffusion import gaussian_diffusion as gd
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps

    return SpacedDiffusion(
        use_timesteps=space_timesteps(1000, str(steps)),
        conf=options,
        betas=gd.get_named_beta_schedule("linear", 1000, use_scale=True),
        model_mean_type=gd.ModelMeanType.EPSILON,
        model_var_type=gd.ModelVarType.LEARNED_RANGE,
        loss_type=gd.LossType.MSE,
    )


def times(steps: int, jump: int, resamples: int) -> list[int]:
    """The t that they visit."""
    from guided_diffusion.scheduler import get_schedule_jump

    return get_schedule_jump(t_T=steps, n_sample=1, jump_length=jump, jump_n_sample=resamples)


def path(steps: int, jump: int, resamples: int) -> float:
    theirs = diffusion(steps, Options())
    expected = levels_of(theirs.alphas_cumprod, times(steps, jump, resamples))
    return each(paths.repaint_path(LINEAR, steps, jump, resamples), merged(expected))


def chain(steps: int, jump: int, resamples: int, from_noise: bool) -> float:
    """The hole at the end.

    Ours draws the known pixels of x_T from q(x_T | truth) before the first call, theirs after it; with `from_noise`
    both leave them as they are.
    """
    jumps = {"t_T": steps, "n_sample": 1, "jump_length": jump, "jump_n_sample": resamples}
    options = Options(inpa_inj_sched_prev=True, schedule_jump_params=jumps)
    theirs, mask, x_T = diffusion(steps, options), middle(), Draws(["x_T"])()
    known = torch.where(mask, 0, random_picture(0))
    names, first = [], True
    for before, after in pairwise(times(steps, jump, resamples)):
        names += ["u"] if after > before else ["z"] if first else ["z", "g"]
        first = False
    with drawing(Draws(names)):
        *_, last = theirs.p_sample_loop_progressive(
            Network(LINEAR.alpha_bar, learned=True),
            SHAPE,
            noise=x_T,
            model_kwargs={"gt": known, "gt_keep_mask": (~mask).float()},
            device=torch.device("cpu"),
            conf=options,
        )
    levels = levels_of(theirs.alphas_cumprod, times(steps, jump, resamples))
    # The noise with which q(x_T | known pixels) is their x_T.
    signal, sigma = levels[0].sqrt().float(), (1 - levels[0]).sqrt().float()
    start = (x_T - signal * known) / sigma if from_noise else x_T
    draws = Draws(our_names(levels, start="start", kept="g"), {"start": start})
    condition = Condition(known, mask, fill=torch.zeros(SHAPE))
    x = walk(ours(LINEAR, learned=True), samplers.repaint(steps, jump, resamples), levels, x_T, draws, condition)
    hole = mask.expand(SHAPE)
    return apart(x[hole], last["sample"][hole])


REPAINT = Peer(
    "andreas128/RePaint",
    "8e2a0552a0cc306e623da807d353915f1af17726",
    [
        Comparison("levels of 250 steps, jump 10, 10 times", partial(path, 250, 10, 10)),
        Comparison("levels of 50 steps, jump 5, 5 times", partial(path, 50, 5, 5)),
        Comparison("the hole after 250 steps without jumps", partial(chain, 250, 10, 1, from_noise=True)),
        Comparison("the hole after 50 steps, jump 5, 5 times", partial(chain, 50, 5, 5, from_noise=True)),
        Comparison("the same, ours as it starts by itself", partial(chain, 50, 5, 5, from_noise=False)),
    ],
)
