"""Averages of the weights over the steps: what samples and what ships."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Decay = Callable[[int], float]
"""Updates before this one -> share of the average that stays, in [0, 1)."""


@dataclass(frozen=True)
class Exponential:
    """The last 1 / (1 - decay) steps or so, older ones fading.

    The first updates use min(d, (1 + n) / (10 + n)), so that the average forgets the initial weights at once and is
    usable at any step.

    Args:
        decay: d, in [0, 1).

    Raises:
        ValueError: for a decay outside.
    """

    decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"ema.decays must be in [0, 1), got {self.decay}")

    def __call__(self, updates: int) -> float:
        return min(self.decay, (1 + updates) / (10 + updates))

    def __str__(self) -> str:
        return f"decay={self.decay:g}"


@dataclass(frozen=True)
class Power:
    """A fixed share of the training so far: step i of t weighs as (i / t)^gamma (Karras et al. 2023, section 3.1).

    Written for steps, the decay (1 - 1 / t)^(gamma + 1) gives step i the integral of that profile from i - 1 to i,
    exactly, and the initial weights nothing.

    Args:
        sigma_rel: width of the profile as a share of t, in (0, 12^-.5]; the largest weighs all steps alike.

    Raises:
        ValueError: for a width outside.

    Example:
        >>> round(Power(0.05).gamma, 2), round(Power(0.10).gamma, 2)
        (16.97, 6.94)
    """

    sigma_rel: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma_rel <= 12**-0.5:
            raise ValueError(f"sigma_rel must be above 0 and at most {12**-0.5:.4f}, got {self.sigma_rel}")

    @property
    def gamma(self) -> float:
        """The exponent: largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / sigma_rel^2."""
        inverse = self.sigma_rel**-2
        return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())

    def __call__(self, updates: int) -> float:
        return float((1 - 1 / (updates + 1)) ** (self.gamma + 1))

    def __str__(self) -> str:
        return f"sigma_rel={self.sigma_rel:g}"


class Averages:
    """Running averages of a model's parameters at one or several rates; the first is what samples and ships.

    Args:
        model: whose parameters are averaged; buffers are left alone.
        decays: one for each average.

    Raises:
        ValueError: if there is none, or one twice.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> averages = Averages(model, [Exponential(0.5)])
        >>> _ = nn.init.zeros_(model.weight)
        >>> averages.update()
        >>> with averages.applied():
        ...     round(model.weight.item(), 6)  # the first update's decay is 1 / 10
        0.1
        >>> model.weight.item()
        0.0
    """

    def __init__(self, model: nn.Module, decays: Sequence[Decay]) -> None:
        self.decays = tuple(decays)
        if not self.decays or len({str(decay) for decay in self.decays}) < len(self.decays):
            raise ValueError(f"ema needs one rate or several different ones, got {[str(d) for d in self.decays]}")
        self.updates = 0
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = list(model.parameters())
        self.averages = [[parameter.detach().clone() for parameter in self.parameters] for _ in self.decays]

    @property
    def average(self) -> list[Tensor]:
        """The first average, in the order of `names`."""
        return self.averages[0]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters of one more step in."""
        parameters = [parameter.detach() for parameter in self.parameters]
        for i, decay in enumerate(self.decays):
            self.averages[i] = [a.to(p.device) for a, p in zip(self.averages[i], parameters, strict=True)]
            torch._foreach_lerp_(self.averages[i], parameters, 1 - decay(self.updates))
        self.updates += 1

    @torch.no_grad()
    def swap(self, which: int) -> None:
        """Exchanges average and parameters by value, so that compiled and fused code keeps its pointers."""
        for average, parameter in zip(self.averages[which], self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    @contextmanager
    def applied(self, which: int = 0) -> Iterator[None]:
        """The model has the average weights inside, and its own again outside, whatever happened between."""
        self.swap(which)
        try:
            yield
        finally:
            self.swap(which)

    def tensors(self, which: int) -> dict[str, Tensor]:
        """An average by parameter name."""
        return dict(zip(self.names, self.averages[which], strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Every average by its rate and parameter name, and the count of updates."""
        averages = {str(decay): self.tensors(i) for i, decay in enumerate(self.decays)}
        return {"averages": averages, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state.

        Raises:
            ValueError: if a rate or a parameter is missing.
        """
        saved: dict[str, dict[str, Tensor]] = state["averages"]
        for i, decay in enumerate(self.decays):
            if str(decay) not in saved:
                raise ValueError(
                    f"the checkpoint holds averages with {', '.join(saved)} and none with {decay}: "
                    "resume with the ema= that the run began with"
                )
            found = saved[str(decay)]
            missing = [name for name in self.names if name not in found]
            if missing:
                raise ValueError(f"the checkpoint holds no average of '{missing[0]}': it is of another model")
            for name, average in zip(self.names, self.averages[i], strict=True):
                average.copy_(found[name])
        self.updates = int(state["updates"])


def exponential(model: nn.Module, decays: Sequence[float]) -> Averages:
    """Exponential averages, as every diffusion model has one."""
    return Averages(model, [Exponential(decay) for decay in decays])


def power(model: nn.Module, sigma_rel: Sequence[float] = (0.05, 0.10)) -> Averages:
    """Power-function averages; of two, other lengths can be made after training (`training.reconstruct`)."""
    return Averages(model, [Power(width) for width in sigma_rel])
