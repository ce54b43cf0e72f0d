"""Features as of an extractor, without one."""

import torch
from torch import Tensor


def features(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Positive, correlated, skewed: like those of a network's last ReLU."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / d**0.5
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix
    return (x * scale + shift).relu() + 0.01 * x


def waves() -> tuple[Tensor, Tensor]:
    """Real and fake features of 60 pictures, by formula."""
    i, j = torch.arange(1, 61, dtype=torch.float64)[:, None], torch.arange(1, 6, dtype=torch.float64)
    real = torch.sin(i * j * 0.7 + j**2) + 0.3 * torch.cos(i**2 * 0.11)
    return real, real * 0.8 + 0.5 * torch.sin(i * i * 0.37 + j * 1.3) + 0.15
