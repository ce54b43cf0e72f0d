"""The data of the lessons: the swiss roll and the heartbeat, drawn by a formula whose likelihood is known."""

import math

import torch
from torch import Generator, Tensor

TURNS = (1.5 * math.pi, 4.5 * math.pi)  # the angles between which the roll winds
LENGTH = math.sqrt((TURNS[1] ** 3 - TURNS[0] ** 3) / (TURNS[1] - TURNS[0]) / 6)  # root of its mean square, each axis
PERIOD, PLACES = 5, 20


def roll(angle: Tensor, noise: float) -> Tensor:
    """The roll's middle line at angles ``(N,)``: ``(N, 2)``, scaled so that roll and noise have mean square 1."""
    line = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return line * math.sqrt(1 - noise**2) / LENGTH


def swiss_roll(count: int, generator: Generator, noise: float = 0.05) -> Tensor:
    """Points ``(count, 2)`` of a swiss roll with Gaussian noise of this standard deviation, of mean square 1.

    Example:
        >>> points = swiss_roll(100_000, Generator().manual_seed(0))
        >>> round(points.square().mean().item(), 2)
        1.0
    """
    angle = TURNS[0] + (TURNS[1] - TURNS[0]) * torch.rand(count, generator=generator)
    return roll(angle, noise) + noise * torch.randn(count, 2, generator=generator)


def swiss_roll_bits(points: Tensor, noise: float = 0.05, pieces: int = 4000) -> Tensor:
    """-log2 of the roll's density at points ``(N, 2)``: a sum over pieces of its line, far shorter than the noise."""
    edges = torch.linspace(*TURNS, pieces + 1, dtype=torch.float64)
    apart = torch.cdist(points.double(), roll((edges[1:] + edges[:-1]) / 2, noise)) / noise
    nats = torch.logsumexp(-0.5 * apart.square(), dim=1) - math.log(pieces * 2 * math.pi * noise**2)
    return -nats / math.log(2)


def ring(modes: int, noise: float) -> Tensor:
    """Centres ``(modes, 2)`` on a circle, so wide that with Gaussian noise on them the points have mean square 1."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return torch.stack([angle.cos(), angle.sin()], dim=1) * math.sqrt(2 * (1 - noise**2))


def rings(count: int, generator: Generator, modes: int = 8, noise: float = 0.05) -> Tensor:
    """Points ``(count, 2)`` of a ring of Gaussians, each as likely as the others."""
    chosen = torch.randint(modes, (count,), generator=generator)
    return ring(modes, noise)[chosen] + noise * torch.randn(count, 2, generator=generator)


def ring_bits(points: Tensor, modes: int = 8, noise: float = 0.05) -> Tensor:
    """-log2 of the ring's density at points ``(N, 2)``."""
    apart = torch.cdist(points.double(), ring(modes, noise).double()) / noise
    nats = torch.logsumexp(-0.5 * apart.square(), dim=1) - math.log(modes * 2 * math.pi * noise**2)
    return -nats / math.log(2)


def heartbeats() -> Tensor:
    """The five sequences ``(5, 20)`` that are all there is: 1 at every fifth place, -1 elsewhere."""
    places = torch.arange(PLACES)
    return torch.stack([torch.where(places % PERIOD == phase, 1.0, -1.0) for phase in range(PERIOD)])


def heartbeat(count: int, generator: Generator) -> Tensor:
    """Sequences ``(count, 20)`` of spins, each phase as likely as the others: -log2 p = log2(5) = 2.322 bits.

    Example:
        >>> heartbeat(1, Generator().manual_seed(0)).int().tolist()[0][:10]
        [-1, -1, -1, -1, 1, -1, -1, -1, -1, 1]
    """
    return heartbeats()[torch.randint(PERIOD, (count,), generator=generator)]


def heartbeat_bits(sequences: Tensor) -> Tensor:
    """-log2 p of heartbeats ``(N, 20)``, log2(5) each."""
    return torch.full((len(sequences),), math.log2(PERIOD))
