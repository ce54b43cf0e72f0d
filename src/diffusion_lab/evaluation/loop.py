"""The evaluation loop: every method is asked the same of the same pictures, on one device or many."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from diffusion_lab.data.masks import MASK_SET
from diffusion_lab.evaluation.bench import Bench, Scored, asked_sha256
from diffusion_lab.evaluation.gallery import Shown, small
from diffusion_lab.evaluation.memorisation import Training, parts
from diffusion_lab.evaluation.methods import Method
from diffusion_lab.evaluation.problems import Problem
from diffusion_lab.evaluation.reference import KEPT, Extractor, PictureSet, pixels_sha256, reference_features
from diffusion_lab.evaluation.report import Report, machine
from diffusion_lab.evaluation.sets import SetMeasure
from diffusion_lab.evaluation.tables import MORE_IS_BETTER
from diffusion_lab.evaluation.uncertainty import by_area, by_attribute, uncertainties
from diffusion_lab.evaluation.unfinished import Unfinished
from diffusion_lab.metrics import LPIPS, Measure, l1_hole, psnr, ssim
from diffusion_lab.pictures import to_float, to_uint8

RULES = 1  # of the protocol: raised when the same pictures and holes would get other figures
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
    gallery: int = 0,
    completions: int = 1,
    measures: Mapping[str, Measure] | None = None,
    sets: Mapping[str, SetMeasure] | None = None,
    crops: bool = False,
    judge: Extractor | None = None,
    training: PictureSet | None = None,
    labels: Mapping[str, Tensor] | None = None,
    protocol: Mapping[str, Any] | None = None,
    unfinished: Path | None = None,
    inputs: Mapping[str, Any] | None = None,
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
        gallery: pictures of each kind that the report's page shows, the best, median and worst by the first method's
            LPIPS.
        completions: of each picture; from 2 on, the rows also have `diversity`, the mean LPIPS between them. All other
            figures are of the first.
        measures: of each picture, beside the usual ones.
        sets: of the features of all pictures, beside FID.
        crops: whether to take FID of the square around each hole as well, which doubles the time for features.
        judge: another extractor, such as `diffusion_lab.metrics.dinov2`: `fd` is the Frechet distance of its features.
        training: the pictures that the model was trained on, of the same size: with them, the rows say how far
            completions and truths are from the nearest of these, and the report shows the nearest ones.
        labels: of each attribute which pictures of the split have it, bool (N,): they are compared with all others.
        protocol: facts that only the caller knows (data, crop, ...), to stand beside the figures.
        unfinished: folder for what is measured before all is, batch by batch: there the same evaluation goes on if it
            is called again. Whoever has saved the report removes it. None keeps nothing.
        inputs: what else the figures hang on, such as the weights and the methods' options, as JSON has it: with other
            facts nothing is taken from `unfinished`.

    ValueError for a number of pictures that the split does not have, a completion that is not finite, or training
    pictures of another size.
    """
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    n = len(pictures) if num_images is None else num_images
    if not 1 <= n <= len(pictures):
        raise ValueError(f"Cannot evaluate {n} pictures: this split has {len(pictures)}; ask for 1 to {len(pictures)}.")
    if gallery < 0:
        raise ValueError(f"Cannot show {gallery} pictures of each kind: ask for 0 or more.")
    if not methods or not problems:
        raise ValueError("There is nothing to evaluate: give at least one method and one mask kind.")
    side = pictures.images.shape[-1]
    if training is not None and training.images.shape[-1] != side:
        raise ValueError(
            f"The training pictures have {training.images.shape[-1]} pixels and the evaluated ones {side}: their "
            "features do not compare, give both the same size."
        )
    if training is not None and n > KEPT:
        raise ValueError(f"Memorisation needs the features of each picture, which are kept up to {KEPT}, not of {n}.")
    # MPS has no float64, which every figure needs: there the pictures are measured on the CPU.
    device = torch.device("cpu") if fabric.device.type == "mps" else fabric.device
    for module in (extractor, judge):
        if isinstance(module, nn.Module):
            module.to(device)
    perceptual = LPIPS().to(device)
    measured: dict[str, Measure] = {"lpips": perceptual, "psnr": _psnr, "ssim": ssim, "l1_hole": l1_hole}
    measured |= measures or {}
    compared, n_compared = (pictures, n) if reference is None else (reference, len(reference))
    changed: dict[str, int] = {}
    facts: dict[str, Any] = {
        "name": f"faces-{next(iter(problems.values())).task.name}-v{RULES}",
        "n": n,
        "pictures_sha256": pixels_sha256(pictures, n),
        "asked_sha256": {
            kind: asked_sha256(problem, pictures, n, batch_size, fabric, device) for kind, problem in problems.items()
        },
        "fid_biased": n < UNBIASED_ENOUGH,
        "fid_reference": "the evaluated pictures themselves" if reference is None else "another split",
        "fid_reference_n": n_compared,
        "image_size": side,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "resize": extractor.resize,
        "lpips": "version 0.1, AlexNet",
        "pixels": f"8-bit; psnr and ssim of the whole picture, psnr at most {HIGHEST_PSNR:g} dB; l1_hole in [0, 1]",
        "mask_set": MASK_SET,
        "seed": seed,
        "known_pixels_changed": changed,  # counted below
        "batch_size": batch_size,
        "completions": completions,
        **machine(fabric),
        **(protocol or {}),
    }
    if judge is not None:
        facts |= {"fd_extractor": judge.name, "fd_extractor_sha256": judge.digest, "fd_resize": judge.resize}
    if training is not None:
        facts["training_n"] = len(training)
    kept = Unfinished(
        unfinished,
        {
            "facts": facts,
            "inputs": inputs,
            "rows": [
                [kind, method.name, method.network_calls, method.identity] for kind in problems for method in methods
            ],
            "reference": compared.digest,
            "measures": [*measured],
            "sets": [*(sets or {})],
            "crops": crops,
            "examples": examples,
            "gallery": gallery,
            "training": None if training is None else training.digest,
        },
    )
    mine = len(range(fabric.global_rank, n, fabric.world_size))
    names = [[f"{kind}-{row}" for row in range(len(methods))] for kind in range(len(problems))]
    rows: list[dict[str, Any]] = []
    each: list[dict[str, Any]] = []
    grid: list[tuple[str, list[Tensor]]] = []
    shown: list[Shown] = []
    nearest: list[tuple[str, list[Tensor]]] = []
    ruler = [("real", compared, n_compared)]  # all real pictures whose features are needed
    if training is not None:
        ruler += [(f"training-{i}", part, len(part)) for i, part in enumerate(parts(training))]
        ruler += [("truth", pictures, n)] if reference is not None else []
    work = sum(len(range(fabric.global_rank, count, fabric.world_size)) for _, _, count in ruler)
    work += len(range(fabric.global_rank, n_compared, fabric.world_size)) * (judge is not None)
    work += mine * len(problems) * (len(methods) + crops)
    if fabric.is_global_zero and (before := sum(kept.pictures(row) for of_kind in names for row in of_kind)):
        asked = n * len(problems) * len(methods)
        print(f"Going on where it was cut: {before} of {asked} completions are measured, in {unfinished}", flush=True)
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

        features_of = partial(
            reference_features,
            fabric=fabric,
            device=device,
            batch_size=batch_size,
            cache=cache,
            unfinished=kept,
            advance=advance,
        )
        real, *others = [features_of(extractor, of, count, name=name) for name, of, count in ruler]
        judged = None if judge is None else features_of(judge, compared, n_compared, name="judged")
        truths = (real if reference is None else others.pop()).each if training is not None else None
        learned = [part.each.cpu() for part in others if part.each is not None]
        bench = Bench(
            pictures,
            n,
            batch_size,
            seed,
            fabric,
            device,
            extractor,
            real,
            reference is None,
            judge,
            judged,
            None if training is None or truths is None else Training(training, learned, truths, fabric),
            perceptual,
            measured,
            sets or {},
            min(examples, n),
            gallery,
            completions,
            kept,
            advance,
        )
        for number, ((kind, problem), of_kind) in enumerate(zip(problems.items(), names, strict=True)):
            columns, looked_at = bench.truth(problem, torch.arange(bench.shown)), None
            looked: dict[str, Tensor] = {}
            finished = [kept.row(name) for name in of_kind] if fabric.is_global_zero else []
            finished = fabric.broadcast(finished)
            around = bench.real_crops(problem, f"{number}-real") if crops and None in finished else None
            for method, name, row in zip(methods, of_kind, finished, strict=True):
                progress.update(task, description=f"{kind}: {method.name}")
                if row is None:
                    scored = bench.score(method, kind, problem, name, around, looked_at)
                else:
                    scored = Scored.taken(row)
                    advance(mine)
                rows.append(scored.row)
                each.append({"mask": kind, "method": method.name, **scored.each})
                columns.append(to_float(scored.column))
                looked_at, looked[method.name] = scored.chosen, scored.looked
                nearest += [(f"{kind}: {method.name}", list(to_float(found))) for found in scored.nearest]
                if fabric.is_global_zero and row is None:
                    kept.finish(name, scored.kept())
                if in_lines and row is None:
                    seconds = scored.row["seconds_per_image"]
                    print(f"{kind}: {method.name}: {n} pictures at {seconds:.3f} s", flush=True)
                if scored.touched:
                    changed[f"{kind}: {method.name}"] = scored.touched
            if fabric.is_global_zero:
                kept.finish(f"{number}-real")
            if looked_at:
                truth, given = (small(to_uint8(x)) for x in bench.truth(problem, torch.tensor(looked_at)))
                shown.append(Shown(kind, looked_at, truth, given, looked))
            grid += [(kind, list(pictures_of_row)) for pictures_of_row in zip(*columns, strict=True)]
    return Report(
        rows,
        facts,
        grid,
        [method.name for method in methods],
        each,
        uncertainties(each, MORE_IS_BETTER),
        by_area(each, [*measured]),
        gallery=shown,
        attributes=by_attribute(
            each,
            {name: has[:n].bool().numpy() for name, has in (labels or {}).items()},
            [*measured, *(("diversity", "diversity_hole") if completions > 1 else ())],
            MORE_IS_BETTER,
        ),
        nearest=nearest,
    )


def _psnr(images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return psnr(images, target).clamp(max=HIGHEST_PSNR)


def _progress(fabric: Fabric) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=not fabric.is_global_zero)
