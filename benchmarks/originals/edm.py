"""NVlabs/edm and NVlabs/edm2: sampler, preconditioning and loss, written in y = x / signal, whose noise is sigma."""

from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion import losses, paths, process, samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition, NetworkDenoiser, Preconditioned, Prediction, by_log_sigma
from diffusion_lab.diffusion.guidance import ClassifierFree
from diffusion_lab.diffusion.sampling import Sampler

from .comparing import (
    SHAPE,
    Comparison,
    Draws,
    Peer,
    apart,
    denoised,
    each,
    random_picture,
    seen,
    walk,
)

LINEAR = schedule.linear()
ENDS = {"sigma_min": 0.002, "sigma_max": 80.0}


class Denoiser:
    """`denoised` as they call it; remembers the sigmas it was asked at."""

    sigma_min, sigma_max = 0.0, float("inf")

    def __init__(self, brighter: bool = False) -> None:
        self.brighter = brighter
        self.asked: list[float] = []

    def __call__(self, y: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.asked.append(float(sigma))
        level = paths.at_ratio(sigma).expand(len(y))
        x_0 = denoised(y * level.sqrt().reshape(-1, 1, 1, 1), level)
        return 0.8 * x_0 + 0.1 if self.brighter else x_0

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return torch.as_tensor(sigma)


def told(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
    """`seen`, brighter where the attribute is said."""
    said = seen(x, level, condition)
    assert condition.attributes is not None
    x_0 = torch.where(condition.attributes[:, :, None, None].isnan(), said.x_0, 0.8 * said.x_0 + 0.1)
    return Prediction(x_0, process.eps_from_x_0(x, x_0, level))


def heun(steps: int, churn: dict[str, float]) -> Sampler:
    """Ours, in their words."""
    names = {"S_churn": "churn", "S_min": "churn_from", "S_max": "churn_to", "S_noise": "churn_noise"}
    options: Any = {names[name]: value for name, value in churn.items()}
    if "churn_noise" in options:
        return samplers.heun(steps, clip=False, **ENDS, **options)
    path = partial(paths.heun_path, steps=steps, **ENDS, **options)
    return replace(samplers.heun(steps, clip=False), path=path)


def churned(steps: int, S_churn: float = 0, S_min: float = 0, S_max: float = float("inf"), **_: float) -> list[str]:
    """The names of their draws: noise that is multiplied by 0 is nobody else's."""
    sigmas = paths.rho_sigmas(LINEAR, steps, 7.0, **ENDS).tolist()
    return ["u" if S_churn and S_min <= sigma <= S_max else "unused" for sigma in sigmas]


def start(sampler: Sampler, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Our levels, and their y_T as our x_T."""
    level = paths.at_ratio(ENDS["sigma_max"])
    return sampler.path(LINEAR), latents * (1 - level).sqrt()


def chain(steps: int, **churn: float) -> float:
    from generate import edm_sampler

    latents = Draws(["x_T"], dtype=torch.float64)()
    draws = Draws(churned(steps, **churn), dtype=torch.float64)
    theirs = edm_sampler(Denoiser(), latents, randn_like=draws, num_steps=steps, **churn)
    sampler = heun(steps, churn)
    levels, x_T = start(sampler, latents)
    return apart(walk(seen, sampler, levels, x_T, Draws(repeat("u"), dtype=torch.float64)), theirs)


def guided_chain(steps: int, guidance: float, **churn: float) -> float:
    from generate_images import edm_sampler

    latents = Draws(["x_T"], dtype=torch.float64)()
    draws = Draws((name for name in churned(steps, **churn) if name == "u"), dtype=torch.float64)
    theirs = edm_sampler(
        Denoiser(brighter=True),
        latents,
        gnet=Denoiser(),
        num_steps=steps,
        guidance=guidance,
        dtype=torch.float64,
        randn_like=draws,
        **churn,
    )
    sampler = samplers.guided(heun(steps, churn), partial(ClassifierFree, scale=guidance))
    levels, x_T = start(sampler, latents)
    condition = Condition(attributes=torch.ones(SHAPE[0], 1))
    return apart(walk(told, sampler, levels, x_T, Draws(repeat("u"), dtype=torch.float64), condition), theirs)


def visited(steps: int) -> float:
    """The sigma of every call of the network."""
    from generate import edm_sampler

    network = Denoiser()
    edm_sampler(network, torch.zeros(SHAPE), num_steps=steps)
    levels = heun(steps, {}).path(LINEAR)
    return each(paths.ratio_at(levels[:-1]), torch.tensor(network.asked))


class Inner(torch.nn.Module):
    """F of the preconditioning: (scaled x, c_noise) of theirs and (x, known, time, attributes) of ours."""

    condition_channels = 0

    def forward(self, x: Tensor, *rest: Tensor, class_labels: Tensor | None = None, **_: Any) -> Tensor:
        noise = (rest[0] if len(rest) == 1 else rest[1]).reshape(-1, 1, 1, 1)
        return torch.sin(2 * x) + torch.cos(3 * noise) * x.roll(1, -1)


def preconditioned() -> tuple[Any, NetworkDenoiser]:
    """Both around the same F."""
    from training.networks import EDMPrecond

    theirs = EDMPrecond(8, 3, model_type="SongUNet", model_channels=32, channel_mult=[1], attn_resolutions=[])
    theirs.model = Inner()
    return theirs, NetworkDenoiser(Inner(), LINEAR, Preconditioned(0.5), by_log_sigma)


def precondition() -> float:
    theirs, mine = preconditioned()
    sigma = torch.logspace(-2.5, 1.9, 50, dtype=torch.float64)
    x_0, eps = torch.randn(2, 50, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    level = paths.at_ratio(sigma)
    x = process.add_noise(x_0, eps, level)
    y = x / level.sqrt().float().reshape(-1, 1, 1, 1)
    return apart(mine(x, level, Condition()).x_0, theirs(y, sigma))


def loss() -> float:
    from training.loss import EDMLoss

    theirs, mine = preconditioned()
    x_0 = random_picture(0, (64, *SHAPE[1:]))
    normal, eps = torch.randn(64, 1, 1, 1), torch.randn(x_0.shape)
    pixels = _with_draws([normal, eps], lambda: EDMLoss()(theirs, x_0, None, lambda picture: (picture, None)))
    level = paths.at_ratio((normal.flatten().double() * 1.2 - 1.2).exp())
    at = losses.Levels(level, level, torch.ones_like(level))
    said = mine(process.add_noise(x_0, eps, level), level, Condition())
    everywhere = torch.ones_like(x_0[:, :1], dtype=torch.bool)
    return apart(losses.DenoisingLoss(Preconditioned(0.5))(said, x_0, eps, at, everywhere), pixels.mean(dim=(1, 2, 3)))


def _with_draws(draws: list[Tensor], run: Any) -> Tensor:
    from unittest.mock import patch

    with patch.object(torch, "randn", lambda *_, **__: draws[0]), patch.object(torch, "randn_like", lambda _: draws[1]):
        return run()  # type: ignore[no-any-return]


EDM = Peer(
    "NVlabs/edm",
    "008a4e5316c8e3bfe61a62f874bddba254295afb",
    [
        Comparison("sigma of every call, 18 steps", partial(visited, 18)),
        Comparison("Heun, 18 steps, float64", partial(chain, 18)),
        Comparison("Heun with S_churn 40 in .05 to 50, 64 steps", partial(chain, 64, S_churn=40, S_min=0.05, S_max=50)),
        Comparison("Heun with S_churn 40 from the first step on, 18 steps", partial(chain, 18, S_churn=40)),
        Comparison(
            "the same in .05 to 50 with S_noise 1.003, 64 steps",
            partial(chain, 64, S_churn=40, S_min=0.05, S_max=50, S_noise=1.003),
        ),
        Comparison("preconditioning and c_noise, sigma .003 to 79", precondition),
        Comparison("loss and its weight", loss),
    ],
    missing=("distutils", "distutils.util"),
)
EDM2 = Peer(
    "NVlabs/edm2",
    "4bf8162f601bcc09472ce8a32dd0cbe8889dc8fc",
    [
        Comparison("Heun, 32 steps, float64", partial(guided_chain, 32, 1.0)),
        Comparison("Heun with guidance 1.8 by a second network, 32 steps", partial(guided_chain, 32, 1.8)),
        Comparison(
            "the same with S_churn 20 in .05 to 50",
            partial(guided_chain, 32, 1.8, S_churn=20, S_min=0.05, S_max=50),
        ),
    ],
)
