"""The one operation says what PyTorch's three say."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.networks import normed as module
from diffusion_lab.networks.normed import kernel, normed
from diffusion_lab.networks.unet import UNet

Awake = Callable[[nn.Module], nn.Module]
needs_kernel = pytest.mark.skipif(kernel() is None, reason="there is no C++ compiler")


@pytest.fixture
def fresh() -> Iterator[None]:
    """No kernel is known yet, nor afterwards."""
    kernel.cache_clear()
    yield
    kernel.cache_clear()


def inputs(dtype: torch.dtype, mean: float = 0.0, pixels: tuple[int, int] = (9, 7)) -> list[Tensor]:
    """x (channels last), scale and shift, weight and bias."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((3, 12, *pixels), (3, 24), (12,), (12,))
    x, embedding, weight, bias = (torch.randn(shape, dtype=torch.float64, generator=draw) for shape in shapes)
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    x = (x + mean).to(dtype).contiguous(memory_format=torch.channels_last)
    return [each.requires_grad_() for each in (x, embedding.to(dtype), weight.to(parameters), bias.to(parameters))]


def both(given: list[Tensor], told: bool, silu: bool, layout: torch.memory_format) -> list[Tensor]:
    """The output, and a gradient for each input."""
    x, embedding, weight, bias = given
    norm = nn.GroupNorm(4, 12).to(weight.dtype)
    norm.weight, norm.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    scale, shift = embedding.chunk(2, dim=1) if told else (None, None)
    y = normed(norm, x.contiguous(memory_format=layout), scale, shift, silu)
    wanted = [x, norm.weight, norm.bias, *([embedding] if told else [])]
    return [y, *torch.autograd.grad(y.float().cos().sum() if y.dtype == torch.bfloat16 else y.cos().sum(), wanted)]


@needs_kernel
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_forward_and_gradients_are_those_of_the_three(dtype: torch.dtype, within: float, told: bool, silu: bool):
    given = inputs(dtype)
    one, three = (both(given, told, silu, layout) for layout in (torch.channels_last, torch.contiguous_format))
    for found, expected in zip(one, three, strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).abs().max() <= within * expected.abs().max()


@needs_kernel
@pytest.mark.parametrize("told", [True, False])
def test_bfloat16_is_rounded_once(told: bool):
    """The three round after each; the one is as near to the truth as bfloat16 allows."""
    given = inputs(torch.bfloat16)
    exact = both([each.detach().double().requires_grad_() for each in given], told, True, torch.contiguous_format)
    one, three = (both(given, told, True, layout) for layout in (torch.channels_last, torch.contiguous_format))
    assert torch.allclose(one[0].double(), exact[0], rtol=2**-8, atol=1e-6)
    for found, other, true in zip(one, three, exact, strict=True):
        assert (found - true).square().sum() <= 1.1 * (other - true).square().sum()


@needs_kernel
def test_a_mean_far_from_zero_costs_no_digits():
    given = inputs(torch.float32, mean=1000.0, pixels=(64, 33))
    exact = both([each.detach().double().requires_grad_() for each in given], True, True, torch.contiguous_format)[0]
    assert (both(given, True, True, torch.channels_last)[0] - exact).abs().max() < 1e-3


@needs_kernel
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_is_seen_in_its_picture_alone(dtype: torch.dtype, value: float):
    given = inputs(dtype)
    with torch.no_grad():
        given[0][1, 5, 2, 3] = value
    y = both(given, True, True, torch.channels_last)[0]
    assert y[1].isnan().any()
    assert y[[0, 2]].isfinite().all()


@needs_kernel
@pytest.mark.parametrize("silu", [True, False])
def test_gradients_of_first_and_second_order(silu: bool):
    norm = nn.GroupNorm(2, 4).double()
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 3, 2), (4,), (4,), (2, 4), (2, 4))
    given = [torch.randn(shape, dtype=torch.float64, generator=draw).requires_grad_() for shape in shapes]

    def call(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        made: Tensor = module._Normed.apply(x, weight, bias, scale, shift, 2, norm.eps, silu)
        return made

    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


@needs_kernel
def test_neither_threads_nor_company_change_a_bit():
    given, threads = inputs(torch.float32), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = both(given, True, True, torch.channels_last)
        torch.set_num_threads(3)
        three = both(given, True, True, torch.channels_last)
        alone = both(
            [given[0][1:2].detach().requires_grad_(), given[1][1:2].detach().requires_grad_(), *given[2:]],
            True,
            True,
            torch.channels_last,
        )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    assert torch.equal(alone[0][0], one[0][1])
    assert torch.equal(alone[1][0], one[1][1])


@needs_kernel
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_takes_it_of_itself(awake: Awake, monkeypatch: pytest.MonkeyPatch, autocast: bool, scale_shift: bool):
    kinds = {"attention": [8], "resample_blocks": True, "scale_shift": scale_shift}
    first, last = (awake(UNet(16, 16, (1, 2), 1, channels_last=flag, **kinds)) for flag in (False, None))
    last.load_state_dict(first.state_dict())
    draw = torch.Generator().manual_seed(1)
    given = torch.randn(2, 3, 16, 16, generator=draw), torch.randn(2, 3, 16, 16, generator=draw), torch.ones(2)
    seen: list[int] = []
    call = module._call
    monkeypatch.setattr(module, "_call", lambda *arguments: (seen.append(1), call(*arguments)))
    found = []
    for network, low in ((first, False), (first, autocast), (last, autocast)):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = network(*given)
        found.append([y, *torch.autograd.grad(y.float().square().mean(), list(network.parameters()))])
        assert bool(seen) is (network is last)
    norms = sum(isinstance(layer, nn.GroupNorm) for layer in last.modules())
    assert len(seen) == 2 * norms  # there and back: none is left to the three
    assert found[2][0].is_contiguous()
    truth, three, one = (torch.cat([each.flatten().float() for each in made]) for made in found)
    assert (one - truth).norm() <= (1.2 * (three - truth).norm() if autocast else 1e-5 * truth.norm())


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_the_three_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    assert kernel() is None
    assert "no-such-compiler" in caplog.text
    x, norm = inputs(torch.float32)[0], nn.GroupNorm(4, 12)
    assert torch.equal(normed(norm, x), F.silu(norm(x)))


@needs_kernel
@pytest.mark.usefixtures("fresh")
def test_it_is_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands: list[list[str]] = []
    run = subprocess.run

    def watched(command: list[str], **options: object) -> object:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    for _ in range(2):
        assert kernel() is not None
        kernel.cache_clear()
    assert ["-o" in command for command in commands] == [False, True, False]
    assert [path.name[:7] for path in (tmp_path / "diffusion_lab").iterdir()] == ["normed-"]
