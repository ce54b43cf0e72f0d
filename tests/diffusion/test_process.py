import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion import process
from diffusion_lab.diffusion.denoiser import Data, Epsilon, LearnedRange, Preconditioned, Velocity
from diffusion_lab.diffusion.schedule import linear

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
