"""Bits per dimension of pictures, and of holes given the rest: the variational bound over a split."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from diffusion_lab.data.examples import degradation_keys
from diffusion_lab.data.masks import MASK_SET, MaskFn, evaluation_mask
from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.likelihood import Decoder, FirstVariance, bound, clipped_variance, discretised
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.paths import Path as Levels
from diffusion_lab.diffusion.sampling import Around, Wrap, untouched
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.evaluation.bench import example_seeds
from diffusion_lab.evaluation.reference import PictureSet
from diffusion_lab.evaluation.report import machine
from diffusion_lab.files import replacing
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import to_float

TERMS = ("prior", "steps", "decoder")


@dataclass(frozen=True)
class Bits:
    """What `measure` found.

    Args:
        rows: one per mask kind: mask, n, hole (its mean share of the picture), bits_per_dim, standard_error (None of
            a single picture), and the terms that it is the sum of: prior, steps, decoder.
        by_level: the KL of each step, from noise to data, and the level that it starts from; by mask kind.
        protocol: what must agree before two bounds are compared.
    """

    rows: list[dict[str, Any]]
    by_level: dict[str, list[float]]
    protocol: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Writes likelihood.json, whole or not at all; call it on one rank only."""
        with replacing(folder / "likelihood.json") as fresh:
            fresh.write_text(json.dumps(vars(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def show(self, console: Console) -> None:
        """Prints the table and what must be known of it."""
        facts = self.protocol
        table = Table(title="Bits per dimension of the hole given the rest, at most", title_justify="left")
        table.box = SIMPLE_HEAD
        table.add_column("mask", no_wrap=True)
        for heading in ("hole", "bits/dim ↓", "± s.e.", *TERMS):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            error = "-" if row["standard_error"] is None else f"{row['standard_error']:.3f}"
            terms = (f"{row[term]:.4f}" for term in TERMS)
            table.add_row(row["mask"], f"{row['hole']:.0%}", f"{row['bits_per_dim']:.3f}", error, *terms)
        console.print(table)
        note = (
            f"{facts['n']} pictures of 8 bits, {facts['image_size']}x{facts['image_size']}; {facts['network_calls']} "
            f"steps, more of them bound it more tightly. Mask set {facts['mask_set']}, seed {facts['seed']}."
        )
        console.print(note, style="dim", markup=False)


def measure(
    inpainter: Inpainter,
    pictures: PictureSet,
    masks: Mapping[str, MaskFn],
    *,
    path: Callable[[NoiseSchedule], Levels],
    variance_mix: float = 0.0,
    first_variance: FirstVariance = clipped_variance,
    wrap: Wrap = untouched,
    decoder: Decoder = discretised,
    fabric: Fabric | None = None,
    num_images: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    protocol: Mapping[str, Any] | None = None,
) -> Bits:
    """The bound on -log2 p(hole | rest) of the first pictures of a split, per dimension, a mean over pictures.

    Every rank returns the same rows. Picture i has the same hole and the same noise in any company.

    Args:
        inpainter: whose denoiser is measured; its sampler plays no part.
        pictures: the split.
        masks: mask kinds by name; a mask of everything measures the whole picture.
        path: makes the levels of the reverse process from the schedule that the model was trained on.
        variance_mix: of the reverse process, if the network has not learned it; see `solvers.Ancestral`.
        first_variance: of its last step; see `diffusion.likelihood`.
        wrap: around the model; `guidance.Clip` is usual.
        decoder: p(x_0 | x_1).
        fabric: the devices, launched; None is one CPU process.
        num_images: how many pictures; None takes all.
        batch_size: pictures at a time and device.
        seed: example i has the noise of (seed, i).
        protocol: facts that only the caller knows, to stand beside the figures.

    Raises:
        ValueError: for a number of pictures that the split does not have, a picture without hole, or a part of the
            picture asked of a model that was trained without known pixels.
    """
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    n = len(pictures) if num_images is None else num_images
    size = pictures.images.shape[-1]
    if not 1 <= n <= len(pictures):
        raise ValueError(f"cannot measure {n} pictures, this split has {len(pictures)}: ask for 1 to {len(pictures)}")
    _require_condition(inpainter, masks, size)
    levels = path(inpainter.denoiser.schedule)
    mine = torch.arange(fabric.global_rank, n, fabric.world_size)  # each picture on one rank only and none twice
    rows: list[dict[str, Any]] = []
    by_level = {"level": levels[:-2].tolist()}
    with _progress(fabric) as progress:
        task = progress.add_task("", total=len(mine) * (len(levels) - 1) * len(masks))
        bounded = partial(
            bound,
            inpainter.denoiser,
            levels,
            variance_mix=variance_mix,
            first_variance=first_variance,
            decoder=decoder,
            wrap=Around([partial(Counted, advance=partial(progress.advance, task)), wrap]),
            constrain=inpainter.constrain,
        )
        for kind, mask in masks.items():
            progress.update(task, description=kind)
            terms = torch.zeros(n, len(TERMS), dtype=torch.float64)
            shares = torch.zeros(n, dtype=torch.float64)
            steps = torch.zeros(len(levels) - 2, dtype=torch.float64)
            for start in range(0, len(mine), batch_size):
                indices = mine[start : start + batch_size]
                pixels, hole = pictures[indices], _holes(kind, mask, size, indices)
                given = inpainter.task.degrade(pixels, hole, degradation_keys(indices.tolist()))
                x_0, given = (to_float(each).to(fabric.device) for each in (pixels, given))
                shares[indices] = hole.double().mean(dim=(1, 2, 3))
                noise = ExampleNoise(example_seeds(seed, indices), x_0.shape[1:], fabric.device)
                found = bounded(x_0, inpainter.condition(given, hole.to(fabric.device), fill=noise()), noise)
                terms[indices] = torch.stack([found.prior, found.steps.sum(1), found.decoder], dim=1)
                steps += found.steps.sum(0)
            terms, shares, steps = (_summed(values, fabric) for values in (terms, shares, steps))
            rows.append(_row(kind, terms, shares))
            by_level[kind] = (steps / n).tolist()
    facts = {
        "n": n,
        "image_size": size,
        "network_calls": len(levels) - 1,
        "variance_mix": variance_mix,
        "mask_set": MASK_SET,
        "seed": seed,
        "batch_size": batch_size,
        **machine(fabric),
        **(protocol or {}),
    }
    return Bits(rows, by_level, facts)


class Counted:
    """A denoiser that says after each call how many pictures it has seen.

    Args:
        denoiser: what is wrapped.
        advance: told the number.
    """

    def __init__(self, denoiser: Denoiser, advance: Callable[[int], None]) -> None:
        self.denoiser = denoiser
        self.advance = advance

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        prediction = self.denoiser(x, level, condition)
        self.advance(len(x))
        return prediction


def _require_condition(inpainter: Inpainter, masks: Mapping[str, MaskFn], size: int) -> None:
    """Before anybody waits: `bound` would say so too, but not which mask to leave out."""
    partial_masks = [kind for kind, mask in masks.items() if not bool(evaluation_mask(mask, size, 0).all())]
    if inpainter.denoiser.condition_channels == 0 and partial_masks:
        raise ValueError(
            "this model was trained without known pixels, and the difference of two of its bounds is no bound on the "
            f"hole given the rest: measure whole pictures by {' '.join(f'~masks.{kind}' for kind in partial_masks)}, "
            "or train a model with condition channels"
        )


def _holes(kind: str, mask: MaskFn, size: int, indices: Tensor) -> Tensor:
    holes = torch.stack([evaluation_mask(mask, size, index) for index in indices.tolist()])
    without = indices[~holes.flatten(1).any(dim=1)].tolist()
    if without:
        raise ValueError(f"the mask '{kind}' leaves picture {without[0]} without a hole: there is nothing to measure")
    return holes


def _row(kind: str, terms: Tensor, shares: Tensor) -> dict[str, Any]:
    total = terms.sum(1)
    return {
        "mask": kind,
        "n": len(total),
        "hole": shares.mean().item(),
        "bits_per_dim": total.mean().item(),
        "standard_error": total.std().item() / math.sqrt(len(total)) if len(total) > 1 else None,
        **dict(zip(TERMS, terms.mean(0).tolist(), strict=True)),
    }


def _summed(values: Tensor, fabric: Fabric) -> Tensor:
    total = fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()


def _progress(fabric: Fabric) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=not fabric.is_global_zero)
