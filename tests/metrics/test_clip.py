from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_lab.metrics import CLIP, clip
from features import random_state, shown

WIDTH, DEPTH = 128, 3


def random_weights() -> dict[str, Tensor]:
    """Under the names of Hugging Face's CLIPModel, with something of the text half."""
    with torch.device("meta"):
        state = random_state(CLIP(WIDTH, DEPTH, grid=7, patch=32))
    return {f"vision_model.{name}": x for name, x in state.items()} | {"logit_scale": torch.zeros(())}


def written(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, folder / "clip.safetensors")
    return folder / "clip.safetensors"


def test_the_names_are_hugging_faces() -> None:
    names = [name.removeprefix("vision_model.") for name in random_weights() if ".layers." not in name]
    embeddings = ("class_embedding", "patch_embedding.weight", "position_embedding.weight")
    norms = [f"{name}.{kind}" for name in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")]
    assert sorted(names) == sorted([*(f"embeddings.{name}" for name in embeddings), *norms, "logit_scale"])
    first = [name for name in random_weights() if ".layers.0." in name]
    parts = [f"self_attn.{each}_proj" for each in ("q", "k", "v", "out")] + ["layer_norm1", "layer_norm2"]
    parts += ["mlp.fc1", "mlp.fc2"]
    expected = [f"vision_model.encoder.layers.0.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    assert sorted(first) == sorted(expected)


def test_is_torch_s_own_transformer(tmp_path: Path) -> None:
    given = random_weights()
    state = {name.removeprefix("vision_model."): x for name, x in given.items()}
    with torch.no_grad():
        patches = nn.functional.conv2d(shown(), state["embeddings.patch_embedding.weight"], stride=32)
        first = state["embeddings.class_embedding"].expand(2, 1, WIDTH)
        x = (
            torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
            + state["embeddings.position_embedding.weight"]
        )
        x = nn.functional.layer_norm(x, (WIDTH,), state["pre_layrnorm.weight"], state["pre_layrnorm.bias"])
        for i in range(DEPTH):
            layer = nn.TransformerEncoderLayer(
                WIDTH, WIDTH // 64, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
            ).train()  # its other path is fused
            own = f"encoder.layers.{i}."
            block = {name.removeprefix(own): x for name, x in state.items() if name.startswith(own)}
            kinds = ("weight", "bias")
            joined = {
                f"self_attn.in_proj_{kind}": torch.cat([block[f"self_attn.{each}_proj.{kind}"] for each in "qkv"])
                for kind in kinds
            }
            named = {"self_attn.out_proj": "self_attn.out_proj", "linear1": "mlp.fc1", "linear2": "mlp.fc2"}
            named |= {f"norm{k}": f"layer_norm{k}" for k in (1, 2)}
            layer.load_state_dict(
                joined | {f"{one}.{kind}": block[f"{two}.{kind}"] for one, two in named.items() for kind in kinds}
            )
            x = layer(x)
        expected = nn.functional.layer_norm(
            x[:, 0], (WIDTH,), state["post_layernorm.weight"], state["post_layernorm.bias"]
        )
        found = clip(written(tmp_path, given)).token(shown())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_features_are_the_class_token_of_resized_pictures(tmp_path: Path) -> None:
    file = written(tmp_path, random_weights())
    extractor = clip(file)
    images = torch.randint(0, 256, (2, 3, 40, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        features = extractor(images)
    assert features.shape == (2, WIDTH)
    torch.testing.assert_close(features, extractor.token(extractor.resizing(images)))
    quick = clip(file, quick_gelu=True)
    assert (quick(images) - features).abs().max() > 1e-3
    assert quick.name != extractor.name  # which stands in the protocol
    assert len(extractor.digest) == 64


def test_white_is_resized_to_what_clip_calls_white() -> None:
    with torch.device("meta"):
        resizing = CLIP(WIDTH, 1, grid=7, patch=32).resizing
    shown = resizing(torch.full((1, 3, 8, 9), 255, dtype=torch.uint8))
    assert shown.shape == (1, 3, 224, 224)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert shown[0, :, 100, 100].tolist() == pytest.approx([(1 - m) / s for m, s in zip(mean, deviation, strict=True)])
    assert "CLIP's mean" in resizing.words


def test_without_weights_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no CLIP weights at .*none\.safetensors: FD of CLIP needs"):
        clip(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        clip(tmp_path / "bad.safetensors")
    state = random_weights()
    state.pop("vision_model.post_layernorm.bias")
    for broken in (state, {"pos_embed": torch.zeros(1, 5, 8)}):
        with pytest.raises(ValueError, match="other tensors than a CLIP"):
            clip(written(tmp_path, broken))
