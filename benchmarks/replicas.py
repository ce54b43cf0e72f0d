"""What a replica under Ray Serve costs beside an engine in this process: ``python benchmarks/replicas.py``.

The same small jobs of a network that costs next to nothing, so that what is measured is the way there and back: one at
a time, in turns. Bytes are those of the job and of its events as they are pickled. Needs the extra `ray`.
"""

import argparse
import asyncio
import pickle
import statistics
import tempfile
import time
from pathlib import Path

import torch

from diffusion_lab import recipe
from diffusion_lab.diffusion.samplers import ddim
from diffusion_lab.serving.cluster import replicated
from diffusion_lab.serving.engine import Engine, Finished, Job
from diffusion_lab.serving.local import LocalEngine, Unmeasured
from diffusion_lab.serving.replica import Measured
from diffusion_lab.serving.swapping import checked

MODEL = {
    "_target_": "diffusion_lab.inpainting.Inpainter",
    "denoiser": {
        "_target_": "diffusion_lab.diffusion.denoiser.NetworkDenoiser",
        "network": {
            "_target_": "diffusion_lab.networks.unet.UNet",
            "image_size": 64,
            "channels": 8,
            "multipliers": [1],
            "depth": 1,
            "norm_groups": 4,
            "condition_channels": 4,
        },
        "schedule": {"_target_": "diffusion_lab.diffusion.schedule.cosine", "steps": 100},
        "predicts": {"_target_": "diffusion_lab.diffusion.denoiser.Velocity"},
        "told": {"_target_": "diffusion_lab.diffusion.denoiser.by_time", "_partial_": True},
    },
    "sampler": {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 5},
    "constrain": {"_target_": "diffusion_lab.diffusion.sampling.keep_clean", "_partial_": True},
}


async def answered(engine: Engine, job: Job) -> tuple[float, int]:
    """Seconds until the pictures are there, and bytes of all events."""
    begun, events = time.perf_counter(), []
    async for event in engine.submit(job):
        events.append(event)
    seconds = time.perf_counter() - begun
    assert isinstance(events[-1], Finished)
    return seconds, sum(len(pickle.dumps((event, Measured([], [])))) for event in events)


async def measured(folder: Path, there: Engine, steps: list[int], rounds: int) -> None:
    """Prints the table."""
    model = checked(folder, torch.device("cpu"))
    here = LocalEngine(model.inpainter, model.version)
    await here.ready()
    print("| steps | in this process ms (quartiles) | replica ms (quartiles) | more ms | job | events |")
    print("|---:|---:|---:|---:|---:|---:|")
    for number in steps:
        image, mask = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64, dtype=torch.bool)
        mask[..., 16:48, 16:48] = True
        job = Job(image, mask, (0,), ddim(steps=number))
        seconds: dict[str, list[float]] = {"here": [], "there": []}
        told = 0
        for turn in range(rounds + 2):
            for name, engine in (("here", here), ("there", there)):
                took, told = await answered(engine, job)
                if turn >= 2:  # the first two warm up
                    seconds[name].append(1000 * took)
        more = [b - a for a, b in zip(seconds["here"], seconds["there"], strict=True)]
        cells = []
        for values in (*seconds.values(), more):
            low, middle, high = statistics.quantiles(values, n=4)
            cells.append(f"{middle:.1f} ({low:.1f} to {high:.1f})")
        print(f"| {number} | {' | '.join(cells)} | {len(pickle.dumps(job)):,} B | {told:,} B |", flush=True)
    await there.drain(10)
    await here.drain(10)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        described = {"model": MODEL, "data": {"name": "nothing", "crop": "full", "image_size": 64}}
        inpainter = recipe.build(described["model"])
        inpainter.recipe = described
        inpainter.save(Path(made))
        begun = time.perf_counter()
        there = replicated(Path(made), Unmeasured(), replicas=1)  # Ray Serve refuses this inside of an event loop
        print(f"the replica is ready after {time.perf_counter() - begun:.1f} s")
        asyncio.run(measured(Path(made), there, given.steps, given.rounds))


if __name__ == "__main__":
    main()
