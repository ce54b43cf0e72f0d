"""The loop that walks a path, and what holds the known pixels on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.paths import Path
from diffusion_lab.diffusion.process import add_noise, renoise
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.diffusion.solvers import Memory, Solver

Wrap = Callable[[Denoiser], Denoiser]
"""Changes what a model says: clipping, guidance."""

Constrain = Callable[[Tensor, Prediction | None, Tensor, Tensor, Noise, Condition], Tensor]
"""(x, prediction, level, next_level, noise, condition) -> x after each step: known pixels, guides.

The prediction is None where no step was taken: in training, at the start of a path, and after a rise."""

Rise = Callable[[Tensor, Prediction | None, Tensor, Tensor, Tensor], Tensor]
"""(x, the last prediction, level, lower level, eps) -> x at the lower level; None at the start of a path."""


def unconstrained(
    x: Tensor, prediction: Prediction | None, level: Tensor, next_level: Tensor, noise: Noise, condition: Condition
) -> Tensor:
    """X as the solver left it."""
    return x


def keep_clean(
    x: Tensor, prediction: Prediction | None, level: Tensor, next_level: Tensor, noise: Noise, condition: Condition
) -> Tensor:
    """Known pixels stand clean in x at every level, so that the model reads them undisturbed (Palette)."""
    assert condition.known is not None
    assert condition.mask is not None
    return torch.where(condition.mask, x, condition.known)


def keep_noised(
    x: Tensor, prediction: Prediction | None, level: Tensor, next_level: Tensor, noise: Noise, condition: Condition
) -> Tensor:
    """Known pixels are drawn anew from q(x' | truth) at every level (Song et al. 2021, "replacement")."""
    assert condition.known is not None
    assert condition.mask is not None
    return torch.where(condition.mask, x, add_noise(condition.known, noise(), next_level))


def from_x(
    x: Tensor,
    prediction: Prediction | None,
    level: Tensor,
    lower_level: Tensor,
    eps: Tensor,
    inflated: float = 1.0,
) -> Tensor:
    """A rise by the forward process (RePaint, EDM's churn); `inflated` is S_noise, see `process.renoise`."""
    return renoise(x, level, lower_level, eps, inflated)


class InTurn:
    """Several constraints, one after the other.

    Args:
        constraints: the first is applied first.
    """

    def __init__(self, constraints: Sequence[Constrain]) -> None:
        self.constraints = tuple(constraints)

    def __call__(
        self,
        x: Tensor,
        prediction: Prediction | None,
        level: Tensor,
        next_level: Tensor,
        noise: Noise,
        condition: Condition,
    ) -> Tensor:
        for constrain in self.constraints:
            x = constrain(x, prediction, level, next_level, noise, condition)
        return x


def untouched(denoiser: Denoiser) -> Denoiser:
    """The denoiser as it is."""
    return denoiser


class Around:
    """Several wraps, one around the other.

    Args:
        wraps: the first is innermost, nearest to the model.
    """

    def __init__(self, wraps: Sequence[Wrap]) -> None:
        self.wraps = tuple(wraps)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        for wrap in self.wraps:
            denoiser = wrap(denoiser)
        return denoiser


@dataclass(frozen=True)
class Sampler:
    """How to walk from noise to a picture: what a `sampler=` yaml builds.

    Args:
        path: makes the levels, given the schedule that the model was trained on.
        solver: takes one step.
        wrap: changes what the model says: clipping, guidance.
        constrain: after each step; None keeps the known pixels as the model was trained to see them.
        rise: how x follows a path that falls back to a noisier level (churn, RePaint).
    """

    path: Callable[[NoiseSchedule], Path]
    solver: Solver
    wrap: Wrap = untouched
    constrain: Constrain | None = None
    rise: Rise = from_x

    def network_calls(self, schedule: NoiseSchedule) -> int:
        """How often a picture asks the network: once for every move that does not add noise."""
        return int((self.path(schedule).diff() >= 0).sum())


@dataclass(frozen=True)
class Rows:
    """Examples that walk the same path together, at one point of it.

    Rows at different points of different paths can share a network call: join their x, level and condition, predict
    once, and let each `advance` with its part of the prediction.
    """

    x: Tensor
    path: Path
    index: int
    memory: Memory
    condition: Condition
    noise: Noise
    solver: Solver
    constrain: Constrain
    rise: Rise

    @property
    def level(self) -> Tensor:
        """``(B,)``: where x stands."""
        return self.path[self.index].expand(len(self.x))

    @property
    def done(self) -> bool:
        return self.index == len(self.path) - 1


def start(x_T: Tensor, path: Path, sampler: Sampler, constrain: Constrain, condition: Condition, noise: Noise) -> Rows:
    """Rows at the noisy end of a path."""
    constrain = sampler.constrain or constrain
    level = path[0].expand(len(x_T))
    x = constrain(x_T, None, level, level, noise, condition)
    rows = Rows(x, path, 0, sampler.solver.start(x), condition, noise, sampler.solver, constrain, sampler.rise)
    return risen(rows, None)


def risen(rows: Rows, prediction: Prediction | None) -> Rows:
    """The rises in noise, if any, that the path asks for where the rows stand."""
    x, memory, index = rows.x, rows.memory, rows.index
    while index + 1 < len(rows.path) and rows.path[index + 1] < rows.path[index]:
        lower = rows.path[index + 1].expand(len(x))
        x = rows.rise(x, prediction, rows.path[index].expand(len(x)), lower, rows.noise())
        x = rows.constrain(x, None, lower, lower, rows.noise, rows.condition)  # the rise noised the known pixels too
        memory = rows.solver.start(x)
        index += 1
    return replace(rows, x=x, memory=memory, index=index)


def advance(rows: Rows, prediction: Prediction) -> Rows:
    """The tick: one step, what is known of the picture, then any rises in noise that the path asks for."""
    level, next_level = rows.level, rows.path[rows.index + 1].expand(len(rows.x))
    x, memory = rows.solver(rows.x, prediction, level, next_level, rows.noise, rows.memory)
    x = rows.constrain(x, prediction, level, next_level, rows.noise, rows.condition)
    return risen(replace(rows, x=x, memory=memory, index=rows.index + 1), prediction)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: NoiseSchedule,
    x_T: Tensor,
    condition: Condition,
    noise: Noise,
    constrain: Constrain = unconstrained,
    on_step: Callable[[Rows, Prediction], None] | None = None,
) -> Tensor:
    """Walks from noise to a picture.

    Args:
        denoiser: the model.
        sampler: path, solver, and what goes around the model.
        schedule: the one that the model was trained on.
        x_T: ``(B, ...)`` from N(0, 1).
        condition: what is known of the picture.
        noise: the noise of the steps.
        constrain: how the model was trained to see the known pixels, unless the sampler has its own way.
        on_step: called after every network call with the rows and what the model said; None for nobody.

    Returns:
        ``(B, ...)``, x at the end of the path.
    """
    rows = start(x_T, sampler.path(schedule), sampler, constrain, condition, noise)
    model = sampler.wrap(denoiser)
    while not rows.done:
        prediction = model(rows.x, rows.level, condition)
        rows = advance(rows, prediction)
        if on_step is not None:
            on_step(rows, prediction)
    return rows.x
