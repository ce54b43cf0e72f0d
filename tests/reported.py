"""Reports that an evaluation would have made, without the evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from diffusion_lab.evaluation import Report
from diffusion_lab.evaluation.gallery import Shown
from diffusion_lab.evaluation.tables import MORE_IS_BETTER
from diffusion_lab.evaluation.uncertainty import by_area, by_attribute, uncertainties

METHODS = ("ddim_10", "ddim_50", "mean fill")
KINDS = ("center", "half")
FIGURES = ("lpips", "psnr", "fid", "novel")  # the last is one that no table knows


def report(
    seed: int = 0,
    n: int = 8,
    methods: Sequence[str] = METHODS,
    kinds: Sequence[str] = KINDS,
    shown: int = 0,
    size: int = 16,
    better: float = 0.0,
    labelled: bool = False,
    **protocol: Any,
) -> Report:
    """Random figures, of which the pictures' part is shared by all methods, runs and kinds.

    Args:
        seed: of the methods' part.
        n: pictures.
        methods: the k-th is worse by k / 10 in LPIPS.
        kinds: of questions.
        shown: pictures of each kind to look at.
        size: of them.
        better: what is taken from LPIPS.
        labelled: whether it is known which pictures are hard to fill, and which have an odd number; and whether there
            are completions beside the training pictures that are nearest to them.
        protocol: facts beside the usual ones.
    """
    shared, own = np.random.default_rng(7), np.random.default_rng(seed)
    hardness = shared.normal(0.5, 0.05, n)
    rows, each = [], []
    for kind in kinds:
        for k, method in enumerate(methods):
            lpips = hardness + k / 10 - better + own.normal(0, 0.01, n)
            values = {"lpips": lpips, "psnr": 30 - 10 * lpips, "fid": 100 * lpips, "novel": own.random(n)}
            area = [0.25 if kind == kinds[0] else 0.5] * n
            short = {name: [float(f"{x:.6g}") for x in column] for name, column in values.items()}
            each.append({"mask": kind, "method": method, "hole_area": area, **short})
            means = {name: float(np.mean(column)) for name, column in values.items()}
            calls = int("".join(filter(str.isdigit, method)) or 0)
            rows.append({"method": method, "mask": kind, "n": n, **means, "seconds_per_image": 0.5})
            rows[-1] |= {"kid": None, "network_calls": calls}
    facts = {
        "name": "faces-inpainting-v1",
        "n": n,
        "pictures_sha256": "a" * 64,
        "asked_sha256": dict.fromkeys(kinds, "b" * 64),
        "fid_biased": True,
        "fid_reference": "the evaluated pictures themselves",
        "fid_reference_n": n,
        "image_size": size,
        "extractor": "pixels",
        "resize": "not resized",
        "mask_set": 1,
        "seed": 0,
        "known_pixels_changed": {},
        "device": "cpu",
        "data": "toy faces",
        **protocol,
    }
    drawn = torch.Generator().manual_seed(seed)

    def pictures(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, (*shape, 3, size, size), generator=drawn, dtype=torch.uint8)

    gallery = [
        Shown(kind, [*range(shown)], pictures(shown), pictures(shown), {name: pictures(shown, 2) for name in methods})
        for kind in kinds
    ]
    labels = {"hard": hardness > np.median(hardness), "odd": np.arange(n) % 2 == 1} if labelled else {}
    beside = [(f"{row['mask']}: {row['method']}", [*(pictures(4)[..., 1:, 1:] / 127.5 - 1)]) for row in rows]
    return Report(
        rows,
        facts,
        [],
        list(methods),
        each,
        uncertainties(each, MORE_IS_BETTER),
        by_area(each, FIGURES),
        gallery if shown else [],
        {"model": {"_target_": "toy"}},
        by_attribute(each, labels, FIGURES, MORE_IS_BETTER),
        beside if labelled else [],
    )
