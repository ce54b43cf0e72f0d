"""The networks of 2015: small, and told the time by their last layer alone."""

from collections.abc import Sequence

import torch
from rich.table import Table
from torch import Tensor, nn


class Readout(nn.Module):
    """A last layer whose weights glide over t: a mixture of several, each in charge around its own t (appendix D.2.1).

    Args:
        features: it reads.
        outputs: it writes.
        steps: T.
        bumps: layers mixed, evenly spaced over t; T + 1 of them make a layer for each t, but for its neighbours' share.
    """

    def __init__(self, features: int, outputs: int, steps: int, bumps: int) -> None:
        super().__init__()
        if bumps < 2:
            raise ValueError(f"model.bumps must be 2 or more, got {bumps}")
        self.bumps = bumps
        self.spacing = steps / (bumps - 1)
        self.layers = nn.Linear(features, bumps * outputs)
        nn.init.zeros_(self.layers.weight)
        nn.init.zeros_(self.layers.bias)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """``(B, features)`` at t ``(B,)`` in [0, T]."""
        centres = torch.arange(self.bumps, device=time.device)
        share = torch.softmax(-2 * (time[:, None] / self.spacing - centres).square(), dim=1)  # (B, bumps), width 1/2
        outputs: Tensor = self.layers(features).unflatten(1, (self.bumps, -1))  # (B, bumps, outputs)
        return (outputs * share[:, :, None]).sum(1)


class RadialBasis(nn.Module):
    """A radial basis function network, with x itself among its features.

    Args:
        inputs: places of x.
        outputs: numbers it writes.
        hidden: bumps over x.
        steps: T.
        bumps: as in `Readout`.
    """

    condition_channels = 0

    def __init__(self, inputs: int, outputs: int, hidden: int, steps: int, bumps: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(hidden, inputs))
        self.log_width = nn.Parameter(torch.full((hidden,), -0.7))
        self.readout = Readout(hidden + inputs, outputs, steps, bumps)

    def forward(self, x: Tensor, known: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        """``(B, inputs)`` at t ``(B,)``."""
        distance = (x[:, None] - self.centres).square().sum(2)  # (B, hidden)
        near = torch.exp(-0.5 * distance * torch.exp(-2 * self.log_width))
        return self.readout(torch.cat([near, x], dim=1), time)  # type: ignore[no-any-return]


class Perceptron(nn.Module):
    """A multi-layer perceptron with sigmoid units.

    Args:
        inputs: places of x.
        outputs: numbers it writes.
        hidden: units of each hidden layer.
        steps: T.
        bumps: as in `Readout`.
    """

    condition_channels = 0

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int], steps: int, bumps: int) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers = [part for pair in zip(widths, hidden, strict=False) for part in (nn.Linear(*pair), nn.Tanh())]
        self.hidden = nn.Sequential(*layers)
        self.readout = Readout(widths[-1], outputs, steps, bumps)

    def forward(self, x: Tensor, known: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        """``(B, inputs)`` at t ``(B,)``."""
        return self.readout(self.hidden(x), time)  # type: ignore[no-any-return]


def table(network: nn.Module, batch_size: int) -> Table:
    """What the start of a run prints: networks so small are described by their parameters.

    Args:
        network: as built.
        batch_size: examples per device in a training step.
    """
    drawn = Table(title=type(network).__name__, show_header=False, title_justify="left")
    drawn.add_row("parameters", f"{sum(p.numel() for p in network.parameters()):,}")
    return drawn
