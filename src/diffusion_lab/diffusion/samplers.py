"""The published samplers, each a path, a solver, what goes around the model, and what is done after a step."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from diffusion_lab.diffusion.guidance import ClassifierFree, Clip, DynamicThreshold
from diffusion_lab.diffusion.paths import (
    heun_path,
    karras_path,
    log_snr_path,
    quadratic_path,
    repaint_path,
    section_path,
    strided_path,
    uniform_path,
)
from diffusion_lab.diffusion.sampling import Around, InTurn, Sampler, Wrap, from_x, keep_noised, untouched
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.diffusion.solvers import DDIM, Ancestral, DPMSolver, Heun, all_of_it
from diffusion_lab.diffusion.zero_shot import Blind, PosteriorGuide, follow_gradient, from_x_0, rectify


def clipped(clip: bool) -> Wrap:
    """`Clip`, or nothing."""
    return Clip if clip else untouched


def ddpm(steps: int = 1000, variance_mix: float = 0.0, clip: bool = True) -> Sampler:
    """Ancestral sampling (DDPM algorithm 2), at even strides from T to 0; variance_mix 1 is the large one.

    iDDPM's own list of t ends at 1 before it ends at 0: that is `ddpm_sections` with a single section.
    """
    return Sampler(partial(uniform_path, steps=steps), Ancestral(variance_mix), clipped(clip))


def ddim(steps: int = 50, eta: float = 0.0, clip: bool = True) -> Sampler:
    """DDIM (eq. 12): deterministic with eta = 0."""
    return Sampler(partial(uniform_path, steps=steps), DDIM(eta), clipped(clip))


def ddim_quadratic(steps: int = 50, eta: float = 0.0, clip: bool = True) -> Sampler:
    """DDIM on the path that is denser towards the data, which the paper takes for CIFAR-10."""
    return Sampler(partial(quadratic_path, steps=steps), DDIM(eta), clipped(clip))


def ddim_thresholded(steps: int = 50, eta: float = 0.0, percentile: float = 0.995) -> Sampler:
    """DDIM with dynamic thresholding (Imagen) instead of a clip, for guidance scales that leave [-1, 1]."""
    return Sampler(partial(uniform_path, steps=steps), DDIM(eta), partial(DynamicThreshold, percentile=percentile))


def ddpm_sections(
    sections: Sequence[int] = (90, 60, 60, 20, 20), variance_mix: float = 0.0, clip: bool = True
) -> Sampler:
    """Ancestral sampling with a stride of its own in each section of T, from data to noise (ADM's LSUN schedule)."""
    return Sampler(partial(section_path, sections=sections), Ancestral(variance_mix), clipped(clip))


def ddim_sections(sections: Sequence[int] = (25, 15, 10), eta: float = 0.0, clip: bool = True) -> Sampler:
    """DDIM with a stride of its own in each section of T, from data to noise (guided-diffusion's "25,15,10")."""
    return Sampler(partial(section_path, sections=sections), DDIM(eta), clipped(clip))


def ddim_strided(steps: int = 50, eta: float = 0.0, clip: bool = True) -> Sampler:
    """DDIM on every k-th t from 1 on (guided-diffusion's "ddim50")."""
    return Sampler(partial(strided_path, steps=steps), DDIM(eta), clipped(clip))


def palette(steps: int = 1000, start: float = 1e-4, end: float = 0.09, variance_mix: float = 1.0) -> Sampler:
    """Palette's own sampling: a linear schedule of its own over `steps`, the large variance, clipped x_0.

    The published betas belong to 1,000 steps; fewer steps walk the same levels in longer strides. `variance_mix` 0 is
    beta-tilde, which Janspiry's code takes.
    """
    walked = linear(1000, start, end)
    return Sampler(partial(uniform_path, steps=steps, schedule=walked), Ancestral(variance_mix), Clip)


def dpm_solver(steps: int = 20, eta: float = 0.0, clip: bool = True) -> Sampler:
    """DPM-Solver++(2M) at equal distances in log-SNR; eta 1 is its SDE form."""
    return Sampler(partial(log_snr_path, steps=steps), DPMSolver(eta), clipped(clip))


def dpm_solver_karras(
    steps: int = 20,
    eta: float = 0.0,
    rho: float = 7.0,
    clip: bool = True,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Sampler:
    """DPM-Solver++(2M) on EDM's levels, between two ratios of noise to signal or the schedule's ends."""
    path = partial(karras_path, steps=steps, rho=rho, sigma_min=sigma_min, sigma_max=sigma_max)
    return Sampler(path, DPMSolver(eta), clipped(clip))


def heun(
    steps: int = 18,
    rho: float = 7.0,
    churn: float = 0.0,
    churn_from: float = 0.0,
    churn_to: float = float("inf"),
    clip: bool = True,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    churn_noise: float = 1.0,
) -> Sampler:
    """EDM's Heun sampler (algorithm 1; 2 with churn): 2 `steps` - 1 network calls.

    Args:
        steps: as in `heun_path`, like the rest unless said.
        rho: of the levels.
        churn: S_churn.
        churn_from: S_min.
        churn_to: S_max.
        clip: x_0 to [-1, 1], which EDM's code does not do.
        sigma_min: ratio of noise to signal at the last level before the data; None is the schedule's.
        sigma_max: at the first; None is the schedule's.
        churn_noise: S_noise, factor of the noise that churn adds; EDM's ImageNet run has 1.003.
    """
    path = partial(
        heun_path,
        steps=steps,
        rho=rho,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        churn=churn,
        churn_from=churn_from,
        churn_to=churn_to,
    )
    return Sampler(path, Heun(), clipped(clip), rise=partial(from_x, inflated=churn_noise))


def classifier_free(steps: int = 50, scale: float = 2.0, eta: float = 0.0, clip: bool = True) -> Sampler:
    """DDIM with classifier-free guidance on the attributes; every network call has twice the batch."""
    return guided(ddim(steps, eta, clip), partial(ClassifierFree, scale=scale))


def guided(sampler: Sampler, guide: Wrap) -> Sampler:
    """A sampler with a guide nearest to the model, inside its clip (ADM's program clips first: docs/guidance.md)."""
    return replace(sampler, wrap=Around([guide, sampler.wrap]))


def replacement(steps: int = 250, variance_mix: float = 0.0, clip: bool = True) -> Sampler:
    """Known pixels drawn from q(x' | truth) after every step (Song et al. 2021)."""
    return repaint(steps, resamples=1, variance_mix=variance_mix, clip=clip)


def repaint(
    steps: int = 250, jump: int = 10, resamples: int = 10, variance_mix: float = 0.0, clip: bool = True
) -> Sampler:
    """Replacement, with noise added and taken away again so that the hole hears of the rest (RePaint; 2,410 calls)."""
    path = partial(repaint_path, steps=steps, jump=jump, resamples=resamples)
    return Sampler(path, Ancestral(variance_mix), Around([Blind, clipped(clip)]), keep_noised)


def dps(steps: int = 1000, scale: float = 0.5, variance_mix: float = 0.0, clip: bool = True) -> Sampler:
    """Diffusion posterior sampling: after each step, one towards the known pixels by the model's gradient."""
    wrap = Around([Blind, clipped(clip), partial(PosteriorGuide, scale=scale)])
    return Sampler(partial(uniform_path, steps=steps), Ancestral(variance_mix), wrap, follow_gradient)


def mcg(steps: int = 1000, scale: float = 0.5, variance_mix: float = 0.0, clip: bool = True) -> Sampler:
    """Manifold constrained gradient: DPS's step, then replacement (Chung et al. 2022)."""
    return replace(dps(steps, scale, variance_mix, clip), constrain=InTurn([follow_gradient, keep_noised]))


def ddnm(steps: int = 100, jump: int = 1, resamples: int = 1, eta: float = 0.85, clip: bool = False) -> Sampler:
    """Known pixels put into every x_0 (DDNM, as its authors' program does it); `resamples` above 1 is time travel.

    The program has DDIM's stride, no clip, noise of eta sigma' beside the model's own eps, and rises from x_0.
    """
    path = partial(repaint_path, steps=steps, jump=jump, resamples=resamples, grid=strided_path)
    return Sampler(path, DDIM(eta, all_of_it), Around([Blind, clipped(clip)]), rectify, from_x_0)
