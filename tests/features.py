"""Features as of an extractor, without one; and extractors' tensors, at random."""

import torch
from torch import Tensor, nn


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


def random_state(module: nn.Module) -> dict[str, Tensor]:
    """Random values of a module's tensors; none is 0 or 1, so that none can be left out. Norms scale by about 1."""
    generator = torch.Generator().manual_seed(0)
    norms = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.LayerNorm)}
    return {
        name: torch.randn(x.shape, generator=generator, device="cpu") * 0.1 + (name in norms)
        for name, x in module.state_dict().items()
    }


def shown(n: int = 2) -> Tensor:
    """Pictures as a resizing makes them, (n, 3, 224, 224)."""
    return torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(1))
