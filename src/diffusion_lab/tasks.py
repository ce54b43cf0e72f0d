"""What is given of a picture, and what the network is shown of that: the one seam between the tasks.

Inpainting, uncropping, colourisation, JPEG restoration, super-resolution and the refinement of a coarse filling are
one network, one loss and one sampler (Palette, Saharia et al. 2022). What differs is here: a task is a degradation, a
way to show its result, and whether a person says where.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab import recipe as recipes
from diffusion_lab.data.degradations import Degrade, unchanged

Show = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(given (B, 3, H, W), region bool (B, 1, H, W), fill from N(0, 1)) -> what the network sees beside x."""


def noise_inside(given: Tensor, region: Tensor, fill: Tensor) -> Tensor:
    """The known pixels, and noise in the hole: what lies there is never looked at (Palette, section 4.2)."""
    return torch.where(region, fill, given)


def as_given(given: Tensor, region: Tensor, fill: Tensor) -> Tensor:
    """All of it, since the region holds what is to be restored."""
    return given


def noise_in_holes(given: Tensor, region: Tensor, fill: Tensor) -> Tensor:
    """Noise in the hole of a picture that has one; all of a picture that is its own region."""
    hole = region & ~region.flatten(1).all(1).reshape(-1, 1, 1, 1)
    return torch.where(hole, fill, given)


@dataclass(frozen=True)
class Task:
    """What a model is for.

    The region, a mask, is what the model makes: the hole, or the whole picture. The loss counts nothing else, and
    nothing else is changed.

    Args:
        name: how people call it, and its file in conf/task.
        degrade: makes of a picture what a person would hand in.
        show: what the network sees of that.
        holes: whether a person says where the region is: True, a mask is needed; False, it is the whole picture; None,
            it is the whole picture if nobody says otherwise.

    Example:
        >>> inpainting().region(None, 4, 4)
        Traceback (most recent call last):
        ValueError: this model fills holes (task inpainting): say where by a mask
    """

    name: str
    degrade: Degrade = unchanged
    show: Show = noise_inside
    holes: bool | None = True

    def check(self, masked: bool) -> None:
        """Says it where a mask is missing, or is there without use.

        Args:
            masked: whether there is one.

        Raises:
            ValueError: in that case.
        """
        if self.holes and not masked:
            raise ValueError(f"this model fills holes (task {self.name}): say where by a mask")
        if self.holes is False and masked:
            raise ValueError(f"this model restores whole pictures (task {self.name}): leave the mask out")

    @property
    def looks_inside(self) -> bool:
        """Whether what lies in a hole is shown, as a coarse filling is; what a person painted over is not."""
        return self.show is as_given

    def region(self, mask: Tensor | None, height: int, width: int) -> Tensor:
        """The region of a picture, ``(1, H, W)`` bool.

        Raises:
            ValueError: if a mask is missing, or there is no use for one.
        """
        self.check(mask is not None)
        return torch.ones(1, height, width, dtype=torch.bool) if mask is None else mask

    def plain(self, given: Tensor, region: Tensor, grey: float = 0.3) -> Tensor:
        """What is given, with one grey where nothing of it is looked at: for people, and for methods without noise."""
        return self.show(given, region, torch.full_like(given, grey))


def inpainting(name: str = "inpainting") -> Task:
    """A hole is filled; uncropping is that too, with holes at the sides."""
    return Task(name)


def restoration(name: str, degrade: Degrade) -> Task:
    """A whole picture is made anew of its degraded copy."""
    return Task(name, degrade, as_given, holes=False)


def refinement(degrade: Degrade) -> Task:
    """A hole that was filled coarsely is made fine: what lies in it is shown."""
    return Task("refinement", degrade, as_given)


def several(degrade: Degrade) -> Task:
    """Holes are filled and whole pictures restored, by one network that is told nothing (Palette, section 5.5)."""
    return Task("several", degrade, noise_in_holes, holes=None)


def of(recipe: Mapping[str, Any]) -> Task:
    """What the model of a recipe is for; those from before there were tasks fill holes.

    Example:
        >>> of({"model": {}}).name
        'inpainting'
    """
    node = recipes.first(recipe).get("task")
    made: Task = inpainting() if node is None else recipes.build(node)
    return made
