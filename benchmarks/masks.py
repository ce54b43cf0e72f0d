"""How many masks of each kind one thread draws per second: ``python benchmarks/masks.py``."""

import argparse
import platform
import statistics
import time

import torch
from data_figures import MASKS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--count", type=int, default=500, help="masks of a run")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, torch {torch.__version__}, 1 thread, median of {options.runs} runs of {options.count}"
    )
    print("| mask | " + " | ".join(f"{size} px (masks/s)" for size in options.sizes) + " | mean coverage |")
    print("|---|" + "---|" * (len(options.sizes) + 1))
    for name, mask in MASKS.items():
        rates = []
        for size in options.sizes:
            times, covered = [], 0.0
            for run in range(options.runs):
                generator = torch.Generator().manual_seed(run)
                began = time.perf_counter()
                masks = [mask(size, generator) for _ in range(options.count)]
                times.append(time.perf_counter() - began)
                covered += torch.stack(masks).float().mean().item() / options.runs
            rates.append(options.count / statistics.median(times))
        print(f"| {name} | " + " | ".join(f"{rate:,.0f}" for rate in rates) + f" | {covered:.1%} |")


if __name__ == "__main__":
    main()
