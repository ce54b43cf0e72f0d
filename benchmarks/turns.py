"""Who waits how long in the engine, by the length of jobs: ``python benchmarks/turns.py``.

The engine is the service's own, with its thread, queue and events. Its network sleeps for as long as a call takes, so
that what other work does on the machine has no say. Jobs come at random times whatever the answers, the same ones to
both orders, which take turns: by `serving.turns`, and in the order of their coming.
"""

import argparse
import asyncio
import random
import statistics
import time

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import schedule
from diffusion_lab.diffusion.denoiser import NetworkDenoiser, Velocity, by_time
from diffusion_lab.diffusion.samplers import ddim
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.serving.engine import Finished, Job
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.tickets import Ticket
from diffusion_lab.serving.turns import Turns

SIZE, MOST = 8, 4
SHARES = {5: 0.8, 50: 0.2}
"""Steps of jobs: how many of them are such."""


class OfComing(Turns):
    """Jobs in the order of their coming."""

    def add(self, ticket: Ticket) -> None:
        self._waiting.append(ticket)


class Sleeping(nn.Module):
    """A network that takes a fixed time for up to `MOST` pictures."""

    condition_channels = 4

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.seconds = seconds

    def forward(self, x: Tensor, condition: Tensor, time_: Tensor, attributes: Tensor | None = None) -> Tensor:
        time.sleep(self.seconds)
        return x * self.weight


async def latencies(order: type[Turns], seed: int, count: int, load: float, seconds: float) -> dict[int, list[float]]:
    """Of each length of job, from when it was due to its pictures."""
    inpainter = Inpainter(NetworkDenoiser(Sleeping(seconds), schedule.cosine(100), Velocity(), by_time), ddim(steps=5))
    inpainter.recipe = {"data": {"image_size": SIZE, "crop": "full"}}
    engine = LocalEngine(inpainter, "sleeping", max_batch=MOST, max_queue=count)
    engine._waiting = order()
    await engine.ready()
    dice, work = random.Random(seed), sum(steps * share for steps, share in SHARES.items()) / MOST * seconds
    found: dict[int, list[float]] = {steps: [] for steps in SHARES}

    async def ask(number: int, steps: int, due: float) -> None:
        image, mask = torch.zeros(1, 3, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
        async for event in engine.submit(Job(image, mask, (number,), ddim(steps=steps))):
            if isinstance(event, Finished):
                found[steps].append(time.perf_counter() - due)

    due, asked = time.perf_counter(), []
    for number in range(count):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        steps = dice.choices(list(SHARES), list(SHARES.values()))[0]
        asked.append(asyncio.create_task(ask(number, steps, due)))
        due += dice.expovariate(load / work)
    await asyncio.gather(*asked)
    await engine.drain(5)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.6, 0.9])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=120, help="jobs of a round")
    parser.add_argument("--milliseconds", type=float, default=20, help="of a call")
    given = parser.parse_args()
    orders = {"of coming": OfComing, "turns": Turns}
    print(f"calls of {MOST} rows and {given.milliseconds:g} ms, {given.rounds} rounds of {given.count} jobs")
    said = " | ".join(f"{steps} steps: p50 / p95 ms (n; p95 by rounds)" for steps in SHARES)
    print(f"| load | order | {said} |\n|---:|---|{'---|' * len(SHARES)}")
    for load in given.loads:
        rounds: dict[str, list[dict[int, list[float]]]] = {name: [] for name in orders}
        for seed in range(given.rounds):
            for name, order in orders.items():
                made = asyncio.run(latencies(order, seed, given.count, load, given.milliseconds / 1000))
                rounds[name].append(made)
        for name, found in rounds.items():
            cells = []
            for steps in SHARES:
                every = [seconds for one in found for seconds in one[steps]]
                ends = sorted(percentile(one[steps], 95) for one in found)
                spread = f"{len(every)}; {ends[0]:,.0f} to {ends[-1]:,.0f}"
                cells.append(f"{percentile(every, 50):,.0f} / {percentile(every, 95):,.0f} ({spread})")
            print(f"| {load:g} | {name} | " + " | ".join(cells) + " |", flush=True)


def percentile(seconds: list[float], share: int) -> float:
    """In milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[share - 1]


if __name__ == "__main__":
    main()
