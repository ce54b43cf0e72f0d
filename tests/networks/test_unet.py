from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab.networks import blocks
from diffusion_lab.networks.blocks import Attention, Upsample, attend, level_embedding
from diffusion_lab.networks.unet import UNet

Awake = Callable[[nn.Module], UNet]


def inputs(unet: UNet, size: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, size, size, generator=generator)
    condition = torch.randn(batch, unet.condition_channels, size, size, generator=generator)
    return x, condition, torch.linspace(3, 900, batch)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("attention", [(), (8,), (8, 4)])
@pytest.mark.parametrize("condition_channels", [0, 3, 4])
@pytest.mark.parametrize("patch", [1, 2])
def test_sizes_attention_and_condition(size, attention, condition_channels, patch):
    wanted = tuple(a for a in attention if size // patch // a in (1, 2, 4))
    unet = UNet(size, 16, (1, 2, 2), 1, wanted, condition_channels=condition_channels, out_channels=6, patch=patch)
    output = unet(*inputs(unet, size))
    assert output.shape == (2, 6, size, size)
    # The last layer starts at zero, so that a network that predicts noise begins with a loss of 1.
    assert output.abs().max() == 0


OPTIONS: list[dict[str, Any]] = [
    {},
    {"scale_shift": False, "rescale": True},
    {"resample_blocks": True, "heads": 2},
    {"attributes": 5, "pad_after": True, "frequency_shift": 1, "norm_eps": 1e-6},
    {"patch": 2, "attention": [8, 4], "checkpointing": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_gradient_reaches_every_parameter(awake: Awake, options: dict[str, Any]):
    unet = awake(UNet(16, 16, (1, 2), 1, **{"attention": [8], "middle_attention": True, **options}))
    attributes = torch.tensor([[0.0, 1.0, torch.nan, 0.5, -1.0]] * 2) if unet.embed_attributes else None
    unet(*inputs(unet, 16), attributes).square().mean().backward()
    still = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("resample_blocks", [False, True])
@pytest.mark.parametrize(("patch", "asked"), [(1, [16, 8]), (2, [8]), (1, [4])])
def test_attention_sits_where_it_was_asked_for(patch: int, asked: list[int], resample_blocks: bool):
    """In pixels: a list of factors that never match left attention out without a word (Janspiry's fault)."""
    unet = UNet(32, 16, (1, 1, 2, 2), 2, asked, resample_blocks=resample_blocks, patch=patch)
    seen: list[int] = []
    for module in unet.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[-1]))
    unet(*inputs(unet, 32))
    assert sorted(set(seen)) == sorted(asked) == sorted(unet.attention_sizes)
    assert len(seen) == 5 * len(asked)  # two residual blocks on the way down, three on the way up


def test_middle_attention_is_one_layer_at_the_coarsest_size():
    unet = UNet(32, 16, (1, 2), 1, middle_attention=True)
    assert unet.attention_sizes == [16]
    assert sum(isinstance(m, Attention) for m in unet.modules()) == 1


def test_attention_that_never_occurs_names_the_sizes_that_do():
    with pytest.raises(ValueError, match=r"attention at \[5\] pixels never occurs: this network works at \[16, 8, 4\]"):
        UNet(32, 16, (1, 2, 2), attention=[8, 5], patch=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 36}, "image_size 36 does not halve 3 times in patches of 1: choose a multiple of 8"),
        ({"attention": [16], "head_width": 24}, "32 channels do not divide into heads of width 24"),
        ({"attention": [16], "heads": 5}, "32 channels do not divide into 5 heads"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        UNet(**{"image_size": 32, "channels": 16, "multipliers": (1, 2, 2, 2), **options})


def test_a_picture_that_does_not_halve_is_refused():
    unet = UNet(16, 16, (1, 2))
    with pytest.raises(ValueError, match=r"multiples of 2, got \(15, 16\)"):
        unet(torch.zeros(1, 3, 15, 16), torch.zeros(1, 3, 15, 16), torch.zeros(1))


def test_checkpointing_changes_memory_not_gradients(awake: Awake):
    gradients = []
    for checkpointing in (False, True):
        unet = awake(UNet(16, 16, (1, 2), 1, [8], True, checkpointing=checkpointing))
        unet(*inputs(unet, 16)).square().mean().backward()
        gradients.append([p.grad for p in unet.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize("resample_blocks", [False, True])
def test_channels_last_is_the_same_network(awake: Awake, resample_blocks: bool):
    kinds = {"attention": [8], "middle_attention": True, "resample_blocks": resample_blocks}
    first, last = (awake(UNet(16, 16, (1, 2), 1, channels_last=flag, **kinds)) for flag in (False, True))
    assert last.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(*inputs(last, 16)), first(*inputs(first, 16)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_the_whole_network_in_another_precision(awake: Awake, dtype: torch.dtype):
    unet = awake(UNet(16, 16, (1, 2), 1, [8], attributes=2))
    x, condition, time = inputs(unet, 16)
    attributes = torch.tensor([[1.0, torch.nan]] * 2)
    expected = unet(x, condition, time, attributes)
    found = unet.to(dtype)(x.to(dtype), condition.to(dtype), time, attributes)
    assert found.dtype == dtype
    error = (found - expected).abs().max() / expected.std()
    assert error < (0.1 if dtype == torch.bfloat16 else 1e-4)


def test_patches_become_pixels_again_where_they_were():
    unet = UNet(8, 12, (1,), 1, patch=2, condition_channels=0)
    # The way in and the way out as identities: what is left are the two rearrangements.
    for conv in (unet.encoder.conv_in, unet.conv_out):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    x = torch.arange(3 * 8 * 8.0).reshape(1, 3, 8, 8)
    patches = unet.encoder.conv_in(nn.functional.pixel_unshuffle(x, 2))
    assert torch.equal(nn.functional.pixel_shuffle(unet.conv_out(patches), 2), x)


def test_attributes_that_are_not_said_do_not_matter(awake: Awake):
    unet = awake(UNet(16, 16, (1, 2), 1, attributes=3))
    arguments = inputs(unet, 16)
    said = unet(*arguments, torch.tensor([[1.0, torch.nan, 0.0]]).expand(2, 3))
    assert not torch.allclose(said, unet(*arguments, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3)))
    assert not torch.allclose(said, unet(*arguments))


@pytest.mark.parametrize("pixels", [4, 256, 257])
def test_attention_written_out_is_the_fused_one(pixels: int):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, pixels, 8, generator=generator).bfloat16().requires_grad_() for _ in range(3))
    exact = [tensor.detach().double().requires_grad_() for tensor in (q, k, v)]
    expected = nn.functional.scaled_dot_product_attention(*exact)
    found = attend(q, k, v)
    assert (type(found.grad_fn).__name__ == "UnsafeViewBackward0") == (pixels <= blocks.WRITTEN_OUT)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.02)
    gradients = torch.autograd.grad(found.square().sum(), (q, k, v))
    wanted = torch.autograd.grad(expected.square().sum(), exact)
    for one, other in zip(gradients, wanted, strict=True):
        assert (one.double() - other).norm() < 0.02 * other.norm()


def test_the_embedding_tells_neighbouring_times_apart():
    steps = level_embedding(torch.arange(1001.0), 128)
    assert (steps[1:] - steps[:-1]).norm(dim=1).min() > 0.5
    shifted = level_embedding(torch.tensor([1.0]), 8, frequency_shift=1)
    torch.testing.assert_close(shifted[0, 7].double(), torch.tensor(1e-4).double().sin(), rtol=1e-5, atol=0)


def test_upsampling_repeats_pixels():
    up = Upsample(3)
    nn.init.dirac_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(up(x)[:, :, ::2, 1::2], x)


def test_rescale_keeps_the_variance_of_a_sum():
    sums = [blocks.Blocks(8, rescale=rescale).residual(32, 32) for rescale in (False, True)]
    x, embedding = torch.randn(1, 32, 4, 4), torch.zeros(1, 8)
    torch.testing.assert_close(sums[0](x, embedding), x)  # a residual block starts as its shortcut
    torch.testing.assert_close(sums[1](x, embedding), x / 2**0.5)


def test_saying_nothing_is_saying_that_no_attribute_is_known(awake):
    unet = awake(UNet(16, 32, (1, 1), 1, attributes=3, condition_channels=0))
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    unsaid = torch.full((2, 3), torch.nan)
    assert torch.equal(unet(x, x[:, :0], time), unet(x, x[:, :0], time, unsaid))
    assert not torch.allclose(unet(x, x[:, :0], time), unet(x, x[:, :0], time, torch.zeros(2, 3)))
    with pytest.raises(ValueError, match=r"told 3 attributes, and 2 were given: train it with \+\+model\.attributes=2"):
        unet(x, x[:, :0], time, torch.zeros(2, 2))
