"""The evaluation loop: every method is asked the same of the same pictures, on one device or many."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from diffusion_lab.data.masks import MASK_SET
from diffusion_lab.evaluation.methods import Method
from diffusion_lab.evaluation.problems import Problem
from diffusion_lab.evaluation.reference import Extractor, PictureSet, add_reference
from diffusion_lab.evaluation.report import Report, machine
from diffusion_lab.metrics import LPIPS, FrechetDistance, diversity, l1_hole, psnr, ssim
from diffusion_lab.metrics.inpainting import Measure
from diffusion_lab.pictures import to_float, to_uint8

UNBIASED_ENOUGH = 10_000  # pictures; FID from fewer is too high by an amount that depends on n
SILENCE = 30.0  # seconds without a word, at most, where there is no progress bar
HIGHEST_PSNR = 100.0  # dB, what an equal picture counts as in a mean


def evaluate(
    methods: Sequence[Method],
    pictures: PictureSet,
    problems: Mapping[str, Problem],
    *,
    extractor: Extractor,
    fabric: Fabric | None = None,
    num_images: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    reference: PictureSet | None = None,
    cache: Path | None = None,
    examples: int = 2,
    completions: int = 1,
    measures: Mapping[str, Measure] | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> Report:
    """Score methods on the first pictures of a split, with the fixed masks of each kind.

    Every rank returns the same rows: pictures are dealt out by their index without padding, and sums are reduced.

    Args:
        methods: what to score; their names differ.
        pictures: the split.
        problems: what is asked, by name. Picture i of a kind has the same hole whatever else is asked for.
        extractor: features for FID, such as `diffusion_lab.metrics.inception()`.
        fabric: the devices, launched; None is one CPU process.
        num_images: how many pictures; None takes all.
        batch_size: pictures at a time and device.
        seed: example i is filled with a seed made of (seed, i).
        reference: the pictures that FID compares with, all of them; None takes the evaluated ones themselves.
        cache: folder for the features of real pictures; None computes them anew.
        examples: pictures of each kind that the grid shows.
        completions: of each picture; from 2 on, the rows also have `diversity`, the mean LPIPS between them. All other
            figures are of the first.
        measures: of each picture, beside the usual ones.
        protocol: facts that only the caller knows (data, crop, ...), to stand beside the figures.

    ValueError for a number of pictures that the split does not have, or a completion that is not finite.
    """
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    n = len(pictures) if num_images is None else num_images
    if not 1 <= n <= len(pictures):
        raise ValueError(f"Cannot evaluate {n} pictures: this split has {len(pictures)}; ask for 1 to {len(pictures)}.")
    if not methods or not problems:
        raise ValueError("There is nothing to evaluate: give at least one method and one mask kind.")
    # MPS has no float64, which every figure needs: there the pictures are measured on the CPU.
    device = torch.device("cpu") if fabric.device.type == "mps" else fabric.device
    fid = FrechetDistance(extractor, keep_real=True).to(device)
    perceptual = LPIPS().to(device)
    measured: dict[str, Measure] = {"lpips": perceptual, "psnr": _psnr, "ssim": ssim, "l1_hole": l1_hole}
    measured |= measures or {}
    bench = _Bench(
        pictures, n, batch_size, seed, fabric, device, fid, perceptual, measured, min(examples, n), completions
    )
    compared, n_compared = (pictures, n) if reference is None else (reference, len(reference))
    rows: list[dict[str, Any]] = []
    each: list[dict[str, Any]] = []
    changed: dict[str, int] = {}
    grid: list[tuple[str, list[Tensor]]] = []
    work = len(range(fabric.global_rank, n_compared, fabric.world_size))
    work += len(range(fabric.global_rank, n, fabric.world_size)) * len(problems) * len(methods)
    with _progress(fabric) as progress:
        task = progress.add_task("real pictures", total=work)
        in_lines = fabric.is_global_zero and not progress.console.is_terminal  # where there is no bar to look at
        spoke = time.monotonic()

        def advance(count: int) -> None:
            nonlocal spoke
            progress.advance(task, count)
            if in_lines and time.monotonic() - spoke > SILENCE:
                spoke = time.monotonic()
                now = progress.tasks[0]
                print(f"{now.description}: {now.completed / work:.0%} of all is done", flush=True)

        add_reference(
            fid,
            extractor,
            compared,
            n_compared,
            fabric=fabric,
            device=device,
            batch_size=batch_size,
            cache=cache,
            advance=advance,
        )
        for kind, problem in problems.items():
            columns = bench.truth(problem)
            for method in methods:
                progress.update(task, description=f"{kind}: {method.name}")
                row, values, touched, completed = bench.score(method, kind, problem, advance)
                rows.append(row)
                each.append({"mask": kind, "method": method.name, **values})
                columns.append(completed)
                if in_lines:
                    print(f"{kind}: {method.name}: {n} pictures at {row['seconds_per_image']:.3f} s", flush=True)
                if touched:
                    changed[f"{kind}: {method.name}"] = touched
            grid += [(kind, list(pictures_of_row)) for pictures_of_row in zip(*columns, strict=True)]
    facts = {
        "n": n,
        "pictures_sha256": _digest(pictures, n),
        "fid_biased": n < UNBIASED_ENOUGH,
        "fid_reference": "the evaluated pictures themselves" if reference is None else "another split",
        "fid_reference_n": n_compared,
        "image_size": bench.size,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "resize": extractor.resize,
        "lpips": "version 0.1, AlexNet",
        "pixels": f"8-bit; psnr and ssim of the whole picture, psnr at most {HIGHEST_PSNR:g} dB; l1_hole in [0, 1]",
        "mask_set": MASK_SET,
        "seed": seed,
        "known_pixels_changed": changed,
        "batch_size": batch_size,
        "completions": completions,
        **machine(fabric),
        **(protocol or {}),
    }
    return Report(rows, facts, grid, [method.name for method in methods], each)


@dataclass(frozen=True)
class _Bench:
    """What stays the same from method to method."""

    pictures: PictureSet
    n: int
    batch_size: int
    seed: int
    fabric: Fabric
    device: torch.device  # where pictures are measured
    fid: FrechetDistance
    perceptual: LPIPS
    measures: Mapping[str, Measure]
    shown: int
    completions: int

    @property
    def size(self) -> int:
        return self.pictures.images.shape[-1]

    def truth(self, problem: Problem) -> list[Tensor]:
        """The first two columns of the grid: true pictures and what is given, (shown, 3, S, S) in [-1, 1]."""
        indices = torch.arange(self.shown)
        pixels, holes = self.pictures[indices], problem.regions(self.size, indices)
        given = to_float(problem.given(pixels, holes, indices))
        return [to_float(pixels), problem.task.plain(given, holes)]

    def spread(self, method: Method, indices: Tensor, first: Tensor, asked: Tensor, holes: Tensor) -> Tensor:
        """How much the completions of each picture differ, float64 (B,); 0 where there is one only."""
        if self.completions == 1:
            return torch.zeros(len(indices), dtype=torch.float64, device=self.device)
        several = [first]
        for completion in range(1, self.completions):
            seeds = example_seeds(self.seed, indices, completion)
            filled, _ = _fill(method, asked, holes, seeds, self.fabric.device)
            several.append(to_uint8(filled).to(self.device))
        return diversity(self.perceptual, torch.stack(several)).double()

    def score(
        self, method: Method, kind: str, problem: Problem, advance: Callable[[int], None]
    ) -> tuple[dict[str, Any], dict[str, list[float]], int, Tensor]:
        """A method's row, its figures of each picture, how many it changed outside the hole, its column of the grid."""
        self.fid.reset()
        values = torch.zeros(self.n, len(self.measures) + 1, dtype=torch.float64, device=self.device)
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)  # seconds, pictures changed outside the hole
        column = torch.zeros(self.shown, 3, self.size, self.size, dtype=torch.int32, device=self.device)
        # Each picture on one rank only and none twice; a rank may have none at all.
        mine = torch.arange(self.fabric.global_rank, self.n, self.fabric.world_size)
        for start in range(0, len(mine), self.batch_size):
            indices = mine[start : start + self.batch_size]
            target, holes = self.pictures[indices], problem.regions(self.size, indices)
            # What may not be looked at is taken out before any method sees it.
            asked = problem.task.plain(to_float(problem.given(target, holes, indices)), holes, grey=0.0)
            filled, seconds = _fill(method, asked, holes, example_seeds(self.seed, indices), self.fabric.device)
            _require_finite(filled, indices, method, kind)
            touched = ((filled != to_float(target)) & ~holes).flatten(1).any(dim=1).sum()
            images, target, holes = (x.to(self.device) for x in (to_uint8(filled), target, holes))
            self.fid.update(images, real=False)
            scores = [measure(images, target, holes).double() for measure in self.measures.values()]
            scores.append(self.spread(method, indices, images, asked, holes))
            values[indices.to(self.device)] = torch.stack(scores, dim=1)
            totals += torch.tensor([seconds, touched], dtype=torch.float64, device=self.device)
            seen = indices < self.shown
            column[indices[seen].to(self.device)] = images[seen.to(self.device)].int()
            advance(len(indices))
        values, totals, column = (_summed(x, self.fabric) for x in (values, totals, column))
        each = dict(zip(self.measures, values.T, strict=False))
        row = _row(method, kind, each, totals[0].item(), self.fid.compute().item())
        if self.completions > 1:
            row["diversity"] = values[:, -1].mean().item()
        return row, _of_each(each), int(totals[1]), to_float(column.cpu())


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


def _psnr(images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return psnr(images, target).clamp(max=HIGHEST_PSNR)


def _of_each(values: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The figures of each picture, in order, to six digits: two evaluations of the same pictures compare in pairs."""
    return {name: [float(f"{x:.6g}") for x in column.tolist()] for name, column in values.items()}


def _digest(pictures: PictureSet, n: int) -> str:
    """The sha256 of the evaluated pictures' pixels, the same on every machine that decodes them alike."""
    sha256 = hashlib.sha256()
    for start in range(0, n, 1024):
        sha256.update(pictures[list(range(start, min(start + 1024, n)))].numpy().tobytes())
    return sha256.hexdigest()


def _row(method: Method, kind: str, values: Mapping[str, Tensor], seconds: float, fid: float) -> dict[str, Any]:
    n = len(values["lpips"])
    return {
        "method": method.name,
        "mask": kind,
        "n": n,
        "fid": None if math.isnan(fid) else fid,
        **{name: column.mean().item() for name, column in values.items()},
        "seconds_per_image": seconds / n,
        "network_calls": method.network_calls,
    }


def _summed(values: Tensor, fabric: Fabric) -> Tensor:
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def _progress(fabric: Fabric) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=not fabric.is_global_zero)
