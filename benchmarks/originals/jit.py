"""LTH14/JiT: which t are trained, the loss in the velocity of a network that says the picture, Euler's steps."""

from argparse import Namespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import samplers, schedule
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.flow import FlowData, at_flow_time, flow_time, logit_normal_levels, velocity_weight
from diffusion_lab.diffusion.losses import DenoisingLoss, Levels
from diffusion_lab.diffusion.process import add_noise, eps_from_x_0

from .comparing import SHAPE, Comparison, Draws, Peer, apart, denoised, drawing, random_picture, seen, walk

NORMALS = torch.linspace(-6, 6, 64)
"""What t are made of: at the upper end theirs are within .02 of the picture."""
EVERYWHERE = torch.ones(len(NORMALS), 1, *SHAPE[2:], dtype=torch.bool)


class Picture(nn.Module):
    """`denoised` as their network: of (z, their t, labels), where 1 is the picture."""

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        level = at_flow_time(1 - t.double())
        return denoised(z * (level.sqrt() + (1 - level).sqrt()).to(z).reshape(-1, 1, 1, 1), level)


def program(steps: int = 10) -> nn.Module:
    """Their denoiser as its options have it, without guidance."""
    import denoiser

    given = Namespace(
        **{"model": "ours", "img_size": SHAPE[2], "class_num": 5, "attn_dropout": 0.0, "proj_dropout": 0.0},
        **{"label_drop_prob": 0.1, "P_mean": -0.8, "P_std": 0.8, "t_eps": 0.05, "noise_scale": 1.0},
        **{"ema_decay1": 0.9999, "ema_decay2": 0.9996, "sampling_method": "euler", "num_sampling_steps": steps},
        **{"cfg": 1.0, "interval_min": 0.1, "interval_max": 1.0},
    )
    with patch.object(denoiser, "JiT_models", {"ours": lambda **_: Picture()}):
        return denoiser.Denoiser(given).eval()


def levels() -> Levels:
    """Ours of the same normals; t runs the other way here."""
    uniforms = torch.special.ndtr(-NORMALS.double())[:, None]
    return logit_normal_levels(schedule.cosine(), uniforms, mean=0.8, deviation=0.8)


def times() -> float:
    with drawing(Draws(["t"], {"t": NORMALS})):
        theirs = program().sample_t(len(NORMALS))
    return apart(1 - flow_time(levels().level), theirs)


def losses() -> float:
    x_0 = random_picture(0, (len(NORMALS), *SHAPE[1:]))
    eps = Draws(["e"], shape=x_0.shape)()
    with drawing(Draws(["t", "e"], {"t": NORMALS, "e": eps})):
        theirs = program()(x_0, torch.zeros(len(x_0), dtype=torch.long))
    trained = levels()
    x = add_noise(x_0, eps, trained.level)
    said = denoised(x, trained.level)
    prediction = Prediction(said, eps_from_x_0(x, said, trained.level))
    loss = DenoisingLoss(FlowData(), velocity_weight)
    return apart(loss(prediction, x_0, eps, trained, EVERYWHERE).mean(), theirs)


def euler(steps: int) -> float:
    x_T = Draws(["x_T"])()
    with drawing(Draws(["z"], {"z": x_T})):
        theirs = program(steps).generate(torch.zeros(len(x_T), dtype=torch.long))
    path = at_flow_time(1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    return apart(walk(seen, samplers.ddim(steps, clip=False), path, x_T, Draws()), theirs)


JIT = Peer(
    "LTH14/JiT",
    "cbc743a2ada5e9762697da2c83f8c4f8379e8c17",
    [
        Comparison("t of a normal number", times),
        Comparison("loss, 64 t as far as .02 from the picture", losses),
        Comparison("10 steps of Euler", lambda: euler(10)),
        Comparison(
            "50 steps of Euler",
            lambda: euler(50),
            "they divide by .05 at least, and so end short of what the network says",
            0.1,
        ),
    ],
    missing=["einops"],
)
