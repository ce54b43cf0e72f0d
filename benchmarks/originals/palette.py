"""Janspiry's Palette: its networks, its sampling and its loss."""

from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.diffusion import losses, samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition, Epsilon, NetworkDenoiser
from diffusion_lab.diffusion.process import add_noise
from diffusion_lab.diffusion.sampling import keep_clean
from diffusion_lab.networks.checkpoints import from_palette
from diffusion_lab.networks.checkpoints.told import by_bare_gamma

from .comparing import (
    Comparison,
    Draws,
    Peer,
    apart,
    drawing,
    each,
    middle,
    our_names,
    random_picture,
    seen,
    walk,
)
from .guided_networks import randomised

TRAINED = {"schedule": "linear", "n_timestep": 2000, "linear_start": 1e-6, "linear_end": 0.01}
SAMPLED = {"schedule": "linear", "n_timestep": 1000, "linear_start": 1e-4, "linear_end": 0.09}
CPU = torch.device("cpu")


def program(kind: str = "guided_diffusion", **options: Any) -> Any:
    """Their model, small, with random weights."""
    from models.network import Network

    unet = {"in_channel": 6, "out_channel": 3, "inner_channel": 32, "channel_mults": [1, 2], "image_size": 16}
    size = {"attn_res": [2], "res_blocks": 2} if kind == "guided_diffusion" else {"attn_res": [8], "res_blocks": 1}
    network = Network(unet | size | options, {"train": TRAINED, "test": SAMPLED}, kind)
    return randomised(network)


def unet(**options: Any) -> float:
    theirs = program(num_head_channels=16, **options)
    theirs.set_new_noise_schedule(CPU, "test")  # so that the file holds the tables that theirs holds
    mine = from_palette(theirs.state_dict(), 16, head_width=16).build()
    known, x = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    gamma = torch.tensor([0.03, 0.97])
    with torch.no_grad():
        return apart(mine(x, known, gamma), theirs.denoise_fn(torch.cat([known, x], dim=1), gamma[:, None]))


def sr3() -> float:
    """0 if it is refused with a sentence."""
    try:
        from_palette(program("sr3").state_dict(), 16, head_width=16)
    except ValueError:
        return 0.0
    return float("inf")


def betas(theirs: dict[str, Any], mine: schedule.NoiseSchedule) -> float:
    from models.network import make_beta_schedule

    return each(mine.alpha_bar[1:], torch.as_tensor(1 - make_beta_schedule(**theirs)).cumprod(0))


class Shared(nn.Module):
    """`denoised`'s eps, bent by the known pixels: of their (known and x, gamma) and of our four arguments."""

    condition_channels = 3

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        known, x, gamma = (rest[0], x, rest[1]) if len(rest) > 1 else (x[:, :3], x[:, 3:], rest[0])
        return seen(x, gamma.flatten().double(), Condition()).eps + 0.1 * torch.sin(known.roll(1, -1))


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Truth, hole, and what the network sees of the known pixels: noise in the hole."""
    truth, mask = random_picture(0), middle()
    return truth, mask, torch.where(mask, Draws(["fill"])(), truth)


def restored(from_noise: bool) -> float:
    """1,000 steps; theirs shows the network noise for known pixels of x in the first call, with `from_noise`."""
    theirs = program()
    theirs.set_new_noise_schedule(CPU, "test")
    theirs.denoise_fn = Shared()
    (truth, mask, known), x_T = scene(), Draws(["x_T"])()
    first = x_T if from_noise else torch.where(mask, x_T, truth)
    with drawing(Draws()):
        expected, _ = theirs.restoration(known, first, truth, mask.float())
    model = NetworkDenoiser(Shared(), schedule.linear(2000, 1e-6, 0.01), Epsilon(), by_bare_gamma)
    sampler = samplers.palette(variance_mix=0.0)
    levels = sampler.path(model.schedule)
    draws = Draws(our_names(levels))

    def clean(*given: Any) -> Tensor:
        return keep_clean(*given[:-1], Condition(truth, mask))

    return apart(walk(model, sampler, levels, x_T, draws, Condition(known, mask), clean), expected)


def loss() -> float:
    """Their mean over the picture, ours over the hole; a hole of a quarter is the factor of 4."""
    theirs = program()
    theirs.set_new_noise_schedule(CPU, "train")
    theirs.denoise_fn = Shared()
    theirs.set_loss(F.mse_loss)
    (truth, mask, known), eps = scene(), Draws(["eps"])()
    t, u = torch.tensor([700, 700]), torch.tensor([[0.3], [0.3]])
    with patch.object(torch, "randint", lambda *_, **__: t), patch.object(torch, "rand", lambda *_, **__: u):
        expected = theirs(truth, known, mask.float(), eps)
    table = schedule.linear(2000, 1e-6, 0.01).alpha_bar
    level = torch.lerp(table[t], table[t + 1], u.flatten().double())
    model = NetworkDenoiser(Shared(), schedule.linear(), Epsilon(), by_bare_gamma)
    x = torch.where(mask, add_noise(truth, eps, level), truth)
    at = losses.Levels(level, level, torch.ones_like(level))
    said = model(x, level, Condition(known, mask))
    mine = losses.DenoisingLoss(Epsilon())(said, truth, eps, at, mask).mean()
    assert mask.float().mean() == 0.25
    return apart(mine / 4, expected)


PALETTE = Peer(
    "Janspiry/Palette-Image-to-Image-Diffusion-Models",
    "136b29f58d0af6e5db9f3655d2891f5a855fcdaa",
    [
        Comparison("UNet as published (size changes inside residual blocks)", unet),
        Comparison("UNet with size changes by convolutions", partial(unet, resblock_updown=False)),
        Comparison(
            "UNet with size changes by pooling (conv_resample false)",
            partial(unet, resblock_updown=False, conv_resample=False),
        ),
        Comparison("the SR3 network is refused with a sentence", sr3),
        Comparison("gamma of training", partial(betas, TRAINED, schedule.linear(2000, 1e-6, 0.01)), rounding=1e-4),
        Comparison("gamma of sampling", partial(betas, SAMPLED, schedule.linear(1000, 1e-4, 0.09))),
        Comparison("sampling in 1,000 steps, beta-tilde, from x_T with clean known pixels", partial(restored, False)),
        Comparison("the same, theirs as it starts by itself", partial(restored, True)),
        Comparison("loss of a hole of a quarter, times 4 (ours is over the hole)", loss),
    ],
    missing=("tensorboardX", "lmdb"),
)
