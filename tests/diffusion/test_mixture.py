"""The known problems are checked by other means: autograd of the density, integration on a grid, rejection."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from diffusion_lab.diffusion.denoiser import Condition
from diffusion_lab.diffusion.mixture import GivenTheRest, Mixture, gaussian

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[0.5, -0.4, 0.1], [-0.6, 0.3, 0.7], [0.0, 0.9, -0.8]], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.30, 0.20, 0.05], [0.20, 0.40, -0.10], [0.05, -0.10, 0.25]], dtype=torch.float64)
WHOLE = Mixture(3 + WEIGHTS.log(), MEANS, COVARIANCE)  # weights of any sum


def density(gamma: float, means: Tensor = MEANS, covariance: Tensor = COVARIANCE) -> MixtureSameFamily:
    """PyTorch's, of the noisy mixture."""
    noisy = gamma * covariance + (1 - gamma) * torch.eye(len(covariance))
    return MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(gamma**0.5 * means, noisy))


def points(n: int, count: int = 5) -> Tensor:
    return torch.randn(count, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.9, 0.9999])
def test_the_denoiser_is_the_slope_of_the_noisy_density(gamma):
    """Tweedie: eps = -sigma grad log p(x), and x = signal x_0 + sigma eps."""
    x, level = points(3).requires_grad_(), torch.full((5,), gamma, dtype=torch.float64)
    log_density = density(gamma).log_prob(x)
    (slope,) = torch.autograd.grad(log_density.sum(), x)
    said = WHOLE(x.detach(), level, Condition())
    torch.testing.assert_close(said.eps, -((1 - gamma) ** 0.5) * slope)
    torch.testing.assert_close(gamma**0.5 * said.x_0 + (1 - gamma) ** 0.5 * said.eps, x.detach())
    torch.testing.assert_close(WHOLE.log_joint(x, level, WHOLE.log_weights).logsumexp(1), log_density)


def test_a_picture_is_denoised_as_the_row_of_its_numbers():
    x, level = points(3), torch.full((5,), 0.4, dtype=torch.float64)
    for model in (WHOLE, GivenTheRest(WHOLE, torch.tensor([False, True, True]))):
        flat, picture = (model(shaped, level, Condition()) for shaped in (x, x[:, None]))
        assert torch.equal(picture.x_0[:, 0], flat.x_0)
        assert torch.equal(picture.eps[:, 0], flat.eps)


HOLES = [torch.tensor([True, False, False]), torch.tensor([False, False, True])]
GRID = torch.linspace(-7, 7, 28_001, dtype=torch.float64)


def on_the_grid(hole: Tensor, known: Tensor) -> Tensor:
    """p(hole | known) at the grid's points, by integration: its sum is 1."""
    x = torch.empty(len(GRID), 3, dtype=torch.float64)
    x[:, hole], x[:, ~hole] = GRID[:, None], known
    return density(1.0).log_prob(x).softmax(0)


@pytest.mark.parametrize("hole", HOLES)
def test_the_posterior_is_what_integration_finds(hole):
    model, known = GivenTheRest(WHOLE, hole), points(3)[:, ~hole]
    found = model.posterior(known)
    at = torch.tensor([-0.4, 0.0, 0.3], dtype=torch.float64)
    for row in range(5):
        p = on_the_grid(hole, known[row])
        mean = p @ GRID
        torch.testing.assert_close(found.mean[row, 0], mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.variance[row, 0], p @ (GRID - mean).square(), rtol=0, atol=1e-9)
        below = (p * ((at[:, None] - GRID > 1e-9) + 0.5 * ((GRID - at[:, None]).abs() < 1e-9))).sum(1)
        torch.testing.assert_close(found.cdf(at.expand(5, 3)[..., None])[row, :, 0], below, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.95, 1.0])
def test_the_conditional_denoiser_is_what_integration_finds(hole, gamma):
    x, level = points(3), torch.full((5,), gamma, dtype=torch.float64)
    said = GivenTheRest(WHOLE, hole)(x, level, Condition())
    assert torch.equal(said.x_0[:, ~hole], x[:, ~hole])
    if gamma == 1:  # nothing is noise
        torch.testing.assert_close(said.x_0, x)
        return
    for row in range(5):
        far = (x[row, hole] - gamma**0.5 * GRID).square() / (2 * (1 - gamma))
        p = (on_the_grid(hole, x[row, ~hole]).log() - far).softmax(0)
        torch.testing.assert_close(said.x_0[row, hole][0], p @ GRID, rtol=0, atol=1e-8)
    noise = x[:, hole] - gamma**0.5 * said.x_0[:, hole]
    torch.testing.assert_close(said.eps[:, hole], noise / (1 - gamma) ** 0.5)


def test_draws_given_the_rest_are_draws_of_the_whole_that_happen_to_fit():
    """Rejection: of 2 million wholes those whose known number is within .01 of what is asked for."""
    hole, generator = torch.tensor([True, False, True]), torch.Generator().manual_seed(0)
    wholes = WHOLE.draw(2_000_000, generator)
    kept = wholes[(wholes[:, 1] - 0.2).abs() < 0.01][:, hole]
    posterior = GivenTheRest(WHOLE, hole).posterior(torch.tensor([[0.2]], dtype=torch.float64))
    drawn = posterior.draw(len(kept), generator)[0]
    assert len(kept) > 10_000
    error = 4 * (posterior.variance[0] / len(kept)).sqrt()
    for found in (kept, drawn):
        assert ((found.mean(0) - posterior.mean[0]).abs() < error).all()
        torch.testing.assert_close(found.var(0), posterior.variance[0], rtol=4 * (2 / len(kept)) ** 0.5, atol=0)
    correlations = [torch.corrcoef(found.T)[0, 1].item() for found in (kept, drawn)]
    assert correlations[0] == pytest.approx(correlations[1], abs=4 * (2 / len(kept)) ** 0.5)
    uniform = posterior.cdf(kept[None])[0].sort(dim=0).values
    even = (torch.arange(len(kept)) + 0.5)[:, None] / len(kept)
    assert (uniform - even).abs().max() < 1.95 / len(kept) ** 0.5  # Kolmogorov-Smirnov at one in a thousand


def test_one_component_is_a_gaussian():
    model = gaussian([0.2, -0.1], [[0.5, 0.3], [0.3, 0.4]])
    found = GivenTheRest(model, torch.tensor([True, False])).posterior(torch.tensor([[0.7]], dtype=torch.float64))
    assert found.mean.item() == pytest.approx(0.2 + 0.3 / 0.4 * 0.8)
    assert found.variance.item() == pytest.approx(0.5 - 0.3**2 / 0.4)
    torch.testing.assert_close(model.mean, torch.tensor([0.2, -0.1], dtype=torch.float64))
