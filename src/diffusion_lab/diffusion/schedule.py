"""Noise schedules: tables of the signal power left after each step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """A table of levels, from data to noise.

    Args:
        alpha_bar: ``(T + 1,)`` float64 on the CPU, falling from exactly 1 at t = 0; the last entry may be 0.

    Raises:
        ValueError: if the table does not start at 1, does not fall, or leaves [0, 1].

    Example:
        >>> schedule = linear(steps=1000)
        >>> f"{schedule.alpha_bar[-1].item():.4e}"
        '4.0358e-05'
        >>> [round(t, 9) for t in schedule.time(schedule.level(torch.tensor([0.0, 250.5, 1000.0]))).tolist()]
        [0.0, 250.5, 1000.0]
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        table = self.alpha_bar
        if table.ndim != 1 or len(table) < 2 or table.dtype != torch.float64:
            raise ValueError(
                f"alpha_bar must be a float64 table of two levels or more, got {table.dtype} {tuple(table.shape)}"
            )
        if table[0] != 1 or table[-1] < 0 or not bool((table.diff() < 0).all()):
            raise ValueError(f"alpha_bar must fall from 1 towards 0, got {table[0]:.6g} ... {table[-1]:.6g}")

    @property
    def steps(self) -> int:
        """T, the number of steps between data and the noisiest level."""
        return len(self.alpha_bar) - 1

    @property
    def betas(self) -> Tensor:
        """``(T,)``: the variance that each step adds, beta_1 to beta_T."""
        return 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]

    @property
    def angle(self) -> Tensor:
        """``(T + 1,)``: phi = atan2(sigma, signal), finite where log-SNR is not; rises from 0 to at most pi / 2."""
        return torch.atan2((1 - self.alpha_bar).sqrt(), self.alpha_bar.sqrt())

    def level(self, t: Tensor) -> Tensor:
        """Signal power at t, which may be fractional: linear in the angle between the table's entries.

        Args:
            t: ``(B,)`` in [0, T].
        """
        t = t.to("cpu", torch.float64).clamp(0, self.steps)
        below = t.floor().long()
        above = t.ceil().long()
        angle = torch.lerp(self.angle[below], self.angle[above], t - below)
        # Entries of the table are returned as they stand, so that no step is a rounding away from its neighbour.
        return torch.where(below == above, self.alpha_bar[below], angle.cos().square())

    def time(self, level: Tensor) -> Tensor:
        """The t at which the schedule reaches a level: the inverse of `level`.

        Exact at the table's entries, clamped to [0, T] beyond its ends.

        Args:
            level: ``(B,)`` in [0, 1].
        """
        level = level.to("cpu", torch.float64).clamp(0, 1)
        above = self.steps - torch.searchsorted(self.alpha_bar.flip(0), level)
        below = (above + 1).clamp(max=self.steps)
        angle = torch.atan2((1 - level).sqrt(), level.sqrt())
        width = (self.angle[below] - self.angle[above]).clamp(min=torch.finfo(torch.float64).tiny)
        return above + ((angle - self.angle[above]) / width).clamp(0, 1) * (below > above)


def from_betas(betas: Tensor) -> NoiseSchedule:
    """The schedule whose step t adds variance beta_t; ``(T,)`` in (0, 1].

    Raises:
        ValueError: for a beta above 1.
    """
    if betas.max() > 1:
        raise ValueError(
            f"a step can add no more variance than 1, but beta rises to {betas.max():.4g} in {len(betas)} steps: "
            "use more of them (schedule.steps=), or say where the betas end (schedule.end=)"
        )
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas.double()).cumprod(0)]))


def counted(steps: int) -> int:
    """T, if it is one.

    Raises:
        ValueError: if it is below 1.
    """
    if steps < 1:
        raise ValueError(f"schedule.steps must be 1 or more, got {steps}")
    return steps


def of_a_thousand(beta: float, steps: int) -> float:
    """The beta that does in `steps` steps what `beta` does in the 1,000 that it was published for."""
    return beta * (1000 / counted(steps))


def from_alpha_bar(alpha_bar: Callable[[Tensor], Tensor], steps: int, max_beta: float = 0.999) -> NoiseSchedule:
    """The schedule that follows a curve over u = t / T in [0, 1], no step adding more variance than `max_beta`."""
    curve = alpha_bar(torch.linspace(0, 1, counted(steps) + 1, dtype=torch.float64))
    return from_betas((1 - curve[1:] / curve[:-1]).clamp(max=max_beta))


def linear(steps: int = 1000, start: float | None = None, end: float | None = None) -> NoiseSchedule:
    """Betas on a line from `start` to `end` (DDPM, section 4).

    Args:
        steps: T.
        start: beta_1, taken as it stands; None is DDPM's 1e-4 of T = 1,000, times 1,000 / T (guided-diffusion's code).
        end: beta_T likewise; None is DDPM's .02 of T = 1,000, so that any T ends at about the same noise.

    Example:
        >>> [f"{linear(steps).alpha_bar[-1]:.1e}" for steps in (100, 1000, 4000)]
        ['2.0e-05', '4.0e-05', '4.2e-05']
    """
    start = of_a_thousand(1e-4, steps) if start is None else start
    end = of_a_thousand(0.02, steps) if end is None else end
    return from_betas(torch.linspace(start, end, counted(steps), dtype=torch.float64))


def quadratic(steps: int = 1000, start: float | None = None, end: float | None = None) -> NoiseSchedule:
    """Betas whose roots lie on a line ("quad" in DDIM's code, "scaled linear" in latent diffusion's).

    Args:
        steps: T.
        start: as in `linear`.
        end: as in `linear`.
    """
    start = of_a_thousand(1e-4, steps) if start is None else start
    end = of_a_thousand(0.02, steps) if end is None else end
    return from_betas(torch.linspace(start**0.5, end**0.5, counted(steps), dtype=torch.float64).square())


def constant(steps: int = 1000, beta: float | None = None) -> NoiseSchedule:
    """The same beta at every step; None is .01 of T = 1,000, times 1,000 / T."""
    beta = of_a_thousand(0.01, steps) if beta is None else beta
    return from_betas(torch.full((counted(steps),), beta, dtype=torch.float64))


def jsd(steps: int = 1000) -> NoiseSchedule:
    """beta_t = 1 / (T - t + 1): each step removes an equal share, none is left at T (Sohl-Dickstein et al., B.6)."""
    return NoiseSchedule(torch.linspace(1, 0, counted(steps) + 1, dtype=torch.float64))


def cosine(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """alpha-bar falls as a squared cosine (iDDPM eq. 17)."""
    return from_alpha_bar(lambda u: ((u + offset) / (1 + offset) * math.pi / 2).cos().square(), steps, max_beta)


def sigmoid(
    steps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> NoiseSchedule:
    """alpha-bar falls as a sigmoid between `start` and `end` (Jabri et al. 2022, algorithm 1)."""

    def curve(u: Tensor) -> Tensor:
        edges = torch.tensor([start, end], dtype=torch.float64).div(tau).sigmoid()
        return (edges[1] - ((u * (end - start) + start) / tau).sigmoid()) / (edges[1] - edges[0])

    return from_alpha_bar(curve, steps, max_beta)


def zero_terminal(schedule: NoiseSchedule) -> NoiseSchedule:
    """A schedule whose last level is 0, so that sampling starts where training ended (Lin et al. 2024, algorithm 1).

    The signal's amplitude is shifted and stretched between its first entry, which stays, and 0. At level 0 the noise
    says nothing of the picture: train with v or x_0, not eps.
    """
    signal = schedule.alpha_bar[1:].sqrt()
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), signal.square()]))
