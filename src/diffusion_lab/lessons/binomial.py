"""Binomial diffusion: bits that are flipped by fair coins, and the step that turns them back.

A bit is a spin, -1 or 1, so that its mean stands in [-1, 1] as a picture's values do, and the level is what is left of
it: the mean of q(x | x_0) is gamma x_0. gamma is the product of the 1 - beta, as for a Gaussian, whose mean has its
square root. Probabilities are computed in float64: a flip back can be as rare as 1 / T^2.
"""

import math

import torch
from torch import Tensor
from torch.special import ndtr, xlogy

from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import along, over
from diffusion_lab.diffusion.solvers import Memory
from diffusion_lab.lessons.second import Pull, nowhere

SURE = 1 - 1e-6
"""The largest mean that a network may claim: float32 ends at 1 - 6e-8, and an error there would cost infinite bits."""


def toss(mean: Tensor, eps: Tensor) -> Tensor:
    """Spins of these means, like eps; one N(0, 1) decides each."""
    return torch.where(ndtr(eps.double()) < (1 + mean) / 2, 1.0, -1.0).to(eps.dtype)


def flip(x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """Draws x ~ q(x | x_0): x_0 with probability gamma, a fair coin otherwise."""
    (gamma,) = along(x_0.double(), level)
    return toss(gamma * x_0, eps)


def posterior(x: Tensor, x_0: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
    """Mean of q(x' | x, x_0) for spins: (r x + gamma' x_0) / (1 + gamma x x_0), where r = gamma / gamma'; float64."""
    kept, next_gamma, gamma = along(x.double(), over(level, next_level), next_level, level)
    return (kept * x + next_gamma * x_0) / (1 + gamma * x * x_0)


def reverse_mean(x: Tensor, x_0: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
    """Mean of p(x' | x): q(x' | x, x_0) averaged over what may be x_0, whose mean is given; float64."""
    x_0, up = x_0.double(), torch.ones_like(x, dtype=torch.float64)
    risen, fallen = posterior(x, up, level, next_level), posterior(x, -up, level, next_level)
    return (1 + x_0) / 2 * risen + (1 - x_0) / 2 * fallen


class Spins:
    """The network's output is the log-odds of each bit of x_0."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return x_0

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        """The mean of x_0; the noise is a fair coin, of mean 0."""
        return Prediction(SURE * torch.tanh(output / 2), torch.zeros_like(x))

    def scale(self, level: Tensor) -> Tensor:
        """How much a bit of x says of x_0, in log-odds."""
        return torch.log1p(level) - torch.log1p(-level)


class Binomial:
    """Steps x' ~ B(mean), bit by bit.

    Args:
        pull: towards a second distribution, a product over the bits; the log-odds of a bit move by twice its pull.
    """

    def __init__(self, pull: Pull = nowhere) -> None:
        self.pull = pull

    def diffuse(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """Draws x ~ q(x | x_0), made of N(0, 1)."""
        return flip(x_0, eps, level)

    def entropy(self, level: Tensor) -> Tensor:
        """Of q(x | x_0), in bits per dimension."""
        up, down = (1 + level) / 2, (1 - level) / 2
        nats: Tensor = -(xlogy(up, up) + xlogy(down, down))
        return nats / math.log(2)

    def step_bits(self, prediction: Prediction, x_0: Tensor, x: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
        """KL(q(x' | x, x_0) || p(x' | x)) in bits, like x; -log2 p(x_0 | x) for the step that ends at level 1."""
        true = posterior(x, x_0.double(), level, next_level)
        said = reverse_mean(x, prediction.x_0, level, next_level)
        nats = torch.zeros_like(true)
        for sign in (1, -1):
            of_true, of_said = (1 + sign * true) / 2, (1 + sign * said) / 2
            nats = nats + xlogy(of_true, of_true) - xlogy(of_true, of_said)
        return (nats / math.log(2)).to(x.dtype)

    def start(self, x: Tensor) -> Memory:
        return ()

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        mean = reverse_mean(x, prediction.x_0, level, next_level)
        pull = torch.tanh(self.pull(mean, next_level))
        return toss((mean + pull) / (1 + mean * pull), noise()), memory
