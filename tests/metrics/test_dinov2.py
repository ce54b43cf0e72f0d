from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_lab.metrics import DINOv2, dinov2
from features import random_state, shown

WIDTH, DEPTH = 128, 3


def random_weights(grid: int = 16) -> dict[str, Tensor]:
    """Under the authors' names."""
    with torch.device("meta"):
        return random_state(DINOv2(WIDTH, DEPTH, grid))


def written(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, folder / "dinov2.safetensors")
    return folder / "dinov2.safetensors"


def test_the_names_are_the_authors() -> None:
    names = [name for name in random_weights() if not name.startswith("blocks.") or name.startswith("blocks.1.")]
    assert sorted(names) == sorted(
        ["cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias"]
        + [f"blocks.1.{part}.{kind}" for part in ("norm1", "norm2") for kind in ("weight", "bias")]
        + [f"blocks.1.attn.{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias")]
        + [f"blocks.1.mlp.{part}.{kind}" for part in ("fc1", "fc2") for kind in ("weight", "bias")]
        + ["blocks.1.ls1.gamma", "blocks.1.ls2.gamma", "norm.weight", "norm.bias"]
    )


def test_is_torch_s_own_transformer(tmp_path: Path) -> None:
    """Whose layers have no scales: these are folded into the layers before them."""
    state = random_weights()
    with torch.no_grad():
        convolved = nn.functional.conv2d(
            shown(), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14
        )
        patches = convolved.flatten(2).transpose(1, 2)
        x = torch.cat([state["cls_token"].expand(2, 1, WIDTH), patches], dim=1) + state["pos_embed"]
        for i in range(DEPTH):
            layer = nn.TransformerEncoderLayer(
                WIDTH, WIDTH // 64, 4 * WIDTH, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
            ).train()  # its other path is fused
            block = {
                name.removeprefix(f"blocks.{i}."): x for name, x in state.items() if name.startswith(f"blocks.{i}.")
            }
            one, two = block.pop("ls1.gamma"), block.pop("ls2.gamma")
            layer.load_state_dict(
                {
                    "self_attn.in_proj_weight": block["attn.qkv.weight"],
                    "self_attn.in_proj_bias": block["attn.qkv.bias"],
                    "self_attn.out_proj.weight": block["attn.proj.weight"] * one[:, None],
                    "self_attn.out_proj.bias": block["attn.proj.bias"] * one,
                    "linear1.weight": block["mlp.fc1.weight"],
                    "linear1.bias": block["mlp.fc1.bias"],
                    "linear2.weight": block["mlp.fc2.weight"] * two[:, None],
                    "linear2.bias": block["mlp.fc2.bias"] * two,
                    **{f"norm{k}.{kind}": block[f"norm{k}.{kind}"] for k in (1, 2) for kind in ("weight", "bias")},
                }
            )
            x = layer(x)
        expected = nn.functional.layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
        found = dinov2(written(tmp_path, state)).tokens(shown())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found[0, 0] - found[1, 0]).abs().max() > 1e-3


def cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with the slope of -3/4 that torch has."""
    near = 1.25 * distance**3 - 2.25 * distance**2 + 1
    far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def test_positions_of_another_grid_are_read_between_with_a_tenth_of_a_patch() -> None:
    """Patch i of 16 reads its position at (i + 1/2) 37 / 16.1 - 1/2 of 37."""
    model = DINOv2(64, 1)
    values = torch.randn(37, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.pos_embed[0, 1:, 0] = values.expand(37, 37).flatten()  # to the right
        model.pos_embed[0, 1:, 1] = values[:, None].expand(37, 37).flatten()  # downwards
        model.pos_embed[0, 0, 0] = 7
        found = model.positions(16)
        assert torch.equal(model.positions(37), model.pos_embed)
    assert found.shape == (1, 257, 64)
    assert found[0, 0, 0] == 7
    at = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    expected = cubic((at[:, None] - torch.arange(37)).abs()) @ values
    patches = found[0, 1:].unflatten(0, (16, 16))
    torch.testing.assert_close(patches[8, 1:-1, 0], expected[1:-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(patches[1:-1, 8, 1], expected[1:-1], rtol=1e-4, atol=1e-5)


def test_features_are_the_class_token_of_resized_pictures(tmp_path: Path) -> None:
    extractor = dinov2(written(tmp_path, random_weights(grid=37)))
    images = torch.randint(0, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        features = extractor(images)
    assert features.shape == (2, WIDTH)
    torch.testing.assert_close(features, extractor.tokens(extractor.resizing(images))[:, 0])
    assert "as dgm-eval" in extractor.resize
    assert len(extractor.digest) == 64


def test_without_weights_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no DINOv2 weights at .*none\.safetensors: FD needs the weights"):
        dinov2(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        dinov2(tmp_path / "bad.safetensors")
    state = random_weights()
    for broken in ({**state, "register_tokens": torch.zeros(1, 4, WIDTH)}, {"pos_embed": torch.zeros(1, 5, 8)}):
        with pytest.raises(ValueError, match="other tensors than a DINOv2"):
            dinov2(written(tmp_path, broken))
