import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.diffusion.noise import ExampleNoise

seeds = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6, unique=True)


@given(seeds, st.integers(1, 3))
def test_a_seed_draws_the_same_in_any_company(seeds, draws):
    together = ExampleNoise(seeds, (2, 3))
    alone = [ExampleNoise([seed], (2, 3)) for seed in seeds]
    for _ in range(draws):
        batch = together()
        for row, noise in zip(batch, alone, strict=True):
            assert torch.equal(row, noise()[0])
    assert torch.equal(together.uniform(4), torch.cat([noise.uniform(4) for noise in alone]))


def test_draws_and_seeds_differ():
    noise = ExampleNoise(torch.tensor([1, 2]), (64,))
    first, second = noise(), noise()
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_it_is_standard_normal_and_uniform():
    noise = ExampleNoise(range(200), (50,))
    x, u = noise().double(), noise.uniform(50)
    n = x.numel()
    assert x.mean().item() == pytest.approx(0, abs=4 / n**0.5)
    assert x.square().mean().item() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=4 / (12 * n) ** 0.5)
    across = torch.corrcoef(x[:20])  # rows of different seeds
    assert (across - torch.eye(20, dtype=torch.float64)).abs().max().item() < 5 / 50**0.5
