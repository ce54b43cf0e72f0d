"""The parts of the UNet: the level's embedding, residual blocks, attention, changes of size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.networks.normed import normed

WRITTEN_OUT = 256
"""Up to so many pixels attention is trained written out on a CPU; see `attend`."""


def level_embedding(time: Tensor, width: int, frequency_shift: int = 0) -> Tensor:
    """Cosines and sines of the time at `width` / 2 frequencies from 1 down to about 1 / 10,000 (Vaswani et al. 2017).

    Args:
        time: ``(B,)``, on a scale where 1 is the smallest difference that matters.
        width: even.
        frequency_shift: 1 makes the last frequency 1 / 10,000 exactly (DDPM's code), 0 stops one short of it (ADM's).

    Example:
        >>> level_embedding(torch.zeros(1), 4).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    steps = torch.arange(width // 2, device=time.device)
    frequencies = torch.exp(-math.log(10_000) * steps / (width // 2 - frequency_shift))
    angles = time[:, None].float() * frequencies  # (B, width / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, width)


def question(image_size: int, condition_channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a network takes of one picture, on the meta device: x, the condition and the time."""
    shape = (image_size, image_size)
    x, condition = (torch.empty(1, channels, *shape, device="meta") for channels in (3, condition_channels))
    return x, condition, torch.empty(1, device="meta")


def said(attributes: Tensor | None, count: int, x: Tensor) -> Tensor:
    """Each attribute's value, 0 where it is not said, and whether it is said at all: ``(B, 2 * count)`` like x.

    Args:
        attributes: ``(B, count)``, NaN where not said; None says nothing.
        count: how many a network is told.
        x: ``(B, ...)``.

    Raises:
        ValueError: for attributes of another number.
    """
    if attributes is not None and attributes.shape[1] != count:
        raise ValueError(
            f"this network is told {count} attributes, and {attributes.shape[1]} were given: "
            f"train it with ++model.attributes={attributes.shape[1]}"
        )
    # A trace for any number of pictures does not survive len().
    told = x.new_full((x.shape[0], count), torch.nan) if attributes is None else attributes
    return torch.cat([told.nan_to_num().to(x.dtype), (~told.isnan()).to(x.dtype)], dim=1)


def silent(layer: nn.Module) -> nn.Module:
    """The layer with zeros for weights, so that its branch starts as nothing (DDPM's code)."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def summed(shortcut: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """What a residual block gives, divided by sqrt(2) if its variance is to stay."""
    return (shortcut + branch) * math.sqrt(0.5) if rescale else shortcut + branch


class Downsample(nn.Module):
    """Halves the size by a strided convolution.

    Args:
        channels: of input and output.
        pad_after: one row and column of zeros behind the picture instead of one on every side (DDPM's own code).
    """

    def __init__(self, channels: int, pad_after: bool) -> None:
        super().__init__()
        self.pad_after = pad_after
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if pad_after else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad_after else x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the size by repeating every pixel, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class ResBlock(nn.Module):
    """Two convolutions around the level's embedding, beside a shortcut (BigGAN's order: norm, activation, convolution).

    Args:
        norm_in: of the input; its channels are the input's.
        norm_out: before the second convolution; its channels are the output's.
        embedding: width of the level's embedding.
        resample: a change of size, after the first activation and on the shortcut (ADM's "BigGAN up/down").
        dropout: before the second convolution.
        scale_shift: the embedding scales and shifts the second norm (AdaGN) instead of being added before it.
        rescale: divides the sum by sqrt(2); ADM's own ablation says it hurts.
    """

    def __init__(
        self,
        norm_in: nn.GroupNorm,
        norm_out: nn.GroupNorm,
        embedding: int,
        resample: nn.Module,
        dropout: float,
        scale_shift: bool,
        rescale: bool,
    ) -> None:
        super().__init__()
        c_in, c_out = norm_in.num_channels, norm_out.num_channels
        self.scale_shift = scale_shift
        self.rescale = rescale
        self.resample = resample
        self.norm_in = norm_in
        self.conv_in = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.embed = nn.Linear(embedding, c_out * (2 if scale_shift else 1))
        self.norm_out = norm_out
        self.dropout = nn.Dropout(dropout)
        self.conv_out = silent(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(self.resample(normed(self.norm_in, x)))
        emb = self.embed(embedding)  # (B, C or 2 C)
        if self.scale_shift:
            h = normed(self.norm_out, h, *emb.chunk(2, dim=1))  # ADM, section 3.1
        else:
            h = normed(self.norm_out, h + emb[:, :, None, None])
        h = self.conv_out(self.dropout(h))
        return summed(self.shortcut(self.resample(x)), h, self.rescale)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(width)) v, all ``(B, heads, pixels, width)``.

    PyTorch's fused kernel does it, except where a CPU trains in bfloat16 at few pixels: there its backward pass takes
    2 to 6 times as long as the products written out.
    """
    slow = q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16
    if slow and q.shape[-2] <= WRITTEN_OUT:
        return torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention over all pixels, beside a shortcut.

    Args:
        norm: of the input; its channels are the input's.
        heads: a divisor of the channels.
        rescale: as in `ResBlock`.
    """

    def __init__(self, norm: nn.GroupNorm, heads: int, rescale: bool) -> None:
        super().__init__()
        self.heads = heads
        self.rescale = rescale
        self.norm = norm
        self.qkv = nn.Linear(norm.num_channels, 3 * norm.num_channels)
        self.out = silent(nn.Linear(norm.num_channels, norm.num_channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = normed(self.norm, x, silu=False).flatten(2).mT  # (B, HW, C)
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (B, HW, 3, heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, HW, width)
        h = self.out(attend(q, k, v).transpose(1, 2).flatten(2))  # (B, HW, C)
        return summed(x, h.mT.reshape(x.shape), self.rescale)


class Stage(nn.ModuleList):
    """Layers one after the other, the level's embedding handed to those that look at it."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


@dataclass(frozen=True)
class Blocks:
    """Makes the parts of one network, which share these choices; `UNet` says what each means."""

    embedding: int
    heads: int = 1
    head_width: int | None = None
    dropout: float = 0.0
    scale_shift: bool = True
    resample_blocks: bool = False
    rescale: bool = False
    norm_groups: int = 32
    norm_eps: float = 1e-5
    pad_after: bool = False
    conv_resample: bool = True

    def norm(self, channels: int) -> nn.GroupNorm:
        """As many groups as were asked for and the channels allow."""
        return nn.GroupNorm(math.gcd(self.norm_groups, channels), channels, self.norm_eps)

    def residual(self, c_in: int, c_out: int, resample: nn.Module | None = None) -> ResBlock:
        """A residual block; None keeps the size."""
        return ResBlock(
            self.norm(c_in),
            self.norm(c_out),
            self.embedding,
            resample or nn.Identity(),
            self.dropout,
            self.scale_shift,
            self.rescale,
        )

    def head_count(self, channels: int) -> int:
        """How many attention heads share the channels.

        Raises:
            ValueError: if they do not divide.
        """
        heads = self.heads if self.head_width is None else max(1, channels // self.head_width)
        if channels % heads or (self.head_width is not None and heads * self.head_width != channels):
            asked = f"{heads} heads" if self.head_width is None else f"heads of width {self.head_width}"
            raise ValueError(f"{channels} channels do not divide into {asked}: choose a divisor of {channels}")
        return heads

    def attention(self, channels: int) -> Attention:
        """Self-attention."""
        return Attention(self.norm(channels), self.head_count(channels), self.rescale)

    def down(self, channels: int) -> nn.Module:
        """Halves the size."""
        halved = nn.AvgPool2d(2)
        if self.resample_blocks:
            return self.residual(channels, channels, halved)
        return Downsample(channels, self.pad_after) if self.conv_resample else halved

    def up(self, channels: int) -> nn.Module:
        """Doubles the size."""
        doubled = nn.UpsamplingNearest2d(scale_factor=2)
        if self.resample_blocks:
            return self.residual(channels, channels, doubled)
        return Upsample(channels) if self.conv_resample else doubled
