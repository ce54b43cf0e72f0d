"""A transformer over the patches of a picture: the DiT of Peebles & Xie 2022, on pixels."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.networks.blocks import attend, level_embedding, question, said, silent

FREQUENCIES = 256
"""Cosines and sines of the level's time, whatever the width."""


def place_embedding(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of each patch's place, ``(rows * columns, width)`` float32; half are of the column.

    Args:
        rows: of patches.
        columns: of patches.
        width: a multiple of 4.
    """
    frequencies = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    column, row = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens ``(B, N, C)`` scaled and shifted by one ``(B, C)`` of each example."""
    return x * (1 + scale[:, None]) + shift[:, None]


class TokenAttention(nn.Module):
    """Self-attention over the tokens of a picture.

    Args:
        width: of a token.
        heads: a divisor of it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, C / heads)
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and an MLP, each beside a shortcut; the level scales, shifts and gates both (adaLN-Zero, section 3.2).

    The gates begin as zeros, so that a new block passes its input on.

    Args:
        width: of a token.
        heads: a divisor of it.
        expansion: width of the MLP's inner layer, in widths of a token.
    """

    def __init__(self, width: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = TokenAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        inner = round(expansion * width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))
        self.embed = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.embed(embedding).chunk(6, dim=1)
        x = x + gate[:, None] * self.attention(modulated(self.norm_attention(x), shift, scale))
        return x + gate_mlp[:, None] * self.mlp(modulated(self.norm_mlp(x), shift_mlp, scale_mlp))  # type: ignore[no-any-return]


class DiT(nn.Module):
    """A transformer that is told the level and may look at known pixels, patch by patch.

    Args:
        image_size: height and width it is built for, in pixels; other sizes run if they are multiples of the patch.
        patch: side of the patches that become tokens.
        width: of a token; a multiple of 4.
        depth: blocks.
        heads: of each attention; a divisor of the width.
        expansion: width of each MLP's inner layer, in widths of a token.
        condition_channels: how many of (known RGB, mask) it looks at: 0, 3 (Palette) or 4.
        out_channels: 3, or 6 to learn the variance.
        attributes: how many attributes it can be told, as a `UNet` is; 0 for none.

    Raises:
        ValueError: for sizes that do not fit each other.

    Example:
        >>> network = DiT(image_size=32, patch=4, width=64, depth=2, heads=2)
        >>> network(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32), torch.zeros(2)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        expansion: float = 4.0,
        condition_channels: int = 3,
        out_channels: int = 3,
        attributes: int = 0,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"model.patch={patch} does not divide pictures of {image_size} pixels")
        if width % 4 or width % heads:
            raise ValueError(f"model.width must be a multiple of 4 and of model.heads={heads}, got {width}")
        self.image_size = image_size
        self.condition_channels = condition_channels
        self.patch = patch
        self.attributes = attributes
        self.embed_patches = nn.Linear((3 + condition_channels) * patch**2, width)
        self.embed_level = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_attributes = nn.Linear(2 * attributes, width) if attributes else None
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.embed_out = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, out_channels * patch**2)
        self.begin()

    def begin(self) -> None:
        """The initial weights of the paper's program."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in self.embed_level:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        for block in self.blocks:
            silent(cast(Block, block).embed)
        silent(self.embed_out)
        silent(self.out)

    def example(self) -> tuple[Tensor, ...]:
        """What `forward` takes of one picture, on the meta device."""
        return question(self.image_size, self.condition_channels)

    def forward(self, x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        """What the network says of x.

        Args:
            x: ``(B, 3, H, W)``.
            condition: ``(B, condition_channels, H, W)``.
            time: ``(B,)``.
            attributes: ``(B, attributes)``, NaN where not said; None says nothing.

        Returns:
            ``(B, out_channels, H, W)``.

        Raises:
            ValueError: for sides that are no multiples of the patch, or attributes of another number.
        """
        if x.shape[-1] % self.patch or x.shape[-2] % self.patch:
            raise ValueError(f"this network needs sides that are multiples of {self.patch}, got {tuple(x.shape[-2:])}")
        embedding = self.embed_level(level_embedding(time, FREQUENCIES).to(x.dtype))
        told = said(attributes, self.attributes, x)
        if self.embed_attributes is not None:
            embedding = embedding + self.embed_attributes(told)
        embedding = F.silu(embedding)  # (B, width)

        patches = F.pixel_unshuffle(torch.cat([x, condition], dim=1), self.patch)  # (B, channels, rows, columns)
        tokens = self.embed_patches(patches.flatten(2).mT)  # (B, N, width)
        rows, columns = patches.shape[-2:]
        tokens = tokens + place_embedding(rows, columns, tokens.shape[-1]).to(tokens)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.embed_out(embedding).chunk(2, dim=1)
        out = self.out(modulated(self.norm_out(tokens), shift, scale))
        return F.pixel_shuffle(out.mT.unflatten(2, (rows, columns)), self.patch)
