"""openai/guided-diffusion: the program of iDDPM and ADM, whose layout RePaint, DPS and Palette's networks share."""

import math
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion import losses, process, samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition, Epsilon
from diffusion_lab.diffusion.guidance import Clip
from diffusion_lab.diffusion.likelihood import bound, discretised

from .comparing import Comparison, Draws, Network, Peer, apart, drawing, ours, random_picture
from .guided_networks import classifiers, guidance, unets, upsampling_heads, whole
from .guided_process import (
    LINEAR,
    betas,
    chain,
    ddim,
    diffusion,
    from_one_another,
    lists_of_sections,
    noised,
    posterior,
    program,
    rescaled_times,
    sections,
    striding,
)


@cache
def terms(variance: str) -> tuple[Mapping[str, Tensor], Any]:
    """Their terms of the bound of a picture at every t, and ours."""
    learned, x_0 = variance == "LEARNED_RANGE", random_picture(0)
    with drawing(Draws()):
        expected = diffusion(variance).calc_bpd_loop(Network(LINEAR.alpha_bar, learned), x_0)
    mix = 1.0 if variance == "FIXED_LARGE" else 0.0
    return expected, bound(
        ours(LINEAR, learned), LINEAR.alpha_bar.flip(0), x_0, Condition(), Draws(), variance_mix=mix, wrap=Clip
    )


def bound_steps(variance: str) -> float:
    theirs, mine = terms(variance)
    return max(apart(mine.steps, theirs["vb"][:, :-1]), apart(mine.prior, theirs["prior_bpd"]))


def bound_decoder(variance: str) -> float:
    """In bits, not as a share."""
    theirs, mine = terms(variance)
    return float((mine.decoder - theirs["vb"][:, -1]).abs().max())


def decoder() -> float:
    """Of log-probabilities in nats, where theirs are above their floor of log 1e-12."""
    from guided_diffusion.losses import discretized_gaussian_log_likelihood

    x_0 = random_picture(0, (64, 3, 8, 8))
    mean = x_0 + 0.01 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    scale = torch.full_like(x_0, math.log(0.01))
    return apart(
        discretised(x_0, mean, 2 * scale), discretized_gaussian_log_likelihood(x_0, means=mean, log_scales=scale)
    )


def training(kind: str) -> float:
    """The loss of every fourth t but the first, whose decoder is a row of its own."""
    t = torch.arange(2, 1000, 4)
    x_0, learned = random_picture(3, (len(t), 3, 4, 4)), kind == "RESCALED_MSE"
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(4))
    variance, loss_type = "LEARNED_RANGE" if learned else "FIXED_SMALL", program().LossType[kind]
    network = Network(LINEAR.alpha_bar, learned)
    expected = diffusion(variance, loss_type=loss_type).training_losses(network, x_0, t, noise=eps)["loss"]
    at = losses.at_times(LINEAR, t + 1, torch.ones(len(t), dtype=torch.float64))
    said = ours(LINEAR, learned)(process.add_noise(x_0, eps, at.level), at.level, Condition())
    simple = losses.DenoisingLoss(Epsilon())
    loss: losses.Loss = losses.HybridLoss(simple, losses.BoundLoss(), 0.001 * 1000) if learned else simple
    return apart(loss(said, x_0, eps, at, torch.ones_like(x_0[:, :1], dtype=torch.bool)), expected)


TANH = "theirs approximates the normal distribution by tanh and stops at log 1e-12; ours is exact"
ROUNDED = "their coefficients and squared differences are float32"
KINDS = {"FIXED_SMALL": "small variance", "FIXED_LARGE": "large variance", "LEARNED_RANGE": "learned range"}
STEPS = [
    Comparison("ancestral, small variance, 50 steps", partial(chain, "FIXED_SMALL", samplers.ddpm())),
    Comparison("ancestral, large variance, 50 steps", partial(chain, "FIXED_LARGE", samplers.ddpm(variance_mix=1.0))),
    Comparison("ancestral, learned range, 50 steps", partial(chain, "LEARNED_RANGE", samplers.ddpm())),
    Comparison(
        "ancestral, learned range, without a clip",
        partial(chain, "LEARNED_RANGE", samplers.ddpm(clip=False), clip=False),
    ),
    *(
        Comparison(f"DDIM, eta {eta:g}, {kind}{'' if clip else ', without a clip'}", partial(ddim, variance, eta, clip))
        for variance, kind in (("FIXED_SMALL", "fixed variance"), ("LEARNED_RANGE", "learned range"))
        for eta in (0.0, 0.5, 1.0)
        for clip in (True, False)
    ),
]
GUIDED_DIFFUSION = Peer(
    "openai/guided-diffusion",
    "22e0df8183507e13a7813f8d38d51b072ca1e67c",
    [
        Comparison("UNet, 16 variants: blocks, scale-shift, order of heads, classes", unets),
        Comparison("classifier with attention pooling", classifiers),
        Comparison("num_heads_upsample, where it is said, is refused with a sentence", upsampling_heads),
        *(
            Comparison(f"alpha-bar, {name}, T = {steps:,}", partial(betas, name, make, steps))
            for name, make in (("linear", schedule.linear), ("cosine", schedule.cosine))
            for steps in (1000, 4000, 100)
        ),
        Comparison("t as it is told with rescale_timesteps, T = 4,000", rescaled_times),
        Comparison("x_t of x_0 and noise, every t", noised),
        Comparison("posterior's mean and variance, every t", posterior),
        Comparison("x_0 and eps from each other, every t", from_one_another),
        Comparison('levels of "25,15,10"', partial(sections, "25,15,10")),
        Comparison("share of 1,100 lists of sections that visit other t", lists_of_sections),
        Comparison('levels of "ddim50"', striding),
        *STEPS,
        Comparison("a whole network of random weights, converted, DDIM in 25 steps", whole, rounding=1e-4),
        Comparison("loss, simple", partial(training, "MSE")),
        Comparison("loss, hybrid", partial(training, "RESCALED_MSE")),
        *(
            Comparison(f"bound: KL of every step and prior, {kind}", partial(bound_steps, variance), ROUNDED, 1e-4)
            for variance, kind in KINDS.items()
        ),
        Comparison("decoder's log-probability", decoder, TANH, 0.1),
        *(
            Comparison(f"bound: decoder's term, {kind}, in bits", partial(bound_decoder, variance), TANH, 0.01)
            for variance, kind in KINDS.items()
        ),
        Comparison("classifier guidance in eps, DDIM, without a clip", partial(guidance, "eps", False)),
        Comparison("classifier guidance in eps, DDIM, clipped", partial(guidance, "eps", True)),
        Comparison("classifier guidance of the mean, learned range", partial(guidance, "mean", True)),
    ],
)
