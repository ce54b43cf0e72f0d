"""One method on one kind of question: its completions, measured picture by picture and as a set."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from diffusion_lab.evaluation.gallery import SIDE, candidates, chosen, small
from diffusion_lab.evaluation.memorisation import SHEET, Training
from diffusion_lab.evaluation.methods import Method
from diffusion_lab.evaluation.problems import Problem
from diffusion_lab.evaluation.reference import Collected, Extractor, Features, PictureSet, dealt, reduced
from diffusion_lab.evaluation.sets import SetMeasure, figures
from diffusion_lab.evaluation.unfinished import Kept, Unfinished
from diffusion_lab.metrics import LPIPS, Measure, diversity, hole_crop
from diffusion_lab.pictures import to_float, to_uint8


class Scored(NamedTuple):
    """What is known of a method on a kind of question, the same on every rank.

    Args:
        row: its figures.
        each: what every picture adds to them, where that is known.
        touched: pictures that it changed outside the hole.
        column: of the grid, 8-bit.
        chosen: indices of the pictures to look at.
        looked: their completions, 8-bit ``(chosen, completions, 3, s, s)``.
        nearest: of the completions that are nearest to a training picture `Training.sheet`; none without one.
    """

    row: dict[str, Any]
    each: dict[str, list[float]]
    touched: int
    column: Tensor
    chosen: list[int]
    looked: Tensor
    nearest: Tensor

    def kept(self) -> Kept:
        """The same as it lies on disk."""
        facts = {"pictures": self.row["n"], "row": self.row, "each": self.each, "touched": self.touched}
        tensors = {"column": self.column, "looked": self.looked, "nearest": self.nearest}
        return Kept(tensors, {**facts, "chosen": self.chosen})

    @classmethod
    def taken(cls, kept: Kept) -> Scored:
        """What `kept` returned."""
        facts, tensors = kept.facts, kept.tensors
        return cls(
            facts["row"],
            facts["each"],
            facts["touched"],
            tensors["column"],
            facts["chosen"],
            tensors["looked"],
            tensors["nearest"],
        )


@dataclass(frozen=True)
class Bench:
    """What stays the same from method to method."""

    pictures: PictureSet
    n: int
    batch_size: int
    seed: int
    fabric: Fabric
    device: torch.device  # where pictures are measured
    extractor: Extractor
    real: Features
    paired: bool  # whether `real` is of the pictures themselves
    judge: Extractor | None  # another extractor, of whose features a Frechet distance is taken as well
    judged: Features | None  # of the real pictures
    training: Training | None
    perceptual: LPIPS
    measures: Mapping[str, Measure]
    sets: Mapping[str, SetMeasure]
    shown: int
    gallery: int
    completions: int
    unfinished: Unfinished
    advance: Callable[[int], None]

    @property
    def size(self) -> int:
        return self.pictures.images.shape[-1]

    def batches(self) -> Iterator[Tensor]:
        """Indices of this rank's pictures."""
        return dealt(self.n, self.batch_size, self.fabric)

    @property
    def candidates(self) -> int:
        """Of how many pictures completions are kept until it is known which are looked at."""
        return candidates(self.n, self.size, self.completions) if self.gallery else 0

    def truth(self, problem: Problem, indices: Tensor) -> list[Tensor]:
        """True pictures and what is given of them, to be looked at, (len(indices), 3, S, S) in [-1, 1]."""
        pixels, holes = self.pictures[indices], problem.regions(self.size, indices)
        given = to_float(problem.given(pixels, holes, indices))
        return [to_float(pixels), problem.task.plain(given, holes)]

    def real_crops(self, problem: Problem, name: str) -> Features:
        """Features of the true pictures around each hole; `name` is what they are kept by."""
        collected = Collected(self.n, self.fabric, self.device)

        def features(indices: Tensor) -> dict[str, Tensor]:
            crops = hole_crop(self.pictures[indices].to(self.device), problem.regions(self.size, indices))
            return {"features": self.extractor(crops)}

        for indices in self.batches():
            collected.add(indices, self.unfinished.batch(name, indices, partial(features, indices))["features"])
            self.advance(len(indices))
        return collected.joined()

    def score(
        self,
        method: Method,
        kind: str,
        problem: Problem,
        name: str,
        crops: Features | None = None,
        looked_at: list[int] | None = None,
    ) -> Scored:
        """A method's figures, each batch of which is kept until the row is finished.

        Args:
            method: under test.
            kind: name of the problem.
            problem: what it is asked.
            name: of the row, that its batches are kept by.
            crops: the real pictures' features around the holes, for FID of those as well; None leaves it out.
            looked_at: indices of the pictures whose completions are looked at; None chooses them by LPIPS.
        """
        extra = ("diversity", "diversity_hole", "hole_area")
        values = torch.zeros(self.n, len(self.measures) + len(extra), dtype=torch.float64, device=self.device)
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)  # seconds, pictures changed outside the hole
        column = torch.zeros(self.shown, 3, self.size, self.size, dtype=torch.int32, device=self.device)
        fake, fake_crops, fake_judged = (Collected(self.n, self.fabric, self.device) for _ in range(3))
        made: dict[int, Tensor] = {}
        for indices in self.batches():
            measure = partial(self._measured, method, kind, problem, indices, crops is not None)
            found = {key: x.to(self.device) for key, x in self.unfinished.batch(name, indices, measure).items()}
            fake.add(indices, found["features"])
            if crops is not None:
                fake_crops.add(indices, found["crops"])
            if self.judge is not None:
                fake_judged.add(indices, found["judged"])
            values[indices.to(self.device)] = found["scores"]
            totals += found["totals"]
            column[indices[indices < self.shown].to(self.device)] = found["shown"].int()
            made |= zip(indices[indices < self.candidates].tolist(), found["looked"].cpu(), strict=True)
            self.advance(len(indices))
        values, totals, column = (reduced(x, self.fabric) for x in (values, totals, column))
        if looked_at is None:
            looked_at = chosen(values[: self.candidates, [*self.measures].index("lpips")], self.gallery)
        looked = self._looked(looked_at, made)
        features = fake.joined()
        of_sets = figures(self.sets, self.real, features, self.paired, self.fabric)
        if crops is not None:
            of_sets["fid_hole"] = figures({}, crops, fake_crops.joined(), True, self.fabric)["fid"]
        if self.judged is not None:
            of_sets["fd"] = figures({}, self.judged, fake_judged.joined(), self.paired, self.fabric)["fid"]
        nearest = torch.zeros(0, len(SHEET), 3, self.size, self.size, dtype=torch.uint8)
        if self.training is not None and features.each is not None:
            found, places = self.training.figures(features.each)
            of_sets |= found
            nearest = self._nearest(method, problem, self.training, found["training_distance"], places)
        each = of_sets | dict(zip((*self.measures, *extra), values.cpu().T, strict=True))
        area = each.pop("hole_area")
        if self.completions == 1:
            del each["diversity"], each["diversity_hole"]
        row = {
            "method": method.name,
            "mask": kind,
            "n": self.n,
            **({"identity": method.identity} if method.identity else {}),
            **{name: None if math.isnan(mean := x.mean().item()) else mean for name, x in each.items()},
            "seconds_per_image": totals[0].item() / self.n,
            "network_calls": method.network_calls,
        }
        known = {"hole_area": area} | {name: x for name, x in each.items() if x.ndim}
        touched = int(totals[1])
        return Scored(row, _of_each(known), touched, column.cpu().to(torch.uint8), looked_at, looked, nearest)

    def _looked(self, indices: list[int], made: Mapping[int, Tensor]) -> Tensor:
        """The completions of those indices, from the ranks that made them; every rank must ask."""
        side = min(self.size, SIDE)
        found = torch.zeros(len(indices), self.completions, 3, side, side, dtype=torch.int32, device=self.device)
        for number, index in enumerate(indices):
            if index in made:
                found[number] = made[index].to(self.device)
        return (reduced(found, self.fabric) if indices else found).cpu().to(torch.uint8)

    def _nearest(
        self, method: Method, problem: Problem, training: Training, distances: Tensor, places: Tensor
    ) -> Tensor:
        """The sheet of the completions that are nearest to a training picture, which are made once more for it."""
        sheet: Tensor | None = None
        if self.fabric.is_global_zero:
            chosen = distances.argsort(stable=True)[: self.shown]
            truths, asked, holes = self._asked(problem, chosen)
            filled, _ = _fill(method, asked, holes, example_seeds(self.seed, chosen), self.fabric.device)
            sheet = training.sheet(chosen, truths, to_uint8(filled), places)
        shared = self.fabric.broadcast(sheet)
        assert shared is not None
        return shared

    def _asked(self, problem: Problem, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """True pictures, what a method is handed of them, and what it shall fill."""
        target, holes = self.pictures[indices], problem.regions(self.size, indices)
        # What may not be looked at is taken out before any method sees it.
        given = to_float(problem.given(target, holes, indices))
        return target, problem.task.plain(given, holes, grey=0.0), holes

    def _measured(self, method: Method, kind: str, problem: Problem, indices: Tensor, crops: bool) -> dict[str, Tensor]:
        """A method's completions of a batch, as figures and features."""
        target, asked, holes = self._asked(problem, indices)
        filled, seconds = _fill(method, asked, holes, example_seeds(self.seed, indices), self.fabric.device)
        _require_finite(filled, indices, method, kind)
        touched = ((filled != to_float(target)) & ~holes).flatten(1).any(dim=1).sum()
        images, target, region = (x.to(self.device) for x in (to_uint8(filled), target, holes))
        scores = [measure(images, target, region).double() for measure in self.measures.values()]
        several = torch.stack([images, *self._others(method, indices, asked, holes)])
        scores += self._spread(several, region)
        scores.append(region.double().mean(dim=(1, 2, 3)))
        measured = {
            "scores": torch.stack(scores, dim=1),
            "totals": torch.tensor([seconds, touched], dtype=torch.float64),
            "shown": images[(indices < self.shown).to(self.device)],
            "looked": small(several.transpose(0, 1)[(indices < self.candidates).to(self.device)]),
            "features": self.extractor(images),
        }
        if crops:
            measured["crops"] = self.extractor(hole_crop(images, holes))
        if self.judge is not None:
            measured["judged"] = self.judge(images)
        return measured

    def _others(self, method: Method, indices: Tensor, asked: Tensor, holes: Tensor) -> Iterator[Tensor]:
        """All completions but the first, 8-bit (B, 3, S, S)."""
        for completion in range(1, self.completions):
            seeds = example_seeds(self.seed, indices, completion)
            filled, _ = _fill(method, asked, holes, seeds, self.fabric.device)
            yield to_uint8(filled).to(self.device)

    def _spread(self, several: Tensor, region: Tensor) -> list[Tensor]:
        """How much the completions of each picture differ as a whole and in the hole, float64 (B,); 0 of one only."""
        if len(several) == 1:
            return [torch.zeros(several.shape[1], dtype=torch.float64, device=self.device)] * 2
        return [diversity(self.perceptual, several, hole).double() for hole in (None, region)]


def example_seeds(seed: int, indices: Tensor, completion: int = 0) -> Tensor:
    """The seed of each example, int64 (B,) >= 0, by its index and the number of the completion alone.

    >>> torch.equal(example_seeds(0, torch.tensor([3, 5]))[1:], example_seeds(0, torch.tensor([5])))
    True
    """
    words = [
        np.random.SeedSequence((seed, i, completion)[: 3 if completion else 2]).generate_state(1, np.uint64)[0] >> 1
        for i in indices.tolist()
    ]
    return torch.tensor([int(word) for word in words], dtype=torch.int64)


def _fill(method: Method, asked: Tensor, holes: Tensor, seeds: Tensor, device: torch.device) -> tuple[Tensor, float]:
    """The completed pictures on the CPU, and how long the method took."""
    image, holes = asked.to(device), holes.to(device)
    synchronize: Callable[[], None] = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    synchronize()
    start = time.perf_counter()
    with torch.no_grad():
        filled = method.fill(image, holes, seeds)
    synchronize()
    seconds = time.perf_counter() - start
    if filled.shape != image.shape:
        raise ValueError(f"{method.name} returned {tuple(filled.shape)} for pictures {tuple(image.shape)}.")
    return filled.float().cpu(), seconds


def _require_finite(filled: Tensor, indices: Tensor, method: Method, kind: str) -> None:
    broken = indices[~filled.flatten(1).isfinite().all(dim=1)].tolist()
    if broken:
        raise ValueError(f"{method.name} made values that are not finite of picture {broken[0]} with the {kind} mask.")


def _of_each(values: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The figures of each picture, in order, to six digits: two evaluations of the same pictures compare in pairs."""
    return {name: [float(f"{x:.6g}") for x in column.tolist()] for name, column in values.items()}


def asked_sha256(
    problem: Problem, pictures: PictureSet, n: int, batch_size: int, fabric: Fabric, device: torch.device
) -> str:
    """Of what is given of each of the first n pictures, and of which part is to be made; every rank must ask."""
    words = torch.zeros(n, dtype=torch.int64, device=device)
    for indices in dealt(n, batch_size, fabric):
        holes = problem.regions(pictures.images.shape[-1], indices)
        words[indices.to(device)] = _digests(problem.given(pictures[indices], holes, indices), holes).to(device)
    return hashlib.sha256(reduced(words, fabric).cpu().numpy().astype("<i8").tobytes()).hexdigest()


def _digests(given: Tensor, holes: Tensor) -> Tensor:
    """A number for each question, int64 (B,): of what is given and of what is to be made."""
    words = [
        hashlib.sha256(pixels.numpy().tobytes() + hole.numpy().tobytes()).digest()[:8]
        for pixels, hole in zip(given, holes, strict=True)
    ]
    return torch.tensor([int.from_bytes(word, "little", signed=True) for word in words], dtype=torch.int64)
