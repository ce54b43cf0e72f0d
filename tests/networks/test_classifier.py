from collections.abc import Callable

import pytest
import torch
from torch import nn

from diffusion_lab.networks.classifier import AttentionPool, Classifier
from diffusion_lab.networks.unet import UNet


def test_it_is_the_encoder_of_a_unet():
    classifier = Classifier(16, 5, 32, (1, 2), 2, [8])
    unet = UNet(16, 32, (1, 2), 2, [8], True, 32, condition_channels=0, resample_blocks=True)
    shapes = {name: p.shape for name, p in classifier.encoder.named_parameters()}
    assert shapes == {name: p.shape for name, p in unet.encoder.named_parameters()}


def test_pooling_is_attention_of_the_mean():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 3, 3, generator=generator)
    pool = AttentionPool(8, 3, heads=2, outputs=4)
    # Written out: one token for the mean, one for each pixel, every one knowing its place.
    tokens = torch.cat([x.flatten(2).mean(2)[:, :, None], x.flatten(2)], dim=2).transpose(1, 2) + pool.positions
    q, k, v = pool.qkv(tokens).chunk(3, dim=2)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        weight = torch.softmax(q[:, :1, h] @ k[:, :, h].transpose(1, 2) / 2, dim=2)
        heads.append((weight @ v[:, :, h])[:, 0])
    torch.testing.assert_close(pool(x), pool.out(torch.cat(heads, dim=1)))


def test_gradient_reaches_every_parameter_and_the_picture(awake: Callable[[nn.Module], Classifier]):
    classifier = awake(Classifier(16, 5, 32, (1, 2), 1, [8]))
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    classifier(x, torch.tensor([3.0, 700.0])).square().sum().backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_it_learns_to_tell_bright_from_dark_under_noise():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    classifier = Classifier(8, 1, 16, (1, 2), 1, head_width=16)
    optimizer = torch.optim.Adam(classifier.parameters(), 3e-3)

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        bright = torch.randint(2, (32, 1), generator=generator).float()
        gamma = torch.rand(32, generator=generator) * 0.8 + 0.2
        clean = (bright[:, :, None, None] - 0.5).expand(32, 3, 8, 8)
        eps = torch.randn(32, 3, 8, 8, generator=generator)
        x = gamma.sqrt().view(-1, 1, 1, 1) * clean + (1 - gamma).sqrt().view(-1, 1, 1, 1) * eps
        return x, 1000 * (1 - gamma), bright

    for _ in range(30):
        x, time, bright = batch()
        loss = nn.functional.binary_cross_entropy_with_logits(classifier(x, time), bright)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, time, bright = batch()
    assert ((classifier(x, time) > 0) == bright.bool()).float().mean() > 0.9


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"needs pictures of 16 pixels, got \(32, 32\)"):
        Classifier(16, 5)(torch.zeros(1, 3, 32, 32), torch.zeros(1))
