"""What a network says of a noisy picture, whatever it was trained to predict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import process
from diffusion_lab.diffusion.process import along
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

    def map(self, function: Callable[[Tensor], Tensor]) -> "Prediction":
        """The same prediction with every tensor passed through a function: a slice, a detachment."""
        return replace(self, **{k: function(v) for k, v in vars(self).items() if v is not None})

    @classmethod
    def joined(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """One of several, row after row."""
        named = {k: [getattr(part, k) for part in parts] for k, v in vars(parts[0]).items() if v is not None}
        return cls(**{k: torch.cat(tensors) for k, tensors in named.items()})


@dataclass(frozen=True)
class Condition:
    """What is known of the picture besides x.

    Args:
        known: ``(B, 3, H, W)``, the known pixels; the hole is filled with noise that stays fixed over the steps.
        mask: ``(B, 1, H, W)`` bool, True = hole.
        attributes: ``(B, A)``, what the face is like; a row of NaN is "not said".
        fill: ``(B, 3, H, W)``, the noise that fills the hole, drawn for every pixel: what a model sees that is to see
            no known pixels; None if nobody will ask.
    """

    known: Tensor | None = None
    mask: Tensor | None = None
    attributes: Tensor | None = None
    fill: Tensor | None = None

    def channels(self, x: Tensor, count: int) -> Tensor:
        """The first `count` of (known RGB, mask) beside x: 0 without condition, 3 for Palette, 4 with its mask."""
        if count == 0:
            return x[:, :0]
        if self.known is None or self.mask is None:
            raise ValueError(
                f"this model was trained with {count} condition channels and needs known pixels and a mask"
            )
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

    def scale(self, level: Tensor) -> Tensor:
        """What x is multiplied by on its way into the network, ``(B,)``."""


class Epsilon:
    """The network predicts the noise (DDPM, section 3.2)."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return eps

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        return Prediction(process.x_0_from_eps(x, output, level), output)

    def scale(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)


class Data:
    """The network predicts the picture."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return x_0

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        return Prediction(output, process.eps_from_x_0(x, output, level))

    def scale(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)


class Velocity:
    """The network predicts v (Salimans & Ho 2022), well scaled at every level."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return process.velocity(x_0, eps, level)

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        return Prediction(process.x_0_from_v(x, output, level), process.eps_from_v(x, output, level))

    def scale(self, level: Tensor) -> Tensor:
        return torch.ones_like(level)


class Preconditioned:
    """EDM's preconditioning (Karras et al. 2022, table 1), whose output has unit variance at every level.

    Their D = c_skip y + c_out F(c_in y) of y = x / signal, written for x. With V = gamma sigma_data^2 + 1 - gamma, the
    variance of x: x_0 = signal sigma_data^2 / V x + sigma sigma_data / sqrt(V) F. With `sigma_data` 1, F is -v.

    Args:
        sigma_data: standard deviation of the pictures' values; EDM's is .5.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data must be above 0, got {sigma_data}")
        self.variance = sigma_data**2

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        scale = self.scale(level) / self.variance**0.5
        of_x_0, of_eps = along(x_0, (1 - level).sqrt() * scale, level.sqrt() * self.variance * scale)
        return of_x_0 * x_0 - of_eps * eps

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        scale, deviation = self.scale(level), self.variance**0.5
        signal, sigma = level.sqrt(), (1 - level).sqrt()
        skip, out, skip_eps, out_eps = along(
            x,
            signal * self.variance * scale**2,
            sigma * deviation * scale,
            sigma * scale**2,
            signal * deviation * scale,
        )
        return Prediction(skip * x + out * output, skip_eps * x - out_eps * output)

    def scale(self, level: Tensor) -> Tensor:
        return (level * self.variance + 1 - level).rsqrt()


class LearnedRange:
    """Twice the output channels: what another parametrisation reads, and where the variance lies (iDDPM eq. 15).

    An output of -1 there means beta-tilde, 1 means beta.

    Args:
        of: what the first half of the channels means.
    """

    def __init__(self, of: Parametrisation) -> None:
        self.of = of

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return self.of.target(x_0, eps, level)

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        if output.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"a learned variance needs {2 * x.shape[1]} output channels, the network has {output.shape[1]}: "
                "set model.out_channels"
            )
        mean, mix = output.chunk(2, dim=1)
        return replace(self.of.read(mean, x, level), variance_mix=(mix + 1) / 2)

    def scale(self, level: Tensor) -> Tensor:
        return self.of.scale(level)


def by_time(schedule: NoiseSchedule, level: Tensor) -> Tensor:
    """Tells the network t in [0, T] of the schedule it is trained on (DDPM)."""
    return schedule.time(level)


def by_scaled_time(schedule: NoiseSchedule, level: Tensor) -> Tensor:
    """Tells the network t in [0, 1000] whatever T is, t * 1,000 / T ("rescale_timesteps" of iDDPM's code).

    So one network can be trained on another T and see the same times; at T = 1,000 it is `by_time`.
    """
    return schedule.time(level) * (1000 / schedule.steps)


def by_gamma(schedule: NoiseSchedule, level: Tensor) -> Tensor:
    """Tells the network gamma itself (Palette, SR3), as log-SNR spread over [0, 1000].

    Gamma as it stands, in [0, 1], leaves neighbouring levels indistinguishable to a sinusoidal embedding; its log-SNR
    moves at both ends. The range is clamped to +-20, beyond what 8-bit pictures can tell apart.
    """
    return (20 - process.log_snr(level.double()).clamp(-20, 20)) * 25


def by_log_sigma(schedule: NoiseSchedule, level: Tensor) -> Tensor:
    """Tells the network EDM's c_noise, ln(sigma) / 4 of the ratio of noise to signal; clamped at log-SNR +-20."""
    return -process.log_snr(level.double()).clamp(-20, 20) / 8


class NetworkDenoiser(nn.Module):
    """A network, what it predicts, and how it is told the level.

    Args:
        network: called as ``network(x, condition channels, time (B,), attributes or None)``; says how many
            `condition_channels` it looks at.
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
        (scale,) = along(x, self.predicts.scale(level))
        output: Tensor = self.network(
            scale * x, condition.channels(x, self.condition_channels), time, condition.attributes
        )
        return self.predicts.read(output.to(x.dtype), x, level)  # autocast may have made it bfloat16
