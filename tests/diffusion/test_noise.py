import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffusion_lab.diffusion.noise import ExampleNoise, KeyedNoise

seeds = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6, unique=True)


def keyed(keys, shape):
    return KeyedNoise(torch.as_tensor(keys), shape)


both = pytest.mark.parametrize("make", [ExampleNoise, keyed])


@both
@given(seeds=seeds, draws=st.integers(1, 3))
def test_a_seed_draws_the_same_in_any_company(make, seeds, draws):
    together = make(seeds, (2, 3))
    alone = [make([seed], (2, 3)) for seed in seeds]
    for _ in range(draws):
        batch = together()
        for row, noise in zip(batch, alone, strict=True):
            assert torch.equal(row, noise()[0])


@given(seeds=seeds)
def test_a_keys_uniforms_are_its_own(seeds):
    alone = [keyed([seed], (1,)).uniform(4) for seed in seeds]
    assert torch.equal(keyed(seeds, (1,)).uniform(4), torch.cat(alone))


@both
def test_draws_and_seeds_differ(make):
    noise = make([1, 2], (64,))
    first, second = noise(), noise()
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@both
def test_it_is_standard_normal(make):
    keys = torch.randint(2**63 - 1, (200,), generator=torch.Generator().manual_seed(0))
    noise = make(keys, (51,))
    x = noise().double()
    n = x.numel()
    assert x.mean().item() == pytest.approx(0, abs=4 / n**0.5)
    assert x.square().mean().item() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    across = torch.corrcoef(x[:20])  # rows of different seeds
    assert (across - torch.eye(20, dtype=torch.float64)).abs().max().item() < 5 / 51**0.5


def test_keyed_uniforms_are_uniform():
    u = keyed(torch.randint(2**63 - 1, (200,), generator=torch.Generator().manual_seed(0)), (1,)).uniform(50)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


def test_keyed_words_are_splitmix64s():
    """Of seed 0 and of 1234567, as the authors' C code prints them."""
    found = [[word % 2**64 for word in row] for row in keyed([0, 1234567], (1,)).words(3).tolist()]
    assert found[0] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert found[1] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keyed_normals_and_their_halves_are_independent():
    """Box and Muller make two of one word: neither they, nor their squares, nor their order may tell."""
    keys = torch.randint(2**63 - 1, (4000,), generator=torch.Generator().manual_seed(1))
    noise = keyed(keys, (2, 5))
    x = torch.cat([noise().flatten(1), noise().flatten(1)], dim=1).double()  # (4000, 20)
    for seen in (x, x.square(), x.abs().log()):
        apart = torch.corrcoef(seen.T) - torch.eye(20, dtype=torch.float64)
        assert apart.abs().max().item() < 5 / 4000**0.5


def test_the_first_of_very_many_keyed_normals_is_finite():
    """The logarithm never sees 0: the smallest uniform is half of 2^-32."""
    x = keyed(torch.arange(1_000_000), (2,))()
    assert x.isfinite().all()
    assert x.abs().max() < 6.8


def test_keyed_normals_are_box_and_mullers_of_splitmix64s_words():
    """Radius of the high half, angle of the low one; all cosines, then all sines."""
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # of seed 0
    pairs = [
        (math.sqrt(-2 * math.log(((word >> 32) + 0.5) / 2**32)), math.tau * (word & 0xFFFFFFFF) / 2**32)
        for word in words
    ]
    normals = [r * math.cos(angle) for r, angle in pairs] + [r * math.sin(angle) for r, angle in pairs]
    assert keyed([0], (5,))()[0].tolist() == pytest.approx(normals[:5], abs=1e-5)
    uniforms = [(word >> 11) / 2**53 for word in words]
    assert keyed([0], (5,)).uniform(3)[0].tolist() == uniforms


def test_the_rarest_normal_is_that_of_half_of_2_to_the_minus_32(monkeypatch):
    noise = keyed([0], (2,))
    monkeypatch.setattr(noise, "words", lambda count: torch.zeros(1, count, dtype=torch.int64))
    assert noise()[0].tolist() == pytest.approx([math.sqrt(66 * math.log(2)), 0])


def test_noise_goes_where_it_is_wanted():
    assert ExampleNoise([1, 2], (3,))().device.type == "cpu"
    assert ExampleNoise([1, 2], (3,), torch.device("meta"))().device.type == "meta"


@pytest.mark.parametrize("word", [0, -1, 2**32 - 1, -(2**32)])
def test_keyed_normals_are_finite_whatever_the_bits(word, monkeypatch):
    """All zeros come once in 2^32 draws, which no sample shows."""
    noise = keyed([0], (4,))
    monkeypatch.setattr(noise, "words", lambda count: torch.full((1, count), word))
    x = noise()
    assert x.isfinite().all()
    assert x.abs().max() < 6.8
