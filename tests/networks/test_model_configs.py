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
    """What Hydra would compose: the defaults of the same group, then the file itself."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    merged: dict[str, Any] = {}
    for name in found.pop("defaults", []):
        merged |= options_of(path.with_name(f"{name}.yaml")) if name != "_self_" else found
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
