"""The UNet of DDPM with the options of Dhariwal & Nichol 2021 (ADM)."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffusion_lab.networks.blocks import Blocks, Stage, level_embedding, question, said, silent
from diffusion_lab.networks.normed import can, normed


def sizes_of(image_size: int, patch: int, halvings: int, attention: Collection[int]) -> list[int]:
    """The sizes in pixels that a network works at, finest first.

    Example:
        >>> sizes_of(image_size=64, patch=2, halvings=2, attention=[8])
        [32, 16, 8]

    Raises:
        ValueError: if the picture does not halve so often, or attention is asked for at a size that never occurs.
    """
    divisor = patch * 2**halvings
    if image_size % divisor:
        raise ValueError(
            f"image_size {image_size} does not halve {halvings} times in patches of {patch}: "
            f"choose a multiple of {divisor}"
        )
    sizes = [image_size // patch // 2**i for i in range(halvings + 1)]
    if absent := sorted(set(attention) - set(sizes)):
        raise ValueError(f"attention at {absent} pixels never occurs: this network works at {sizes}")
    return sizes


class Encoder(nn.Module):
    """From a picture to its coarsest features: the way down and the middle.

    Args:
        blocks: makes the parts.
        in_channels: of the picture.
        widths: channels at each size, finest first.
        depth: residual blocks at each size.
        attend: whether attention follows each residual block, for each size.
        middle_attention: attention between the two residual blocks of the middle.
        checkpointing: see `UNet`.
    """

    def __init__(
        self,
        blocks: Blocks,
        in_channels: int,
        widths: Sequence[int],
        depth: int,
        attend: Sequence[bool],
        middle_attention: bool,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.skip_widths = [widths[0]]
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            if i > 0:
                self.down.append(Stage([blocks.down(widths[i - 1])]))
                self.skip_widths.append(widths[i - 1])
            for _ in range(depth):
                stage = Stage([blocks.residual(self.skip_widths[-1], width)])
                if attend[i]:
                    stage.append(blocks.attention(width))
                self.down.append(stage)
                self.skip_widths.append(width)
        middle = [blocks.attention(widths[-1])] if middle_attention else []
        coarsest = widths[-1]
        self.middle = Stage([blocks.residual(coarsest, coarsest), *middle, blocks.residual(coarsest, coarsest)])

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The middle's features, and the features after every stage on the way there."""
        skips = [self.conv_in(x)]
        for stage in self.down:
            skips.append(run(stage, skips[-1], embedding, self.checkpointing))
        return run(self.middle, skips[-1], embedding, self.checkpointing), skips


def run(stage: nn.Module, x: Tensor, embedding: Tensor, checkpointing: bool) -> Tensor:
    """One stage, kept or recomputed for the way back."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(stage, x, embedding, use_reentrant=False)  # type: ignore[no-any-return]
    return stage(x, embedding)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """A UNet that is told the level and may look at known pixels.

    Args:
        image_size: height and width it is built for, in pixels; other sizes run if they halve as often.
        channels: at the finest size; the level's embedding is 4 times as wide.
        multipliers: of the channels at each size, finest first.
        depth: residual blocks at each size on the way down; one more on the way up.
        attention: sizes in pixels with attention after each residual block. A size that never occurs is an error. With
            patches a pixel of the network is a patch of the picture.
        middle_attention: attention between the two residual blocks of the coarsest size.
        head_width: channels of each attention head; None asks for a number of `heads` instead.
        heads: attention heads where `head_width` is None.
        condition_channels: how many of (known RGB, mask) it looks at: 0, 3 (Palette) or 4.
        out_channels: 3, or 6 to learn the variance.
        patch: side of the patches that become channels at the entrance and pixels again at the exit; 1 is pixels.
        attributes: how many attributes it can be told; 0 for none. A class is one that is 1 while the others are 0.
        dropout: in each residual block, in [0, 1).
        scale_shift: the level scales and shifts (AdaGN) instead of being added.
        resample_blocks: size changes inside residual blocks, as in BigGAN, instead of by convolutions between them.
        rescale: divides every residual sum by sqrt(2).
        checkpointing: recomputes each stage on the way back instead of keeping it: less memory, more time.
        channels_last: keeps a pixel's channels together in memory: the same numbers but for rounding. None does so on
            CPUs where `normed` is one operation, which is where it is faster.
        frequency_shift: of the level's embedding; 1 for DDPM's own weights.
        norm_groups: of each GroupNorm, as far as the channels allow.
        norm_eps: of each GroupNorm; 1e-6 for DDPM's own weights.
        pad_after: strided convolutions see zeros behind the picture only; True for DDPM's own weights.
        conv_resample: False changes sizes between residual blocks by averaging and repeating pixels alone, without a
            convolution; has no say in `resample_blocks`.

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
        multipliers: Sequence[float] = (1, 2, 4),
        depth: int = 2,
        attention: Sequence[int] = (),
        middle_attention: bool = False,
        head_width: int | None = None,
        heads: int = 1,
        condition_channels: int = 3,
        out_channels: int = 3,
        patch: int = 1,
        attributes: int = 0,
        dropout: float = 0.0,
        scale_shift: bool = True,
        resample_blocks: bool = False,
        rescale: bool = False,
        checkpointing: bool = False,
        channels_last: bool | None = None,
        frequency_shift: int = 0,
        norm_groups: int = 32,
        norm_eps: float = 1e-5,
        pad_after: bool = False,
        conv_resample: bool = True,
    ) -> None:
        super().__init__()
        halvings = len(multipliers) - 1
        sizes = sizes_of(image_size, patch, halvings, attention)
        widths = [round(channels * multiplier) for multiplier in multipliers]
        attend = [size in attention for size in sizes]
        self.image_size = image_size
        self.condition_channels = condition_channels
        self.patch = patch
        self.attributes = attributes
        self.channels = channels
        self.frequency_shift = frequency_shift
        self.checkpointing = checkpointing
        self.channels_last = channels_last
        self.divisor = patch * 2**halvings
        self.attention_sizes = [s for s in sizes if s in attention or (middle_attention and s == sizes[-1])]

        embedding = 4 * channels
        self.embed_level = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.embed_attributes = nn.Linear(2 * attributes, embedding) if attributes else None

        blocks = Blocks(
            embedding=embedding,
            heads=heads,
            head_width=head_width,
            dropout=dropout,
            scale_shift=scale_shift,
            resample_blocks=resample_blocks,
            rescale=rescale,
            norm_groups=norm_groups,
            norm_eps=norm_eps,
            pad_after=pad_after,
            conv_resample=conv_resample,
        )
        in_channels = (3 + condition_channels) * patch**2
        self.encoder = Encoder(blocks, in_channels, widths, depth, attend, middle_attention, checkpointing)
        self.up = nn.ModuleList()
        skips = list(self.encoder.skip_widths)
        for i in reversed(range(len(widths))):
            for j in range(depth + 1):
                below = widths[min(i + 1, halvings)] if j == 0 else widths[i]
                stage = Stage([blocks.residual(below + skips.pop(), widths[i])])
                if attend[i]:
                    stage.append(blocks.attention(widths[i]))
                if j == depth and i > 0:
                    stage.append(blocks.up(widths[i]))
                self.up.append(stage)
        self.norm_out = blocks.norm(widths[0])
        self.conv_out = silent(nn.Conv2d(widths[0], out_channels * patch**2, 3, padding=1))
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def example(self) -> tuple[Tensor, ...]:
        """What `forward` takes of one picture, on the meta device."""
        return question(self.image_size, self.condition_channels)

    def last(self, x: Tensor) -> bool:
        """Whether a pixel's channels lie together in memory where tensors are like x."""
        return can(x) if self.channels_last is None else self.channels_last

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
            ValueError: for sides that do not halve as often as this network halves, or attributes of another number.
        """
        if x.shape[-1] % self.divisor or x.shape[-2] % self.divisor:
            sides = tuple(x.shape[-2:])
            raise ValueError(f"this network needs sides that are multiples of {self.divisor}, got {sides}")
        embedding = self.embed_level(level_embedding(time, self.channels, self.frequency_shift).to(x.dtype))
        told = said(attributes, self.attributes, x)
        if self.embed_attributes is not None:
            embedding = embedding + self.embed_attributes(told)
        embedding = F.silu(embedding)  # (B, 4 channels)

        h = F.pixel_unshuffle(torch.cat([x, condition], dim=1), self.patch)
        if self.last(h):
            h = h.contiguous(memory_format=torch.channels_last)
        h, skips = self.encoder(h, embedding)
        for stage in self.up:
            h = run(stage, torch.cat([h, skips.pop()], dim=1), embedding, self.checkpointing)
        return F.pixel_shuffle(self.conv_out(normed(self.norm_out, h)), self.patch).contiguous()
