"""Low-rank adaptation: a tuned network begins as its base, changes by matrices of that rank, and comes apart again."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab import recipe
from diffusion_lab.networks import lora
from diffusion_lab.networks.unet import UNet

RANK = 3


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    made = UNet(image_size=16, channels=32, multipliers=[1, 2], depth=1, attention=[8], condition_channels=4)
    for parameter in made.parameters():  # its last layers begin as zeros, behind which nothing would be trained
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made


def example(network: UNet) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, *x.shape[1:], generator=generator) for x in network.example())


def trained(network: nn.Module, steps: int = 3) -> nn.Module:
    """A few steps of Adam on what may be trained."""
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        network(*example(network)).square().mean().backward()  # type: ignore[arg-type]
        optimizer.step()
    return network


def test_a_tuned_network_begins_as_its_base(network: UNet) -> None:
    before = network(*example(network))
    lora.adapt(network, RANK)
    assert torch.equal(network(*example(network)), before)


def test_only_matrices_and_kernels_change_and_by_that_rank(network: UNet) -> None:
    base = copy.deepcopy(network.state_dict())
    lora.adapt(network, RANK)
    tuned = recipe.weights(trained(network))
    assert tuned.keys() == base.keys()
    changed = 0
    for name, weight in base.items():
        change = (tuned[name] - weight).detach()
        if weight.ndim < 2 or min(len(weight), weight[0].numel()) <= RANK:
            assert torch.equal(tuned[name], weight), name
        else:
            sizes = torch.linalg.svdvals(change.flatten(1).double())
            assert sizes[RANK] < 1e-6 < 0.1 * sizes[RANK - 1], name  # what is left is rounding
            changed += 1
    assert changed > 10


def test_the_gradients_of_the_factors_follow_from_that_of_the_weight() -> None:
    """dL/dB = s G A^T and dL/dA = s B^T G, where G = dL/dW (the chain rule on W + s B A)."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3, dtype=torch.float64)
    lora.adapt(layer, rank=2, alpha=5)
    change = layer.parametrizations.weight[0]  # type: ignore[index, union-attr]
    change.up.data.normal_()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    weight = layer.weight.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.conv2d(x, weight, layer.bias).sin().sum(), weight)
    layer(x).sin().sum().backward()
    matrix = gradient.flatten(1)
    torch.testing.assert_close(change.up.grad, 2.5 * matrix @ change.down.T)
    torch.testing.assert_close(change.down.grad, 2.5 * change.up.T @ matrix)
    assert layer.bias.grad is None


def test_what_is_saved_computes_the_same(network: UNet) -> None:
    plain = copy.deepcopy(network)
    lora.adapt(network, RANK)
    trained(network)
    plain.load_state_dict(recipe.weights(network))
    torch.testing.assert_close(plain(*example(plain)), network(*example(network)), rtol=1e-5, atol=1e-5)


def test_changes_come_apart_and_together_at_any_strength(network: UNet) -> None:
    base = copy.deepcopy(network.state_dict())
    lora.adapt(network, RANK)
    tuned = recipe.weights(trained(network))
    changes = lora.factors(base, tuned, RANK)
    assert all((up.shape[1], len(down)) == (RANK, RANK) for up, down in changes.values())
    for name, weight in lora.joined(base, changes).items():
        torch.testing.assert_close(weight, tuned[name], rtol=0, atol=1e-6)
    for name, weight in lora.joined(base, changes, strength=0.5).items():
        torch.testing.assert_close(weight, (base[name] + tuned[name]) / 2, rtol=0, atol=1e-6)
    assert all(torch.equal(weight, base[name]) for name, weight in lora.joined(base, changes, strength=0).items())


def test_what_cannot_be_is_refused(network: UNet) -> None:
    base = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="rank must be 1 or more"):
        lora.adapt(network, 0)
    with pytest.raises(ValueError, match="rank=10000 is as large"):
        lora.adapt(network, 10_000)
    bias = next(name for name in base if name.endswith("bias"))
    with pytest.raises(ValueError, match=f"'{bias}' has changed too"):
        lora.factors(base, {**base, bias: base[bias] + 1}, RANK)
    with pytest.raises(ValueError, match="unlike architectures"):
        lora.factors(base, {**base, "more": torch.zeros(1)}, RANK)
    with pytest.raises(ValueError, match="'more' fits no weight"):
        lora.joined(base, {"more": (torch.zeros(1, 1), torch.zeros(1, 1))})
