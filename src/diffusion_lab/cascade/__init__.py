"""Inpainters in a row, each shown what the one before has filled: a coarse picture first, its details last.

Cascaded diffusion models (Ho et al. 2021). A cascade is a folder like any other model's: one recipe, one file of
weights. ``python -m diffusion_lab.cascade BASE REFINER --output FOLDER`` makes one of inpainters that were trained
apart; of one cascade, the same command makes its inpainters again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab import recipe
from diffusion_lab.data.degradations import enlarged
from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.samplers import dpm_solver
from diffusion_lab.diffusion.sampling import Around, Sampler
from diffusion_lab.inpainting import Inpainter, Look, OnStep, looking
from diffusion_lab.pictures import to_float, to_uint8
from diffusion_lab.tasks import Task
from diffusion_lab.windows import Windows

CLOSER = (1, 2, 4)
"""So many times as large as its last stage's are the pictures that a cascade fills."""
AGAIN = dpm_solver(steps=4, eta=0.5)
"""How a refiner samples for windows of a large picture: four steps are measured to do as well as eight."""
MOST = 16
"""Windows of a network call, at most, where a cascade calls by itself and there are more than pictures."""


class Cascade(nn.Module):
    """Fills a hole at a coarse size and makes it fine in one stage or more; known pixels come back bit for bit.

    A picture that is larger than the last stage's is filled at its size first. Then the last stage, a refiner, is asked
    once more: for windows of its size over the hole of the large picture (see `windows`).

    Args:
        stages: the coarsest first. The later ones are refiners (`tasks.refinement`).
        sizes: of the stages' pictures, in pixels; each a multiple of the one before.

    Raises:
        ValueError: for sizes that do not fit, or a first stage or a refiner that is none.
    """

    def __init__(self, stages: Sequence[Inpainter], sizes: Sequence[int]) -> None:
        super().__init__()
        fit = all(fine >= coarse > 0 and fine % coarse == 0 for coarse, fine in pairwise(sizes))
        if len(stages) < 2:
            raise ValueError(f"a cascade is two stages or more, the coarsest first, and {len(stages)} was given")
        if len(stages) != len(sizes) or not fit:
            raise ValueError(f"{len(stages)} stages need as many sizes, each a multiple of the last, got {list(sizes)}")
        if named := [stage.task.name for stage in stages[1:] if stage.task.name != "refinement"]:
            raise ValueError(f"every stage after the first makes a coarse filling fine, and one is for {named[0]}")
        self.inpainters = nn.ModuleList(stages)
        self.sizes = tuple(sizes)
        self.recipe: dict[str, Any] = {}

    @property
    def task(self) -> Task:
        """What the first stage is for."""
        return self.first.task

    @property
    def stages(self) -> Sequence[Inpainter]:
        """The coarsest first."""
        return cast(list[Inpainter], [*self.inpainters])

    @property
    def first(self) -> Inpainter:
        """The stage that decides what there is."""
        return self.stages[0]

    def attributes(self, wanted: Mapping[str, float]) -> Tensor:
        """What a face shall be like: `Inpainter.attributes`, heard by the first stage."""
        return recipe.asked(self.recipe, wanted)

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the pictures that it fills, in pixels: its last stage's size, and what is so many times larger."""
        return tuple(self.sizes[-1] * times for times in CLOSER)

    def legs(self, side: int) -> tuple[int, ...]:
        """The numbers of the stages that a picture of that side goes through, one after the other."""
        last = len(self.sizes) - 1
        return (*range(last + 1), *[last] * (side > self.sizes[last]))

    def network_calls(self, sampler: Sampler | None = None, side: int | None = None) -> int:
        """How often a picture of that side asks a network, over all stages; None is the last stage's size.

        All windows are asked about at once.
        """
        legs = enumerate(self.legs(side or self.sizes[-1]))
        return sum(self.stages[stage].network_calls(self.taken(leg, sampler)) for leg, stage in legs)

    def taken(self, leg: int, sampler: Sampler | None) -> Sampler:
        """How a stage samples.

        Args:
            leg: as in `asked`.
            sampler: of the first one; None is its own. Refiners keep theirs, but for windows `AGAIN` is enough.
        """
        if leg == len(self.sizes):
            return replace(AGAIN, wrap=self.stages[-1].sampler.wrap, constrain=self.stages[-1].sampler.constrain)
        return self.stages[leg].sampler if sampler is None or leg > 0 else sampler

    def asked(self, leg: int, image: Tensor, mask: Tensor, filled: Tensor | None) -> tuple[Tensor, Tensor]:
        """What a stage is given, and the hole that it fills, as a whole.

        Args:
            leg: how many stages the pictures have behind them.
            image: ``(B, 3, S, S)`` in [-1, 1], of one of our sides.
            mask: ``(B, 1, S, S)`` bool.
            filled: ``(B, 3, s, s)``, what the stage before has made; None for the first.
        """
        side = (*self.sizes, image.shape[-1])[leg]
        small, hole = reduced(image, mask, image.shape[-1] // side)
        if filled is None:
            return small, hole
        coarse = enlarged(to_uint8(filled), side // filled.shape[-1])  # in 8 bits, as in training
        sound = filled.isfinite().flatten(1).all(1).reshape(-1, 1, 1, 1)  # what is no number is none in 8 bits either
        return torch.where(hole, to_float(coarse).where(sound, torch.nan), small), hole

    def windows(self, leg: int, hole: Tensor) -> Windows:
        """Where a stage's network, which knows pictures of its size alone, looks at what the stage is given.

        Args:
            leg: as in `asked`.
            hole: ``(B, 1, s, s)`` bool, likewise.
        """
        return Windows.over(hole, self.sizes[min(leg, len(self.sizes) - 1)])

    def joined(self, leg: int, windows: Windows, made: Tensor, given: Tensor) -> Tensor:
        """What a stage has made of its windows, as a whole.

        A window of a large picture may lie in the hole altogether, and a refiner, which was trained to distrust the
        colours that it is given, then changes them. So all that is as coarse as the first stage's pixels stays as it
        was given: x + up(down(y - x)), as in DDNM (Wang et al. 2023), eq. 6.

        Args:
            leg: as in `asked`.
            windows: R of them, over B pictures.
            made: ``(R, 3, s, s)``.
            given: ``(R, 3, s, s)``, what it was shown.

        Returns:
            ``(B, 3, S, S)``; what lies in no window is of no meaning.
        """
        whole = windows.joined(made)
        if leg < len(self.sizes):
            return whole
        coarse = F.avg_pool2d(windows.joined(given) - whole, windows.side // self.sizes[0])
        return (whole + F.interpolate(coarse, windows.side, mode="bicubic")).clamp(-1, 1)

    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        seeds: Sequence[int] | Tensor,
        sampler: Sampler | None = None,
        attributes: Tensor | None = None,
        on_step: OnStep | None = None,
        look: Look | None = None,
    ) -> Tensor:
        """Fills the holes: `Inpainter.forward`, at one of our sides.

        Args:
            image: ``(B, 3, S, S)`` in [-1, 1]; what lies in the hole is never looked at.
            mask: ``(B, 1, S, S)`` bool, True = hole.
            seeds: one per example; each stage has its own part of the noise, so that changing one leaves the others'.
            sampler: of the first stage; None is its own. Refiners keep theirs.
            attributes: ``(B, A)``, for the first stage.
            on_step: called after every network call, with the rows of the stage.
            look: likewise, with what the stage sees by then, enlarged, as the result is returned.

        Returns:
            ``(B, 3, S, S)`` in [-1, 1], equal to `image` outside the mask.

        Raises:
            ValueError: for pictures of another side.
        """
        if image.shape[-1] not in self.sides:
            raise ValueError(
                f"this cascade fills pictures of {recipe.listed([*map(str, self.sides)])} px, not of "
                f"{image.shape[-1]}: resize them"
            )
        filled = None
        for leg, number in enumerate(self.legs(image.shape[-1])):
            given, hole = self.asked(leg, image, mask, filled)
            windows = self.windows(leg, hole)
            stage = self.stages[number]
            taken = self.taken(leg, sampler)
            parts = partial(in_parts, most=max(len(image), MOST))
            rows, holes = windows.cut(given), windows.cut(hole)
            picture = partial(self.seen, leg, windows, rows, holes, image, mask)
            made = stage.drawn(
                rows,
                holes,
                windows.noise(stage_seeds(seeds, leg), given.shape[1], given.device),
                replace(taken, wrap=Around([parts, taken.wrap])),
                attributes if leg == 0 else None,
                looking(on_step, look, picture),
            )
            filled = self.joined(leg, windows, made, rows)
        assert filled is not None
        return torch.where(mask, filled, image)

    def seen(
        self, leg: int, windows: Windows, given: Tensor, holes: Tensor, image: Tensor, mask: Tensor, x_0: Tensor
    ) -> Tensor:
        """What a stage sees of its windows, ``(R, 3, s, s)``, in the picture as a whole, ``(B, 3, S, S)``."""
        return shown(self, leg, windows, torch.where(holes, x_0, given), given, image, mask)

    def save(self, folder: Path | str) -> None:
        """Writes `model.safetensors` and `recipe.json`, all or nothing."""
        recipe.save(self, self.recipe, Path(folder))


Model = Inpainter | Cascade
"""Whatever fills holes or restores pictures, and is a folder."""


def sides(made: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the pictures that a model of this recipe fills, for who has not loaded it.

    Example:
        >>> sides({"model": {"stages": []}, "data": {"image_size": 64}})
        (64, 128, 256)
    """
    return tuple(int(made["data"]["image_size"]) * times for times in (CLOSER if "stages" in made["model"] else (1,)))


def shown(model: Model, leg: int, windows: Windows, made: Tensor, given: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """A stage's filling on its way to the result, in a picture of any side.

    Args:
        model: whose stage it is.
        leg: as in `Cascade.asked`.
        windows: R of them, over B pictures.
        made: ``(R, 3, s, s)`` in [-1, 1], as the stage sees it now.
        given: likewise, what it was shown.
        image: ``(B, 3, S, S)``.
        mask: ``(B, 1, S, S)`` bool.

    Returns:
        ``(B, 3, S, S)``, equal to `image` outside the mask.
    """
    whole, side = model.joined(leg, windows, made, given), image.shape[-1]
    if whole.shape[-1] != side:
        whole = F.interpolate(whole, side, mode="bicubic" if whole.shape[-1] < side else "area")
    return torch.where(mask, whole, image)


def reduced(image: Tensor, mask: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The picture so many times smaller, each pixel the mean of those that are known, and the hole where none is.

    So a scratch that is thinner than a coarse pixel is left to the refiner.

    Args:
        image: ``(B, 3, H, W)``.
        mask: ``(B, 1, H, W)`` bool, True = hole.
        factor: a divisor of both sides; 1 changes nothing.

    Example:
        >>> image = torch.tensor([[[[1.0, 3.0], [5.0, 9.0]]]]).expand(1, 3, 2, 2)
        >>> small, hole = reduced(image, torch.tensor([[[[False, False], [False, True]]]]), 2)
        >>> small.flatten().tolist(), hole.flatten().tolist()
        ([3.0, 3.0, 3.0], [False])
    """
    if factor == 1:
        return image, mask
    known = (~mask).to(image.dtype)
    share = F.avg_pool2d(known, factor)
    mean = F.avg_pool2d(torch.where(mask, 0, image), factor) / share.clamp(min=1 / factor**2)
    return mean, share == 0


def in_parts(denoiser: Denoiser, most: int) -> Denoiser:
    """The same denoiser, called with so many rows at a time, at most: memory is bounded."""

    def denoise(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        if len(x) <= most:
            return denoiser(x, level, condition)
        slices = [slice(first, first + most) for first in range(0, len(x), most)]
        return Prediction.joined([denoiser(x[rows], level[rows], condition.map(itemgetter(rows))) for rows in slices])

    return denoise


def stage_seeds(seeds: Sequence[int] | Tensor, stage: int) -> Sequence[int] | Tensor:
    """The seeds of a stage's noise: the first one's own, and a hash of (seed, leg) for the others.

    Example:
        >>> stage_seeds([7, 8], 0)
        [7, 8]
        >>> stage_seeds([7, 8], 1)[1] == stage_seeds([8], 1)[0] != stage_seeds([8], 2)[0]
        True
    """
    if stage == 0:
        return seeds
    return [int(np.random.SeedSequence((int(seed), stage)).generate_state(1, np.uint64)[0] >> 1) for seed in seeds]


def load(folder: Path | str) -> Model:
    """The inpainter or the cascade that a folder holds, strictly: see `recipe.load` for what it refuses."""
    model = recipe.load(Path(folder))
    if not isinstance(model, Inpainter | Cascade):
        raise ValueError(f"'{folder}' holds a {type(model).__name__}, not an inpainter")
    model.recipe = recipe.read(Path(folder))
    return model


def joined(folders: Sequence[Path]) -> Cascade:
    """A cascade of inpainters that were trained apart, the coarsest first.

    Raises:
        ValueError: if their sizes or crops do not fit.
    """
    stages = [Inpainter.load(folder) for folder in folders]
    data = [stage.recipe["data"] for stage in stages]
    if len({each["crop"] for each in data}) > 1:
        crops = ", ".join(f"{folder}: {each['crop']}" for folder, each in zip(folders, data, strict=True))
        raise ValueError(f"the stages of a cascade must see the same crop of a picture, and these see {crops}")
    training = [stage.recipe.get("training", {}) for stage in stages]
    model = Cascade(stages, [int(each["image_size"]) for each in data])
    model.recipe = {
        **stages[0].recipe,
        "model": {
            "_target_": f"{recipe.PACKAGE}.cascade.Cascade",
            "sizes": list(model.sizes),
            "stages": [stage.recipe["model"] for stage in stages],
        },
        "data": {**data[0], "name": data[-1]["name"], "image_size": model.sizes[-1]},
        # Scored on the pictures of the finest stage, whose details are its point.
        "training": {
            **({"data": training[-1]["data"]} if "data" in training[-1] else {}),
            "stages": training,
        },
    }
    return model.eval()


def apart(model: Cascade) -> list[Inpainter]:
    """Its inpainters, each with the recipe of a folder of its own: the inverse of `joined`."""
    training = model.recipe.get("training", {})
    nodes, stages = model.recipe["model"]["stages"], model.stages
    for node, stage, size, own in zip(
        nodes, stages, model.sizes, training.get("stages", [{}] * len(nodes)), strict=True
    ):
        shared = {key: value for key, value in model.recipe.items() if key not in ("model", "data", "training")}
        data = {**model.recipe["data"], "image_size": size}
        stage.recipe = {**shared, "model": node, "data": data, "training": own}
    return [*stages]
