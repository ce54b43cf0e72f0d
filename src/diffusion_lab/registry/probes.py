"""A few faces with holes, the same on every machine: what a model is asked before it is trusted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.cascade import Model
from diffusion_lab.data.cache import RESAMPLING
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.masks import center, evaluation_mask, free_form, half
from diffusion_lab.pictures import from_pil
from diffusion_lab.tasks import Task

MASKS = (center, free_form, half)


@dataclass(frozen=True)
class Probes:
    """Faces of the built-in test split, which no model that comes with the package was trained on.

    Args:
        image: ``(B, 3, S, S)`` in [-1, 1].
        mask: ``(B, 1, S, S)`` bool, True = hole.
    """

    image: Tensor
    mask: Tensor

    @property
    def seeds(self) -> list[int]:
        return list(range(len(self.image)))


def probes(size: int, count: int, task: Task | None = None) -> Probes:
    """The first faces at a model's size, each with a hole of the next kind, or as a whole if the task takes no hole."""
    source = CelebA(built_in_faces())
    crop = center148()
    images, masks = [], []
    for i, name in enumerate(source.names("test")[:count]):
        picture = crop(decode(source.read(name))).resize((size, size), RESAMPLING)
        images.append(from_pil(picture))
        hole = evaluation_mask(MASKS[i % len(MASKS)], size, i)
        masks.append(torch.ones_like(hole) if task is not None and task.holes is False else hole)
    return Probes(torch.stack(images), torch.stack(masks))


def image_size(inpainter: Model) -> int:
    """The size that a model works at.

    Raises:
        ValueError: if its recipe does not say.
    """
    try:
        return int(inpainter.recipe["data"]["image_size"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            "the recipe does not say for which pictures the model is: it needs data.image_size, as train.py writes it"
        ) from None


def golden(inpainter: Model) -> dict[str, Tensor]:
    """One face, its hole and what the model makes of it with seed 0: whoever loads the model can repeat it.

    Raises:
        ValueError: if the completion is not finite.
    """
    asked = probes(image_size(inpainter), 1, inpainter.task)
    output = inpainter(asked.image, asked.mask, seeds=asked.seeds)
    if not bool(output.isfinite().all()):
        raise ValueError("the model makes values that are not finite: it is not fit to be registered")
    return {"image": asked.image, "mask": asked.mask, "output": output}


def seconds_per_picture(inpainters: Sequence[Model], rounds: int, at_least: float = 3.0) -> list[float]:
    """CPU time of one picture on one thread, the shortest, of models that take turns.

    The clock on the wall also counts what else the machine does: on a busy one, the same model beside itself came out
    at .74 to 1.44 times its own time. CPU time does not, but of several threads it counts those that spin while they
    wait for one that a neighbour holds up; and the shortest of many turns is the least marked by shared caches.

    Args:
        inpainters: to be compared.
        rounds: pictures of each, the first of which warms up and does not count.
        at_least: seconds to go on for; short pictures get more rounds.
    """
    asked = [probes(image_size(inpainter), 1, inpainter.task) for inpainter in inpainters]
    taken: list[list[float]] = [[] for _ in inpainters]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begun = time.perf_counter()
        while len(taken[0]) <= rounds or time.perf_counter() - begun < at_least:
            for inpainter, probe, times in zip(inpainters, asked, taken, strict=True):
                start = time.process_time()
                inpainter(probe.image, probe.mask, seeds=probe.seeds)
                times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return [min(times[1:]) for times in taken]
