"""The diffusion probabilistic model of Sohl-Dickstein et al. 2015, for any process that has a step and its bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as Folder
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffusion_lab import recipe
from diffusion_lab.diffusion.denoiser import Condition, Denoiser, NetworkDenoiser, Prediction
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.diffusion.noise import ExampleNoise, Noise
from diffusion_lab.diffusion.paths import Path
from diffusion_lab.diffusion.sampling import Constrain, Rows, Sampler, keep_clean, sample
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.diffusion.solvers import Solver


class Process(Solver, Protocol):
    """A diffusion: how data turn into noise, one step back (it is a Solver), and what the step costs in bits."""

    def diffuse(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """Draws x ~ q(x | x_0), made of eps from N(0, 1); at level 0 the prior."""

    def entropy(self, level: Tensor) -> Tensor:
        """Of q(x | x_0), in bits per dimension; of the prior at level 0."""

    def step_bits(self, prediction: Prediction, x_0: Tensor, x: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
        """KL(q(x' | x, x_0) || p(x' | x)) in bits, like x; -log2 p(x_0 | x) for the step that ends at level 1."""


def every_level(schedule: NoiseSchedule) -> Path:
    """All levels of a schedule, T network calls."""
    return schedule.alpha_bar.detach().flip(0)


def reverse(process: Process) -> Sampler:
    """The reverse of a process, step for step."""
    return Sampler(every_level, process)


def every_step(schedule: NoiseSchedule, uniforms: Tensor) -> Levels:
    """Steps from t to t - 1, t uniform on 1..T; the gradient of a learned schedule passes."""
    t = 1 + (uniforms[:, 0] * schedule.steps).long()
    return Levels(schedule.alpha_bar[t], schedule.alpha_bar[t - 1], torch.ones(len(t), dtype=torch.float64))


class StepLoss:
    """T times one step's term of the bound: its mean over t is the bound, in bits an example, where level_T is 0.

    Args:
        process: forward and back.
        steps: T.
    """

    def __init__(self, process: Process, steps: int) -> None:
        self.process = process
        self.steps = steps

    def __call__(self, prediction: Prediction, x_0: Tensor, eps: Tensor, levels: Levels, mask: Tensor) -> Tensor:
        x = self.process.diffuse(x_0, eps, levels.level)
        bits = self.process.step_bits(prediction, x_0, x, levels.level, levels.next_level)
        return self.steps * levels.weight.to(bits) * torch.where(mask, bits, 0).flatten(1).sum(1)


@dataclass(frozen=True)
class Bound:
    """An upper bound on -log2 p(x_0), in bits an example, and what it is made of.

    Args:
        steps: ``(B, T - 1)``, the KL of each step from T to 2.
        last: ``(B,)``, -log2 p(x_0 | x_1) of the step to the data as it was learned.
        first_entropy: H_q(X_1 | X_0).
        prior: H_p(X_T) - H_q(X_T | X_0), 0 where nothing is left of the data at T.
    """

    steps: Tensor
    last: Tensor
    first_entropy: float
    prior: float

    @property
    def total(self) -> Tensor:
        """``(B,)``, with the step to the data as it was learned; what `StepLoss` estimates."""
        return self.steps.sum(1) + self.last + self.prior

    @property
    def equation_14(self) -> Tensor:
        """``(B,)``, -K of the paper's eq. 14: its step to the data is not learned but q(x_1 | x_0) run backwards.

        A bound for data whose second moment is that of the prior, as that of bits always is (appendix B.2).
        """
        return self.steps.sum(1) + self.first_entropy + self.prior


@torch.no_grad()
def bound(denoiser: Denoiser, process: Process, schedule: NoiseSchedule, x_0: Tensor, noise: Noise) -> Bound:
    """The bound on the likelihood of examples, at T network calls.

    Args:
        denoiser: the model.
        process: forward and back.
        schedule: the one that the model was trained on.
        x_0: ``(B, D)``.
        noise: for x at each level.
    """
    terms = []
    for start, end in pairwise(every_level(schedule)):
        level, next_level = start.expand(len(x_0)), end.expand(len(x_0))
        x = process.diffuse(x_0, noise(), level)
        prediction = denoiser(x, level, Condition())
        bits = process.step_bits(prediction, x_0, x, level, next_level)
        terms.append(bits.double().flatten(1).sum(1))
    first, last, nothing = process.entropy(torch.stack([*schedule.alpha_bar[[1, -1]].detach(), torch.tensor(0.0)]))
    size = x_0[0].numel()
    return Bound(torch.stack(terms[:-1], 1), terms[-1], size * float(first), size * float(nothing - last))


class DPM(nn.Module):
    """A diffusion probabilistic model: draws examples, or what is missing of them.

    Args:
        denoiser: the trained model.
        process: forward and back.
        sampler: `reverse` of the process, perhaps multiplied by a second distribution.
        constrain: how a step is multiplied by a second distribution that knows some places for certain (section 2.5).
    """

    def __init__(
        self, denoiser: NetworkDenoiser, process: Process, sampler: Sampler, constrain: Constrain = keep_clean
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = process
        self.sampler = sampler
        self.constrain = constrain
        self.recipe: dict[str, Any] = {}

    def condition(self, given: Tensor, mask: Tensor, fill: Tensor, attributes: Tensor | None = None) -> Condition:
        """What is known; the network does not see it."""
        return Condition(known=given, mask=mask, attributes=attributes)

    def network_calls(self, sampler: Sampler | None = None) -> int:
        """How often an example asks the network."""
        return (sampler or self.sampler).network_calls(self.denoiser.schedule)

    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        seeds: Sequence[int] | Tensor,
        sampler: Sampler | None = None,
        on_step: Callable[[Rows, Prediction], None] | None = None,
    ) -> Tensor:
        """Draws what is missing.

        Args:
            image: ``(B, D)``; what lies under the mask is never looked at.
            mask: ``(B, D)`` bool, True = to be drawn; all of it for whole examples.
            seeds: one per example; the same seed draws the same noise in any company.
            sampler: None is the model's own.
            on_step: called after every network call.

        Returns:
            ``(B, D)``, equal to `image` outside the mask.
        """
        noise = ExampleNoise(seeds, image.shape[1:], image.device)
        x_T = self.process.diffuse(torch.zeros_like(image), noise(), torch.zeros(len(image), dtype=torch.float64))
        condition = self.condition(image, mask, fill=x_T)
        return sample(
            self.denoiser,
            sampler or self.sampler,
            self.denoiser.schedule,
            x_T,
            condition,
            noise,
            self.constrain,
            on_step,
        )

    def bound(self, x_0: Tensor, seeds: Sequence[int] | Tensor) -> Bound:
        """The bound on the likelihood of examples ``(B, D)``."""
        noise = ExampleNoise(seeds, x_0.shape[1:], x_0.device)
        return bound(self.denoiser, self.process, self.denoiser.schedule, x_0, noise)

    def save(self, folder: Folder | str) -> None:
        """Writes `model.safetensors` and `recipe.json`, all or nothing."""
        recipe.save(self, self.recipe, Folder(folder))

    @classmethod
    def load(cls, folder: Folder | str) -> "DPM":
        """The model that a folder holds, strictly: see `recipe.load` for what it refuses."""
        model = recipe.load(Folder(folder))
        if not isinstance(model, cls):
            raise ValueError(f"'{folder}' holds a {type(model).__name__}, not a DPM")
        model.recipe = recipe.read(Folder(folder))
        return model
