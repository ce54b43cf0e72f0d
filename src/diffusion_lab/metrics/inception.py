"""The graph of the FID variant of Inception-v3: pictures to features (N, 2048).

It is the one of 2015-12-05 that every FID is measured with, not torchvision's: its pooling branches average without
counting the padding, its last block pools by the maximum, and its batch norms have no scale. Those batch norms are
folded into the convolutions before them, which changes nothing but the speed. Layers bear the names of the published
graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lab.metrics.resizing import Resizing, antialiased


class _Convolution(nn.Conv2d):
    """A convolution, its batch norm folded in, and a ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input), inplace=True)


class _Branches(nn.ModuleDict):
    """Modules that all read the same input and whose outputs are joined along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.values()], dim=1)


class _Fork(nn.Module):
    """The block at 8x8 pixels: two of its towers end in a 1x3 and a 3x1 convolution side by side."""

    def __init__(self, inputs: int, pool: nn.Module):
        super().__init__()
        self.conv = _Convolution(inputs, 320, 1)
        self.tower_conv = _Convolution(inputs, 384, 1)
        self.tower_mixed_conv = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.tower_mixed_conv_1 = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.tower_1_conv = _Convolution(inputs, 448, 1)
        self.tower_1_conv_1 = _Convolution(448, 384, 3, padding=1)
        self.tower_1_mixed_conv = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.tower_1_mixed_conv_1 = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.tower_2_pool = pool
        self.tower_2_conv = _Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.tower_conv(x)
        b = self.tower_1_conv_1(self.tower_1_conv(x))
        outputs = [
            self.conv(x),
            self.tower_mixed_conv(a),
            self.tower_mixed_conv_1(a),
            self.tower_1_mixed_conv(b),
            self.tower_1_mixed_conv_1(b),
            self.tower_2_conv(self.tower_2_pool(x)),
        ]
        return torch.cat(outputs, dim=1)  # (B, 2048, 8, 8)


def _average() -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def _tower(*convolutions: nn.Module) -> nn.Sequential:
    """A chain whose members are called conv, conv_1, conv_2, ... as in the published graph."""
    tower = nn.Sequential()
    for i, convolution in enumerate(convolutions):
        tower.add_module(f"conv_{i}" if i else "conv", convolution)
    return tower


def _pooled(inputs: int, outputs: int) -> nn.Sequential:
    tower = nn.Sequential()
    tower.add_module("pool", _average())
    tower.add_module("conv", _Convolution(inputs, outputs, 1))
    return tower


def _block_35(inputs: int, pooled: int) -> nn.Module:
    return _Branches(
        {
            "conv": _Convolution(inputs, 64, 1),
            "tower": _tower(_Convolution(inputs, 48, 1), _Convolution(48, 64, 5, padding=2)),
            "tower_1": _tower(
                _Convolution(inputs, 64, 1), _Convolution(64, 96, 3, padding=1), _Convolution(96, 96, 3, padding=1)
            ),
            "tower_2": _pooled(inputs, pooled),
        }
    )


def _block_35_to_17(inputs: int) -> nn.Module:
    return _Branches(
        {
            "conv": _Convolution(inputs, 384, 3, stride=2),
            "tower": _tower(
                _Convolution(inputs, 64, 1), _Convolution(64, 96, 3, padding=1), _Convolution(96, 96, 3, stride=2)
            ),
            "pool": nn.MaxPool2d(3, stride=2),
        }
    )


def _row(inputs: int, outputs: int) -> nn.Module:
    return _Convolution(inputs, outputs, (1, 7), padding=(0, 3))


def _column(inputs: int, outputs: int) -> nn.Module:
    return _Convolution(inputs, outputs, (7, 1), padding=(3, 0))


def _block_17(width: int) -> nn.Module:
    return _Branches(
        {
            "conv": _Convolution(768, 192, 1),
            "tower": _tower(_Convolution(768, width, 1), _row(width, width), _column(width, 192)),
            "tower_1": _tower(
                _Convolution(768, width, 1),
                _column(width, width),
                _row(width, width),
                _column(width, width),
                _row(width, 192),
            ),
            "tower_2": _pooled(768, 192),
        }
    )


def _block_17_to_8() -> nn.Module:
    return _Branches(
        {
            "tower": _tower(_Convolution(768, 192, 1), _Convolution(192, 320, 3, stride=2)),
            "tower_1": _tower(
                _Convolution(768, 192, 1), _row(192, 192), _column(192, 192), _Convolution(192, 192, 3, stride=2)
            ),
            "pool": nn.MaxPool2d(3, stride=2),
        }
    )


class InceptionV3(nn.Module):
    """Maps uint8 pictures (N, 3, H, W) of any size to the 2048 pooled features that FID compares.

    Args:
        resize: how pictures become 299x299, which is part of every number; None is `antialiased`.

    Use `inception` for one with weights: a bare instance holds random ones, which measure nothing.
    """

    num_features = 2048
    name = "Inception-v3 (2015-12-05), 2048 pooled features"

    def __init__(self, resize: Resizing | None = None):
        super().__init__()
        self.resizing = resize or antialiased()
        self.digest = ""  # of the weights; `inception` sets it, and caches of features are keyed by it
        self.layers = nn.Sequential()
        for name, layer in (
            ("conv", _Convolution(3, 32, 3, stride=2)),  # (N, 32, 149, 149)
            ("conv_1", _Convolution(32, 32, 3)),
            ("conv_2", _Convolution(32, 64, 3, padding=1)),
            ("pool0", nn.MaxPool2d(3, stride=2)),  # (N, 64, 73, 73)
            ("conv_3", _Convolution(64, 80, 1)),
            ("conv_4", _Convolution(80, 192, 3)),
            ("pool1", nn.MaxPool2d(3, stride=2)),  # (N, 192, 35, 35)
            ("mixed", _block_35(192, pooled=32)),
            ("mixed_1", _block_35(256, pooled=64)),
            ("mixed_2", _block_35(288, pooled=64)),
            ("mixed_3", _block_35_to_17(288)),
            ("mixed_4", _block_17(128)),
            ("mixed_5", _block_17(160)),
            ("mixed_6", _block_17(160)),
            ("mixed_7", _block_17(192)),
            ("mixed_8", _block_17_to_8()),
            ("mixed_9", _Fork(1280, pool=_average())),
            ("mixed_10", _Fork(2048, pool=nn.MaxPool2d(3, stride=1, padding=1))),
        ):
            self.layers.add_module(name, layer)

    @property
    def resize(self) -> str:
        """How pictures reach 299x299, in words, to stand beside each number."""
        return self.resizing.words

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features, float32 (N, 2048), of uint8 pictures (N, 3, H, W); ValueError for any other dtype or shape.

        Autocast is switched off: in bf16 the features are off by more than what separates two good models.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"FID features need uint8 pictures (N, 3, H, W), got {images.dtype} {tuple(images.shape)}."
            )
        with torch.autocast(images.device.type, enabled=False):
            x = self.resizing(images).contiguous(memory_format=torch.channels_last)
            features: Tensor = self.layers(x).mean(dim=(2, 3))
        return features
