"""An engine around networks that a test can watch, hold and break, and jobs for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab.cascade import Model
from diffusion_lab.diffusion import schedule
from diffusion_lab.diffusion.denoiser import NetworkDenoiser, Velocity
from diffusion_lab.diffusion.samplers import ddim, ddim_thresholded, ddnm, ddpm, dpm_solver, dps, heun, repaint
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.photo import part_seeds
from diffusion_lab.serving.engine import Event, Finished, Job, JobFailed
from diffusion_lab.serving.local import LocalEngine
from patience import PATIENCE

SAMPLERS = [
    ddim(steps=3),
    ddpm(steps=7),
    ddim_thresholded(steps=4, eta=0.5),
    dpm_solver(steps=5, eta=1.0),
    heun(steps=4),
    repaint(steps=6, jump=2, resamples=2),
    ddnm(steps=4),
    dps(steps=5),
    ddim(steps=2, clip=False),
]


class Elementwise(nn.Module):
    """A network whose arithmetic rounds alike in every batch, and that a test can watch, hold and break.

    Args:
        held: whether a call waits until the test lets it pass.
    """

    condition_channels = 4

    def __init__(self, held: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.held = held
        self.passes = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.calls: list[int] = []
        self.fault: Callable[[Tensor, Tensor], Tensor] = lambda channels, output: output

    def forward(self, x: Tensor, channels: Tensor, time: Tensor, attributes: Tensor | None) -> Tensor:
        self.calls.append(len(x))
        self.entered.release()
        if self.held:
            assert self.passes.acquire(timeout=PATIENCE)
        output = x * self.weight + channels[:, :3] * 0.1 + channels[:, 3:] * 0.05 + time.reshape(-1, 1, 1, 1) * 0.2
        return self.fault(channels, output)

    def let(self, calls: int) -> None:
        """That many calls pass."""
        for _ in range(calls):
            self.passes.release()

    async def inside(self) -> None:
        """Returns when one more call has begun."""
        while not self.entered.acquire(blocking=False):
            await asyncio.sleep(0.001)


def elementwise(network: Elementwise) -> Inpainter:
    denoiser = NetworkDenoiser(network, schedule.cosine(100), Velocity(), told=lambda schedule, level: level)
    inpainter = Inpainter(denoiser, ddim(steps=5))
    inpainter.recipe = {"data": {"image_size": 8, "crop": "full"}}
    return inpainter.eval()


@asynccontextmanager
async def running(model: Model, **settings: Any) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(model, "first", **settings)
    watched = [stage.denoiser.network for stage in model.stages if isinstance(stage.denoiser.network, Elementwise)]
    for network in watched:
        network.let(2 if network.held else 0)  # the warm-up
    await engine.ready()
    for network in watched:
        network.calls.clear()
        while network.entered.acquire(blocking=False):
            pass
    try:
        yield engine
    finally:
        for network in watched:
            network.held = False
            network.let(1)
        await engine.drain(0)


def job(seed: int, *seeds: int, sampler: Sampler | None = None, size: int = 8, parts: int = 1, **others: Any) -> Job:
    generator = torch.Generator().manual_seed(1000 + seed)
    image = torch.rand(parts, 3, size, size, generator=generator) * 2 - 1
    mask = torch.rand(parts, 1, size, size, generator=generator) < 0.4
    return Job(image, mask, (seed, *seeds), sampler, **others)


def alone(model: Model, asked: Job) -> Tensor:
    """What the model makes of each square of a job alone, ``(n, P, 3, S, S)``."""
    n, made = len(asked.seeds), []
    for part, (image, mask) in enumerate(zip(asked.image, asked.mask, strict=True)):
        seeds = part_seeds(asked.seeds, part)
        made.append(model(image.expand(n, -1, -1, -1), mask.expand(n, -1, -1, -1), seeds=seeds, sampler=asked.sampler))
    return torch.stack(made, dim=1)


async def events_of(engine: LocalEngine, asked: Job) -> list[Event]:
    return [event async for event in engine.submit(asked)]


async def result_of(engine: LocalEngine, asked: Job) -> Finished:
    last = (await events_of(engine, asked))[-1]
    assert isinstance(last, Finished)
    return last


async def code_of(engine: LocalEngine, asked: Job) -> str:
    with pytest.raises(JobFailed) as failed:
        await events_of(engine, asked)
    return failed.value.code


async def begun(engine: LocalEngine, asked: Job) -> asyncio.Task[Finished]:
    """The task of a job that stands in the queue or runs."""
    before = engine.stats()
    task = asyncio.create_task(result_of(engine, asked))
    while engine.stats().queued + engine.stats().running == before.queued + before.running:
        await asyncio.sleep(0.001)
    return task


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # `run` has an end
        await asyncio.sleep(0.001)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE))
