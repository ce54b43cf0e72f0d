"""An engine of many: replicas under Ray Serve, each a `LocalEngine` in a process of its own, behind this one front."""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import recipe
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
from diffusion_lab.serving.local import LocalEngine, Unmeasured
from diffusion_lab.serving.swapping import checked, version_of

log = logging.getLogger(__name__)

RETRIES = 2
"""How often a job begins anew that lost its replica."""
SILENT = 60.0
"""Seconds without a sign of its model's thread after which a replica is replaced: no network call takes as long."""
LATE = 5.0
"""Seconds after a job's deadline within which its replica has to say so."""
LOOK = 1.0
"""Seconds between looks at the replicas."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported home
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` makes every replica an environment of its own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what a replica without a GPU sees is no matter: it serves on the CPU
}
"""Of Ray, for its processes; whoever has set them already has their way."""


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

    async def submit(self, job: Job, wish: Wish) -> AsyncGenerator[tuple[Event | Refused | JobFailed, Measured], None]:
        """The engine's events, or at last why there are no more; a replica that is behind adopts the wish first."""
        await self.adopt(wish)
        try:
            async with aclosing(self._engine.submit(job)) as events:
                async for event in events:
                    yield event, self._notes.taken()
        except (Refused, JobFailed) as error:  # as a value: Ray would wrap it in an error of its own
            yield error, self._notes.taken()

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
            await asyncio.to_thread(checked, folder, self._device, self._engine.image_size)
        except SwapRefused as refused:
            return str(refused)
        return None

    async def standing(self) -> Standing:
        return Standing(os.getpid(), self._engine.version, self._engine.stats())


@dataclass(eq=False)
class Place:
    """A job in the front's hands.

    Args:
        submitted: on the loop's clock.
        deadline: likewise.
        step: that its client was told last; 0 while it waits.
        patience: with which its next event is awaited.
    """

    submitted: float
    deadline: float
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
        self._size = int(recipe.read(folder)["data"]["image_size"])
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
        return self._size

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
                            seconds = asyncio.get_running_loop().time() - place.submitted
                            self._places.discard(place)  # whoever has the result finds the place free
                            yield replace(event, seconds=seconds)
                            return
                except (RayError, RayServeException, Refused, _Lost) as error:
                    if lives == 0:
                        message = f"it has lost {RETRIES + 1} replicas: {error}"
                        raise JobFailed("engine_error", message) from error
                    log.warning("a job begins anew after step %d: %s", place.step, str(error).partition("\n")[0])
                finally:
                    if not self._closed.is_set():
                        events.cancel()  # if it is still under way; the replica's engine lets go within one step
        except JobFailed as failed:
            self._places.discard(place)
            self._measures.failed(failed.code)
            raise
        finally:
            if place in self._places:
                self._places.discard(place)
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
        size = self.image_size
        if job.image.shape != (3, size, size) or job.mask.shape != (1, size, size) or not job.seeds:
            raise ValueError(
                f"a job needs an image of 3x{size}x{size}, a mask of 1x{size}x{size} and a seed, got "
                f"{tuple(job.image.shape)}, {tuple(job.mask.shape)} and {len(job.seeds)} seeds"
            )
        if stats.queued >= self._max_queue * len(self._standings):
            raise QueueFull(f"{stats.queued} jobs wait already", math.ceil(self._wait))
        now = asyncio.get_running_loop().time()
        place = Place(now, now + (self._seconds if job.seconds is None else job.seconds))
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
                said = await anext(events, None)
        except TimeoutError:
            if self._draining and place.deadline == -math.inf:
                raise JobFailed("shutting_down", "the service ends") from None
            raise JobFailed("deadline_exceeded", "the job took longer than it may") from None
        finally:
            place.patience = None
        if said is None:
            raise _Lost("a replica fell silent")
        event, measured = said
        measured.tell(self._measures)
        if isinstance(event, JobFailed) and event.code == "shutting_down":
            raise _Lost("a replica has ended")
        if isinstance(event, (Refused, JobFailed)):
            raise event
        taken: Event = event
        return taken

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


def replicated(
    folder: Path,
    measures: Measures,
    *,
    address: str | None = None,
    app: str = "diffusion_lab",
    replicas: int = 2,
    most_replicas: int | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    max_batch: int = 16,
    max_queue: int = 64,
    seconds: float = 600.0,
    object_store: int = 200 * 2**20,
) -> ReplicatedEngine:
    """An engine of replicas under Ray Serve.

    Args:
        folder: of the inpainter, on a path that every machine sees.
        measures: is told what the replicas do.
        address: of a running Ray, or auto for the one on this machine; None starts one, which ends with the engine.
        app: name in Ray Serve; a service that starts under a name that is taken takes its replicas over.
        replicas: at least.
        most_replicas: under load; None is always the same number.
        cpus: that Ray sets aside for each.
        gpus: likewise, part of one is possible; with 0 they serve on the CPU.
        max_batch: pictures in a network call.
        max_queue: jobs that may wait, per replica.
        seconds: until a job is given up.
        object_store: bytes of shared memory, if Ray is started.

    Raises:
        ValueError: if the model is not fit, Ray is not to be had, or this machine is too small.
    """
    folder = folder.absolute()
    try:
        checked(folder, torch.device("cpu"))  # a mistake shows before anything is started
    except SwapRefused as refused:
        raise ValueError(str(refused)) from None
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ValueError("engine=ray needs Ray: uv sync --extra ray") from None
    start(address, object_store)
    try:
        if address is None:
            has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            for kind, each in (("CPU", cpus), ("GPU", gpus)):
                if replicas * each > has.get(kind, 0):
                    raise ValueError(
                        f"{replicas} replicas of {each:g} {kind}s do not fit on this machine of "
                        f"{has.get(kind, 0):g}: set engine.replicas= or engine.{kind.lower()}s="
                    )
        serve.start(proxy_location="Disabled")  # the only door is ours
        places = max_batch + max_queue
        scale: dict[str, Any] = {"num_replicas": replicas}
        if most_replicas is not None:
            scale = {
                "autoscaling_config": {
                    "min_replicas": replicas,
                    "max_replicas": most_replicas,
                    "target_ongoing_requests": max_batch,
                }
            }
        deployment = serve.deployment(
            Replica,
            name="replica",
            max_ongoing_requests=places,
            user_config={},  # so that Ray Serve awaits `reconfigure`
            health_check_period_s=LOOK,
            graceful_shutdown_timeout_s=seconds,  # one that is not needed any more ends its jobs
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
            **scale,
        )
        bound = deployment.bind(  # type: ignore[attr-defined]
            folder, "cuda" if gpus else "cpu", max_batch, places, seconds
        )
        handle = serve.run(bound, name=app, route_prefix=None)

        def close() -> None:
            if address is not None:
                serve.delete(app)
            ray.shutdown()

        return ReplicatedEngine(handle, folder, max_queue=max_queue, seconds=seconds, measures=measures, close=close)
    except BaseException:
        ray.shutdown()
        raise


def start(address: str | None, object_store: int) -> None:
    """Starts Ray, or joins it.

    Args:
        address: None starts it.
        object_store: bytes of shared memory, if it is started.

    Raises:
        ValueError: if it can do neither.
    """
    import ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=object_store,
                logging_level=logging.WARNING,
            )
    except Exception as error:  # Ray raises errors of every kind here
        where = f"join Ray at {address}" if address is not None else "start Ray"
        raise ValueError(f"cannot {where}: {error}") from error
