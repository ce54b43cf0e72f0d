"""Wrappers that change what a denoiser says: a Denoiser around a Denoiser."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction, by_time
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import add_noise, along, eps_from_x_0, x_0_from_eps
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.diffusion.solvers import Ancestral, Memory, step_variance

LogProbability = Callable[[Tensor, Tensor, Condition], Tensor]
"""(x, level (B,), condition) -> log p(what is asked for | x), (B,): a classifier of noisy pictures."""

Heed = Callable[[Prediction, Tensor, Tensor, Tensor], Prediction]
"""(prediction, x, level, gradient of a log-probability) -> the prediction that heeds it."""


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
        of_said = both.map(lambda tensor: tensor[: len(x)])  # its variance stays (GLIDE)
        return replace(of_said, x_0=self.between(both.x_0), eps=self.between(both.eps))

    def between(self, both: Tensor) -> Tensor:
        said, unsaid = both.chunk(2)
        return unsaid + self.scale * (said - unsaid)


class ClassifierGuidance:
    """Classifier guidance (Dhariwal & Nichol 2021): the model is asked once, and heeds scale grad log p(y | x).

    Args:
        denoiser: what is wrapped.
        classifier: log p(y | x) of noisy pictures, differentiable in x.
        scale: 1 is Bayes' rule, more exaggerates.
        heed: what becomes of the gradient: `in_eps` (algorithm 2, any solver), or `after_step` (algorithm 1), with
            `ShiftedMean` as the solver.
    """

    def __init__(
        self, denoiser: Denoiser, classifier: LogProbability, scale: float = 1.0, heed: Heed | None = None
    ) -> None:
        self.denoiser = denoiser
        self.classifier = classifier
        self.scale = scale
        self.heed = heed or in_eps

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        prediction = self.denoiser(x, level, condition)
        with torch.enable_grad():  # sampling's `no_grad` is lifted for it
            leaf = x.detach().requires_grad_()
            (uphill,) = torch.autograd.grad(self.classifier(leaf, level, condition).sum(), leaf)
        return self.heed(prediction, x, level, self.scale * uphill)


def in_eps(prediction: Prediction, x: Tensor, level: Tensor, gradient: Tensor) -> Prediction:
    """Eps - sigma gradient (Dhariwal & Nichol 2021, algorithm 2), and the x_0 that agrees with it."""
    (sigma,) = along(x, (1 - level).sqrt())
    eps = prediction.eps - sigma * gradient
    return replace(prediction, x_0=x_0_from_eps(x, eps, level), eps=eps)


def after_step(prediction: Prediction, x: Tensor, level: Tensor, gradient: Tensor) -> Prediction:
    """The prediction as it is, and the gradient beside it for `ShiftedMean` (Dhariwal & Nichol 2021, algorithm 1)."""
    return replace(prediction, gradient=gradient)


class ShiftedMean:
    """Ancestral steps whose mean is moved by Sigma times the guide's gradient (Dhariwal & Nichol 2021, algorithm 1).

    The last step is moved too: without noise of its own, by beta.

    Args:
        variance_mix: see `solvers.Ancestral`.
    """

    def __init__(self, variance_mix: float = 0.0) -> None:
        self.ancestral = Ancestral(variance_mix)

    def start(self, x: Tensor) -> Memory:
        return self.ancestral.start(x)

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        assert prediction.gradient is not None, "this solver wants a guide that heeds `after_step`"
        unmoved, memory = self.ancestral(x, prediction, level, next_level, noise, memory)
        variance = step_variance(x, prediction, level, next_level, self.ancestral.variance_mix)
        return unmoved + variance * prediction.gradient, memory


def independent(logits: Tensor, wanted: Tensor) -> Tensor:
    """Log-probability of attributes of which each holds or not, whatever the others: a sigmoid for each.

    Args:
        logits: ``(..., A)``.
        wanted: ``(..., A)``, 1 for an attribute that is to hold and 0 for one that is not; NaN is not asked for.

    Returns:
        ``(...)``.
    """
    asked, wanted = ~wanted.isnan(), wanted.nan_to_num()
    chances = wanted * F.logsigmoid(logits) + (1 - wanted) * F.logsigmoid(-logits)
    return torch.where(asked, chances, 0).sum(-1)


def exclusive(logits: Tensor, wanted: Tensor) -> Tensor:
    """Log-probability of classes of which one holds, by a softmax over all (Dhariwal & Nichol 2021, section 4).

    Args:
        logits: ``(..., A)``.
        wanted: ``(..., A)``, 1 for the class that is to hold, or for each of several that may; where there is none, 0
            for those that may not. NaN is not asked for.

    Returns:
        ``(...)``.
    """
    named = (wanted == 1).any(-1, keepdim=True)
    possible = torch.where(named, wanted == 1, wanted != 0)
    return torch.where(possible, F.log_softmax(logits, dim=-1), -torch.inf).logsumexp(-1)


class NetworkClassifier(nn.Module):
    """A network that says of noisy pictures which attributes they have, and how it is told the level.

    It is a `LogProbability`: what it is trained to raise is what it guides by.

    Args:
        network: called as ``network(x, time (B,))``; ``(B, attributes)`` logits.
        schedule: the schedule whose levels it is told.
        told: turns a level into the network's time input.
        reads: what the logits mean, the log-probability of what is wanted: `independent` attributes, or `exclusive`
            classes.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        told: Callable[[NoiseSchedule, Tensor], Tensor] = by_time,
        reads: Callable[[Tensor, Tensor], Tensor] = independent,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.told = told
        self.reads = reads

    def logits(self, x: Tensor, level: Tensor) -> Tensor:
        """``(B, attributes)`` float32, of x at a level ``(B,)``."""
        time = self.told(self.schedule, level).to(device=x.device, dtype=torch.float32)
        return self.network(x, time).float()  # type: ignore[no-any-return]

    def chances(self, x: Tensor, level: Tensor) -> Tensor:
        """``(B, attributes)``: the chance of each."""
        logits = self.logits(x, level)
        alone = torch.where(torch.eye(logits.shape[1], device=x.device) == 1, 1.0, torch.nan)
        return self.reads(logits[:, None], alone).exp()

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """Log-probability of the condition's attributes, ``(B,)``; those that are NaN are not asked for.

        Known pixels may stand clean in x; they are noised as the hole is, since it only ever saw pictures that were
        noisy all over. So nothing but the hole is guided.

        Raises:
            ValueError: for attributes that are not said, or not as many as the network knows.
        """
        if condition.attributes is None:
            raise ValueError("a classifier needs attributes to ask for: say which, or train with labels=measured")
        if condition.known is not None and condition.mask is not None and condition.fill is not None:
            x = torch.where(condition.mask, x, add_noise(condition.known, condition.fill, level))
        logits = self.logits(x, level)
        if logits.shape != condition.attributes.shape:
            raise ValueError(
                f"this classifier knows {logits.shape[1]} attributes, and {condition.attributes.shape[1]} were given: "
                f"set model.outputs={condition.attributes.shape[1]}"
            )
        return self.reads(logits, condition.attributes)
