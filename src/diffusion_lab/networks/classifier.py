"""A classifier of noisy pictures: the UNet's encoder with attention pooling (Dhariwal & Nichol 2021, section 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.networks.blocks import Blocks, attend, level_embedding
from diffusion_lab.networks.unet import Encoder, sizes_of


class AttentionPool(nn.Module):
    """Asks all pixels by attention, the question being their mean (CLIP's pooling).

    Args:
        channels: of the picture.
        size: of the picture in pixels; it learns where they lie, and takes no other size.
        heads: a divisor of the channels.
        outputs: numbers that come out.
    """

    def __init__(self, channels: int, size: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(size**2 + 1, channels) * channels**-0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).mT  # (B, HW, C)
        tokens = torch.cat([pixels.mean(dim=1, keepdim=True), pixels], dim=1) + self.positions  # (B, 1 + HW, C)
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (B, 1 + HW, 3, heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, 1 + HW, width)
        answer = attend(q[:, :, :1], k, v)  # (B, heads, 1, width): only the mean asks
        return self.out(answer.flatten(1))  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """Says of a noisy picture which attributes its face has.

    Args:
        image_size: height and width in pixels; it takes no other size.
        outputs: how many attributes, or classes.
        channels: at the finest size.
        multipliers: of the channels at each size, finest first.
        depth: residual blocks at each size.
        attention: sizes in pixels with attention after each residual block.
        head_width: channels of each attention head.
        dropout: in each residual block, in [0, 1).
        scale_shift: the level scales and shifts (AdaGN) instead of being added.
        resample_blocks: size changes inside residual blocks instead of by convolutions between them.
        checkpointing: recomputes each stage on the way back instead of keeping it.
        conv_resample: as in `UNet`.

    Raises:
        ValueError: for sizes that do not fit each other.

    Example:
        >>> classifier = Classifier(image_size=16, outputs=5, channels=32, attention=[8])
        >>> classifier(torch.zeros(2, 3, 16, 16), torch.zeros(2)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        image_size: int,
        outputs: int,
        channels: int = 32,
        multipliers: Sequence[float] = (1, 2, 4),
        depth: int = 1,
        attention: Sequence[int] = (),
        head_width: int = 32,
        dropout: float = 0.0,
        scale_shift: bool = True,
        resample_blocks: bool = True,
        checkpointing: bool = False,
        conv_resample: bool = True,
    ) -> None:
        super().__init__()
        sizes = sizes_of(image_size, 1, len(multipliers) - 1, attention)
        widths = [round(channels * multiplier) for multiplier in multipliers]
        self.image_size = image_size
        self.channels = channels
        embedding = 4 * channels
        self.embed_level = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        blocks = Blocks(
            embedding,
            head_width=head_width,
            dropout=dropout,
            scale_shift=scale_shift,
            resample_blocks=resample_blocks,
            conv_resample=conv_resample,
        )
        attended = [size in attention for size in sizes]
        self.encoder = Encoder(blocks, 3, widths, depth, attended, True, checkpointing)
        self.norm_out = blocks.norm(widths[-1])
        self.pool = AttentionPool(widths[-1], sizes[-1], blocks.head_count(widths[-1]), outputs)

    def example(self) -> tuple[Tensor, ...]:
        """What `forward` takes of one picture, on the meta device."""
        x = torch.empty(1, 3, self.image_size, self.image_size, device="meta")
        return x, torch.empty(1, device="meta")

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """What it sees.

        Args:
            x: ``(B, 3, H, W)``, a noisy picture of the size that it was built for.
            time: ``(B,)``, its level as it was trained to be told it.

        Returns:
            ``(B, outputs)`` logits.

        Raises:
            ValueError: for pictures of another size.
        """
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"this classifier needs pictures of {self.image_size} pixels, got {tuple(x.shape[-2:])}")
        embedding = F.silu(self.embed_level(level_embedding(time, self.channels).to(x.dtype)))  # (B, 4 channels)
        h, _ = self.encoder(x, embedding)
        return self.pool(F.silu(self.norm_out(h)))  # type: ignore[no-any-return]
