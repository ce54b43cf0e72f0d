"""transformers' vision models against ours with the same tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion_lab.metrics import CLIP, DINOv2, clip, dinov2
from features import random_state, shown

transformers = pytest.importorskip("transformers", minversion="5.24")  # whose names these are

WIDTH, DEPTH = 128, 3


def test_dinov2(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = random_state(DINOv2(WIDTH, DEPTH, grid=16))
    config = transformers.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=WIDTH // 64, image_size=224, patch_size=14
    )
    model: Any = transformers.Dinov2Model(config).eval()
    theirs = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": state["mask_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        **{
            f"embeddings.patch_embeddings.projection.{kind}": state[f"patch_embed.proj.{kind}"]
            for kind in ("weight", "bias")
        },
        **{f"layernorm.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")},
    }
    for i in range(DEPTH):
        ours, layer = f"blocks.{i}", f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            parts = state[f"{ours}.attn.qkv.{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                theirs[f"{layer}.attention.{name}.{kind}"] = part
            theirs[f"{layer}.attention.o_proj.{kind}"] = state[f"{ours}.attn.proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                theirs[f"{layer}.{name}.{kind}"] = state[f"{ours}.{name}.{kind}"]
        for k in (1, 2):
            theirs[f"{layer}.layer_scale{k}.lambda1"] = state[f"{ours}.ls{k}.gamma"]
    model.load_state_dict(theirs)
    save_file(state, tmp_path / "dinov2.safetensors")
    with torch.no_grad():
        expected = model(shown()).last_hidden_state
        found = dinov2(tmp_path / "dinov2.safetensors").tokens(shown())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("patch", [14, 32])
def test_clip(patch: int, act: str, tmp_path: Path) -> None:
    """A file of theirs is read as it is, with the text half that stands beside it."""
    size: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": WIDTH // 64}
    vision = {**size, "intermediate_size": 4 * WIDTH, "image_size": 224, "patch_size": patch, "hidden_act": act}
    config = transformers.CLIPConfig(vision_config=vision, text_config={**size, "intermediate_size": WIDTH})
    model: Any = transformers.CLIPModel(config).eval()
    model.load_state_dict(random_state(model), strict=True)
    model.save_pretrained(tmp_path)
    extractor = clip(tmp_path / "model.safetensors", quick_gelu=act == "quick_gelu")
    assert isinstance(extractor, CLIP)
    with torch.no_grad():
        expected: Tensor = model.vision_model(shown()).pooler_output
        torch.testing.assert_close(extractor.token(shown()), expected, rtol=1e-4, atol=1e-4)
