"""What a GAN, a VAE and a flow make of data with gaps, and a diffusion model beside them.

``python -m diffusion_lab.lessons.rivals`` trains all four on a ring of Gaussians, measures and draws them
(docs/why_diffusion.md). Each is as small and as plain as when it was published.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from diffusion_lab.diffusion.denoiser import LearnedRange, NetworkDenoiser, Velocity
from diffusion_lab.diffusion.likelihood import density
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.lessons.data import ring, ring_bits, rings
from diffusion_lab.lessons.dpm import DPM, StepLoss, every_step, reverse
from diffusion_lab.lessons.gaussian import Gaussian, LearnedBetas
from diffusion_lab.lessons.networks import Perceptron
from diffusion_lab.lessons.trajectories import SIDE, points
from diffusion_lab.pictures import save_png, sheet

MODES, NOISE = 8, 0.05
REACH = 4 * NOISE  # a draw that is farther from every centre lies between the modes; of the truth's, .03 % do
DRAWN = 1000  # points of a panel
FAIR = 1 / 4  # a mode is there if it gets this part of its share of the draws


class Model(Protocol):
    """A model of points ``(N, 2)``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of an `nn.Module`."""

    def loss(self, x: Tensor, generator: Generator) -> Tensor:
        """What training minimises."""

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Points ``(count, 2)``."""

    def bits(self, x: Tensor, generator: Generator) -> Tensor | None:
        """-log2 p(x), or a bound that is not below it, ``(N,)``; None if there is no density."""


def perceptron(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
    )


class GAN(nn.Module):
    """A generator that a critic is to take for the data (Goodfellow et al. 2014).

    Args:
        width: of the hidden layers.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.generator = perceptron(2, 2, width)
        self.critic = perceptron(2, 1, width)

    def loss(self, x: Tensor, generator: Generator) -> Tensor:
        """Both players' in one sum, neither's gradient in the other: the generator maximises log D(G(z))."""
        drawn = self.draw(len(x), generator)
        watched = {name: value.detach() for name, value in self.critic.named_parameters()}
        told = softplus(-self.critic(x)).mean() + softplus(self.critic(drawn.detach())).mean()
        fooled: Tensor = softplus(-functional_call(self.critic, watched, (drawn,))).mean()
        return told + fooled

    def draw(self, count: int, generator: Generator) -> Tensor:
        return self.generator(torch.randn(count, 2, generator=generator))  # type: ignore[no-any-return]

    def bits(self, x: Tensor, generator: Generator) -> None:
        """A generator has no density."""


class VAE(nn.Module):
    """A code that is nearly N(0, 1), and a Gaussian around what it decodes to (Kingma & Welling 2014).

    Args:
        width: of the hidden layers.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = perceptron(2, 4, width)
        self.decoder = perceptron(2, 2, width)
        self.log_variance = nn.Parameter(torch.full((2,), -4.0))  # from 0 it learns to leave the code unused

    def nats(self, x: Tensor, generator: Generator) -> Tensor:
        """Minus the evidence lower bound, ``(N,)`` (their eq. 10), from one code each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn(x.shape, generator=generator)
        far = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
        return (far - density(x, self.decoder(code), self.log_variance)).sum(1)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, generator: Generator) -> Tensor:
        return self.nats(x, generator).mean()

    def draw(self, count: int, generator: Generator) -> Tensor:
        seen: Tensor = self.decoder(torch.randn(count, 2, generator=generator))
        return seen + torch.exp(0.5 * self.log_variance) * torch.randn(seen.shape, generator=generator)

    def bits(self, x: Tensor, generator: Generator) -> Tensor:
        return self.nats(x, generator) / math.log(2)


class Flow(nn.Module):
    """N(0, 1) moved by invertible steps, so that its density is known: Real NVP (Dinh et al. 2017).

    Each step scales and shifts one coordinate by what the other says.

    Args:
        width: of the hidden layers.
        couplings: number of steps.
    """

    def __init__(self, width: int = 64, couplings: int = 8) -> None:
        super().__init__()
        self.steps = nn.ModuleList(perceptron(1, 2, width) for _ in range(couplings))

    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where a point comes from ``(N, 2)``, and log |det| of the way there ``(N,)``."""
        log_det = x.new_zeros(len(x))
        for step in reversed(self.steps):
            x = x.flip(1)
            log_scale, shift = self._moves(step, x)
            x = torch.stack([x[:, 0], (x[:, 1] - shift) * torch.exp(-log_scale)], dim=1)
            log_det = log_det - log_scale
        return x, log_det

    def point(self, code: Tensor) -> Tensor:
        """Where a code goes; the inverse of `code`."""
        for step in self.steps:
            log_scale, shift = self._moves(step, code)
            code = torch.stack([code[:, 0], code[:, 1] * torch.exp(log_scale) + shift], dim=1).flip(1)
        return code

    def _moves(self, step: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = step(x[:, :1]).unbind(1)
        return 3 * torch.tanh(log_scale / 3), shift

    def bits(self, x: Tensor, generator: Generator) -> Tensor:
        """Exactly -log2 p(x)."""
        code, log_det = self.code(x)
        zero = torch.zeros_like(code)
        return -(density(code, zero, zero).sum(1) + log_det) / math.log(2)

    def loss(self, x: Tensor, generator: Generator) -> Tensor:
        return self.bits(x, generator).mean()

    def draw(self, count: int, generator: Generator) -> Tensor:
        return self.point(torch.randn(count, 2, generator=generator))


class Diffusion(nn.Module):
    """The lesson of 2015: mean, covariance and betas learned; see docs/dpm2015.md.

    Args:
        width: of the hidden layers.
        steps: T.
    """

    def __init__(self, width: int = 64, steps: int = 40) -> None:
        super().__init__()
        network = Perceptron(2, 4, [width, width], steps, bumps=10)
        denoiser = NetworkDenoiser(network, LearnedBetas(steps, 5e-4), LearnedRange(Velocity()))  # type: ignore[arg-type]
        self.model = DPM(denoiser, Gaussian(), reverse(Gaussian()))
        self.step_loss = StepLoss(Gaussian(), steps)

    def loss(self, x: Tensor, generator: Generator) -> Tensor:
        levels: Levels = every_step(self.model.denoiser.schedule, torch.rand(len(x), 1, generator=generator))
        eps, everything = torch.randn(x.shape, generator=generator), torch.ones_like(x, dtype=torch.bool)
        noisy = self.model.process.diffuse(x, eps, levels.level)
        said = self.model.denoiser(noisy, levels.level, self.model.condition(x, everything, x))
        return self.step_loss(said, x, eps, levels, everything).mean()

    def draw(self, count: int, generator: Generator) -> Tensor:
        nothing = torch.zeros(count, 2)
        return self.model(nothing, torch.ones_like(nothing, dtype=torch.bool), seeds=seeds(count, generator))  # type: ignore[no-any-return]

    def bits(self, x: Tensor, generator: Generator) -> Tensor:
        return self.model.bound(x, seeds(len(x), generator)).total


def seeds(count: int, generator: Generator) -> Tensor:
    """One for each example."""
    return torch.randint(2**62, (count,), generator=generator)


MODELS: Mapping[str, Callable[[], Model]] = {"GAN": GAN, "VAE": VAE, "flow": Flow, "diffusion": Diffusion}


def fit(model: Model, data: Tensor, steps: int, generator: Generator, batch: int = 256) -> None:
    """Trains by Adam; the learning rate falls to 0 over the last half."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        loss = model.loss(data[torch.randint(len(data), (batch,), generator=generator)], generator)
        torch.autograd.backward(loss)
        optimizer.step()


@dataclass(frozen=True)
class Measured:
    """Of one trained model.

    Args:
        modes: how many of the data's modes get a fair part of the draws.
        between: share of the draws that lie between the modes.
        bits: mean of -log2 p of test points, or of a bound on it; None without a density.
    """

    modes: int
    between: float
    bits: float | None


def counted(draws: Tensor) -> tuple[int, float]:
    """Modes that are there, and the share of the draws that lies between them."""
    distance, nearest = torch.cdist(draws, ring(MODES, NOISE)).min(dim=1)
    near = nearest[distance <= REACH].bincount(minlength=MODES)
    return int((near >= FAIR * len(draws) / MODES).sum()), float((distance > REACH).double().mean())


@torch.no_grad()
def measured(model: Model, test: Tensor, draws: Tensor, generator: Generator) -> Measured:
    """What `Measured` says of a model."""
    found = model.bits(test, generator)
    return Measured(*counted(draws), None if found is None else float(found.mean()))


def span(values: Sequence[float], form: str) -> str:
    """The least and the largest value, or the one that there is."""
    ends = dict.fromkeys(format(value, form) for value in (min(values), max(values)))
    return " to ".join(ends)


def main(given: Sequence[str] | None = None) -> None:
    """Trains, measures, prints and draws."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_lab.lessons.rivals", description=__doc__)
    parser.add_argument("--steps", type=int, default=6000, help="of training, of 256 points each")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each model")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("why_diffusion.png"))
    asked = parser.parse_args(given)
    train, test = (rings(n, Generator().manual_seed(i), MODES, NOISE) for i, n in enumerate((10_000, 4000)))
    panels: list[Tensor] = [points(test[:DRAWN])]
    table = Table(title=f"A ring of {MODES} Gaussians, {asked.steps} steps, {asked.seeds} seeds: least to largest")
    for heading in ("model", "parameters", "bits a point", f"modes of {MODES}", "between them"):
        table.add_column(heading)
    table.add_row("the data", "", f"{ring_bits(test).mean():.2f}", str(counted(test)[0]), f"{counted(test)[1]:.1%}")
    for name, make in MODELS.items():
        found: list[Measured] = []
        for seed in range(asked.seeds):
            torch.manual_seed(seed)
            generator = Generator().manual_seed(seed)
            model = make()
            fit(model, train, asked.steps, generator)
            with torch.no_grad():
                draws = model.draw(asked.draws, generator)
            found.append(measured(model, test, draws, generator))
            panels += [points(draws[:DRAWN])] if seed == 0 else []
        bits = [each.bits for each in found if each.bits is not None]
        table.add_row(
            name,
            f"{sum(p.numel() for p in model.parameters()):,}",
            span(bits, ".2f") if bits else "none",
            span([each.modes for each in found], "d"),
            span([each.between for each in found], ".1%"),
        )
    Console(width=100).print(table)
    picture: Image.Image = sheet([panels], ["data", *MODELS], side=SIDE)
    save_png(picture, asked.output)
    print(f"wrote {asked.output}")


if __name__ == "__main__":
    main()
