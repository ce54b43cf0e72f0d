import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion import process
from diffusion_lab.diffusion.denoiser import (
    Condition,
    Data,
    Epsilon,
    LearnedRange,
    NetworkDenoiser,
    Preconditioned,
    Velocity,
    by_gamma,
    by_log_sigma,
    by_scaled_time,
    by_time,
)
from diffusion_lab.diffusion.schedule import cosine, linear

levels = st.floats(1e-6, 1 - 1e-6)
PARAMETRISATIONS = [Epsilon(), Data(), Velocity(), Preconditioned(0.5), Preconditioned(1.0)]


def gaussians(count: int = 2, shape: tuple[int, ...] = (3, 2, 4), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
@given(level=levels, seed=st.integers(0, 100))
def test_a_perfect_output_is_read_as_the_truth(kind, level, seed):
    x_0, eps = gaussians(seed=seed)
    gamma = of(level, 1 - level, 0.5)
    x = process.add_noise(x_0, eps, gamma)
    said = kind.read(kind.target(x_0, eps, gamma), x, gamma)
    torch.testing.assert_close(said.x_0, x_0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(said.eps, eps, rtol=1e-6, atol=1e-6)


@given(level=levels)
def test_x_0_eps_and_v_make_one_another(level):
    x_0, eps = gaussians()
    gamma = of(level, 0.3, 0.9)
    x, v = process.add_noise(x_0, eps, gamma), process.velocity(x_0, eps, gamma)
    torch.testing.assert_close(process.x_0_from_v(x, v, gamma), x_0)
    torch.testing.assert_close(process.eps_from_v(x, v, gamma), eps)
    torch.testing.assert_close(process.eps_from_x_0(x, x_0, gamma), eps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(process.x_0_from_eps(x, eps, gamma), x_0, rtol=1e-6, atol=1e-6)


def test_the_ends_are_limits():
    x_0, eps = gaussians(shape=(2, 5))
    ends = of(0, 1)
    x = process.add_noise(x_0, eps, ends)
    assert torch.equal(x, torch.stack([eps[0], x_0[1]]))
    for kind in PARAMETRISATIONS:
        said = kind.read(torch.zeros_like(x), x, ends)
        assert bool(said.x_0.isfinite().all())
        assert bool(said.eps.isfinite().all())
    velocity = Velocity().read(process.velocity(x_0, eps, ends), x, ends)
    torch.testing.assert_close(velocity.x_0, x_0)  # v alone says all of x_0 at level 0
    assert process.x_0_from_eps(x, eps, ends)[0].eq(0).all()
    assert process.eps_from_x_0(x, x_0, ends)[1].eq(0).all()


def test_gradients_stay_finite_at_the_ends():
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    for kind in PARAMETRISATIONS:
        said = kind.read(x * 2, x, of(0, 1))
        (found,) = torch.autograd.grad(said.x_0.sum() + said.eps.sum(), x)
        assert bool(found.isfinite().all())


@pytest.mark.parametrize(("t", "s"), [(1, 0), (1000, 999), (1000, 500), (700, 20)])
def test_posterior_is_bayes_rule_written_out(t, s):
    x_0, x = gaussians(shape=(1, 6))
    table = linear().alpha_bar
    level, next_level = table[t : t + 1], table[s : s + 1]
    # q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0): precisions add (DDPM, eqs. 6-7).
    alpha = level / next_level
    if s == 0:
        mean, variance = x_0, of(0.0)
    else:
        precision = alpha / (1 - alpha) + 1 / (1 - next_level)
        mean = (alpha.sqrt() * x / (1 - alpha) + next_level.sqrt() * x_0 / (1 - next_level)) / precision
        variance = 1 / precision
    torch.testing.assert_close(process.posterior_mean(x, x_0, level, next_level), mean)
    torch.testing.assert_close(process.posterior_variance(level, next_level), variance)


def test_a_step_that_does_not_move_changes_nothing():
    x_0, x = gaussians(shape=(3, 4))
    level = of(0.0, 0.5, 1.0)
    assert process.posterior_variance(level, level).eq(0).all()
    torch.testing.assert_close(process.posterior_mean(x, x_0, level, level), x)


@given(a=st.floats(0.01, 1), b=st.floats(0.01, 1), c=st.floats(0.01, 1))
def test_noising_twice_is_noising_once(a, b, c):
    high, middle, low = (of(v) for v in sorted([a, b, c], reverse=True))
    ratios = (middle / high).item(), (low / middle).item()
    assert ratios[0] * ratios[1] == pytest.approx((low / high).item())
    (x,) = gaussians(1, (1, 7))
    zero = torch.zeros_like(x)
    once = process.renoise(x, high, low, zero)
    torch.testing.assert_close(process.renoise(process.renoise(x, high, middle, zero), middle, low, zero), once)
    one = torch.ones_like(x)
    # From the data itself it is eq. 4, written out.
    noised = low.sqrt() * x + (1 - low).sqrt() * one
    torch.testing.assert_close(process.renoise(x, of(1.0), low, one), noised)
    torch.testing.assert_close(process.add_noise(x, one, low), noised)
    spread = (
        process.renoise(zero, high, middle, one).square() * (low / middle)
        + process.renoise(zero, middle, low, one).square()
    )
    torch.testing.assert_close(spread, process.renoise(zero, high, low, one).square(), rtol=1e-6, atol=1e-9)


def test_preconditioning_is_edms_table_1():
    x_0, eps = gaussians()
    gamma, deviation = of(0.01, 0.4, 0.999), 0.5
    x = process.add_noise(x_0, eps, gamma)
    sigma = ((1 - gamma) / gamma).sqrt()[:, None, None]
    y = x / gamma.sqrt()[:, None, None]
    c_skip = deviation**2 / (sigma**2 + deviation**2)
    c_out = sigma * deviation / (sigma**2 + deviation**2).sqrt()
    c_in = 1 / (sigma**2 + deviation**2).sqrt()
    kind, output = Preconditioned(deviation), torch.randn_like(x)
    torch.testing.assert_close(kind.read(output, x, gamma).x_0, c_skip * y + c_out * output)
    torch.testing.assert_close(kind.scale(gamma)[:, None, None] * x, c_in * y)
    torch.testing.assert_close(kind.target(x_0, eps, gamma), (x_0 - c_skip * y) / c_out)


def test_preconditioning_of_unit_data_is_minus_v():
    x_0, eps = gaussians()
    gamma = of(0.0, 0.4, 1.0)
    torch.testing.assert_close(Preconditioned(1.0).target(x_0, eps, gamma), -process.velocity(x_0, eps, gamma))
    torch.testing.assert_close(Preconditioned(1.0).scale(gamma), torch.ones(3, dtype=torch.float64))


def test_learned_range_reads_the_second_half_as_the_mix():
    x, output = gaussians()
    raw = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).reshape(3, 1, 1).expand_as(x)
    said = LearnedRange(Epsilon()).read(torch.cat([output, raw], dim=1), x, of(0.1, 0.2, 0.3))
    assert said.variance_mix is not None
    assert said.variance_mix[:, 0, 0].tolist() == [0, 0.5, 1]  # beta-tilde, between, beta
    assert torch.equal(said.eps, output)
    with pytest.raises(ValueError, match=r"needs 4 output channels, the network has 2: set model\.out_channels"):
        LearnedRange(Epsilon()).read(output, x, of(0.1, 0.2, 0.3))


def test_the_network_is_told_t_or_gamma_or_sigma():
    schedule, gamma = linear(), of(0.999, 0.3, 1e-5)
    assert by_time(schedule, schedule.alpha_bar[[0, 7, 1000]]).tolist() == [0, 7, 1000]
    # "rescale_timesteps": a network trained on 4,000 steps hears what one trained on 1,000 hears.
    assert by_scaled_time(linear(4000), linear(4000).alpha_bar[[0, 28, 4000]]).tolist() == [0, 7, 1000]
    assert torch.equal(by_scaled_time(schedule, gamma), by_time(schedule, gamma))
    ln_sigma = ((1 - gamma) / gamma).log() / 2
    torch.testing.assert_close(by_log_sigma(schedule, gamma), ln_sigma / 4)  # EDM's c_noise, table 1
    torch.testing.assert_close(by_gamma(schedule, gamma), (20 + 2 * ln_sigma) * 25)
    for told in (by_gamma, by_log_sigma):
        assert bool(told(schedule, of(0.0, 1.0)).isfinite().all())


@pytest.mark.parametrize("schedule", [linear(), linear(2000, 1e-6, 0.01), linear(1000, 1e-4, 0.09), cosine()])
def test_gamma_tells_neighbouring_levels_apart_at_both_ends(schedule):
    """Gamma as it stands does not: the last two levels of a schedule differ by less than 1e-6 (Janspiry's fault)."""
    inside = schedule.alpha_bar[(schedule.alpha_bar < 1 - 1e-8) & (schedule.alpha_bar > 1e-8)]
    told = by_gamma(schedule, inside)
    assert bool((told.diff() > 0.1).all())
    assert 0 <= told[0] < told[-1] <= 1000


class Shown(torch.nn.Module):
    """Remembers what it was shown."""

    def __init__(self, condition_channels: int) -> None:
        super().__init__()
        self.condition_channels = condition_channels

    def forward(self, x, condition, time, attributes):
        self.x, self.condition, self.time = x, condition, time
        return torch.zeros_like(x)


@pytest.mark.parametrize("channels", [0, 3, 4])
def test_the_network_sees_scaled_x_the_known_pixels_and_where_the_hole_is(channels):
    x, known = gaussians(shape=(2, 3, 4, 4))
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    shown, gamma = Shown(channels), of(0.2, 0.9)
    NetworkDenoiser(shown, linear(), Preconditioned(0.5))(x, gamma, Condition(known=known, mask=mask))
    torch.testing.assert_close(shown.x, x * (gamma * 0.25 + 1 - gamma).rsqrt()[:, None, None, None])
    assert torch.equal(shown.condition, torch.cat([known, mask.double() * 2 - 1], dim=1)[:, :channels])
    torch.testing.assert_close(shown.time, linear().time(gamma).float())
