"""A replica: what Ray Serve runs several of, each a `LocalEngine` in a process of its own."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_lab.serving.engine import Event, Job, JobFailed, Measures, Refused, Stats, SwapRefused
from diffusion_lab.serving.local import LocalEngine, Unmeasured
from diffusion_lab.serving.spans import Noted, Passage
from diffusion_lab.serving.swapping import checked

SILENT = 60.0
"""Seconds without a sign of its model's thread after which a replica is replaced: no network call takes as long."""


@dataclass(frozen=True)
class Wish:
    """The model that is to be in service.

    Args:
        number: grows with every swap.
        folder: of the inpainter, as every replica sees it.
    """

    number: int
    folder: Path


@dataclass(frozen=True)
class Standing:
    """How a replica stands.

    Args:
        process: its id, on its machine.
        version: of its model.
        stats: of its engine.
    """

    process: int
    version: str
    stats: Stats


@dataclass(frozen=True)
class Measured:
    """What a replica's engine has measured since it was last asked.

    Args:
        waits: seconds that jobs waited.
        steps: pictures and seconds of every step.
    """

    waits: Sequence[float]
    steps: Sequence[tuple[int, float]]

    def tell(self, measures: Measures) -> None:
        """Hands it on."""
        for seconds in self.waits:
            measures.waited(seconds)
        for rows, seconds in self.steps:
            measures.stepped(rows, seconds)


@dataclass(frozen=True)
class Said:
    """What a replica says of a job.

    Args:
        event: the engine's, or at last why there are no more.
        measured: of all jobs, since it last said something.
        passages: through the model's stages that are new, or go on.
    """

    event: Event | Refused | JobFailed
    measured: Measured
    passages: Sequence[Passage]


class Notes(Unmeasured):
    """Keeps what the engine measures until an event takes it to the front, which counts the ends of jobs itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: list[float] = []
        self._steps: list[tuple[int, float]] = []

    def waited(self, seconds: float) -> None:
        with self._lock:
            self._waits.append(seconds)

    def stepped(self, rows: int, seconds: float) -> None:
        with self._lock:
            self._steps.append((rows, seconds))

    def taken(self) -> Measured:
        """All of it, once."""
        with self._lock:
            measured = Measured(self._waits, self._steps)
            self._waits, self._steps = [], []
        return measured


class Replica:
    """What Ray Serve runs several of.

    Args:
        folder: of the inpainter that is in service when the service starts.
        device: to serve on.
        max_batch: pictures in a network call.
        max_queue: jobs that may wait.
        seconds: until a job is given up.
    """

    def __init__(self, folder: Path, device: str, max_batch: int, max_queue: int, seconds: float) -> None:
        model = checked(folder, torch.device(device))
        self._device = model.device
        self._notes = Notes()
        self._engine = LocalEngine(
            model.inpainter,
            model.version,
            max_batch=max_batch,
            max_queue=max_queue,
            seconds=seconds,
            measures=self._notes,
        )
        self._wished = 0
        self._adopting = asyncio.Lock()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Ray Serve awaits this before it sends jobs; the first network calls are made by then."""
        await self._engine.ready()

    def check_health(self) -> None:
        """Ray Serve replaces a replica that raises here."""
        stats = self._engine.stats()
        if not stats.ready or stats.heartbeat > SILENT:
            raise RuntimeError(f"the model's thread has been silent for {stats.heartbeat:.0f} s, or has ended")

    async def submit(self, job: Job, wish: Wish) -> AsyncGenerator[Said, None]:
        """What there is to say of a job until its end; a replica that is behind adopts the wish first."""
        await self.adopt(wish)
        track = Noted()
        try:
            async with aclosing(self._engine.submit(job, track)) as events:
                async for event in events:
                    yield Said(event, self._notes.taken(), track.taken())
        except (Refused, JobFailed) as error:  # as a value: Ray would wrap it in an error of its own
            yield Said(error, self._notes.taken(), track.taken())

    async def adopt(self, wish: Wish) -> str:
        """Puts the model of a wish in service, unless a later one is, and says the version in service."""
        async with self._adopting:
            if wish.number > self._wished:
                await self._engine.swap(wish.folder)
                self._wished = wish.number
            return self._engine.version

    async def unfit(self, folder: Path) -> str | None:
        """Why the inpainter of a folder cannot serve here; None if it can."""
        try:
            await asyncio.to_thread(checked, folder, self._device, self._engine.image_size, self._engine.task)
        except SwapRefused as refused:
            return str(refused)
        return None

    async def standing(self) -> Standing:
        return Standing(os.getpid(), self._engine.version, self._engine.stats())
