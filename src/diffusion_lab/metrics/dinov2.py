"""DINOv2's vision transformer (Oquab et al. 2023): pictures to the features in which people's judgement is nearest.

Stein et al. (2023) found that Inception's features like GANs better than people do, and DINOv2's do not. The tensors
bear the names of its authors' files, so that ``dinov2_vitl14_pretrain.pth``, saved as safetensors, is read as it is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion_lab.metrics.resizing import dgm_eval

_HEAD = 64  # channels of an attention head, in every size of DINOv2
_SHOWN = 224  # pixels
_WAYS_ON = (
    "FD needs the weights of a DINOv2 without registers, up to ViT-L, under its authors' names and as safetensors "
    "(fd.extractor.weights=FILE.safetensors); leave it out, and there is no FD"
)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, -1, _HEAD)).permute(2, 0, 3, 1, 4)  # (B, heads, tokens, 64) each
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return made


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width)
        self.ls1 = _Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Perceptron(width, hidden)
        self.ls2 = _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        made: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return made


class DINOv2(nn.Module):
    """Maps uint8 pictures (N, 3, H, W) of any size to DINOv2's class token after the last norm, (N, width).

    Args:
        width: of a token, a multiple of 64: 384, 768 and 1024 in ViT-S, B and L.
        depth: number of blocks: 12, 12 and 24.
        grid: patches on each side for which there are positions; 37 in the authors' files.
        patch: side of a patch, in pixels.
        hidden: width within a block's perceptron; four times a token's.

    Use `dinov2` for one with weights: a bare instance holds random ones, which measure nothing.
    """

    def __init__(self, width: int, depth: int, grid: int = 37, patch: int = 14, hidden: int | None = None) -> None:
        super().__init__()
        if width % _HEAD:
            raise ValueError(f"DINOv2's width is a multiple of {_HEAD}, got {width}.")
        self.name = f"DINOv2 ViT, {depth} blocks of {width}, class token"
        self.digest = ""  # of the weights; `dinov2` sets it
        self.resizing = dgm_eval(_SHOWN)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of their training; here it lies idle
        self.blocks = nn.ModuleList(_Block(width, hidden or 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @property
    def resize(self) -> str:
        """How pictures reach the transformer, in words, to stand beside each number."""
        return self.resizing.words

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features, float32 (N, width), of uint8 pictures (N, 3, H, W); autocast is switched off."""
        with torch.autocast(images.device.type, enabled=False):
            return self.tokens(self.resizing(images))[:, 0]

    def tokens(self, x: Tensor) -> Tensor:
        """All tokens after the last norm, (N, 1 + patches, width), of pictures as the resizing made them."""
        patches = self.patch_embed["proj"](x)  # (N, width, rows, rows)
        rows = patches.shape[-1]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(rows)
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed

    def positions(self, rows: int) -> Tensor:
        """Position embeddings, (1, 1 + rows^2, width), for so many patches on each side."""
        grid = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if grid == rows:
            return self.pos_embed
        of_patches = self.pos_embed[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        # The tenth of a patch is theirs, and moves every position a little: without it features differ.
        scale = (rows + 0.1) / grid
        of_patches = F.interpolate(of_patches, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], of_patches.flatten(2).transpose(1, 2)], dim=1)


def dinov2(weights: Path | str) -> DINOv2:
    """The transformer of a file of weights, frozen, on the CPU; its size is seen from the tensors.

    Args:
        weights: a safetensors file under the authors' names.

    FileNotFoundError where there is no such file, ValueError where it holds something else.
    """
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"Found no DINOv2 weights at {path}: {_WAYS_ON}.")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}): {_WAYS_ON}.") from error
    try:
        grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
        depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        with torch.device("meta"):
            extractor = DINOv2(width, depth, grid, patch, len(state["blocks.0.mlp.fc1.bias"]))
        extractor.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} holds other tensors than a DINOv2: {_WAYS_ON}.") from error
    extractor.digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return extractor.float().eval().requires_grad_(False)
