"""Gaussian diffusion as in 2015: the reverse step's mean and covariance are learned, and so are the betas."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.likelihood import density, step_bits
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import add_noise, along, posterior_mean
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.diffusion.solvers import Memory, log_variance
from diffusion_lab.lessons.second import Pull, nowhere

NOTHING = 1e-8
"""The last level of a learned schedule: at 0 itself roots have no derivative."""


class Gaussian:
    """Steps x' ~ N(mean, covariance), the covariance diagonal and learned as a mix (iDDPM eq. 15) without limits.

    Unlike `solvers.Ancestral` it draws the last step too, since a density is modelled, not 8-bit pictures.

    Args:
        pull: towards a second distribution; the mean moves by covariance times pull (table App.1).
        first_variance: takes the place of beta-tilde, which is 0, in the step that ends at level 1.
    """

    def __init__(self, pull: Pull = nowhere, first_variance: float = 1e-4) -> None:
        self.pull = pull
        self.first_variance = first_variance

    def diffuse(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """Draws x ~ q(x | x_0), made of N(0, 1)."""
        return add_noise(x_0, eps, level)

    def entropy(self, level: Tensor) -> Tensor:
        """Of q(x | x_0), in bits per dimension."""
        return 0.5 * torch.log2(2 * math.pi * math.e * (1 - level))

    def step_bits(self, prediction: Prediction, x_0: Tensor, x: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
        """KL(q(x' | x, x_0) || p(x' | x)) in bits, like x; -log2 p(x_0 | x) for the step that ends at level 1."""
        return step_bits(
            prediction,
            x_0,
            level,
            next_level,
            x=x,
            variance_mix=1.0,
            first_variance=self.first_variance,
            decoder=density,
        )

    def start(self, x: Tensor) -> Memory:
        return ()

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        (last,) = along(x, (next_level == 1).double())
        covariance = torch.where(
            last > 0,
            log_variance(x, prediction, level, next_level, 0.0, least=self.first_variance),
            log_variance(x, prediction, level, next_level, 1.0),
        ).exp()
        mean = posterior_mean(x, prediction.x_0, level, next_level)
        return mean + covariance * self.pull(mean, next_level) + covariance.sqrt() * noise(), memory


class LearnedBetas(nn.Module):
    """A noise schedule whose beta_2 to beta_(T-1) are learned with the network (section 2.4.1).

    The gradient reaches them through x, whose noise stays put while the levels move. beta_1 is a small constant, or the
    model would shrink it for ever; beta_T is so near 1 that nothing is left of the data at T. What is learned is how
    far log-SNR falls from step to step, so that any value is a schedule.

    Args:
        steps: T, 3 or more.
        first_beta: beta_1, in (0, 1).
        last_log_snr: natural log-SNR at t = T - 1 before training, where it lies on a line over t.

    Example:
        >>> [round(level, 4) for level in LearnedBetas(steps=3, first_beta=0.1, last_log_snr=0.0).alpha_bar.tolist()]
        [1.0, 0.9, 0.5, 0.0]
    """

    def __init__(self, steps: int = 40, first_beta: float = 1e-3, last_log_snr: float = -4.0) -> None:
        super().__init__()
        self.highest = math.log(1 / first_beta - 1) if 0 < first_beta < 1 else -math.inf
        if steps < 3 or self.highest <= last_log_snr:
            raise ValueError(
                f"a learned schedule needs 3 steps or more and a first beta that leaves a log-SNR above "
                f"{last_log_snr:g}, got schedule.steps={steps} and schedule.first_beta={first_beta}"
            )
        fall = (self.highest - last_log_snr) / (steps - 2)
        self.steps = steps
        self.falls = nn.Parameter(torch.full((steps - 2,), math.log(math.expm1(fall))))

    @property
    def alpha_bar(self) -> Tensor:
        """``(T + 1,)`` float64 on the CPU, from 1 to `NOTHING`; differentiable between."""
        falls = softplus(self.falls.to("cpu", torch.float64)).cumsum(0)
        inner = torch.cat([falls.new_zeros(1), falls])
        return torch.cat([falls.new_ones(1), torch.sigmoid(self.highest - inner), falls.new_full((1,), NOTHING)])

    @property
    def fixed(self) -> NoiseSchedule:
        """The schedule as it stands."""
        return NoiseSchedule(self.alpha_bar.detach())

    def level(self, t: Tensor) -> Tensor:
        """As `NoiseSchedule.level`."""
        return self.fixed.level(t)

    def time(self, level: Tensor) -> Tensor:
        """As `NoiseSchedule.time`; a step's t does not change when its level moves."""
        return self.fixed.time(level.detach())
