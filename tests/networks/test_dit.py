"""The transformer over patches; beside Meta's own program it is compared in benchmarks/originals."""

from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from diffusion_lab.networks import dit
from diffusion_lab.networks.dit import DiT
from diffusion_lab.networks.summary import summarise

PATCH = 4


@pytest.fixture
def network() -> DiT:
    """All of its weights random, those that begin as zeros too."""
    torch.manual_seed(0)
    made = DiT(image_size=16, patch=PATCH, width=32, depth=2, heads=2, condition_channels=4, attributes=2)
    for parameter in made.parameters():
        parameter.data.normal_(std=0.2)
    return made.eval()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, condition = (torch.randn(2, channels, 16, 16, generator=generator) for channels in (3, 4))
    return x, condition, torch.tensor([3.0, 900.0])


def patches_moved(x: Tensor, order: Tensor) -> Tensor:
    """The patches of a picture in another order, each as it is."""
    rows = x.shape[-1] // PATCH
    cut = x.unflatten(3, (rows, PATCH)).unflatten(2, (rows, PATCH)).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
    moved = cut[order].unflatten(0, (rows, rows)).permute(2, 3, 0, 4, 1, 5)
    return moved.flatten(4, 5).flatten(2, 3)


def test_a_new_network_says_nothing_and_its_blocks_pass_their_input_on() -> None:
    network, tokens = DiT(image_size=8, width=32, depth=1, heads=2), torch.randn(2, 16, 32)
    assert not network(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.ones(2)).any()
    assert torch.equal(network.blocks[0](tokens, torch.randn(2, 32)), tokens)


def test_but_for_their_places_patches_are_a_set(network: DiT, inputs: tuple[Tensor, ...]) -> None:
    x, condition, time = inputs
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    moved = patches_moved(x, order), patches_moved(condition, order), time
    with torch.no_grad():
        assert not torch.allclose(network(*moved), patches_moved(network(*inputs), order), atol=1e-2)
        with patch.object(dit, "place_embedding", lambda rows, columns, width: torch.zeros(rows * columns, width)):
            torch.testing.assert_close(network(*moved), patches_moved(network(*inputs), order), rtol=1e-4, atol=1e-4)


def test_a_place_is_known_by_its_row_and_its_column() -> None:
    """The product of two places' embeddings depends on how far apart they are alone, so a shift changes nothing."""
    places = dit.place_embedding(5, 7, 32).double().unflatten(0, (5, 7))
    torch.testing.assert_close((places[0, 0] * places[2, 3]).sum(), (places[2, 1] * places[4, 4]).sum())
    torch.testing.assert_close(places.square().sum(-1), torch.full((5, 7), 16.0, dtype=torch.float64))
    assert torch.equal(places[:, 0, 16:], places[:, 6, 16:])  # of the row
    assert torch.equal(places[0, :, :16], places[4, :, :16])  # of the column


def test_every_pixel_looks_at_every_other_and_at_all_that_it_is_told(network: DiT, inputs: tuple[Tensor, ...]) -> None:
    x, condition, time = (each.double().requires_grad_() for each in inputs)
    attributes = torch.tensor([[0.0, 1.0], [1.0, torch.nan]], dtype=torch.float64)
    out = network.double()(x, condition, time, attributes)
    (to_x, to_condition) = torch.autograd.grad(out[:, :, 0, 0].sum(), [x, condition])
    assert to_x.ne(0).all()
    assert to_condition.ne(0).all()
    others = {
        "time": network(x, condition, time + 1, attributes),
        "value": network(x, condition, time, 1 - attributes),
        "silence": network(x, condition, time),
    }
    assert all(not torch.allclose(out, other) for other in others.values())
    silent = network(x, condition, time, torch.full_like(attributes, torch.nan))
    assert torch.equal(silent, others["silence"])


def test_its_cost_is_that_of_its_matrices() -> None:
    width, depth, tokens = 64, 3, 16
    found = summarise(DiT(image_size=16, patch=4, width=width, depth=depth, heads=2, condition_channels=4))
    blocks = depth * (12 * width**2 + 9 * width + 6 * width**2 + 6 * width)
    ends = (7 * 16 + 1) * width + (dit.FREQUENCIES + width + 2) * width + 2 * (width + 1) * width + (width + 1) * 48
    assert found.parameters == blocks + ends
    products = depth * (12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2)
    products += 7 * 16 * tokens * width + (dit.FREQUENCIES + width) * width + 2 * width**2 + width * 48 * tokens
    assert found.flops == 2 * products
    assert found.attention == {4: depth}


def test_other_sizes_run_and_what_does_not_fit_is_refused(network: DiT) -> None:
    assert network(torch.zeros(1, 3, 8, 24), torch.zeros(1, 4, 8, 24), torch.zeros(1)).shape == (1, 3, 8, 24)
    with pytest.raises(ValueError, match="multiples of 4"):
        network(torch.zeros(1, 3, 8, 6), torch.zeros(1, 4, 8, 6), torch.zeros(1))
    with pytest.raises(ValueError, match="told 2 attributes, and 3 were given"):
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="patch=5 does not divide"):
        DiT(image_size=16, patch=5)
    with pytest.raises(ValueError, match=r"multiple of 4 and of model\.heads=3"):
        DiT(image_size=16, width=64, heads=3)
