"""Rectified flow is the variance-preserving process at another scale: its own formulas, written in z and t, agree."""

import itertools
import math

import pytest
import torch
from gaussians import exact_moments
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diffusion_lab.diffusion.denoiser import Condition, NetworkDenoiser, Prediction
from diffusion_lab.diffusion.flow import (
    FlowData,
    FlowVelocity,
    at_flow_time,
    by_flow_time,
    flow,
    flow_time,
    logit_normal_levels,
    velocity_weight,
)
from diffusion_lab.diffusion.losses import DenoisingLoss, Levels, discrete_levels
from diffusion_lab.diffusion.paths import uniform_path
from diffusion_lab.diffusion.process import add_noise
from diffusion_lab.diffusion.sampling import Sampler, sample
from diffusion_lab.diffusion.solvers import DDIM, Ancestral

MEAN, DEVIATION = 0.4, 0.3
TIMES = torch.tensor([0.0, 1e-9, 0.03, 0.25, 0.5, 0.7, 0.999, 1.0], dtype=torch.float64)
SHAPE = (len(TIMES), 3, 4, 4)


def drawn(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def over_pixels(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, 1, 1)


class Recorder(nn.Module):
    """A network that says a fixed thing and keeps what it was shown."""

    condition_channels = 0

    def __init__(self, says: Tensor) -> None:
        super().__init__()
        self.says = says

    def forward(self, x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None) -> Tensor:
        self.x, self.time = x, time
        return self.says


@given(st.floats(0, 1))
def test_time_and_level_are_each_others_inverse(t: float):
    level = at_flow_time(torch.tensor([t], dtype=torch.float64))
    signal, sigma = level.sqrt(), (1 - level).sqrt()
    assert flow_time(level).item() == pytest.approx(t, abs=2e-8)  # near the data, what 1 - level has lost
    assert (sigma * (1 - t)).item() == pytest.approx((signal * t).item(), abs=2e-8)  # the ratio of noise to signal


def test_the_schedule_is_even_in_flows_time_and_ends_at_pure_noise():
    schedule = flow(steps=8)
    torch.testing.assert_close(flow_time(schedule.alpha_bar), torch.linspace(0, 1, 9, dtype=torch.float64))
    assert schedule.alpha_bar[-1] == 0
    # Between its entries it is even but for the angle's curvature.
    path = flow_time(uniform_path(flow(), 7))
    torch.testing.assert_close(path, torch.linspace(1, 0, 8, dtype=torch.float64), rtol=0, atol=3e-7)


@given(st.floats(0.2, 8))
def test_a_shift_multiplies_the_ratio_of_noise_to_signal(shift: float):
    """SD3, section 5.3.2: t / (1 - t) becomes shift t / (1 - t)."""
    plain, shifted = (flow_time(flow(10, s).alpha_bar[1:-1]) for s in (1.0, shift))
    torch.testing.assert_close(shifted / (1 - shifted), shift * plain / (1 - plain))
    for refused in (-1, 0):
        with pytest.raises(ValueError, match=rf"schedule\.shift must be above 0, got {refused}$"):
            flow(10, refused)


@pytest.mark.parametrize("kind", [FlowVelocity(), FlowData()])
def test_a_true_output_is_read_as_the_truth(kind):
    x_0, eps = drawn(2)
    level = at_flow_time(TIMES)
    found = kind.read(kind.target(x_0, eps, level), add_noise(x_0, eps, level), level)
    torch.testing.assert_close(found.x_0, x_0)
    known = over_pixels(TIMES) > 1e-6 if isinstance(kind, FlowData) else torch.ones(len(TIMES), 1, 1, 1).bool()
    torch.testing.assert_close(torch.where(known, found.eps, eps), eps)
    assert bool(found.eps.isfinite().all())


@given(st.floats(0, 1), st.integers(0, 5))
def test_whatever_is_said_x_is_made_of_it(t: float, seed: int):
    """Signal x_0 + sigma eps = x for any output, or the solvers would drift."""
    x, output = drawn(2, seed)
    level = at_flow_time(torch.tensor([t], dtype=torch.float64)).expand(len(x))
    for kind in (FlowVelocity(), FlowData()):
        said = kind.read(output, x, level)
        if t > 1e-6 or isinstance(kind, FlowVelocity):
            torch.testing.assert_close(add_noise(said.x_0, said.eps, level), x)


def test_the_network_sees_the_straight_line_and_is_told_its_time():
    x_0, eps, says = drawn(3)
    network = Recorder(says)
    for kind in (FlowVelocity(), FlowData()):
        model = NetworkDenoiser(network, flow(), kind, by_flow_time)
        level = at_flow_time(TIMES)
        model(add_noise(x_0, eps, level), level, Condition())
        t = over_pixels(TIMES)
        torch.testing.assert_close(network.x, (1 - t) * x_0 + t * eps)
        torch.testing.assert_close(network.time, (1000 * TIMES).float(), rtol=0, atol=1e-4)


def test_the_loss_is_flow_matchings():
    """Mean of |u(z, t) - (eps - x_0)|^2 at z = (1 - t) x_0 + t eps (Lipman et al. 2022, eq. 23, with sigma_min 0)."""
    x_0, eps = drawn(2)
    half = torch.zeros(len(TIMES), 1, 4, 4, dtype=torch.bool)
    half[:, :, :2] = True

    def u(z: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(2 * z - over_pixels(t)) + 0.3 * z.flip(3)

    level, t = at_flow_time(TIMES), over_pixels(TIMES)
    z = (1 - t) * x_0 + t * eps
    expected = (u(z, TIMES) - (eps - x_0)).square()[:, :, :2].mean((1, 2, 3))

    x = add_noise(x_0, eps, level)
    (scale,) = (over_pixels(FlowVelocity().scale(level)),)
    said = FlowVelocity().read(u(scale * x, flow_time(level)), x, level)
    levels = Levels(level, level, torch.ones_like(level))
    torch.testing.assert_close(DenoisingLoss(FlowVelocity())(said, x_0, eps, levels, half), expected)


def test_jits_loss_is_in_the_velocity():
    """Li & He 2025, algorithm 1; its t runs from noise to data: v = (x - z) / max(1 - t, .05), of truth and output."""
    x_0, eps, output = drawn(3)
    level, t = at_flow_time(TIMES), over_pixels(1 - TIMES)
    z = t * x_0 + (1 - t) * eps
    of_truth, of_output = ((x - z) / (1 - t).clamp(min=0.05) for x in (x_0, output))
    said = FlowData().read(output, add_noise(x_0, eps, level), level)
    levels = Levels(level, level, torch.ones_like(level))
    found = DenoisingLoss(FlowData(), velocity_weight)(said, x_0, eps, levels, torch.ones(len(TIMES), 1, 4, 4).bool())
    torch.testing.assert_close(found, (of_truth - of_output).square().mean((1, 2, 3)))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.8, 0.8)])
def test_the_logit_of_the_trained_times_is_normal(mean: float, deviation: float):
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    levels = logit_normal_levels(flow(), torch.stack([u, u], 1), mean, deviation)
    t = flow_time(levels.level)
    logit = (t / (1 - t)).log()
    assert logit.mean().item() == pytest.approx(mean, abs=1e-6)
    assert logit.std().item() == pytest.approx(deviation, abs=0.005)
    # Density at the median, 1 / (deviation sqrt(2 pi) t (1 - t)): SD3, eq. 19.
    middle = torch.tensor(mean).sigmoid().item()
    density = 1 / (deviation * math.sqrt(2 * math.pi) * middle * (1 - middle))
    share = ((t - middle).abs() < 0.01).double().mean().item()
    assert share == pytest.approx(0.02 * density, rel=0.03)
    assert bool((levels.next_level > levels.level).all())
    assert torch.equal(logit_normal_levels(flow(), torch.stack([u, u], 1)).level, levels.level) == (mean == 0)
    # Both tails end at 7 deviations, of which one draw in 10^12 knows.
    ends = flow_time(logit_normal_levels(flow(), torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double()).level)
    assert (ends / (1 - ends)).log().tolist() == pytest.approx([-7.0345, 7.0345], abs=1e-3)


def test_the_level_after_a_trained_one_is_one_t_nearer_to_the_data():
    """And the last of them is the data's, which no t lies beyond."""
    u = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    levels = logit_normal_levels(flow(), torch.stack([u, u], 1))
    torch.testing.assert_close(flow().time(levels.next_level), flow().time(levels.level) - 1, rtol=0, atol=1e-6)
    almost = logit_normal_levels(flow(), torch.tensor([[1e-12, 0.0]], dtype=torch.float64), mean=-3.0)
    assert almost.next_level.item() == 1


def test_uniform_times_are_what_the_schedule_gives():
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t = flow_time(discrete_levels(flow(), torch.stack([u, u], 1)).level)
    torch.testing.assert_close(t, torch.arange(1, 1001, dtype=torch.float64) / 1000)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6, unique=True), st.integers(0, 3))
def test_eulers_step_in_flow_is_ddims(times: list[float], seed: int):
    """z' = z + (t' - t) u(z, t), step by step along any falling t; x is z (signal + sigma)."""
    grid = torch.tensor([1.0, *sorted(times, reverse=True), 0.0], dtype=torch.float64)
    (z,) = drawn(1, seed)

    def u(z: Tensor, t: float | Tensor) -> Tensor:
        return torch.tanh(1.5 * z + t) - 0.3 * z.flip(3) * t

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        shown = over_pixels(FlowVelocity().scale(level)) * x
        return FlowVelocity().read(u(shown, over_pixels(flow_time(level))), x, level)

    seen: list[Tensor] = []
    walk = Sampler(lambda _: at_flow_time(grid), DDIM())
    sample(model, walk, flow(), z, Condition(), lambda: z, on_step=lambda rows, _: seen.append(rows.x))
    for here, there, x in zip(grid[:-1], grid[1:], seen, strict=True):
        z = z + (there - here) * u(z, here)
        level = at_flow_time(there)
        torch.testing.assert_close(x, z * (level.sqrt() + (1 - level).sqrt()), rtol=1e-6, atol=1e-7)


def gaussian(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
    """The optimal velocity for data from N(MEAN, DEVIATION^2), E[eps - x_0 | z], written in z and t."""
    t = flow_time(level).reshape(-1, 1, 1)
    z = x * FlowVelocity().scale(level).reshape(-1, 1, 1)
    variance = (1 - t).square() * DEVIATION**2 + t.square()
    covariance = t - (1 - t) * DEVIATION**2  # of eps - x_0 with z
    return FlowVelocity().read(-MEAN + covariance / variance * (z - (1 - t) * MEAN), x, level)


def moments(solver: DDIM | Ancestral, steps: int) -> tuple[float, float]:
    """Exact mean and deviation of what a sampler makes on flow's levels."""
    walk = Sampler(lambda schedule: uniform_path(schedule, steps), solver)
    mean, covariance = exact_moments(
        lambda x_T, noise: sample(gaussian, walk, flow(), x_T, Condition(), noise), 1, draws=steps
    )
    return mean.item(), covariance.item() ** 0.5


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_euler_has_the_mean_of_the_data_after_any_number_of_steps(steps: int):
    """The mean moves along a straight line."""
    assert moments(DDIM(), steps)[0] == pytest.approx(MEAN, abs=1e-9)


def test_euler_has_the_deviation_of_the_data_to_first_order():
    errors = [abs(moments(DDIM(), steps)[1] - DEVIATION) for steps in (50, 100, 200, 400)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert errors[-1] < 2e-3
    assert all(0.9 < order < 1.1 for order in orders)


def test_ancestral_sampling_walks_flows_levels_too():
    mean, deviation = moments(Ancestral(), 1000)
    assert mean == pytest.approx(MEAN, abs=1e-3)
    assert deviation == pytest.approx(DEVIATION, abs=5e-3)


def test_one_picture_is_reached_in_one_step():
    """Between a single picture and any noise the line is straight: its velocity at t = 1 is eps - x_0 already."""
    picture, z = drawn(2)

    def model(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        return FlowVelocity().read(x - picture, x, level)  # at t = 1, where x is eps

    walk = Sampler(lambda schedule: uniform_path(schedule, 1), DDIM())
    torch.testing.assert_close(sample(model, walk, flow(), z, Condition(), lambda: z), picture)
