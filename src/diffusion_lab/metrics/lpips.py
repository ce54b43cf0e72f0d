"""LPIPS, the learned perceptual distance (Zhang et al. 2018): version 0.1 on AlexNet, its weights beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

_WEIGHTS = Path(__file__).parent / "lpips_alex.safetensors"
_CHANNELS = (64, 192, 384, 256, 256)
_SMALLEST = 31  # pixels: below, AlexNet's last pooling has nothing left to pool


class LPIPS(nn.Module):
    """Perceptual distance of two pictures: 0 for the same, at 64 pixels about 0.07 for a blur and 0.2 for another face.

    ``sum_l mean_hw w_l . (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|)^2`` over AlexNet's activations ``f_l`` after its five
    ReLUs, with the learned weights ``w_l >= 0`` (their eq. 1).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(  # AlexNet, numbered as torchvision numbers it
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        for level, channels in enumerate(_CHANNELS):
            self.add_module(f"lin{level}", nn.Conv2d(channels, 1, 1, bias=False))
        self.load_state_dict(load_file(_WEIGHTS))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def taps(self, images: Tensor) -> list[Tensor]:
        """The five activations after the ReLUs, each of unit length along its channels."""
        if min(images.shape[-2:]) < _SMALLEST:
            raise ValueError(f"LPIPS needs pictures of at least {_SMALLEST} pixels, got {tuple(images.shape[-2:])}.")
        x = images / 127.5 - 1 if images.dtype == torch.uint8 else images
        x = (x - self.shift) / self.scale
        activations = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                activations.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return activations

    def forward(self, images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Distances, float32 (B,).

        Args:
            images: (B, 3, H, W), uint8 or float in [-1, 1]; at least 31 pixels on each side. Differentiable if float.
            target: as `images`.
            mask: not looked at, the whole picture counts; it is there so that all measures are called alike.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.between(self.taps(images), self.taps(target))

    def between(self, some: Sequence[Tensor], others: Sequence[Tensor], hole: Tensor | None = None) -> Tensor:
        """Distances, float32 (B,), of pictures whose `taps` are known.

        Args:
            some: of B pictures.
            others: of as many.
            hole: bool (B, 1, H, W), True where it counts: in place of ``mean_hw``, a mean in which each cell of a layer
                weighs as much as of it lies in the hole. None or a whole picture is the distance itself; 0 where there
                is no hole.
        """
        distance = torch.zeros(len(some[0]), device=some[0].device)
        for level, (x, y) in enumerate(zip(some, others, strict=True)):
            weight = self.get_submodule(f"lin{level}").weight
            assert isinstance(weight, Tensor)
            apart = F.conv2d((x - y).square(), weight)
            if hole is None:
                distance = distance + apart.mean(dim=(1, 2, 3))
            else:
                inside = F.adaptive_avg_pool2d(hole.to(apart.dtype), (apart.shape[-2], apart.shape[-1]))
                total = inside.sum(dim=(1, 2, 3)).clamp(min=1e-12)
                distance = distance + (apart * inside).sum(dim=(1, 2, 3)) / total
        return distance


def diversity(perceptual: LPIPS, completions: Tensor, hole: Tensor | None = None) -> Tensor:
    """Mean LPIPS over all pairs of k completions of the same picture, (B,); 0 when the model knows one answer only.

    Args:
        perceptual: the distance.
        completions: (k, B, 3, H, W), uint8 or float in [-1, 1], k >= 2.
        hole: bool (B, 1, H, W): of that part alone, see `LPIPS.between`. None is the whole picture, of which the known
            part is the same in all and so makes a small hole look as if there were one answer.
    """
    k = len(completions)
    if k < 2:
        raise ValueError(f"Diversity compares at least 2 completions of a picture, got {k}.")
    with torch.autocast(completions.device.type, enabled=False):
        taps = [perceptual.taps(images) for images in completions]
        return torch.stack([perceptual.between(*pair, hole) for pair in combinations(taps, 2)]).mean(dim=0)
