"""The UNet of DDPM with the options of Dhariwal & Nichol 2021 (ADM), read from top to bottom."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def level_embedding(time: Tensor, width: int) -> Tensor:
    """Cosines and sines of the time at `width` / 2 frequencies from 1 down to 1 / 10,000 (Vaswani et al. 2017).

    Args:
        time: ``(B,)``, on a scale where 1 is the smallest difference that matters.
        width: even.
    """
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = time[:, None].float() * frequencies  # (B, width / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, width)


def norm(channels: int) -> nn.GroupNorm:
    """32 groups where the channels allow it."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def silent(layer: nn.Module) -> nn.Module:
    """The layer with zeros for weights, so that its branch starts as nothing (DDPM's code)."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Downsample(nn.Module):
    """Halves the size, by a strided convolution or by averaging."""

    def __init__(self, channels: int, convolve: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if convolve else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the size by repeating pixels, and smooths by a convolution if asked."""

    def __init__(self, channels: int, convolve: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, padding=1) if convolve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.op(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class ResBlock(nn.Module):
    """Two convolutions around the level's embedding, beside a shortcut (BigGAN's order: norm, activation, convolution).

    Args:
        channels: of the input.
        out_channels: of the output.
        embedding: width of the level's embedding.
        resample: between the first activation and the first convolution, and on the shortcut (ADM's "BigGAN up/down");
            None keeps the size.
        dropout: before the second convolution.
        scale_shift: the embedding scales and shifts the second norm (AdaGN) instead of being added before it.
        rescale: divides the sum by sqrt(2); ADM's own ablation says it hurts.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        resample: nn.Module | None,
        dropout: float,
        scale_shift: bool,
        rescale: bool,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.rescale = math.sqrt(0.5) if rescale else 1.0
        self.resample = resample or nn.Identity()
        self.norm_in = norm(channels)
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding, out_channels * (2 if scale_shift else 1))
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = silent(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(self.resample(F.silu(self.norm_in(x))))
        emb = self.embed(F.silu(embedding))[:, :, None, None]  # (B, C or 2 C, 1, 1)
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.norm_out(h) * (1 + scale) + shift  # ADM eq. 1
        else:
            h = self.norm_out(h + emb)
        h = self.conv_out(self.dropout(F.silu(h)))
        return (self.shortcut(self.resample(x)) + h) * self.rescale  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over all pixels, beside a shortcut.

    Args:
        channels: of the input, a multiple of the head's width.
        head_width: channels per head; None is one head.
        rescale: as in `ResBlock`.
    """

    def __init__(self, channels: int, head_width: int | None, rescale: bool) -> None:
        super().__init__()
        self.heads = channels // head_width if head_width else 1
        if channels % self.heads or (head_width and self.heads * head_width != channels):
            raise ValueError(f"{channels} channels do not divide into attention heads of width {head_width}")
        self.rescale = math.sqrt(0.5) if rescale else 1.0
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = silent(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, HW, width)
        h = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # (B, HW, C)
        return (x + h.transpose(1, 2).reshape(x.shape)) * self.rescale  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A ResBlock, attention after it or not, and the size change after that or not."""

    def __init__(self, block: ResBlock, attention: nn.Module | None = None, resample: nn.Module | None = None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention or nn.Identity()
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.resample(self.attention(self.block(x, embedding)))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """A UNet that is told the level and may look at known pixels.

    Args:
        image_size: height and width it is built for, in pixels; other sizes run if they halve as often.
        channels: at the finest size.
        multipliers: of the channels at each size, finest first.
        depth: ResBlocks at each size on the way down; one more on the way up.
        attention: sizes in pixels with attention after each ResBlock. A size that never occurs is an error.
        middle_attention: attention between the two ResBlocks of the coarsest size.
        head_width: channels per attention head; None is one head.
        condition_channels: how many of (known RGB, mask) it looks at: 0, 3 (Palette) or 4.
        out_channels: 3, or 6 to learn the variance.
        patch: side of the patches that become channels at the entrance and pixels again at the exit; 1 is pixels.
        attributes: how many attributes of the face it can be told; 0 for none.
        dropout: in each ResBlock, in [0, 1).
        scale_shift: AdaGN.
        resample_blocks: size changes inside ResBlocks, as in BigGAN, instead of by convolutions between them.
        rescale: divides every residual sum by sqrt(2).
        checkpointing: recomputes each stage on the way back instead of keeping it: less memory, more time.

    Raises:
        ValueError: for sizes that do not fit each other.

    Example:
        >>> unet = UNet(image_size=32, channels=32, attention=[16], head_width=32)
        >>> unet.attention_sizes
        [16]
        >>> unet(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32), torch.zeros(2)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        depth: int = 2,
        attention: Sequence[int] = (),
        middle_attention: bool = False,
        head_width: int | None = None,
        condition_channels: int = 3,
        out_channels: int = 3,
        patch: int = 1,
        attributes: int = 0,
        dropout: float = 0.0,
        scale_shift: bool = True,
        resample_blocks: bool = False,
        rescale: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        smallest = patch * 2 ** (len(multipliers) - 1)
        if image_size % smallest:
            raise ValueError(
                f"image_size {image_size} does not halve {len(multipliers) - 1} times in patches of {patch}: "
                f"choose a multiple of {smallest}"
            )
        sizes = [image_size // patch // 2**i for i in range(len(multipliers))]
        absent = sorted(set(attention) - set(sizes))
        if absent:
            raise ValueError(f"attention at {absent} pixels never occurs: this network works at {sizes}")
        self.condition_channels = condition_channels
        self.patch = patch
        self.channels = channels
        self.checkpointing = checkpointing
        self.divisor = smallest
        self.attention_sizes = [s for s in sizes if s in attention or (middle_attention and s == sizes[-1])]

        embedding = 4 * channels
        self.embed_level = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        # Each attribute's value and whether it is said at all.
        self.embed_attributes = nn.Linear(2 * attributes, embedding) if attributes else None

        def block(c_in: int, c_out: int, resample: nn.Module | None = None) -> ResBlock:
            return ResBlock(c_in, c_out, embedding, resample, dropout, scale_shift, rescale)

        def attend(c: int, size: int) -> Attention | None:
            return Attention(c, head_width, rescale) if size in attention else None

        def resize(c: int, how: type[Downsample] | type[Upsample]) -> Stage | nn.Module:
            return Stage(block(c, c, how(c, convolve=False))) if resample_blocks else how(c, convolve=True)

        width = channels * multipliers[0]
        self.conv_in = nn.Conv2d((3 + condition_channels) * patch**2, width, 3, padding=1)
        skips = [width]
        self.down = nn.ModuleList()
        for i, (multiplier, size) in enumerate(zip(multipliers, sizes, strict=True)):
            if i > 0:
                self.down.append(resize(width, Downsample))
                skips.append(width)
            for _ in range(depth):
                self.down.append(Stage(block(width, channels * multiplier), attend(channels * multiplier, size)))
                width = channels * multiplier
                skips.append(width)

        self.middle_in = block(width, width)
        self.middle_attention = Attention(width, head_width, rescale) if middle_attention else nn.Identity()
        self.middle_out = block(width, width)

        self.up = nn.ModuleList()
        for i, (multiplier, size) in reversed(list(enumerate(zip(multipliers, sizes, strict=True)))):
            for j in range(depth + 1):
                last = j == depth and i > 0
                out = channels * multiplier
                self.up.append(
                    Stage(block(width + skips.pop(), out), attend(out, size), resize(out, Upsample) if last else None)
                )
                width = out

        self.norm_out = norm(width)
        self.conv_out = silent(nn.Conv2d(width, out_channels * patch**2, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor, time: Tensor, attributes: Tensor | None = None) -> Tensor:
        """What the network says of x.

        Args:
            x: ``(B, 3, H, W)``.
            condition: ``(B, condition_channels, H, W)``.
            time: ``(B,)``.
            attributes: ``(B, attributes)``, NaN where not said; None says nothing.

        Returns:
            ``(B, out_channels, H, W)``.
        """
        if x.shape[-1] % self.divisor or x.shape[-2] % self.divisor:
            raise ValueError(f"this network needs sides that are multiples of {self.divisor}, got {tuple(x.shape[-2:])}")
        embedding = self.embed_level(level_embedding(time, self.channels))
        if self.embed_attributes is not None and attributes is not None:
            said = ~attributes.isnan()
            embedding = embedding + self.embed_attributes(torch.cat([attributes.nan_to_num(), said.to(x.dtype)], dim=1))

        h = self.conv_in(F.pixel_unshuffle(torch.cat([x, condition], dim=1), self.patch))
        skips = [h]
        for stage in self.down:
            h = self.run(stage, h, embedding)
            skips.append(h)
        h = self.middle_out(self.middle_attention(self.middle_in(h, embedding)), embedding)
        for stage in self.up:
            h = self.run(stage, torch.cat([h, skips.pop()], dim=1), embedding)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)

    def run(self, stage: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        """One stage, kept or recomputed for the way back."""
        arguments = (x, embedding) if isinstance(stage, Stage) else (x,)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, *arguments, use_reentrant=False)  # type: ignore[no-any-return]
        return stage(*arguments)  # type: ignore[no-any-return]
