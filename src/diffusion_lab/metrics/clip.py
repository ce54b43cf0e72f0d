"""CLIP's vision transformer (Radford et al. 2021): pictures to the features that dgm-eval calls CLIP.

Tensors bear the names of the files of Hugging Face's ``CLIPModel``, whose text half is not read.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffusion_lab.metrics.resizing import dgm_eval_clip

_HEAD = 64  # channels of an attention head, in ViT-B and ViT-L
_PREFIX = "vision_model."
_LEFT_OUT = "embeddings.position_ids"  # the numbers from 0 on, in older files
_WAYS_ON = (
    "FD of CLIP needs a ViT-B or ViT-L as a safetensors file of Hugging Face's CLIPModel "
    "(features@fd.extractor=clip fd.extractor.weights=FILE.safetensors)"
)


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (part.unflatten(2, (-1, _HEAD)).transpose(1, 2) for part in parts)  # (N, heads, tokens, 64) each
        mixed: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class _Block(nn.Module):
    def __init__(self, width: int, quick_gelu: bool) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = _Attention(width)
        parts = {
            "fc1": nn.Linear(width, 4 * width),
            "bend": _QuickGELU() if quick_gelu else nn.GELU(),
            "fc2": nn.Linear(4 * width, width),
        }
        self.mlp = nn.Sequential(OrderedDict[str, nn.Module](parts))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        made: Tensor = x + self.mlp(self.layer_norm2(x))
        return made


class CLIP(nn.Module):
    """Maps uint8 pictures (N, 3, H, W) of any size to CLIP's class token after the last norm, (N, width).

    Args:
        width: of a token, a multiple of 64: 768 and 1024 in ViT-B and ViT-L.
        depth: number of blocks: 12 and 24.
        grid: patches on each side.
        patch: side of a patch, in pixels.
        quick_gelu: whether blocks bend by ``x sigmoid(1.702 x)``, as OpenAI's own weights want it.

    Use `clip` for one with weights: a bare instance holds random ones, which measure nothing.
    """

    def __init__(self, width: int, depth: int, grid: int, patch: int, quick_gelu: bool = False) -> None:
        super().__init__()
        if width % _HEAD:
            raise ValueError(f"CLIP's width is a multiple of {_HEAD}, got {width}.")
        bend = "QuickGELU" if quick_gelu else "GELU"
        self.name = f"CLIP ViT, {depth} blocks of {width}, patches of {patch}, {bend}, class token"
        self.digest = ""  # of the weights; `clip` sets it
        self.resizing = dgm_eval_clip(grid * patch)
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.zeros(width))
        self.embeddings.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.embeddings.position_embedding = nn.Embedding(1 + grid**2, width)
        self.pre_layrnorm = nn.LayerNorm(width)  # spelt as theirs
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_Block(width, quick_gelu) for _ in range(depth))
        self.post_layernorm = nn.LayerNorm(width)

    @property
    def resize(self) -> str:
        """How pictures reach the transformer, in words, to stand beside each number."""
        return self.resizing.words

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features, float32 (N, width), of uint8 pictures (N, 3, H, W); autocast is switched off."""
        with torch.autocast(images.device.type, enabled=False):
            return self.token(self.resizing(images))

    def token(self, x: Tensor) -> Tensor:
        """The class token, (N, width), of pictures as the resizing made them; not projected to where texts are."""
        first, positions = self.embeddings.class_embedding, self.embeddings.position_embedding
        assert isinstance(first, Tensor)
        assert isinstance(positions, nn.Embedding)
        patches = self.embeddings.get_submodule("patch_embedding")(x).flatten(2).transpose(1, 2)
        x = torch.cat([first.expand(len(x), 1, -1), patches], dim=1) + positions.weight  # (N, 1 + patches, width)
        x = self.pre_layrnorm(x)
        for block in self.encoder.get_submodule("layers").children():
            x = block(x)
        token: Tensor = self.post_layernorm(x[:, 0])
        return token


def clip(weights: Path | str, quick_gelu: bool = False) -> CLIP:
    """The transformer of a file of weights, frozen, on the CPU; its size is seen from the tensors.

    Args:
        weights: a safetensors file of Hugging Face's ``CLIPModel`` or ``CLIPVisionModel``.
        quick_gelu: True for OpenAI's own weights; no file says it.

    FileNotFoundError where there is no such file, ValueError where it holds something else.
    """
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"Found no CLIP weights at {path}: {_WAYS_ON}.")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118
            state = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}): {_WAYS_ON}.") from error
    state.pop(_LEFT_OUT, None)
    try:
        width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
        grid = round((len(state["embeddings.position_embedding.weight"]) - 1) ** 0.5)
        depth = len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")})
        with torch.device("meta"):
            extractor = CLIP(width, depth, grid, patch, quick_gelu)
        extractor.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} holds other tensors than a CLIP: {_WAYS_ON}.") from error
    with path.open("rb") as content:
        extractor.digest = hashlib.file_digest(content, "sha256").hexdigest()
    return extractor.float().eval().requires_grad_(False)
