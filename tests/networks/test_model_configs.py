"""Every conf/model builds at the sizes that it is meant for, with attention where it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffusion_lab.networks.summary import summarise
from diffusion_lab.networks.unet import UNet

MODELS = Path(__file__).parents[2] / "conf" / "model"
SIZES = {"adm64": [64], "ddpm_celeba64": [64], "palette256": [256]}


def options_of(path: Path) -> dict[str, Any]:
    """What Hydra would compose: the defaults, also by their whole path (``/model/dit@_here_``), then the file."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    merged: dict[str, Any] = {}
    for name in found.pop("defaults", []):
        folder = MODELS.parent if name.startswith("/") else path.parent
        other = folder / f"{name.strip('/').removesuffix('@_here_')}.yaml"
        merged |= options_of(other) if name != "_self_" else found
    return merged or found


@pytest.mark.parametrize("path", sorted(MODELS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_builds(path: Path):
    options = options_of(path)
    if not options.pop("_target_").endswith(".UNet"):
        pytest.skip("not a UNet")
    ablation = path.parent.name == "ablation"
    for size in SIZES.get(path.stem, [32, 64, 128] if ablation else [32, 64]):
        # The small ones serve with patches and, at 32 px, without.
        for patch in [options.get("patch", 1)] if ablation or path.stem in SIZES else [1, 2][size > 32 :]:
            with torch.device("meta"):
                unet = UNet(**{**options, "image_size": size, "patch": patch})
            assert set(options["attention"]) <= set(unet.attention_sizes)
            assert set(summarise(unet).attention) == set(unet.attention_sizes)


ABLATION = {path.stem: options_of(path) for path in sorted((MODELS / "ablation").glob("*.yaml"))}


@pytest.mark.parametrize(
    ("variant", "other", "changes"),
    [
        ("heads", "base", {"heads": 4}),
        ("attention", "base", {"attention": [32, 16, 8]}),
        ("biggan", "base", {"resample_blocks": True}),
        ("rescale", "base", {"rescale": True}),
        ("deep", "base", {"channels": 128, "depth": 4}),
        ("all", "base", {"heads": 4, "attention": [32, 16, 8], "resample_blocks": True}),
        ("addition", "adagn", {"scale_shift": False}),
    ],
)
def test_an_ablation_changes_what_it_says_and_nothing_else(variant: str, other: str, changes: dict[str, Any]):
    """Dhariwal & Nichol 2021, tables 1 and 3."""
    assert ABLATION[variant] == ABLATION[other] | changes
    assert ABLATION[other] != ABLATION[variant]


@pytest.mark.parametrize("variant", ABLATION)
def test_every_variant_of_the_ablation_learns(variant: str):
    """Narrow, and at 32 px; what a GPU is needed for is the FID."""
    torch.manual_seed(0)
    options = {key: value for key, value in ABLATION[variant].items() if key != "_target_"}
    width = {"head_width": 8} if "head_width" in options else {}
    unet = UNet(**options | width | {"image_size": 32, "channels": 16, "out_channels": 3})
    x = torch.randn(2, 3, 32, 32)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = (unet(x, x, torch.tensor([3.0, 700.0])) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
