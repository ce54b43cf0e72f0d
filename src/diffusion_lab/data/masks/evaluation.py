"""The masks that figures are reported on: a set that never changes without its number changing."""

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.masks.drawing import MaskFn

MASK_SET = 1  # goes with every reported number; raise it when any mask of the set would change


def evaluation_mask(mask: MaskFn, size: int, index: int) -> Tensor:
    """The mask of a picture of the validation or test split, by its index alone: bool (1, size, size)."""
    seed = int(np.random.SeedSequence((MASK_SET, index)).generate_state(1, np.uint64)[0] >> 1)
    return mask(size, torch.Generator().manual_seed(seed))
