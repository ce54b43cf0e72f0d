"""guided-diffusion's layout written from its published hyper-parameters: names, shapes, and what they compute.

Independent of the package: the shapes come out of a list of blocks, the outputs out of the tensors' names alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]


def residual(prefix: str, c_in: int, c_out: int, embedding: int, scale_shift: bool) -> Shapes:
    shapes: Shapes = {
        f"{prefix}.in_layers.0.weight": (c_in,),
        f"{prefix}.in_layers.2.weight": (c_out, c_in, 3, 3),
        f"{prefix}.emb_layers.1.weight": (c_out * (1 + scale_shift), embedding),
        f"{prefix}.out_layers.0.weight": (c_out,),
        f"{prefix}.out_layers.3.weight": (c_out, c_out, 3, 3),
    }
    if c_in != c_out:
        shapes[f"{prefix}.skip_connection.weight"] = (c_out, c_in, 1, 1)
    return shapes


def attention(prefix: str, c: int) -> Shapes:
    return {
        f"{prefix}.norm.weight": (c,),
        f"{prefix}.qkv.weight": (3 * c, c, 1),
        f"{prefix}.proj_out.weight": (c, c, 1),
    }


def published_shapes(
    image_size: int,
    channels: int,
    multipliers: Sequence[float],
    depth: int,
    attended: Sequence[int],
    resblock_updown: bool = True,
    scale_shift: bool = True,
    in_channels: int = 3,
    out_channels: int = 3,
    classes: int | None = None,
    pooled: int | None = None,
    conv_resample: bool = True,
) -> Shapes:
    """Names and shapes of a denoiser, or with `pooled` outputs of a classifier."""
    embedding, widths = 4 * channels, [int(channels * m) for m in multipliers]
    shapes: Shapes = {"time_embed.0.weight": (embedding, channels), "time_embed.2.weight": (embedding, embedding)}
    shapes["input_blocks.0.0.weight"] = (widths[0], in_channels, 3, 3)
    skips, size, index, c = [widths[0]], image_size, 0, widths[0]
    for level, width in enumerate(widths):
        for _ in range(depth):
            index += 1
            shapes |= residual(f"input_blocks.{index}.0", c, width, embedding, scale_shift)
            c = width
            if size in attended:
                shapes |= attention(f"input_blocks.{index}.1", c)
            skips.append(c)
        if level < len(widths) - 1:
            index += 1
            place = f"input_blocks.{index}.0"
            down: Shapes = {f"{place}.op.weight": (c, c, 3, 3)} if conv_resample else {}
            shapes |= residual(place, c, c, embedding, scale_shift) if resblock_updown else down
            skips.append(c)
            size //= 2
    shapes |= residual("middle_block.0", c, c, embedding, scale_shift) | attention("middle_block.1", c)
    shapes |= residual("middle_block.2", c, c, embedding, scale_shift)
    shapes["out.0.weight"] = (c if pooled else widths[0],)
    if pooled:
        shapes |= {"out.2.qkv_proj.weight": (3 * c, c, 1), "out.2.c_proj.weight": (pooled, c, 1)}
    else:
        shapes["out.2.weight"] = (out_channels, widths[0], 3, 3)
        index = 0
        for level in reversed(range(len(widths))):
            for j in range(depth + 1):
                shapes |= residual(f"output_blocks.{index}.0", c + skips.pop(), widths[level], embedding, scale_shift)
                c, layer = widths[level], 1
                if size in attended:
                    shapes |= attention(f"output_blocks.{index}.1", c)
                    layer = 2
                if level > 0 and j == depth:
                    place = f"output_blocks.{index}.{layer}"
                    up: Shapes = {f"{place}.conv.weight": (c, c, 3, 3)} if conv_resample else {}
                    shapes |= residual(place, c, c, embedding, scale_shift) if resblock_updown else up
                    size *= 2
                index += 1
    # Every layer has a bias beside its weight; what follows has not.
    shapes |= {name.removesuffix("weight") + "bias": (shape[0],) for name, shape in shapes.items()}
    if pooled:
        shapes["out.2.positional_embedding"] = (c, size**2 + 1)
    if classes:
        shapes["label_emb.weight"] = (classes, embedding)
    return shapes


def random_state(shapes: Shapes) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        norm = any(part in name for part in (".in_layers.0.", ".out_layers.0.", ".norm.", "out.0."))
        centre = 1.0 if norm and name.endswith("weight") else 0.0
        spread = 0.2 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        state[name] = centre + spread * torch.randn(shape, generator=generator)
    return state


class Reference:
    """What such a file computes."""

    def __init__(
        self, state: dict[str, Tensor], head_width: int, heads_first: bool, conv_resample: bool = True
    ) -> None:
        self.state, self.head_width, self.heads_first = state, head_width, heads_first
        self.bare = not conv_resample  # sizes change between the layers, by nothing that has tensors

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"].flatten(1), self.state[f"{name}.bias"])

    def resize(self, x: Tensor, factor: float) -> Tensor:
        if factor == 1:
            return x
        return F.avg_pool2d(x, 2) if factor < 1 else x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def residual(self, name: str, x: Tensor, emb: Tensor, factor: float) -> Tensor:
        h = self.conv(f"{name}.in_layers.2", self.resize(F.silu(self.norm(f"{name}.in_layers.0", x)), factor))
        shift = self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if shift.shape[1] == 2 * h.shape[1]:
            scale, shift = shift.chunk(2, dim=1)
            h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = self.norm(f"{name}.out_layers.0", h + shift)
        h = self.conv(f"{name}.out_layers.3", F.silu(h))
        x = self.resize(x, factor)
        return h + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.state else x)

    def mix(self, qkv: Tensor, heads_first: bool) -> Tensor:
        """Attention over (B, 3 C, positions), one head after the other."""
        c = qkv.shape[1] // 3
        outputs = []
        for head in range(c // self.head_width):
            w = self.head_width
            starts = [3 * w * head + w * i if heads_first else c * i + w * head for i in range(3)]
            q, k, v = (qkv[:, s : s + w] for s in starts)
            outputs.append(v @ torch.softmax(q.transpose(1, 2) @ k / w**0.5, dim=2).transpose(1, 2))
        return torch.cat(outputs, dim=1)

    def attention(self, name: str, x: Tensor) -> Tensor:
        qkv = self.linear(f"{name}.qkv", self.norm(f"{name}.norm", x).flatten(2).transpose(1, 2)).transpose(1, 2)
        h = self.linear(f"{name}.proj_out", self.mix(qkv, self.heads_first).transpose(1, 2)).transpose(1, 2)
        return x + h.reshape(x.shape)

    def stage(self, name: str, x: Tensor, emb: Tensor, factor: float) -> Tensor:
        """The layers under one name; a size change belongs to the last residual block or to a convolution."""
        layer = 0
        while any(key.startswith(f"{name}.{layer}.") for key in self.state):
            place = f"{name}.{layer}"
            last = not any(key.startswith(f"{name}.{layer + 1}.") for key in self.state)
            if f"{place}.qkv.weight" in self.state:
                x = self.attention(place, x)
            elif f"{place}.in_layers.2.weight" in self.state:
                x = self.residual(place, x, emb, factor if last and not self.bare else 1)
            elif f"{place}.op.weight" in self.state:
                x = self.conv(f"{place}.op", x, stride=2)
            elif f"{place}.conv.weight" in self.state:
                x = self.conv(f"{place}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
            else:
                x = self.conv(place, x)
            layer += 1
        return self.resize(x, factor) if self.bare else x

    def embedding(self, time: Tensor, classes: Tensor | None) -> Tensor:
        width = self.state["time_embed.0.weight"].shape[1]
        angles = time[:, None] * 10_000.0 ** (-torch.arange(width // 2) / (width // 2))
        first = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))
        emb = self.linear("time_embed.2", F.silu(first))
        return emb if classes is None else emb + self.state["label_emb.weight"][classes]

    def down(self, x: Tensor, emb: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for index in range(1 + max(int(key.split(".")[1]) for key in self.state if key.startswith("input_blocks."))):
            x = self.stage(f"input_blocks.{index}", x, emb, 0.5 if index and index % (depth + 1) == 0 else 1)
            skips.append(x)
        return self.stage("middle_block", x, emb, 1), skips

    def denoise(self, x: Tensor, time: Tensor, depth: int, classes: Tensor | None = None) -> Tensor:
        emb = self.embedding(time, classes)
        x, skips = self.down(x, emb, depth)
        last = len(skips) - 1
        for index in range(last + 1):
            rises = index % (depth + 1) == depth and index < last
            x = self.stage(f"output_blocks.{index}", torch.cat([x, skips.pop()], dim=1), emb, 2 if rises else 1)
        return self.conv("out.2", F.silu(self.norm("out.0", x)))

    def classify(self, x: Tensor, time: Tensor, depth: int) -> Tensor:
        x, _ = self.down(x, self.embedding(time, None), depth)
        x = F.silu(self.norm("out.0", x)).flatten(2)
        x = torch.cat([x.mean(2, keepdim=True), x], dim=2) + self.state["out.2.positional_embedding"]
        qkv = self.linear("out.2.qkv_proj", x.transpose(1, 2)).transpose(1, 2)
        return self.linear("out.2.c_proj", self.mix(qkv, heads_first=False)[:, :, 0])
