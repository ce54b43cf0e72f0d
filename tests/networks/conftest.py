from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def awake() -> Callable[[nn.Module], nn.Module]:
    """Gives every parameter random values, so that no branch is silent and no affine map is the identity."""

    def wake(network: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, p in network.named_parameters():
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                spread = 0.2 if p.ndim == 1 else p[0].numel() ** -0.5
                p.copy_(centre + spread * torch.randn(p.shape, generator=generator))
        return network.eval()

    return wake
