"""Wrappers that change what a denoiser says: a Denoiser around a Denoiser."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import along, eps_from_x_0, x_0_from_eps
from diffusion_lab.diffusion.solvers import step_variance

LogProbability = Callable[[Tensor, Tensor, Condition], Tensor]
"""(x, level (B,), condition) -> log p(what is asked for | x), (B,): a classifier of noisy pictures."""


def seeing(prediction: Prediction, x: Tensor, x_0: Tensor, level: Tensor) -> Prediction:
    """The prediction with another x_0, and the eps that agrees with it."""
    return replace(prediction, x_0=x_0, eps=eps_from_x_0(x, x_0, level))


class Clip:
    """Holds x_0 within [-1, 1] and makes eps agree with it (DDPM's code; the paper leaves it unsaid)."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        prediction = self.denoiser(x, level, condition)
        return seeing(prediction, x, prediction.x_0.clamp(-1, 1), level)


class DynamicThreshold:
    """Clips each picture's x_0 at a percentile of its own values and rescales it to [-1, 1] (Imagen, section 2.3).

    Args:
        denoiser: what is wrapped.
        percentile: share of the values that stay; where they lie within [-1, 1] anyway, this is `Clip`.
    """

    def __init__(self, denoiser: Denoiser, percentile: float = 0.995) -> None:
        if not 0 < percentile <= 1:
            raise ValueError(f"percentile must be in (0, 1], got {percentile}")
        self.denoiser = denoiser
        self.percentile = percentile

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        prediction = self.denoiser(x, level, condition)
        reach = prediction.x_0.abs().flatten(1).quantile(self.percentile, dim=1).clamp(min=1)  # (B,)
        reach = reach.reshape(-1, *[1] * (x.ndim - 1))
        return seeing(prediction, x, prediction.x_0.clamp(-reach, reach) / reach, level)


class ClassifierFree:
    """Exaggerates what the attributes change (Ho & Salimans 2022): eps = unsaid + scale (said - unsaid).

    Args:
        denoiser: trained with attributes left out at random (NaN); asked once, with twice the batch.
        scale: 1 is the conditional model, 0 the unconditional one; the paper's w is scale - 1.
    """

    def __init__(self, denoiser: Denoiser, scale: float = 2.0) -> None:
        self.denoiser = denoiser
        self.scale = scale

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        if condition.attributes is None:
            raise ValueError(
                "classifier-free guidance needs attributes to guide towards: say which, or take another sampler"
            )
        said = condition.attributes
        twice = condition.map(lambda tensor: torch.cat([tensor, tensor]))
        twice = replace(twice, attributes=torch.cat([said, torch.full_like(said, torch.nan)]))
        both = self.denoiser(torch.cat([x, x]), torch.cat([level, level]), twice)
        mix = None if both.variance_mix is None else both.variance_mix[: len(x)]
        return Prediction(self.between(both.x_0), self.between(both.eps), mix)

    def between(self, both: Tensor) -> Tensor:
        said, unsaid = both.chunk(2)
        return unsaid + self.scale * (said - unsaid)


class ClassifierGuidance:
    """Classifier guidance in eps (Dhariwal & Nichol 2021, algorithm 2): eps - scale sigma grad log p(y | x).

    Works with any solver; the network is asked once.

    Args:
        denoiser: what is wrapped.
        classifier: log p(y | x) of noisy pictures, differentiable in x.
        scale: 1 is Bayes' rule, more exaggerates.
    """

    def __init__(self, denoiser: Denoiser, classifier: LogProbability, scale: float = 1.0) -> None:
        self.denoiser = denoiser
        self.classifier = classifier
        self.scale = scale

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        prediction = self.denoiser(x, level, condition)
        (sigma,) = along(x, (1 - level).sqrt())
        eps = prediction.eps - self.scale * sigma * gradient(self.classifier, x, level, condition)
        return replace(prediction, x_0=x_0_from_eps(x, eps, level), eps=eps)


class ClassifierGradient:
    """Classifier guidance of the mean (Dhariwal & Nichol 2021, algorithm 1): the gradient that `ShiftMean` applies.

    Args:
        denoiser: what is wrapped.
        classifier: log p(y | x) of noisy pictures, differentiable in x.
        scale: 1 is Bayes' rule, more exaggerates.
    """

    def __init__(self, denoiser: Denoiser, classifier: LogProbability, scale: float = 1.0) -> None:
        self.denoiser = denoiser
        self.classifier = classifier
        self.scale = scale

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        prediction = self.denoiser(x, level, condition)
        return replace(prediction, gradient=self.scale * gradient(self.classifier, x, level, condition))


class ShiftMean:
    """Moves the step's mean by its variance times the guide's gradient: a constraint for `ClassifierGradient`.

    Args:
        variance_mix: which variance the solver's step has; see `solvers.Ancestral`, whose eta is 1 here.
    """

    def __init__(self, variance_mix: float = 0.0) -> None:
        self.variance_mix = variance_mix

    def __call__(
        self,
        x: Tensor,
        prediction: Prediction | None,
        level: Tensor,
        next_level: Tensor,
        noise: Noise,
        condition: Condition,
    ) -> Tensor:
        if prediction is None or prediction.gradient is None:  # before the first step
            return x
        return x + step_variance(x, prediction, level, next_level, self.variance_mix) * prediction.gradient


def gradient(log_probability: LogProbability, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
    """Of each example's log-probability with respect to x; sampling's `no_grad` is lifted for it."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(log_probability(x, level, condition).sum(), x)
    return found
