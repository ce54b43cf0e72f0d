"""What is asked of every method: which part of each picture to make, and what is given of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.data.degradations import Degrade
from diffusion_lab.data.examples import degradation_keys
from diffusion_lab.data.masks import MaskFn, evaluation_mask, everything
from diffusion_lab.tasks import Task


@dataclass(frozen=True)
class Problem:
    """One kind of question, the same for all methods; picture i is always asked in the same way.

    Args:
        mask: which part is to be made.
        task: what is given of a picture, and how much of that may be looked at.
    """

    mask: MaskFn
    task: Task

    def regions(self, size: int, indices: Tensor) -> Tensor:
        """Bool ``(B, 1, S, S)`` of the pictures of those indices."""
        return torch.stack([evaluation_mask(self.mask, size, index) for index in indices.tolist()])

    def given(self, pixels: Tensor, region: Tensor, indices: Tensor) -> Tensor:
        """What is given of 8-bit pictures, shaped as they are."""
        return self.task.degrade(pixels, region, degradation_keys(indices.tolist()))


def problems(
    task: Task, masks: Mapping[str, MaskFn] | None = None, degradations: Mapping[str, Degrade] | None = None
) -> dict[str, Problem]:
    """Every mask with every degradation, by name.

    Args:
        task: that the model was trained for.
        masks: by name; None or empty for the whole picture.
        degradations: by name, in place of the task's own, which may draw from a range; None or empty for that one.

    Example:
        >>> from functools import partial
        >>> from diffusion_lab.data.degradations import jpeg, luma
        >>> from diffusion_lab.tasks import restoration
        >>> [*problems(restoration("jpeg", jpeg), None, {"quality 5": partial(jpeg, quality=(5, 5))})]
        ['quality 5']
        >>> [*problems(restoration("colorization", luma))]
        ['colorization']
    """
    asked = {}
    for where, mask in (masks or {"": everything}).items():
        for how, degrade in (degradations or {"": task.degrade}).items():
            name = ", ".join(filter(None, (where, how))) or task.name
            asked[name] = Problem(mask, Task(task.name, degrade, task.show, task.holes))
    return asked
