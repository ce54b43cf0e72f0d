"""The classifier of noisy faces as a folder on disk, and the samplers that are guided by it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion_lab import recipe
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Condition
from diffusion_lab.diffusion.guidance import ClassifierGuidance, NetworkClassifier, ShiftedMean, after_step
from diffusion_lab.diffusion.sampling import Constrain, Sampler, unconstrained


class AttributeClassifier(nn.Module):
    """Says of a noisy face which attributes it has.

    Args:
        denoiser: the network and how it is told the level, by the name that training knows it by.
    """

    constrain: Constrain = staticmethod(unconstrained)

    def __init__(self, denoiser: NetworkClassifier) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.recipe: dict[str, Any] = {}

    def condition(self, given: Tensor, mask: Tensor, fill: Tensor, attributes: Tensor | None = None) -> Condition:
        """What it is asked about the face; it looks at the whole of it."""
        return Condition(attributes=attributes)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """The chance of each attribute, ``(B, attributes)``, of ``(B, 3, H, W)`` at a level ``(B,)``."""
        return self.denoiser.chances(x, level)

    def save(self, folder: Path | str) -> None:
        """Writes `model.safetensors` and `recipe.json`, all or nothing."""
        recipe.save(self, self.recipe, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> "AttributeClassifier":
        """The classifier that a folder holds, strictly: see `recipe.load` for what it refuses."""
        model = recipe.load(Path(folder))
        if not isinstance(model, cls):
            raise ValueError(
                f"'{folder}' holds a {type(model).__name__}, not a classifier that can guide: train one with "
                "experiment=classifier, or make one of OpenAI's by python -m diffusion_lab.networks.checkpoints"
            )
        model.recipe = recipe.read(Path(folder))
        return model


class Wish:
    """The log-probability of attributes that were wished for beforehand, whatever the condition says.

    Args:
        classifier: of noisy faces; it follows x to its device.
        attributes: 1 for an attribute that the face shall have, 0 for one that it shall not, by name.

    Raises:
        ValueError: for no attribute at all, or one that the classifier does not know.
    """

    def __init__(self, classifier: AttributeClassifier, attributes: Mapping[str, float]) -> None:
        if not attributes:
            raise ValueError("guidance needs attributes to guide towards: sampler.attributes={name: 1}")
        self.model = classifier.denoiser.requires_grad_(False)
        self.wanted = recipe.asked(classifier.recipe, attributes)

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        wanted = self.wanted.to(x.device).expand(len(x), -1)
        said: Tensor = self.model.to(x.device)(x, level, replace(condition, attributes=wanted))
        return said


def guided(classifier: Path | str, attributes: Mapping[str, float], scale: float, sampler: Sampler) -> Sampler:
    """Any sampler, guided in eps (Dhariwal & Nichol 2021, algorithm 2).

    Args:
        classifier: its folder.
        attributes: what the faces shall be like, see `Wish`.
        scale: 1 is Bayes' rule, more exaggerates.
        sampler: without guidance.
    """
    wish = Wish(AttributeClassifier.load(classifier), attributes)
    return samplers.guided(sampler, partial(ClassifierGuidance, classifier=wish, scale=scale))


def mean_guided(
    classifier: Path | str, attributes: Mapping[str, float], scale: float, steps: int, variance_mix: float = 0.0
) -> Sampler:
    """Ancestral sampling whose mean is guided (Dhariwal & Nichol 2021, algorithm 1).

    Args:
        classifier: its folder.
        attributes: what the faces shall be like, see `Wish`.
        scale: 1 is Bayes' rule, more exaggerates.
        steps: network calls.
        variance_mix: see `samplers.ddpm`.
    """
    wish = Wish(AttributeClassifier.load(classifier), attributes)
    guide = partial(ClassifierGuidance, classifier=wish, scale=scale, heed=after_step)
    sampler = samplers.guided(samplers.ddpm(steps), guide)
    return replace(sampler, solver=ShiftedMean(variance_mix))
