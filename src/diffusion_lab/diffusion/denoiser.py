"""What a network says of a noisy picture, whatever it was trained to predict."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import process
from diffusion_lab.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of x at a level.

    Args:
        x_0: the picture that it sees, like x.
        eps: the noise that it sees, like x; x = signal x_0 + sigma eps.
        variance_mix: learned range of iDDPM eq. 15, 0 for beta-tilde to 1 for beta; None if the network has no say.
        gradient: what a guide found, for `constrain` to apply after the step; None without a guide.
    """

    x_0: Tensor
    eps: Tensor
    variance_mix: Tensor | None = None
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What is known of the picture besides x.

    Args:
        known: ``(B, 3, H, W)``, the known pixels; the hole is filled with noise that stays fixed over the steps.
        mask: ``(B, 1, H, W)`` bool, True = hole.
        attributes: ``(B, A)``, what the face is like; a row of NaN is "not said".
    """

    known: Tensor | None = None
    mask: Tensor | None = None
    attributes: Tensor | None = None

    def channels(self, x: Tensor, count: int) -> Tensor:
        """The first `count` of (known RGB, mask) beside x: 0 for a model without condition, 3 for Palette, 4 with its mask."""
        if count == 0:
            return x[:, :0]
        if self.known is None or self.mask is None:
            raise ValueError(f"this model was trained with {count} condition channels and needs known pixels and a mask")
        return torch.cat([self.known, self.mask.to(x.dtype) * 2 - 1], dim=1)[:, :count]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """The same condition with every tensor passed through a function: a device, a slice, a repeat."""
        return replace(self, **{k: function(v) for k, v in vars(self).items() if v is not None})


class Denoiser(Protocol):
    """Anything that looks at x at a level, ``(B,)`` float64, and says what it sees."""

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction: ...


class Parametrisation(Protocol):
    """What the network's output means."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """What the output should be."""

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        """What an output says."""


class Epsilon:
    """The network predicts the noise (DDPM, section 3.2)."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return eps

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        return Prediction(process.x_0_from_eps(x, output, level), output)


class Data:
    """The network predicts the picture."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return x_0

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        return Prediction(output, process.eps_from_x_0(x, output, level))


class Velocity:
    """The network predicts v (Salimans & Ho 2022), well scaled at every level."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return process.velocity(x_0, eps, level)

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        return Prediction(process.x_0_from_v(x, output, level), process.eps_from_v(x, output, level))


def by_time(schedule: NoiseSchedule, level: Tensor) -> Tensor:
    """Tells the network t in [0, T] of the schedule it is trained on (DDPM)."""
    return schedule.time(level)


def by_gamma(schedule: NoiseSchedule, level: Tensor) -> Tensor:
    """Tells the network gamma itself (Palette, SR3), as log-SNR spread over [0, 1000].

    Gamma as it stands, in [0, 1], leaves neighbouring levels indistinguishable to a sinusoidal embedding; its log-SNR moves
    at both ends. The range is clamped to +-20, beyond what 8-bit pictures can tell apart.
    """
    return (20 - process.log_snr(level.double()).clamp(-20, 20)) * 25


class NetworkDenoiser(nn.Module):
    """A network, what it predicts, and how it is told the level.

    Args:
        network: called as ``network(x, condition channels, time (B,), attributes or None)``; names `condition_channels`.
        schedule: the schedule it is trained on.
        predicts: what its output means.
        told: turns a level into the network's time input.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        predicts: Parametrisation,
        told: Callable[[NoiseSchedule, Tensor], Tensor] = by_time,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.predicts = predicts
        self.told = told

    @property
    def condition_channels(self) -> int:
        """How many of (known RGB, mask) the network looks at: 0 for an unconditional model."""
        return int(self.network.condition_channels)  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        time = self.told(self.schedule, level).to(device=x.device, dtype=torch.float32)
        output: Tensor = self.network(x, condition.channels(x, self.condition_channels), time, condition.attributes)
        return self.predicts.read(output.to(x.dtype), x, level)  # autocast may have made it bfloat16
