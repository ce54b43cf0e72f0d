"""A batch out of the cache against a PIL reader that does the same work: ``python benchmarks/data.py``.

Both sides make float batches of cropped, resized, flipped faces on one thread; runs are interleaved, medians are shown.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffusion_lab.data.batches import TrainingBatches
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.examples import TrainingExamples, to_float
from diffusion_lab.data.masks import palette


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source, crop = CelebA(built_in_faces()), center148()
    names = source.names("train")
    draws = list(TrainingBatches(len(names), options.batch, 0, 0, options.runs))
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, batch {options.batch}, n = {options.runs} runs")
    print(
        "| size | building the cache (s) | PIL (ms/batch) | cache (ms/batch) | ratio | cache with flips and masks (ms) |"
    )
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            building = time.perf_counter()
            pictures = Pictures(build(source, "train", crop, size, Path(folder)))
            building = time.perf_counter() - building
            examples = TrainingExamples(pictures, palette, 0, flip=True)
            pil, cache, whole = [], [], []
            for draw in draws:
                indices = draw.indices
                mirrored = torch.rand(len(indices)) < 0.5
                pil.append(seconds(lambda: by_pil(source, names, indices.tolist(), mirrored.tolist(), size)))  # noqa: B023
                cache.append(seconds(lambda: by_cache(pictures, indices, mirrored)))  # noqa: B023
                whole.append(seconds(lambda: examples.__getitems__(draw)))  # noqa: B023
            a, b, c = (statistics.median(times) * 1000 for times in (pil, cache, whole))
            print(f"| {size} | {building:.1f} | {a:.1f} | {b:.3f} | {a / b:.0f}x | {c:.2f} |")


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
    pixels = pictures[indices]
    return to_float(torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels))


if __name__ == "__main__":
    main()
