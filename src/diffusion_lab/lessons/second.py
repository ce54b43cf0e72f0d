"""Multiplication by a second distribution r(x): denoising, inpainting, guidance (Sohl-Dickstein et al., section 2.5).

Each reverse step p(x' | x) is multiplied by r(x'). Where r knows a place for certain, that place is put in after the
step, which is `sampling.keep_clean`; elsewhere r pulls.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Pull = Callable[[Tensor, Tensor], Tensor]
"""(where the step ends x', its level (B,)) -> the gradient of ln r(x'), like x'."""


def nowhere(x: Tensor, level: Tensor) -> Tensor:
    """No second distribution: r is flat."""
    return torch.zeros_like(x)
