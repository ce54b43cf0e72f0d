"""How foreign networks are told the level."""

from typing import Protocol

from torch import Tensor


class Timed(Protocol):
    """A noise schedule, of which only the time and the number of steps are asked."""

    @property
    def steps(self) -> int: ...

    def time(self, level: Tensor) -> Tensor: ...


def by_index(schedule: Timed, level: Tensor) -> Tensor:
    """Tells the network t - 1: DDPM's code, guided-diffusion and diffusers count their T steps from 0."""
    return schedule.time(level) - 1


def by_scaled_index(schedule: Timed, level: Tensor) -> Tensor:
    """Tells the network (t - 1) * 1,000 / T (guided-diffusion's "rescale_timesteps")."""
    return by_index(schedule, level) * (1000 / schedule.steps)


def by_bare_gamma(schedule: Timed, level: Tensor) -> Tensor:
    """Tells the network gamma as it stands, in [0, 1] (Janspiry's Palette)."""
    return level
