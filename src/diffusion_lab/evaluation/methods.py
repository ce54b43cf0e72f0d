"""What is evaluated: a name, a way to fill holes or restore pictures, and how often it asks a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from diffusion_lab.cascade import Model
from diffusion_lab.diffusion.sampling import Sampler

Fill = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(image (B, 3, H, W) in [-1, 1], mask (B, 1, H, W), seeds int64 (B,)) -> completed picture, shaped as the image.

The image is what is given; where nothing of it may be looked at, it is 0."""


@dataclass(frozen=True)
class Method:
    """A method under test.

    Args:
        name: how the report calls it.
        fill: completes pictures and leaves the known pixels alone.
        network_calls: network evaluations that one picture costs.
        identity: its options and what its completions come from, such as the sha256 of a folder: rows of one name and
            two identities do not compare. Of a model the recipe and the protocol's samplers say it, and it is empty.
    """

    name: str
    fill: Fill
    network_calls: int = 0
    identity: str = ""


def diffusion(
    name: str,
    inpainter: Model,
    sampler: Sampler | None = None,
    attributes: Mapping[str, float] | None = None,
) -> Method:
    """An inpainter as a method; None samples as its recipe says, and says nothing of what the faces shall be like."""
    told = inpainter.attributes(attributes) if attributes else None

    def fill(image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        wanted = None if told is None else told.to(image.device).expand(len(image), -1)
        completed: Tensor = inpainter(image, mask, seeds=seeds, sampler=sampler, attributes=wanted)
        return completed

    return Method(name, fill, inpainter.network_calls(sampler))
