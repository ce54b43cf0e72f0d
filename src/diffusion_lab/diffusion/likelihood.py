"""The variational bound on the likelihood, in bits per dimension, term by term (DDPM eq. 5)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.special import log_ndtr

from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.paths import Path
from diffusion_lab.diffusion.process import add_noise, along, beta_between, over, posterior_mean, posterior_variance
from diffusion_lab.diffusion.sampling import Constrain, Wrap, unconstrained, untouched
from diffusion_lab.diffusion.solvers import log_variance

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_0, mean, log variance) -> log p(x_0) in nats, like x_0."""


def discretised(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability of 8-bit pictures: the Gaussian's mass over each value's bin (DDPM eq. 13).

    Args:
        x_0: multiples of 2 / 255 in [-1, 1]; the bins of the two ends reach to infinity.
        mean: of the Gaussian.
        log_variance: of the Gaussian.
    """
    scale = torch.exp(-0.5 * log_variance)
    off, half = x_0 - mean, 1 / 255
    # Both ends of the bin in the lower tail, where the logarithms keep their digits.
    near, far = log_ndtr(-(off.abs() - half) * scale), log_ndtr(-(off.abs() + half) * scale)
    within = near + torch.log(-torch.expm1(far - near))
    lowest, highest = log_ndtr((off + half) * scale), log_ndtr(-(off - half) * scale)
    return torch.where(x_0 < -0.999, lowest, torch.where(x_0 > 0.999, highest, within))


def density(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-density, for data that are not 8-bit values; the bound may then be below 0."""
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x_0 - mean).square() * torch.exp(-log_variance))


FirstVariance = Callable[[Tensor], float]
"""(levels (K + 1,), from 1 towards noise) -> the variance of the first step, whose beta-tilde is 0."""


def beta_variance(levels: Tensor) -> float:
    """Beta of the first step: sigma_1^2 = beta_1 (DDPM's text, section 3.3)."""
    return float(1 - levels[1])


def clipped_variance(levels: Tensor) -> float:
    """Beta-tilde of the second step (DDPM's program and iDDPM's); beta of a step that is alone."""
    if len(levels) == 2:
        return beta_variance(levels)
    return float(posterior_variance(levels[2], levels[1]))


def step_bits(
    prediction: Prediction,
    x_0: Tensor,
    level: Tensor,
    next_level: Tensor,
    *,
    x: Tensor,
    variance_mix: float,
    first_variance: float,
    decoder: Decoder,
) -> Tensor:
    """One step's term of the bound, in bits, like x_0.

    KL(q(x' | x, x_0) || p(x' | x)) between Gaussians, or -log p(x_0 | x) for the step that ends at level 1.

    Args:
        prediction: what the model says of x.
        x_0: the truth.
        level: ``(B,)`` of x.
        next_level: ``(B,)`` of x'.
        x: from q(x | x_0).
        variance_mix: the variance of p, if the network has not learned it; see `solvers.Ancestral`.
        first_variance: of p in the step that ends at level 1; a network that learned the mix says how far from there
            to beta.
        decoder: p(x_0 | x).
    """
    ends = next_level == 1
    said = log_variance(x, prediction, level, next_level, variance_mix)
    said_last = log_variance(x, prediction, level, next_level, 0.0, least=first_variance)
    true = posterior_variance(level, next_level).clamp(min=1e-30).log()
    of_x_0 = over(next_level.sqrt() * beta_between(level, next_level), 1 - level)
    log_true, pull, last = along(x, true, of_x_0, ends.double())
    # The means differ by their share of x_0 alone (DDPM eq. 7); written so, nothing cancels.
    apart = (pull * (x_0 - prediction.x_0)).square()
    kl = 0.5 * (torch.expm1(log_true - said) - (log_true - said) + apart * torch.exp(-said))
    decoded = -decoder(x_0, posterior_mean(x, prediction.x_0, level, next_level), said_last)
    return torch.where(last > 0, decoded, kl) / math.log(2)


@dataclass(frozen=True)
class Bound:
    """An upper bound on -log2 p(hole), in bits per dimension of the hole, and what it is made of.

    Args:
        prior: ``(B,)``, KL(q(x_T | x_0) || N(0, 1)).
        steps: ``(B, K - 1)``, the KL of each step, from noise to data.
        decoder: ``(B,)``, -log p(x_0 | x_1).
        levels: ``(K - 1,)``, where the KLs were measured.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    levels: Tensor

    @property
    def total(self) -> Tensor:
        """``(B,)``."""
        return self.prior + self.steps.sum(1) + self.decoder


class Conditioned(Denoiser, Protocol):
    """A denoiser that says how much of the known pixels it was trained to look at."""

    @property
    def condition_channels(self) -> int: ...


@torch.no_grad()
def bound(
    model: Conditioned,
    path: Path,
    x_0: Tensor,
    condition: Condition,
    noise: Noise,
    *,
    variance_mix: float = 0.0,
    first_variance: FirstVariance = clipped_variance,
    decoder: Decoder = discretised,
    wrap: Wrap = untouched,
    constrain: Constrain = unconstrained,
) -> Bound:
    """Bits per dimension of the whole picture, or of the hole given the rest, at one network call a step.

    Args:
        model: trained to see the known pixels, unless the hole is the whole picture.
        path: of the model's reverse process, strictly rising to 1; fewer steps bound it more loosely.
        x_0: ``(B, C, ...)``.
        condition: with the hole as its mask; None is the whole picture.
        noise: for x at each level.
        variance_mix: as for ancestral sampling, if the network has not learned the variance.
        first_variance: of the step that ends at level 1, `clipped_variance` or `beta_variance`; see `step_bits`.
        decoder: `discretised` for 8-bit pictures, `density` for other data.
        wrap: around the model; `guidance.Clip` is usual.
        constrain: how the model was trained to see the known pixels of x.

    Raises:
        ValueError: if a model without condition is asked for a part of the picture, or the path does not rise to 1.
    """
    hole = torch.ones_like(x_0[:, :1], dtype=torch.bool) if condition.mask is None else condition.mask
    if model.condition_channels == 0 and not bool(hole.all()):
        raise ValueError(
            "this model was trained without known pixels, and the difference of two of its bounds is no bound on the "
            "hole given the rest: measure the whole picture (mask=full), or train a model with condition channels"
        )
    if path[-1] != 1 or not bool((path.diff() > 0).all()):
        raise ValueError(f"a bound needs levels that rise to 1, got {len(path)} from {path[0]:.4g} to {path[-1]:.4g}")
    denoiser = wrap(model)
    counted = hole.cpu()
    dimensions = counted.flatten(1).sum(1).double() * x_0.shape[1]

    def over_hole(bits: Tensor) -> Tensor:
        return torch.where(counted, bits.cpu().double(), 0).flatten(1).sum(1) / dimensions

    terms = []
    for start, end in pairwise(path):
        level, next_level = start.expand(len(x_0)), end.expand(len(x_0))
        x = constrain(add_noise(x_0, noise(), level), None, level, level, noise, condition)
        bits = step_bits(
            denoiser(x, level, condition),
            x_0,
            level,
            next_level,
            x=x,
            variance_mix=variance_mix,
            first_variance=first_variance(path.flip(0)),
            decoder=decoder,
        )
        terms.append(over_hole(bits))
    noisiest = path[:1].expand(len(x_0))
    square, rest = along(x_0, noisiest, -noisiest - torch.log1p(-noisiest))
    prior = over_hole(0.5 * (square * x_0.square() + rest) / math.log(2))
    steps = torch.stack(terms[:-1], 1) if len(terms) > 1 else prior.new_zeros(len(x_0), 0)
    return Bound(prior, steps, terms[-1], path[:-2])
