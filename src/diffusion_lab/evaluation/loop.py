"""The evaluation loop: every method fills the same holes of the same pictures, on one device or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from diffusion_lab.data.masks import MASK_SET, MaskFn, evaluation_mask
from diffusion_lab.evaluation.methods import Method
from diffusion_lab.evaluation.reference import Extractor, PictureSet, add_reference
from diffusion_lab.evaluation.report import Report, machine
from diffusion_lab.metrics import LPIPS, FrechetDistance, l1_hole, psnr, ssim
from diffusion_lab.pictures import masked, to_float, to_uint8

UNBIASED_ENOUGH = 10_000  # pictures; FID from fewer is too high by an amount that depends on n
HIGHEST_PSNR = 100.0  # dB, what an equal picture counts as in a mean


def evaluate(
    methods: Sequence[Method],
    pictures: PictureSet,
    masks: Mapping[str, MaskFn],
    *,
    extractor: Extractor,
    fabric: Fabric | None = None,
    num_images: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    reference: PictureSet | None = None,
    cache: Path | None = None,
    examples: int = 2,
    protocol: Mapping[str, Any] | None = None,
) -> Report:
    """Score methods on the first pictures of a split, with the fixed masks of each kind.

    Every rank returns the same rows: pictures are dealt out by their index without padding, and sums are reduced.

    Args:
        methods: what to score; their names differ.
        pictures: the split.
        masks: mask kinds by name. Picture i of a kind has the same hole whatever else is asked for.
        extractor: features for FID, such as `diffusion_lab.metrics.inception()`.
        fabric: the devices, launched; None is one CPU process.
        num_images: how many pictures; None takes all.
        batch_size: pictures at a time and device.
        seed: example i is filled with a seed made of (seed, i).
        reference: the pictures that FID compares with, all of them; None takes the evaluated ones themselves.
        cache: folder for the features of real pictures; None computes them anew.
        examples: pictures of each mask kind that the grid shows.
        protocol: facts that only the caller knows (data, crop, ...), to stand beside the figures.

    ValueError for a number of pictures that the split does not have, or a completion that is not finite.
    """
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    n = len(pictures) if num_images is None else num_images
    if not 1 <= n <= len(pictures):
        raise ValueError(f"Cannot evaluate {n} pictures: this split has {len(pictures)}; ask for 1 to {len(pictures)}.")
    if not methods or not masks:
        raise ValueError("There is nothing to evaluate: give at least one method and one mask kind.")
    # MPS has no float64, which every figure needs: there the pictures are measured on the CPU.
    device = torch.device("cpu") if fabric.device.type == "mps" else fabric.device
    perceptual = LPIPS().to(device)
    fid = FrechetDistance(extractor, keep_real=True).to(device)
    shown = min(examples, n)
    size = pictures.images.shape[-1]
    completed = torch.zeros(len(masks), shown, len(methods), 3, size, size, dtype=torch.int32, device=device)
    rows: list[dict[str, Any]] = []
    changed: dict[str, int] = {}
    mine = len(range(fabric.global_rank, n, fabric.world_size))
    with _progress(fabric) as progress:
        compared = reference or pictures
        n_reference = len(reference) if reference else n
        share = len(range(fabric.global_rank, n_reference, fabric.world_size))
        task = progress.add_task("real pictures", total=share + mine * len(masks) * len(methods))
        add_reference(
            fid,
            extractor,
            compared,
            n_reference,
            fabric=fabric,
            device=device,
            batch_size=batch_size,
            cache=cache,
            advance=lambda count: progress.advance(task, count),
        )
        for k, (kind, mask) in enumerate(masks.items()):
            for m, method in enumerate(methods):
                progress.update(task, description=f"{kind}: {method.name}")
                fid.reset()
                values = torch.zeros(n, 4, dtype=torch.float64, device=device)
                totals = torch.zeros(
                    2, dtype=torch.float64, device=device
                )  # seconds, pictures with known pixels changed
                for indices in _batches(n, batch_size, fabric):
                    target = pictures[indices]
                    holes = torch.stack([evaluation_mask(mask, size, index) for index in indices.tolist()])
                    filled, seconds = _fill(method, target, holes, example_seeds(seed, indices), fabric.device)
                    _require_finite(filled, indices, method, kind)
                    touched = ((filled != to_float(target)) & ~holes).flatten(1).any(dim=1).sum()
                    images, target, holes = to_uint8(filled).to(device), target.to(device), holes.to(device)
                    fid.update(images, real=False)
                    measures = (perceptual, psnr, ssim, l1_hole)
                    for column, measure in enumerate(measures):
                        values[indices.to(device), column] = measure(images, target, holes).double()
                    totals += torch.tensor([seconds, touched], dtype=torch.float64, device=device)
                    for index, image in zip(indices.tolist(), images, strict=True):
                        if index < shown:
                            completed[k, index, m] = image
                    progress.advance(task, len(indices))
                values, totals = _summed(values, fabric), _summed(totals, fabric)
                rows.append(_row(method, kind, values, totals[0].item(), fid.compute().item()))
                if totals[1]:
                    changed[f"{kind}: {method.name}"] = int(totals[1])
    facts = {
        "n": n,
        "fid_biased": n < UNBIASED_ENOUGH,
        "fid_reference": "the evaluated pictures themselves" if reference is None else "another split",
        "fid_reference_n": n_reference,
        "image_size": size,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "resize": extractor.resize,
        "lpips": "version 0.1, AlexNet",
        "pixels": f"8-bit; psnr and ssim of the whole picture, psnr at most {HIGHEST_PSNR:g} dB; l1_hole in [0, 1]",
        "mask_set": MASK_SET,
        "seed": seed,
        "known_pixels_changed": changed,
        "batch_size": batch_size,
        **machine(fabric),
        **(protocol or {}),
    }
    return Report(rows, facts, _grid_rows(pictures, masks, _summed(completed, fabric)), [each.name for each in methods])


def example_seeds(seed: int, indices: Tensor) -> Tensor:
    """The seed of each example, int64 (B,) >= 0, by its index alone.

    >>> torch.equal(example_seeds(0, torch.tensor([3, 5]))[1:], example_seeds(0, torch.tensor([5])))
    True
    """
    words = [np.random.SeedSequence((seed, i)).generate_state(1, np.uint64)[0] >> 1 for i in indices.tolist()]
    return torch.tensor([int(word) for word in words], dtype=torch.int64)


def _batches(n: int, batch_size: int, fabric: Fabric) -> Iterator[Tensor]:
    """This rank's indices, each picture on one rank only and none twice."""
    mine = torch.arange(fabric.global_rank, n, fabric.world_size)
    yield from mine.split(batch_size) if len(mine) else ()


def _fill(method: Method, target: Tensor, holes: Tensor, seeds: Tensor, device: torch.device) -> tuple[Tensor, float]:
    """The completed pictures on the CPU, and how long the method took; what lies in the hole is hidden from it."""
    holes = holes.to(device)
    image = to_float(target.to(device)).masked_fill(holes, 0.0)
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


def _row(method: Method, kind: str, values: Tensor, seconds: float, fid: float) -> dict[str, Any]:
    lpips_value, psnr_value, ssim_value, l1_value = values.clamp(max=HIGHEST_PSNR).mean(dim=0).tolist()
    return {
        "method": method.name,
        "mask": kind,
        "n": len(values),
        "fid": None if math.isnan(fid) else fid,
        "lpips": lpips_value,
        "psnr": psnr_value,
        "ssim": ssim_value,
        "l1_hole": l1_value,
        "seconds_per_image": seconds / len(values),
        "network_calls": method.network_calls,
    }


def _summed(values: Tensor, fabric: Fabric) -> Tensor:
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def _grid_rows(pictures: PictureSet, masks: Mapping[str, MaskFn], completed: Tensor) -> list[tuple[str, list[Tensor]]]:
    """Caption and pictures in [-1, 1] of each row: truth, masked, then every method's."""
    rows = []
    for k, (kind, mask) in enumerate(masks.items()):
        for index in range(completed.shape[1]):
            truth = to_float(pictures[[index]][0])
            hole = evaluation_mask(mask, truth.shape[-1], index)
            methods = [to_float(x.to(torch.uint8)) for x in completed[k, index].cpu()]
            rows.append((kind, [truth, masked(truth, hole), *methods]))
    return rows


def _progress(fabric: Fabric) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=not fabric.is_global_zero)
