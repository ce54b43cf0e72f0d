import math

import pytest
import torch
from exact import GaussianDenoiser
from torch import Tensor
from torch.autograd import gradcheck

from diffusion_lab.diffusion import likelihood
from diffusion_lab.diffusion.denoiser import Condition, LearnedRange, NetworkDenoiser, Prediction, Velocity
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.sampling import sample
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.lessons.data import swiss_roll, swiss_roll_bits
from diffusion_lab.lessons.dpm import StepLoss, bound, every_level, reverse
from diffusion_lab.lessons.gaussian import NOTHING, Gaussian, LearnedBetas
from diffusion_lab.lessons.networks import RadialBasis
from diffusion_lab.lessons.second import Pull, nowhere

C = 0.3
COUNT = 3000


def schedule(steps: int, first: float = 0.02) -> NoiseSchedule:
    """From a small first beta to nothing."""
    inner = torch.linspace(1 - first, 0.02, steps - 1, dtype=torch.float64)
    return NoiseSchedule(torch.cat([torch.ones(1).double(), inner, torch.full((1,), NOTHING).double()]))


@pytest.mark.parametrize("steps", [3, 20])
def test_the_bound_of_a_gaussian_is_its_likelihood_at_any_number_of_steps(steps: int) -> None:
    """With mean and variance learned nothing is lost: the reverse step of a Gaussian is Gaussian."""
    table, count = schedule(steps), 4000
    x_0 = C * torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    denoiser = GaussianDenoiser(C, table.alpha_bar)
    found = bound(denoiser, Gaussian(), table, x_0, ExampleNoise(range(count), (2,)))
    likelihood_bits = (0.5 * math.log2(2 * math.pi * C**2) + 0.5 * x_0.double().square() / C**2 / math.log(2)).sum(1)
    gap = found.total - likelihood_bits
    assert float(gap.mean()) == pytest.approx(0, abs=4 * float(gap.std()) / count**0.5)


def test_equation_14_is_the_bound_of_the_forward_step_run_backwards() -> None:
    """x_0 ~ N(sqrt(1 - beta_1) x_1, beta_1), for data of unit second moment."""
    table, count = schedule(8), 4000
    x_0 = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    found = bound(GaussianDenoiser(1.0, table.alpha_bar), Gaussian(), table, x_0, ExampleNoise(range(count), (2,)))
    error = 4 * float(found.equation_14.std()) / count**0.5
    assert float(found.equation_14.mean()) == pytest.approx(math.log2(2 * math.pi * math.e), abs=error)
    expected = math.log2(2 * math.pi * math.e * 0.02)  # of two dimensions
    assert found.first_entropy == pytest.approx(expected, rel=1e-6)


def test_it_is_the_bound_of_the_lab() -> None:
    torch.manual_seed(0)
    network = RadialBasis(inputs=2, outputs=4, hidden=5, steps=6, bumps=7)
    torch.nn.init.normal_(network.readout.layers.weight, std=0.3)
    table = schedule(6)
    model, x_0 = NetworkDenoiser(network, table, LearnedRange(Velocity())), torch.randn(10, 2)
    process = Gaussian(first_variance=likelihood.clipped_variance(table.alpha_bar))
    mine = bound(model, process, table, x_0, ExampleNoise(range(10), (2,)))
    theirs = likelihood.bound(
        model,
        every_level(table),
        x_0,
        Condition(),
        ExampleNoise(range(10), (2,)),
        variance_mix=1.0,
        decoder=likelihood.density,
    )
    torch.testing.assert_close(mine.steps, 2 * theirs.steps)
    torch.testing.assert_close(mine.last, 2 * theirs.decoder)


def test_the_loss_estimates_the_bound() -> None:
    table, x_0 = schedule(5), torch.randn(1, 2, generator=torch.Generator().manual_seed(1))
    denoiser, loss = GaussianDenoiser(1.0, table.alpha_bar), StepLoss(Gaussian(), steps=5)
    eps = torch.randn(1, 2, generator=torch.Generator().manual_seed(2))
    costs = []
    for t in range(1, 6):
        levels = Levels(table.alpha_bar[t : t + 1], table.alpha_bar[t - 1 : t], torch.ones(1))
        x = Gaussian().diffuse(x_0, eps, levels.level)
        said = denoiser(x, levels.level, Condition())
        costs.append(float(loss(said, x_0, eps, levels, torch.ones(1, 2, dtype=torch.bool))))
    whole = bound(denoiser, Gaussian(), table, x_0, lambda: eps)
    assert sum(costs) / 5 == pytest.approx(float(whole.total), rel=1e-4)


def test_betas_learn_from_the_gradient_of_the_bound() -> None:
    """The noise stays put while the levels move; against finite differences, at each step."""
    learned = LearnedBetas(steps=5, first_beta=0.05, last_log_snr=-2.0).double()
    x_0 = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    eps = torch.tensor([[0.5, 1.1]], dtype=torch.float64)

    table = learned.alpha_bar
    assert table[0].item() == 1
    assert table[1].item() == pytest.approx(0.95)
    assert table[-1].item() == NOTHING

    def total(inner: Tensor) -> Tensor:
        levels = torch.cat([table[:2].detach(), inner, table[-1:].detach()])
        bits = []
        for t in range(1, 5):
            level, next_level = levels[t : t + 1], levels[t - 1 : t]
            x = Gaussian().diffuse(x_0, eps, level)
            said = Prediction(0.4 * x, 0.1 * x, torch.full_like(x, 0.3))
            bits.append(Gaussian().step_bits(said, x_0, x, level, next_level).sum())
        return torch.stack(bits)

    inner = table[2:-1].detach().clone().requires_grad_()
    assert gradcheck(total, (inner,))
    total(learned.alpha_bar[2:-1]).sum().backward()
    assert learned.falls.grad is not None
    assert bool((learned.falls.grad != 0).all())


def test_any_value_is_a_schedule() -> None:
    learned = LearnedBetas(steps=12)
    # Further apart than about 35, the least fall is lost beside the others in float64, and the table says so.
    drawn = 5.0 * torch.randn(learned.falls.shape, generator=torch.Generator().manual_seed(0))
    learned.falls.data.copy_(drawn.clamp(-15, 15))
    table = learned.fixed
    t = torch.arange(13, dtype=torch.float64)
    torch.testing.assert_close(learned.time(learned.level(t)), t)
    assert table.steps == learned.steps


@pytest.mark.parametrize(("steps", "first"), [(2, 0.01), (10, 0.0), (10, 0.999)])
def test_a_schedule_that_cannot_be_is_refused(steps: int, first: float) -> None:
    with pytest.raises(ValueError, match=f"first_beta={first}"):
        LearnedBetas(steps, first)


def walked(c: float, steps: int, pull: Pull = nowhere) -> Tensor:
    table = schedule(steps, first=0.005)
    noise = ExampleNoise(range(COUNT), (1,))
    denoiser = GaussianDenoiser(c, table.alpha_bar)
    return sample(denoiser, reverse(Gaussian(pull)), table, noise(), Condition(), noise)


def test_a_gaussian_is_drawn_with_its_own_deviation() -> None:
    drawn = walked(C, steps=5)
    assert float(drawn.std()) == pytest.approx(C, abs=4 * C / math.sqrt(2 * COUNT))


def test_multiplied_by_a_second_gaussian_the_product_is_drawn() -> None:
    """N(0, 1) times r = N(a, s^2). r(x_t) as the mean of r(x_0) given x_t is right; the paper's r(x_t) = r(x_0) is not.

    The latter pulls with full force at every level and ends at p r^2.
    """
    a, s = 1.0, 1.0

    def smoothed(x: Tensor, level: Tensor) -> Tensor:
        signal = level.sqrt()[:, None]
        return (signal * (a - signal * x) / (s**2 + 1 - level[:, None])).float()

    def constant(x: Tensor, level: Tensor) -> Tensor:
        return (a - x) / s**2

    right, paper = walked(1.0, 80, smoothed), walked(1.0, 80, constant)
    assert float(right.mean()) == pytest.approx(a / (1 + s**2), abs=0.05)
    assert float(right.var()) == pytest.approx(s**2 / (1 + s**2), abs=0.06)
    assert float(paper.mean()) == pytest.approx(2 * a / (2 + s**2), abs=0.05)
    assert float(paper.var()) == pytest.approx(s**2 / (2 + s**2), abs=0.05)


def test_the_rolls_density_is_one() -> None:
    axis = torch.linspace(-3, 3, 101, dtype=torch.float64)
    density = torch.exp2(-swiss_roll_bits(torch.cartesian_prod(axis, axis), noise=0.1, pieces=1000))
    assert float(density.sum()) * 0.06**2 == pytest.approx(1, abs=1e-3)
    points = swiss_roll(20_000, torch.Generator().manual_seed(0))
    assert float(points.double().square().mean()) == pytest.approx(1, abs=0.02)
