import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from torch import nn

from diffusion_lab.networks.summary import summarise, table
from diffusion_lab.networks.unet import UNet


def meta(**options: Any) -> UNet:
    with torch.device("meta"):
        return UNet(**options)


@pytest.fixture
def published(pytestconfig: pytest.Config) -> Callable[..., UNet]:
    def build(name: str, image_size: int, **changes: Any) -> UNet:
        options = yaml.safe_load((pytestconfig.rootpath / "conf" / "model" / f"{name}.yaml").read_text())
        del options["_target_"]
        return meta(**{**options, "image_size": image_size, **changes})

    return build


def test_flops_of_a_network_small_enough_to_count_by_hand():
    unet = UNet(8, 16, (1,), 1, condition_channels=0)
    pixels, embedding = 64, 64
    convolutions = 9 * (3 * 16 + 16 * 3)  # in, out
    # One block on the way down, two in the middle, two on the way up with an input twice as wide and a shortcut.
    convolutions += 9 * (5 * 16 * 16 + 3 * 16 * 16 + 2 * 32 * 16)
    convolutions += 2 * 32 * 16
    linear = 16 * embedding + embedding * embedding + 5 * embedding * 32
    assert summarise(unet).flops == 2 * (pixels * convolutions + linear)


def test_attention_flops_and_places():
    networks = (meta(image_size=16, channels=32, multipliers=(1, 1), attention=sizes) for sizes in ([], [8]))
    without, attended = map(summarise, networks)
    assert (dict(without.attention), dict(attended.attention)) == ({}, {8: 5})
    per_layer = 2 * (64 * 32 * 32 * 4 + 2 * 64 * 64 * 32)  # four projections, q k^T, times v
    assert attended.flops - without.flops == 5 * per_layer


def test_activations_are_what_autograd_keeps(awake: Callable[[nn.Module], UNet]):
    options: dict[str, Any] = {"image_size": 16, "channels": 32, "multipliers": (1, 2), "depth": 1}
    unet = awake(UNet(**options, channels_last=False))  # GroupNorm and SiLU in one keep a third less
    sizes: dict[int, int] = {}
    weights = {p.data_ptr() for p in unet.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.zeros(1, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        kept = unet(x, x, torch.zeros(1))  # alive until counted, so that no address is used twice
    assert kept.requires_grad
    found = summarise(unet).activations
    assert abs(found / sum(sizes.values()) - 1) < 0.15  # the CPU kernels keep a little more
    assert summarise(UNet(**options, checkpointing=True)).activations < 0.6 * found


def test_palette_has_552_million_parameters(published: Callable[..., UNet]):
    found = summarise(published("palette256", 256))
    assert found.parameters == 552_814_083
    # 553.8 million, ADM's at 256 px, has 1,000 classes of 1,024 numbers and a learned variance, but no known pixels.
    classes, variance, known = 1000 * 1024, 3 * (256 * 9 + 1), 3 * 9 * 256
    assert found.parameters + classes + variance - known == 553_838_086
    assert dict(found.attention) == {32: 5, 16: 5, 8: 6}
    assert 2.2e12 < found.flops < 2.3e12
    checkpointed = summarise(published("palette256", 256, checkpointing=True))
    assert checkpointed.activations < 0.25 * found.activations


@pytest.mark.parametrize(
    ("name", "parameters", "attention"),
    [
        # Published: 296 million with 1,000 classes, and without known pixels.
        ("adm64", 295_141_638, {32: 7, 16: 7, 8: 8}),
        # Published: 78.7 million, without known pixels.
        ("ddpm_celeba64", 78_700_803 + 3 * 9 * 128, {16: 5, 4: 1}),
    ],
)
def test_published_networks(published: Callable[..., UNet], name: str, parameters: int, attention: dict[int, int]):
    found = summarise(published(name, 64))
    assert dict(found.attention) == attention
    assert found.parameters == parameters


def test_the_table_names_everything():
    unet = meta(image_size=32, channels=32, attention=[16], middle_attention=True, head_width=32)
    console = Console(width=250, file=io.StringIO(), record=True)
    console.print(table(unet, batch_size=8))
    text = console.export_text()
    assert f"{summarise(unet).parameters:,}" in text
    assert "5 at 16 px, 1 at 8 px" in text
    assert "for 8 pictures" in text
