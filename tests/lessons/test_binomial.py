import itertools
import math

import pytest
import torch
from exact import heartbeat_denoiser, which_heartbeat
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.sampling import Sampler, keep_clean, sample
from diffusion_lab.diffusion.schedule import NoiseSchedule, jsd, linear
from diffusion_lab.lessons.binomial import Binomial, Spins, flip, posterior, reverse_mean
from diffusion_lab.lessons.data import heartbeat, heartbeats
from diffusion_lab.lessons.dpm import bound, every_level, reverse

UP, DOWN = torch.ones(1, 1, dtype=torch.float64), -torch.ones(1, 1, dtype=torch.float64)


def at(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def table(gamma: float) -> Tensor:
    """q(x | x_0) of a bit at a level: rows x_0 = -1, 1, columns x = -1, 1."""
    return torch.tensor([[1 + gamma, 1 - gamma], [1 - gamma, 1 + gamma]], dtype=torch.float64) / 2


def test_the_schedule_is_the_papers() -> None:
    schedule = jsd(steps=10)
    expected = [1 / (10 - t + 1) for t in range(1, 11)]
    assert schedule.betas.tolist() == pytest.approx(expected)


def test_marginals_are_the_steps_one_after_the_other() -> None:
    """A step keeps a bit with probability 1 - beta and tosses a fair coin otherwise (table App.1)."""
    schedule, product = linear(steps=30, start=0.01, end=0.3), torch.eye(2, dtype=torch.float64)
    for beta, gamma in zip(schedule.betas, schedule.alpha_bar[1:], strict=True):
        kept = torch.eye(2, dtype=torch.float64) * (1 - beta)
        product = product @ (kept + beta / 2)
        torch.testing.assert_close(product, table(float(gamma)))


def test_flips_come_as_often_as_they_should() -> None:
    count, gamma = 40_000, 0.3
    eps = torch.randn(count, 1, generator=torch.Generator().manual_seed(0))
    share = (flip(torch.ones(count, 1), eps, at(gamma).expand(count)) > 0).double().mean()
    assert float(share) == pytest.approx((1 + gamma) / 2, abs=4 * 0.5 / count**0.5)


@given(st.floats(0, 0.999), st.floats(0, 1))
def test_posterior_is_bayes_rule(gamma: float, share: float) -> None:
    next_gamma = gamma + share * (1 - gamma)
    ratio = gamma / next_gamma if next_gamma else 1.0
    first, then, both = table(next_gamma), table(ratio), table(gamma)
    for (i, x_0), (j, x) in itertools.product(enumerate((DOWN, UP)), enumerate((DOWN, UP))):
        if both[i, j] < 1e-9:
            continue
        joint = first[i] * then[:, j] / both[i, j]
        found = posterior(x, x_0, at(gamma), at(next_gamma))
        # At level 0 and a next level of 0 the step does not move but nothing tells the coins apart.
        if next_gamma > 0:
            assert float(found) == pytest.approx(float(joint[1] - joint[0]), abs=1e-9)


def test_reverse_step_is_the_mixture_over_what_x_0_may_be() -> None:
    mean, level, next_level = torch.tensor([[0.4]], dtype=torch.float64), at(0.5), at(0.8)
    expected = 0.7 * posterior(UP, UP, level, next_level) + 0.3 * posterior(UP, DOWN, level, next_level)
    torch.testing.assert_close(reverse_mean(UP, mean, level, next_level), expected)
    torch.testing.assert_close(reverse_mean(UP, mean, level, at(1.0)), mean)


def test_bits_are_the_divergence_written_out() -> None:
    x_0, x, said = torch.tensor([[1.0]]), torch.tensor([[-1.0]]), Prediction(torch.tensor([[0.4]]), torch.zeros(1, 1))
    level, next_level = at(0.5), at(0.8)
    q = (1 + float(posterior(x, x_0.double(), level, next_level))) / 2
    p = (1 + float(reverse_mean(x, said.x_0, level, next_level))) / 2
    expected = q * math.log2(q / p) + (1 - q) * math.log2((1 - q) / (1 - p))
    assert float(Binomial().step_bits(said, x_0, x, level, next_level)) == pytest.approx(expected, rel=1e-5)
    last = Binomial().step_bits(said, x_0, x, level, at(1.0))
    assert float(last) == pytest.approx(-math.log2(0.7), rel=1e-5)


def test_entropy_of_a_bit() -> None:
    found = Binomial().entropy(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([1, 0.811278, 0], abs=1e-6)


def test_spins_read_log_odds() -> None:
    said = Spins().read(torch.tensor([[2.0, 50.0]]), torch.ones(1, 2), at(0.5))
    up = (1 + said.x_0) / 2
    assert float(up[0, 0]) == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=1e-6)
    assert float(up[0, 1]) < 1


@pytest.mark.parametrize(("steps", "gap"), [(50, 0.13), (150, 0.05)])
def test_the_bound_of_the_exact_model_closes_on_the_truth(steps: int, gap: float) -> None:
    """Bits are turned one by one, so that a step loses what they share; the more steps, the less."""
    x_0 = heartbeat(300, torch.Generator().manual_seed(0))
    found = bound(heartbeat_denoiser, Binomial(), jsd(steps), x_0, ExampleNoise(range(300), (20,)))
    error = 4 * float(found.total.std()) / 300**0.5
    assert math.log2(5) - error < float(found.total.mean()) < math.log2(5) + gap + error
    assert found.prior == 0
    flips = 20 * float(Binomial().entropy(torch.tensor(1 - 1 / steps, dtype=torch.float64)))
    torch.testing.assert_close(found.equation_14, found.total - found.last + flips)


def drawn(model: object, solver: Binomial, schedule: NoiseSchedule, count: int, condition: Condition) -> Tensor:
    size = 20 if condition.known is None else condition.known.shape[1]
    noise = ExampleNoise(range(count), (size,))
    coins = solver.diffuse(torch.zeros(count, size), noise(), torch.zeros(count, dtype=torch.float64))
    return sample(model, reverse(solver), schedule, coins, condition, noise, keep_clean)  # type: ignore[arg-type]


def shares(sequences: Tensor) -> Tensor:
    """How many of the sequences are which heartbeat."""
    return (sequences[:, None] == heartbeats()).all(2).double().mean(0)


def whole(count: int) -> Condition:
    return Condition(torch.zeros(count, 20), torch.ones(count, 20, dtype=torch.bool))


def test_the_exact_model_draws_heartbeats_of_every_phase() -> None:
    found = shares(drawn(heartbeat_denoiser, Binomial(), jsd(100), 400, whole(400)))
    assert float(found.sum()) > 0.98
    assert found.tolist() == pytest.approx([0.2] * 5, abs=4 * (0.2 * 0.8 / 400) ** 0.5)


@pytest.mark.parametrize(
    ("places", "phases", "whole_share"), [(range(5, 15), [2], 0.97), ([0, 1, 5], [2, 3, 4], 0.75), (range(5), [2], 0.5)]
)
def test_what_is_known_decides_the_phase_as_enumeration_says(
    places: list[int], phases: list[int], whole_share: float
) -> None:
    """Inpainting: r is 1 where the known bits agree and 0 elsewhere, at every level (section 2.5).

    Such an r is the paper's approximation: where little is known some draws end between two phases (`whole_share`),
    but those that are heartbeats agree with what is known, each phase as often as p(x_0) r(x_0) / Z says.
    """
    count = 200
    known = heartbeats()[2].expand(count, 20)
    mask = torch.ones(count, 20, dtype=torch.bool)
    mask[:, list(places)] = False
    agree = (heartbeats()[:, list(places)] == heartbeats()[2, list(places)]).all(1)
    assert agree.nonzero().flatten().tolist() == phases
    result = drawn(heartbeat_denoiser, Binomial(), jsd(100), count, Condition(known, mask))
    assert torch.equal(result[~mask], known[~mask])
    found, expected = shares(result), agree.double() / agree.sum()
    assert float(found.sum()) >= whole_share
    assert (found / found.sum()).tolist() == pytest.approx(expected.tolist(), abs=4 * (0.25 / count) ** 0.5)
    assert float(found[~agree].sum()) == 0


class Independent:
    """Bits that know nothing of each other, with these means: their exact denoiser."""

    def __init__(self, means: Tensor) -> None:
        self.means = means

    def expected(self, x: Tensor, level: Tensor) -> Tensor:
        x, gamma = x.double(), level[:, None]
        return (self.means + gamma * x) / (1 + gamma * x * self.means)

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        return Prediction(self.expected(x, level), torch.zeros_like(x))


def test_multiplied_by_a_second_distribution_the_product_is_drawn() -> None:
    """r(x_0) = exp(sum rho x_0), and r(x_t) its mean over p(x_0 | x_t): the product is exact at any T.

    All 2^3 sequences are enumerated: p(x_0) r(x_0) / Z.
    """
    means, rho = torch.tensor([0.6, -0.2, 0.0]).double(), torch.tensor([-0.9, 0.5, 1.0]).double()
    model, count = Independent(means), 20_000

    def pull(x: Tensor, level: Tensor) -> Tensor:
        up, down = model.expected(torch.ones_like(x), level), model.expected(-torch.ones_like(x), level)
        return 0.5 * ((1 + rho.tanh() * up) / (1 + rho.tanh() * down)).log()

    everything = Condition(torch.zeros(count, 3), torch.ones(count, 3, dtype=torch.bool))
    found = drawn(model, Binomial(pull), jsd(4), count, everything)
    sequences = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    chance = ((1 + means * sequences) / 2).prod(1) * (rho * sequences).sum(1).exp()
    chance = chance / chance.sum()
    seen = (found.double()[:, None] == sequences).all(2).double().mean(0)
    assert ((seen - chance).abs() < 4 * (chance * (1 - chance) / count).sqrt()).all()


def test_the_enumerated_posterior_is_sure_at_the_end() -> None:
    chances = which_heartbeat(heartbeats(), torch.full((5,), 0.999, dtype=torch.float64))
    torch.testing.assert_close(chances, torch.eye(5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_path_is_the_whole_schedule() -> None:
    assert torch.equal(every_level(jsd(7)).flip(0), jsd(7).alpha_bar)
    assert Sampler(every_level, Binomial()).network_calls(jsd(7)) == 7
