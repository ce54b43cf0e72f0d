"""How long FID takes: the Frechet term by three formulas, and Inception plain and folded.

    uv run python benchmarks/frechet.py [--pictures 64] [--repeats 3]

Variants take turns within each repeat, so that a busy machine slows all of them; the fastest repeat counts.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import scipy.linalg
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusion_lab.metrics import frechet_distance, frechet_distance_from_moments, inception, moments
from diffusion_lab.metrics.features import find_archive

WIDTH = 2048


def seconds(variants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The fastest of several runs of each variant, taken in turn."""
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(repeats):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def features(n: int, seed: int) -> Tensor:
    """Positive and correlated, with a spectrum that falls as Inception's does."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, WIDTH + 1, dtype=torch.float64).rsqrt()
    mix = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / WIDTH**0.5
    return ((torch.randn(n, WIDTH, generator=generator, dtype=torch.float64) * spectrum) @ mix + 0.05 * seed).relu()


def frechet_terms(n: int) -> dict[str, Callable[[], object]]:
    """Ours, torch-fidelity's and the matrix square root, from the same statistics."""
    real, fake = features(n, 1), features(n, 2)
    sums = moments(real), moments(fake)
    means = [x.mean(dim=0).numpy() for x in (real, fake)]
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (real, fake)]
    rest = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1])

    def eigvals() -> float:
        values = np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)
        return float(rest - 2 * np.sqrt(values).real.sum())

    def sqrtm() -> float:
        return float(rest - 2 * np.trace(scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real))

    terms: dict[str, Callable[[], object]] = {}
    if n <= WIDTH:
        terms["ours: singular values of the cross-Gram"] = lambda: frechet_distance(real, fake).item()
    terms["ours: Cholesky and eigvalsh"] = lambda: frechet_distance_from_moments(*sums).item()
    terms["eigvals of the product (torch-fidelity)"] = eigvals
    terms["sqrtm of the product (scipy)"] = sqrtm
    return terms


def extractors(pictures: int) -> dict[str, Callable[[], object]]:
    """Ours, and the archive that its weights come from, on the same 299x299 pictures, 8 at a time."""
    images = torch.randint(0, 256, (pictures, 3, 299, 299), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ours = inception()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        plain = torch.jit.load(find_archive()).eval()

    def run(extractor: Callable[[Tensor], Tensor]) -> None:
        with torch.no_grad():
            for batch in images.split(8):
                extractor(batch)

    return {
        "folded, channels_last (ours)": lambda: run(ours),
        "plain TorchScript": lambda: run(lambda batch: plain((batch.float() - 128) / 128)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64, help="pictures that Inception sees")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--n", type=int, nargs="+", default=[200, 1000, 4000], help="pictures a set in the Frechet term"
    )
    arguments = parser.parse_args()
    table = Table(title=f"{torch.get_num_threads()} threads, fastest of {arguments.repeats}", title_justify="left")
    for heading in ("what", "n", "seconds", "pictures/s"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, spent in seconds(extractors(arguments.pictures), arguments.repeats).items():
        table.add_row(
            f"Inception, {name}", str(arguments.pictures), f"{spent:.2f}", f"{arguments.pictures / spent:.1f}"
        )
    for n in arguments.n:
        terms = frechet_terms(n)
        for name, spent in seconds(terms, arguments.repeats).items():
            table.add_row(name, str(n), f"{spent:.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
