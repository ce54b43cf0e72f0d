"""An engine of many: one front, behind which replicas under Ray Serve fill the holes."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusion_lab import recipe, tasks
from diffusion_lab.cascade import sides
from diffusion_lab.data.crops import Crop, named
from diffusion_lab.inpainting import version_of
from diffusion_lab.serving import spans
from diffusion_lab.serving.engine import (
    Event,
    Finished,
    Job,
    JobFailed,
    Measures,
    NotReady,
    Queued,
    QueueFull,
    Refused,
    Stats,
    Stepped,
    SwapRefused,
)
from diffusion_lab.serving.replica import Said, Standing, Wish
from diffusion_lab.serving.spans import Followed

log = logging.getLogger(__name__)

RETRIES = 2
"""How often a job begins anew that lost its replica."""
LATE = 5.0
"""Seconds after a job's deadline within which its replica has to say so."""
LOOK = 1.0
"""Seconds between looks at the replicas."""


@dataclass(eq=False)
class Place:
    """A job in the front's hands.

    Args:
        submitted: on the loop's clock.
        deadline: likewise.
        track: hears where its time goes.
        step: that its client was told last; 0 while it waits.
        patience: with which its next event is awaited.
    """

    submitted: float
    deadline: float
    track: Followed
    step: int = 0
    patience: asyncio.Timeout | None = None


class ReplicatedEngine:
    """Fills holes in replicas, of which any may die: its jobs begin anew from their seeds on another.

    The same seeds give the same pictures, so a client notices nothing of that but the time. All jobs come through
    here, so what waits and what runs is known without asking anybody.

    Args:
        handle: of the deployment of `Replica`.
        folder: of the inpainter that they serve.
        max_queue: jobs that may wait, per replica.
        seconds: until a job is given up that does not say so itself.
        measures: is told what happens.
        close: takes the replicas down.
    """

    def __init__(
        self,
        handle: Any,
        folder: Path,
        *,
        max_queue: int,
        seconds: float,
        measures: Measures,
        close: Callable[[], None],
    ) -> None:
        self._handle = handle
        self._stream = handle.options(method_name="submit", stream=True)
        self._wish = Wish(0, folder)
        made = recipe.read(folder)
        self._task = tasks.of(made)
        self._sides, self._crop = sides(made), named(made["data"]["crop"])
        self._taken = {*self._sides}  # and those of the models before: a job may have been cut for the last
        self._version = version_of(folder)
        self._max_queue = max_queue
        self._seconds = seconds
        self._measures = measures
        self._close = close
        self._places: set[Place] = set()
        self._wait = 1.0  # seconds that jobs have waited of late
        self._swaps = asyncio.Lock()
        self._draining = False
        self._closed = threading.Event()
        self._standings: list[Standing] = []
        self._heard = time.monotonic()
        self._look()
        self._watcher = threading.Thread(target=self._watch, name="replicas", daemon=True)
        self._watcher.start()

    @property
    def image_size(self) -> int:
        return self._sides[0]

    @property
    def sides(self) -> tuple[int, ...]:
        return self._sides

    @property
    def crop(self) -> Crop:
        return self._crop

    @property
    def form(self) -> str:
        return "eager"

    @property
    def task(self) -> tasks.Task:
        return self._task

    @property
    def version(self) -> str:
        return self._version

    @property
    def standings(self) -> list[Standing]:
        """Of the replicas that answered when they were last asked."""
        return self._standings

    def stats(self) -> Stats:
        queued = sum(place.step == 0 for place in self._places)
        silent = min((standing.stats.heartbeat for standing in self._standings), default=0.0)
        ready = bool(self._standings) and not self._draining
        heartbeat = time.monotonic() - self._heard + silent
        return Stats(ready, self._draining, queued, len(self._places) - queued, heartbeat)

    async def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        place = self._take(job)
        position = -1
        try:
            for lives in range(RETRIES, -1, -1):
                left = place.deadline - asyncio.get_running_loop().time()
                events = self._stream.remote(replace(job, seconds=left), self._wish)
                try:
                    while True:
                        event = await self._next(place, events)
                        if isinstance(event, Queued) and place.step == 0 and event.position != position:
                            position = event.position
                            yield event
                        elif isinstance(event, Stepped) and event.step > place.step:
                            self._stepped(place, event.step)
                            yield event
                        elif isinstance(event, Finished):
                            place.track.ends()
                            seconds = asyncio.get_running_loop().time() - place.submitted
                            self._places.discard(place)  # whoever has the result finds the place free
                            yield replace(event, seconds=seconds)
                            return
                except (RayError, RayServeException, Refused, _Lost) as error:
                    if lives == 0:
                        message = f"it has lost {RETRIES + 1} replicas: {error}"
                        raise JobFailed("engine_error", message) from error
                    place.track.again("replica_lost")
                    log.warning("a job begins anew after step %d: %s", place.step, str(error).partition("\n")[0])
                finally:
                    if not self._closed.is_set():
                        events.cancel()  # if it is still under way; the replica's engine lets go within one step
        except JobFailed as failed:
            self._places.discard(place)
            place.track.ends(failed.code)
            self._measures.failed(failed.code)
            raise
        finally:
            if place in self._places:
                self._places.discard(place)
                place.track.ends("cancelled")
                self._measures.cancelled("running" if place.step else "queued")

    async def swap(self, folder: Path) -> str:
        folder = folder.absolute()
        async with self._swaps:
            if self._draining:
                raise SwapRefused("the engine is about to end")
            # First everybody loads and checks it beside the old one: all of them put it in service, or none.
            answers = await self._ask("unfit", folder)
            reasons = [str(answer) for answer in answers if answer is not None]
            if reasons or not answers:
                reason = reasons[0] if reasons else "no replica answers"
                log.warning("%s stays in service: %s", self._version, reason)
                raise SwapRefused(reason)
            old, old_version = self._wish, self._version
            # Whoever comes to life from now on hears of it with its first job.
            self._wish = Wish(old.number + 1, folder)
            answers = await self._ask("adopt", self._wish)
            if errors := [answer for answer in answers if isinstance(answer, Exception)]:
                self._wish = Wish(old.number + 2, old.folder)
                await self._ask("adopt", self._wish)
                raise SwapRefused(f"'{folder}' was found fit, and could not serve: {errors[0]}")
            self._version = answers[0] if answers else version_of(folder)
            made = recipe.read(folder)
            self._sides, self._crop = sides(made), named(made["data"]["crop"])
            self._taken.update(self._sides)
            log.info("%s serves in place of %s, in %d replicas", self._version, old_version, len(answers))
            return self._version

    async def drain(self, seconds: float) -> None:
        self._draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._places and loop.time() < end:
            await asyncio.sleep(0.02)
        for place in self._places:
            place.deadline = -math.inf
            if place.patience is not None:
                place.patience.reschedule(loop.time())
        while self._places and loop.time() < end + LATE:  # until they have told their replicas
            await asyncio.sleep(0.02)
        self._closed.set()
        await asyncio.to_thread(self._watcher.join)
        await asyncio.to_thread(self._close)

    def _take(self, job: Job) -> Place:
        """A place among the jobs, if there is one."""
        stats = self.stats()
        if not stats.ready:
            raise NotReady("the engine ends" if self._draining else "no replica is ready", retry_after=5)
        job.check(self._taken)
        if stats.queued >= self._max_queue * len(self._standings):
            raise QueueFull(f"{stats.queued} jobs wait already", math.ceil(self._wait))
        now = asyncio.get_running_loop().time()
        place = Place(now, now + (self._seconds if job.seconds is None else job.seconds), spans.track())
        self._places.add(place)
        return place

    async def _next(self, place: Place, events: Any) -> Event:
        """What a replica says next.

        Raises:
            JobFailed: if it says so, or too late, or the engine has ended.
            Refused: if it takes no jobs.
        """
        try:
            async with asyncio.timeout_at(place.deadline + LATE) as place.patience:
                said: Said | None = await anext(events, None)
        except TimeoutError:
            if self._draining and place.deadline == -math.inf:
                raise JobFailed("shutting_down", "the service ends") from None
            raise JobFailed("deadline_exceeded", "the job took longer than it may") from None
        finally:
            place.patience = None
        if said is None:
            raise _Lost("a replica fell silent")
        said.measured.tell(self._measures)
        place.track.heard(said.passages)
        event = said.event
        if isinstance(event, JobFailed) and event.code == "shutting_down":
            raise _Lost("a replica has ended")
        if isinstance(event, (Refused, JobFailed)):
            raise event
        return event

    def _stepped(self, place: Place, step: int) -> None:
        if place.step == 0:
            waited = asyncio.get_running_loop().time() - place.submitted
            self._wait += 0.2 * (waited - self._wait)
        place.step = step

    async def _ask(self, method: str, question: Path | Wish) -> list[Any]:
        """What each replica says, or the error that it raised; those that die meanwhile have no say."""
        from ray.exceptions import RayActorError

        answers = await self._handle.broadcast(method, question).results_async(return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, RayActorError)]

    def _look(self) -> None:
        """Asks all replicas how they stand."""
        answers = self._handle.broadcast("standing").results(timeout_s=10 * LOOK, return_exceptions=True)
        standings = [answer for answer in answers if isinstance(answer, Standing)]
        if standings:
            self._heard = time.monotonic()
        self._standings = standings

    def _watch(self) -> None:
        while not self._closed.wait(LOOK):
            try:
                self._look()
            except Exception as error:  # whatever Ray raises while its processes come and go
                self._standings = []
                log.warning("the replicas do not answer: %s", str(error).partition("\n")[0])


class _Lost(Exception):
    """A replica has gone without an error."""
