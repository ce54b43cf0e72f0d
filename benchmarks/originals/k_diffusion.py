"""crowsonkb/k-diffusion: paths, Heun, DPM-Solver++(2M) and its SDE form, wrappers around networks."""

from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import paths, process, samplers, schedule
from diffusion_lab.diffusion.denoiser import Condition, NetworkDenoiser, Preconditioned, Velocity
from diffusion_lab.diffusion.sampling import Sampler

from .comparing import SHAPE, Comparison, Draws, Peer, apart, denoised, drawing, each, seen, walk

LINEAR = schedule.linear()


def denoiser(y: Tensor, sigma: Tensor) -> Tensor:
    """`denoised` of y = x / signal."""
    level = paths.at_ratio(sigma)
    return denoised(y * level.sqrt().reshape(-1, 1, 1, 1), level)


def karras() -> float:
    from k_diffusion import sampling

    theirs = sampling.get_sigmas_karras(20, 0.01, 80.0)
    return each(paths.ratio_at(paths.karras_path(LINEAR, 20, sigma_min=0.01, sigma_max=80.0)), theirs)


def exponential() -> float:
    from k_diffusion import sampling

    low, high = paths.ratio_at(LINEAR.alpha_bar[[1, -1]]).tolist()
    return each(paths.ratio_at(paths.log_snr_path(LINEAR, 20)), sampling.get_sigmas_exponential(20, low, high))


def chain(name: str, sampler: Sampler, rho: float, **options: Any) -> float:
    """Their sampler on EDM's sigmas, or with rho 0 on those of equal distances in log-SNR."""
    from k_diffusion import sampling

    get = partial(sampling.get_sigmas_karras, rho=rho) if rho else sampling.get_sigmas_exponential
    sigmas = get(20, 0.01, 80.0).double()
    latents = Draws(["x_T"], dtype=torch.float64)()
    # A noise of theirs that is multiplied by 0 is drawn nonetheless.
    low, high = options.get("s_tmin", 0.0), options.get("s_tmax", float("inf"))
    names = ["z" if options.get("s_churn") and low <= sigma <= high else "unused" for sigma in sigmas[:-1].tolist()]
    if "eta" in options:
        noise = Draws(dtype=torch.float64)
        options["noise_sampler"] = noise
    with drawing(Draws(names, dtype=torch.float64)):
        theirs = getattr(sampling, name)(denoiser, latents * sigmas[0], sigmas, disable=True, **options)
    levels = paths.at_ratio(sigmas)
    if name == "sample_heun":
        churn = {"churn": options.get("s_churn", 0.0), "churn_from": low, "churn_to": high}
        levels = paths.heun_path(LINEAR, 20, rho, 0.01, 80.0, **churn)
    x_T = latents * (1 - paths.at_ratio(80.0)).sqrt()
    return apart(walk(seen, sampler, levels, x_T, Draws(repeat("z"), dtype=torch.float64)), theirs)


class Inner(nn.Module):
    """A network of their two arguments and of our four."""

    condition_channels = 0

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        noise = (rest[0] if len(rest) == 1 else rest[1]).reshape(-1, 1, 1, 1)
        return torch.sin(2 * x) + torch.cos(noise) * x.roll(1, -1)


def wrapped(kind: str) -> float:
    """Karras' preconditioning, or v: what each says of the picture."""
    from k_diffusion import external, layers

    sigma = torch.logspace(-2, 1.9, 50)
    level = paths.at_ratio(sigma)
    y = torch.randn(50, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) * (1 + sigma.reshape(-1, 1, 1, 1))
    if kind == "v":
        theirs = external.VDenoiser(Inner())
        mine = NetworkDenoiser(
            Inner(), LINEAR, Velocity(), lambda _, level: paths.ratio_at(level).atan() / torch.pi * 2
        )
    else:
        theirs = layers.Denoiser(Inner(), sigma_data=0.5)
        mine = NetworkDenoiser(Inner(), LINEAR, Preconditioned(0.5), lambda _, level: paths.ratio_at(level))
    x = y * level.sqrt().float().reshape(-1, 1, 1, 1)
    return apart(mine(x, level, Condition()).x_0, theirs(y, sigma))


def times(between: float) -> float:
    """The t of a sigma at the table's entries, or `between` them, as a share of T."""
    from k_diffusion.external import DiscreteEpsDDPMDenoiser

    theirs = DiscreteEpsDDPMDenoiser(Inner(), LINEAR.alpha_bar[1:], quantize=False)
    t = torch.arange(1, 1000, dtype=torch.float64) + between
    level = LINEAR.level(t)
    mine = LINEAR.time(level) - 1  # theirs counts from 0
    return float((mine - theirs.sigma_to_t(paths.ratio_at(level))).abs().max() / 1000)


def x_0_of_eps() -> float:
    """What a network of eps says of the picture, at the table's sigmas."""
    from k_diffusion.external import DiscreteEpsDDPMDenoiser

    theirs, eps = DiscreteEpsDDPMDenoiser(Inner(), LINEAR.alpha_bar[1:], quantize=True), Inner()
    t = torch.arange(0, 1000, 20)
    level = LINEAR.alpha_bar[t + 1]
    x = torch.randn(50, *SHAPE[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = theirs(x / level.sqrt().reshape(-1, 1, 1, 1), paths.ratio_at(level))
    return apart(process.x_0_from_eps(x, eps(x, t), level), expected)


def heun(**churn: float) -> Sampler:
    return replace(samplers.heun(20, clip=False), path=partial(paths.heun_path, steps=20, **churn))


K_DIFFUSION = Peer(
    "crowsonkb/k-diffusion",
    "4601bf085320592473f681a62808ed873d17fad5",
    [
        Comparison("sigmas of Karras et al., 20", karras),
        Comparison("sigmas at equal distances in log-SNR, 20", exponential),
        Comparison("Heun, 20 steps, float64", partial(chain, "sample_heun", heun(), 7.0)),
        Comparison(
            "Heun with churn 30 in .05 to 50",
            partial(chain, "sample_heun", heun(), 7.0, s_churn=30.0, s_tmin=0.05, s_tmax=50.0),
        ),
        *(
            Comparison(
                f"DPM-Solver++(2M), 20 steps, {name}",
                partial(chain, "sample_dpmpp_2m", samplers.dpm_solver(clip=False), rho),
            )
            for name, rho in (("log-SNR", 0.0), ("Karras' sigmas", 7.0))
        ),
        *(
            Comparison(
                f"SDE-DPM-Solver++(2M), midpoint, 20 steps, eta {eta:g}",
                partial(chain, "sample_dpmpp_2m_sde", samplers.dpm_solver(eta=eta, clip=False), 7.0, eta=eta),
            )
            for eta in (0.5, 1.0)
        ),
        Comparison("Karras' preconditioning", partial(wrapped, "karras")),
        Comparison("a network of v", partial(wrapped, "v")),
        Comparison("a network of eps", x_0_of_eps),
        Comparison("t of the table's sigmas, share of T", partial(times, 0.0)),
        Comparison(
            "t of sigmas half between the table's, share of T",
            partial(times, 0.5),
            "theirs interpolates log sigma, ours the angle atan(sigma), which is finite at both ends",
            1e-4,
        ),
    ],
    missing=(
        *("torchdiffeq", "torchsde", "dctorch", "einops", "k_diffusion.models", "k_diffusion.evaluation"),
        *("k_diffusion.augmentation", "k_diffusion.config", "k_diffusion.gns"),
    ),
)
