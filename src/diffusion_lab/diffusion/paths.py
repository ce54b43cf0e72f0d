"""Paths: which levels a sampler visits, from noise to data. What is done there is the solver's."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, repeat

import torch
from torch import Tensor

from diffusion_lab.diffusion.schedule import NoiseSchedule

NOISE = 160.0
"""The ratio of noise to signal beyond which nothing is left to see (the linear schedule ends at 157).

Paths that are spaced by that ratio start no noisier, since a schedule that ends at pure noise would spend its steps
there."""

Path = Tensor
"""(K + 1,) levels from noise to 1; a level may repeat (a corrector) and may fall again (RePaint, churn)."""


def counted(steps: int, least: int = 1) -> int:
    """The number of steps, if it is one.

    Raises:
        ValueError: if there are fewer than `least`.
    """
    if steps < least:
        raise ValueError(f"sampler.steps must be {least} or more, got {steps}")
    return steps


def uniform_path(trained_on: NoiseSchedule, steps: int, schedule: NoiseSchedule | None = None) -> Path:
    """Levels at `steps` + 1 equal distances in t, from T to 0.

    Args:
        trained_on: the schedule that the model was trained on.
        steps: network calls, 1 or more; more than T asks for fractional t.
        schedule: the one to walk instead; None walks the one trained on.

    Example:
        >>> from diffusion_lab.diffusion.schedule import jsd
        >>> uniform_path(jsd(), steps=4).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    walked = schedule or trained_on
    return walked.level(torch.linspace(walked.steps, 0, counted(steps) + 1, dtype=torch.float64))


def quadratic_path(trained_on: NoiseSchedule, steps: int) -> Path:
    """Levels at t = T (i / steps)^2, denser towards the data (DDIM's "quadratic")."""
    u = torch.linspace(1, 0, counted(steps) + 1, dtype=torch.float64)
    return trained_on.level(trained_on.steps * u.square())


def section_path(trained_on: NoiseSchedule, sections: Sequence[int]) -> Path:
    """T cut into equal sections from data to noise, each visited at its own number of t (ADM: "90,60,60,20,20").

    The very t of guided-diffusion's lists: strides are added up one by one, and a half rounds to the even neighbour.

    Args:
        trained_on: the schedule that the model was trained on.
        sections: how many of its t each section visits, evenly, its two ends included; a single one is the first.

    Raises:
        ValueError: if a section is asked for more t than it has, or for none.

    Example:
        >>> from diffusion_lab.diffusion.schedule import jsd
        >>> section_path(jsd(steps=10), [3, 2]).tolist()
        [0.0, 0.4, 0.5, 0.7, 0.9, 1.0]
    """
    size, longer = divmod(trained_on.steps, len(sections))
    times, first = [0], 1
    for section, count in enumerate(sections):
        length = size + (section < longer)
        if not 1 <= count <= length:
            raise ValueError(
                f"section {section} of sampler.sections has {length} steps, of which {count} were asked for"
            )
        stride = (length - 1) / max(1, count - 1)
        times += [first + round(at) for at in accumulate(repeat(stride, count - 1), initial=0.0)]
        first += length
    return trained_on.alpha_bar[torch.tensor(times[::-1])]


def respaced_path(trained_on: NoiseSchedule, steps: int) -> Path:
    """T to 1 at `steps` even distances, rounded, and from there to 0 (iDDPM's strided sampling, and RePaint's).

    Raises:
        ValueError: for fewer than 2 steps, or more than T.

    Example:
        >>> from diffusion_lab.diffusion.schedule import linear
        >>> linear().time(respaced_path(linear(), 250))[[0, 1, 2, -3, -2, -1]].round().long().tolist()
        [1000, 996, 992, 5, 1, 0]
    """
    if counted(steps, least=2) > trained_on.steps:
        raise ValueError(f"sampler.steps must be at most the schedule's {trained_on.steps}, got {steps}")
    return section_path(trained_on, [steps])


def strided_path(trained_on: NoiseSchedule, steps: int) -> Path:
    """Every k-th t from 1 on, k the least that makes it `steps` of them (DDIM's stride, ADM's "ddim50", DDNM's).

    So the noisiest level is not T's but that of t = 1 + k (steps - 1).

    Args:
        trained_on: the schedule that the model was trained on.
        steps: network calls.

    Raises:
        ValueError: if no stride visits so many t; it names the nearest that some stride does.

    Example:
        >>> from diffusion_lab.diffusion.schedule import jsd
        >>> strided_path(jsd(steps=10), steps=4).tolist()
        [0.0, 0.30000000000000004, 0.6, 0.9, 1.0]
    """
    last = trained_on.steps
    strides = {len(range(1, last + 1, stride)): stride for stride in reversed(range(1, max(last, 2)))}
    if counted(steps) not in strides:
        near = sorted(sorted(strides, key=lambda count: abs(count - steps))[:2])
        raise ValueError(
            f"no whole stride through {last} steps visits {steps} of them: "
            f"set sampler.steps to {' or '.join(map(str, near))}"
        )
    times = [*reversed(range(1, last + 1, strides[steps])), 0]
    return trained_on.alpha_bar[torch.tensor(times)]


def rho_sigmas(
    trained_on: NoiseSchedule, steps: int, rho: float, sigma_min: float | None, sigma_max: float | None
) -> Tensor:
    """``(steps,)`` noise-to-signal ratios, falling, their 1/rho-th powers on a line (EDM eq. 5)."""
    ratios = ratio_at(trained_on.alpha_bar[[1, -1]]).tolist()
    low = ratios[0] if sigma_min is None else sigma_min
    high = min(ratios[1], NOISE) if sigma_max is None else sigma_max
    if not 0 < low < high:
        raise ValueError(f"sampler.sigma_min must be above 0 and below sampler.sigma_max, got {low:.4g} and {high:.4g}")
    roots = torch.linspace(high ** (1 / rho), low ** (1 / rho), counted(steps, least=2), dtype=torch.float64)
    return roots.pow(rho)


def ratio_at(level: Tensor) -> Tensor:
    """EDM's sigma, the noise-to-signal ratio sqrt((1 - gamma) / gamma); infinite at level 0."""
    return ((1 - level) / level).sqrt()


def at_ratio(sigma: Tensor | float) -> Tensor:
    """The level whose noise-to-signal ratio, EDM's sigma, is this: 1 / (1 + sigma^2)."""
    return 1 / (1 + torch.as_tensor(sigma, dtype=torch.float64).square())


def karras_path(
    trained_on: NoiseSchedule,
    steps: int,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Path:
    """EDM's levels (Karras et al. 2022, eq. 5), then 1.

    Args:
        trained_on: the schedule that the model was trained on.
        steps: network calls of a first-order solver, 2 or more.
        rho: 1 spaces sigma evenly, more puts levels near the data.
        sigma_min: ratio of noise to signal at the last level before 1; None is the schedule's at t = 1. EDM's is .002.
        sigma_max: at the first; None is the schedule's last, or `NOISE`. EDM's is 80.
    """
    return torch.cat(
        [at_ratio(rho_sigmas(trained_on, steps, rho, sigma_min, sigma_max)), torch.ones(1, dtype=torch.float64)]
    )


def log_snr_path(trained_on: NoiseSchedule, steps: int) -> Path:
    """Levels at equal distances in log-SNR between the schedule's ends, then 1 (DPM-Solver's own choice)."""
    low, high = ratio_at(trained_on.alpha_bar[[1, -1]]).clamp(max=NOISE).log().tolist()
    sigmas = torch.linspace(high, low, counted(steps, least=2), dtype=torch.float64).exp()
    return torch.cat([at_ratio(sigmas), torch.ones(1, dtype=torch.float64)])


def heun_path(
    trained_on: NoiseSchedule,
    steps: int,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    churn: float = 0.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
) -> Path:
    """EDM's levels for `solvers.Heun`: each between the ends twice, predictor and corrector; 2 `steps` - 1 calls.

    Args:
        trained_on: the schedule that the model was trained on.
        steps: N of EDM's algorithm 2.
        rho: as in `karras_path`.
        sigma_min: as in `karras_path`.
        sigma_max: as in `karras_path`.
        churn: S_churn, noise added before each step as a rise of the path; 0 is the deterministic algorithm 1.
        churn_from: S_min, only levels with at least this ratio of noise to signal are churned.
        churn_to: S_max, and at most this.
    """
    levels: list[Tensor] = []
    for sigma in rho_sigmas(trained_on, steps, rho, sigma_min, sigma_max).tolist():
        levels += [at_ratio(sigma)] * (2 if levels else 1)
        if churn > 0 and churn_from <= sigma <= churn_to:
            levels.append(at_ratio(sigma * (1 + min(churn / steps, math.sqrt(2) - 1))))
    return torch.stack([*levels, at_ratio(0.0)])


def repaint_path(
    trained_on: NoiseSchedule,
    steps: int = 250,
    jump: int = 10,
    resamples: int = 10,
    grid: Callable[[NoiseSchedule, int], Path] = respaced_path,
) -> Path:
    """RePaint's: every `jump` steps the path rises by as many, until each stretch was walked `resamples` times.

    Args:
        trained_on: the schedule that the model was trained on.
        steps: t_T, levels that are walked.
        jump: jump length.
        resamples: r, how often each stretch is walked; 1 never rises.
        grid: which levels; DDNM's are `strided_path`'s.

    Raises:
        ValueError: if `jump` or `resamples` is below 1.

    Example:
        >>> from diffusion_lab.diffusion.schedule import linear
        >>> path = repaint_path(linear())
        >>> int((path.diff() >= 0).sum())
        2410
    """
    if jump < 1 or resamples < 1:
        raise ValueError(f"sampler.jump and sampler.resamples must be 1 or more, got {jump} and {resamples}")
    levels = grid(trained_on, steps).flip(0)  # levels[i], i steps from the data
    times = [steps]
    for foot in reversed(range(1, steps - jump + 1, jump)):
        times += range(times[-1] - 1, foot - 1, -1)
        times += [*range(foot + jump, foot - 1, -1)] * (resamples - 1)
    return levels[torch.tensor([*times, *reversed(range(times[-1]))])]
