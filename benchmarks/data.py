"""A batch out of the cache against a PIL reader that does the same work: ``python benchmarks/data.py``.

Both sides make float batches of cropped, resized, flipped faces on one thread. Runs of ten batches are interleaved; the
table shows the median run. Then pictures a second of the processor's time, as training takes them from the cache: uint8
and flipped, without masks and with Palette's.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffusion_lab.data.batches import Draw, TrainingBatches
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.examples import TrainingExamples, mirror, to_float
from diffusion_lab.data.masks import everything, palette

BATCHES = 10  # of a run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source, crop = CelebA(built_in_faces()), center148()
    names = source.names("train")
    draws = list(TrainingBatches(len(names), options.batch, 0, 0, options.runs * BATCHES))
    runs = f"n = {options.runs} runs of {BATCHES} batches"
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, batches of {options.batch}, {runs}")
    print("| size | build (s) | PIL (ms/batch) | cache (ms/batch) | ratio | cache with flips and masks (ms/batch) |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            building = time.perf_counter()
            pictures = Pictures(build(source, "train", crop, size, Path(folder)))
            building = time.perf_counter() - building
            examples = TrainingExamples(pictures, palette, 0, flip=True)
            pil, cache, whole = [], [], []
            for run in range(options.runs):
                chosen = draws[run * BATCHES : (run + 1) * BATCHES]
                flips = [torch.rand(options.batch) < 0.5 for _ in chosen]
                began = time.perf_counter()
                for draw, flip in zip(chosen, flips, strict=True):
                    by_pil(source, names, draw.indices.tolist(), flip.tolist(), size)
                after_pil = time.perf_counter()
                for draw, flip in zip(chosen, flips, strict=True):
                    by_cache(pictures, draw.indices, flip)
                after_cache = time.perf_counter()
                for draw in chosen:
                    examples.__getitems__(draw)
                after_all = time.perf_counter()
                pil.append(after_pil - began)
                cache.append(after_cache - after_pil)
                whole.append(after_all - after_cache)
            a, b, c = (statistics.median(times) / BATCHES * 1000 for times in (pil, cache, whole))
            print(f"| {size} | {building:.1f} | {a:.1f} | {b:.3f} | {a / b:.0f}x | {c:.2f} |")

    print("\n| size | batch | pictures/s without masks (quartiles) | with Palette's (quartiles) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            pictures = Pictures(build(source, "train", crop, size, Path(folder)))
            for batch in (32, 256):
                chosen = list(TrainingBatches(len(names), batch, 0, 0, 2 * options.runs))
                sets = [TrainingExamples(pictures, mask, 0, flip=True) for mask in (everything, palette)]
                print(f"| {size} | {batch} | {' | '.join(rates(sets, chosen, batch))} |", flush=True)


def rates(sets: list[TrainingExamples], draws: list[Draw], batch: int) -> list[str]:
    """Pictures a second of the thread's own time, of each set, whose batches are made in turn."""
    taken: list[list[float]] = [[] for _ in sets]
    for draw in draws:
        for examples, seconds in zip(sets, taken, strict=True):
            began = time.thread_time()
            examples.__getitems__(draw)
            seconds.append(time.thread_time() - began)
    quartiles = [statistics.quantiles([batch / each for each in seconds], n=4) for seconds in taken]
    return [f"{middle:,.0f} ({low:,.0f} to {high:,.0f})" for low, middle, high in quartiles]


def by_pil(source: CelebA, names: list[str], indices: list[int], mirrored: list[bool], size: int) -> Tensor:
    """What a data set of JPEG files does for every batch."""
    batch = []
    for index, flip in zip(indices, mirrored, strict=True):
        picture = center148()(decode(source.read(names[index]))).resize((size, size), Image.Resampling.LANCZOS)
        picture = ImageOps.mirror(picture) if flip else picture
        batch.append(to_float(torch.from_numpy(np.array(picture)).permute(2, 0, 1)))
    return torch.stack(batch)


def by_cache(pictures: Pictures, indices: Tensor, mirrored: Tensor) -> Tensor:
    """The same out of the cache."""
    return to_float(mirror(pictures[indices], mirrored))


if __name__ == "__main__":
    main()
