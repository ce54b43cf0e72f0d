"""An engine in this process: an asyncio front, one thread for the model, and a step of everybody's at a time."""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch

from diffusion_lab import cascade
from diffusion_lab.data.crops import Crop
from diffusion_lab.serving import spans
from diffusion_lab.serving.backends import Backend, eager
from diffusion_lab.serving.batching import SharedCalls, Walk, begin
from diffusion_lab.serving.engine import (
    Code,
    Event,
    Finished,
    Job,
    JobFailed,
    Measures,
    NotReady,
    Queued,
    QueueFull,
    Stage,
    Stats,
    Stepped,
    SwapRefused,
)
from diffusion_lab.serving.swapping import Model, checked
from diffusion_lab.serving.tickets import Ticket, post
from diffusion_lab.serving.turns import Turns
from diffusion_lab.tasks import Task

log = logging.getLogger(__name__)


class Unmeasured:
    """Nobody listens."""

    def waited(self, seconds: float) -> None: ...

    def stepped(self, rows: int, seconds: float) -> None: ...

    def cancelled(self, stage: Stage) -> None: ...

    def failed(self, code: Code) -> None: ...


@dataclass(eq=False)
class Run:
    """A job that has started, and the model that it will end on."""

    ticket: Ticket
    model: Model
    walk: Walk

    def entered(self) -> None:
        """It stands before the first network call of a stage."""
        self.ticket.track.enters(self.walk.stage, self.walk.given.shape[-1], len(self.walk.given))


class LocalEngine:
    """Fills holes for many at once: their rows share the network calls, whatever their samplers and steps.

    Jobs start in their turn (`turns.Turns`), as soon as their rows fit beside those that run, between two steps. Jobs
    that are given up, or too late, leave between two steps. A picture depends on its seeds, not on its company, but for
    kernels that round by batch size.

    Args:
        inpainter: in evaluation mode, on the device that serves; its recipe names the image size.
        version: its name, which every result carries.
        max_batch: pictures in a network call; halved whenever the memory does not suffice.
        max_queue: jobs that may wait.
        seconds: until a job is given up that does not say so itself.
        autocast: of the network calls, such as bfloat16; None is float32.
        measures: is told what happens, from several threads.
        backend: the form that a swap brings a network into; the first inpainter's has its own already.
        form: what people call that form.
    """

    def __init__(
        self,
        inpainter: cascade.Model,
        version: str,
        *,
        max_batch: int = 16,
        max_queue: int = 64,
        seconds: float = 600.0,
        autocast: torch.dtype | None = None,
        measures: Measures | None = None,
        backend: Backend = eager,
        form: str = "eager",
    ) -> None:
        if "data" not in inpainter.recipe:
            raise ValueError("this inpainter has no recipe that names its image size: load it from a folder")
        self._model = Model(inpainter.eval(), version, autocast)
        self._sides = {*self._model.inpainter.sides}  # and of the models before: a job may have been cut for the last
        self._calls = SharedCalls(max_batch)
        self._max_queue = max_queue
        self._seconds = seconds
        self._measures = measures or Unmeasured()
        self._backend = backend
        self.form = form
        self._waiting = Turns()
        self._starting: list[Ticket] = []
        self._running: list[Run] = []
        self._changed = threading.Condition()  # guards the queue, who runs, and which model is in service
        self._until: float | None = None  # when a drain ends; None if there is none
        self._beat = time.monotonic()
        self._rate = 1.0  # rows that take a step, per second
        self._swaps = asyncio.Lock()
        self._warm: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="model", daemon=True)
        self._thread.start()

    @property
    def image_size(self) -> int:
        return self._model.image_size

    @property
    def sides(self) -> tuple[int, ...]:
        return self._model.inpainter.sides

    @property
    def crop(self) -> Crop:
        return self._model.crop

    @property
    def task(self) -> Task:
        return self._model.task

    @property
    def version(self) -> str:
        return self._model.version

    @property
    def inpainter(self) -> cascade.Model:
        """That is in service now."""
        return self._model.inpainter

    async def ready(self) -> None:
        """Returns once the first calls are made; raises what they raised."""
        await asyncio.wrap_future(self._warm)

    def stats(self) -> Stats:
        draining = self._until is not None
        warm = self._warm.done() and self._warm.exception() is None
        ready = warm and self._thread.is_alive() and not draining
        silent = time.monotonic() - self._beat if self._thread.is_alive() or draining else math.inf
        with self._changed:
            running = len(self._starting) + len(self._running)
            return Stats(ready, draining, len(self._waiting), running, silent)

    async def submit(self, job: Job, track: spans.Track | None = None) -> AsyncGenerator[Event, None]:
        """A job's events; where its time goes is told to a track, by default to the current span's."""
        ticket = self._take(job, track or spans.track())
        try:
            while True:
                event = await ticket.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self._leave(ticket)

    async def swap(self, folder: Path) -> str:
        async with self._swaps:
            old = self._model
            try:
                model = await asyncio.to_thread(
                    checked, folder, old.device, old.image_size, old.task, old.autocast, self._backend
                )
            except SwapRefused as refused:
                log.warning("%s stays in service: %s", old.version, refused)
                raise
            with self._changed:
                if self._until is not None:
                    raise SwapRefused("the engine is about to end")
                self._model = model
                self._sides.update(model.inpainter.sides)
            log.info("%s serves in place of %s", model.version, old.version)
            return model.version

    async def drain(self, seconds: float) -> None:
        with self._changed:
            self._until = time.monotonic() + seconds
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join)

    # On the event loop.

    def _take(self, job: Job, track: spans.Track) -> Ticket:
        """A place in the queue."""
        if not self.stats().ready:
            doing = "ends" if self._until is not None else "warms up" if self._thread.is_alive() else "has died"
            raise NotReady(f"the engine {doing}", retry_after=5)
        job.check(self._sides)
        now = time.monotonic()
        rows = job.windows(self.image_size)
        calls, all_calls = (self.inpainter.network_calls(job.sampler, side) for side in (None, job.image.shape[-1]))
        work = job.rows * calls + rows * (all_calls - calls)
        deadline = now + (self._seconds if job.seconds is None else job.seconds)
        ticket = Ticket(job, rows, work, now, deadline, asyncio.get_running_loop(), track)
        with self._changed:
            if self._until is not None:
                raise NotReady("the engine ends", retry_after=5)
            if len(self._waiting) >= self._max_queue:
                raise QueueFull(f"{len(self._waiting)} jobs wait already", math.ceil(self._wait()))
            self._waiting.add(ticket)
            self._say_positions()
            self._changed.notify_all()
        return ticket

    def _wait(self) -> float:
        """Seconds until a job at the queue's end would start, by what steps have taken of late."""
        ahead = float(sum(ticket.work for ticket in (*self._waiting, *self._starting)))
        ahead += sum(run.ticket.work * (1 - run.walk.step / run.walk.steps) for run in self._running)
        return ahead / self._rate

    def _leave(self, ticket: Ticket) -> None:
        """Whoever awaited its events has gone."""
        with self._changed:
            if ticket.gone:
                return
            ticket.gone = True  # if it runs, the model's thread drops it before the next step
            waited = ticket in self._waiting
            if waited:
                self._waiting.remove(ticket)
                self._say_positions()
        ticket.track.ends("cancelled")
        self._measures.cancelled("queued" if waited else "running")

    # On the model's thread.

    def _serve(self) -> None:
        try:
            self._warm_up()
        except Exception as error:
            log.exception("the first network call failed")
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        try:
            while self._goes_on():
                try:
                    self._start()
                    self._step()
                except Exception:
                    log.exception("a step failed as a whole")
                    held = [*self._starting, *(run.ticket for run in self._running)]
                    self._end(held, "engine_error", "a step failed")
                    self._starting = []
        finally:
            with self._changed:
                left = [*self._starting, *(run.ticket for run in self._running), *self._waiting]
                self._running = []
                self._waiting.clear()
            self._end(left, "shutting_down", "the service ends")

    def _warm_up(self) -> None:
        """A network call of each stage with one row, which is timed, and with a full batch: does it fit?"""
        size, device = self._model.image_size, self._model.device
        image, mask = torch.zeros(1, 3, size, size, device=device), torch.ones(1, 1, size, size, dtype=torch.bool)
        for rows in (1, self._calls.most):
            walk = begin(self._model.inpainter, image, mask.to(device), range(rows), None)
            stages, seconds = len(walk.legs), 0.0
            for stage in range(stages):
                walk = walk.onward() if stage else walk
                begun = time.monotonic()
                (said,) = self._calls(self._model.denoiser(walk.stage), [walk])
                if isinstance(said, Exception):
                    raise said
                said.x_0.sum().item()  # waits for the device
                seconds += time.monotonic() - begun
            self._rate = rows * stages / seconds

    def _goes_on(self) -> bool:
        """Waits for work and says whether there is any: who is gone or too late leaves, who fits comes in."""
        while True:
            now = self._beat = time.monotonic()
            with self._changed:
                held = (*(run.ticket for run in self._running), *self._waiting)
            late = [ticket for ticket in held if now > ticket.deadline]
            self._end(late, "deadline_exceeded", "the job took longer than it may")
            with self._changed:
                self._running = [run for run in self._running if not run.ticket.gone]
                waited = len(self._waiting)
                for ticket in [ticket for ticket in self._waiting if ticket.gone]:
                    self._waiting.remove(ticket)
                if self._until is not None and now > self._until:
                    return False
                self._starting = self._waiting.begin([run.ticket for run in self._running], self._calls.most)
                if len(self._waiting) != waited:
                    self._say_positions()
                if self._starting or self._running:
                    return True
                if self._until is not None:
                    return False
                self._changed.wait(timeout=1.0)

    def _start(self) -> None:
        """Jobs begin, on the model that is in service now."""
        model = self._model
        begun = []
        for ticket in self._starting:
            self._measures.waited(time.monotonic() - ticket.submitted)
            job = ticket.job
            with self._alone(ticket), torch.no_grad():
                image, mask = job.image.to(model.device), job.mask.to(model.device)
                run = Run(ticket, model, begin(model.inpainter, image, mask, job.seeds, job.sampler))
                run.entered()
                begun.append(run)
        with self._changed:
            self._starting = []
            self._running += begun

    def _step(self) -> None:
        """One step of everybody's, and what is to be told of it."""
        if not self._running:  # whoever was to start has failed
            return
        begun = time.monotonic()
        rows = sum(len(run.walk.rows.x) for run in self._running)
        together: dict[tuple[Model, int], list[Run]] = {}
        for run in self._running:  # before anybody moves: who enters a stage in this step asks it in the next
            together.setdefault((run.model, run.walk.stage), []).append(run)
        for (model, stage), runs in together.items():
            said = self._calls(model.denoiser(stage), [run.walk for run in runs])
            for run, prediction in zip(runs, said, strict=True):
                with self._alone(run.ticket), torch.no_grad():
                    if isinstance(prediction, Exception):
                        raise prediction
                    run.ticket.track.called()
                    leg = run.walk.leg
                    run.walk = run.walk.advanced(prediction)
                    if run.walk.leg != leg:
                        run.entered()
        events = self._news([run for run in self._running if not run.ticket.gone])
        seconds = time.monotonic() - begun
        self._rate += 0.2 * (rows / seconds - self._rate)
        # Before anybody hears of it: who has a result finds it counted, and its place free.
        self._measures.stepped(rows, seconds)
        with self._changed:
            self._running = [run for run in self._running if not run.ticket.gone]
            self._waiting.worked(rows)
        post(events)

    def _news(self, runs: list[Run]) -> list[tuple[Ticket, Event | Exception]]:
        """What is to be said of a step."""
        if not runs:
            return []
        # One look at all of them, so that the device is awaited once.
        sound = torch.stack([run.walk.rows.x.isfinite().all() for run in runs]).tolist()
        events: list[tuple[Ticket, Event | Exception]] = []
        for run, finite in zip(runs, sound, strict=True):
            ticket, walk = run.ticket, run.walk
            if not finite:
                message = f"the model answered something that is no number, in step {walk.step} of {walk.steps}"
                self._end([ticket], "non_finite_output", message)
                continue
            parts = ticket.job.previews + 1
            shown = not walk.done and walk.step in {round(i * walk.steps / parts) for i in range(1, parts)}
            with self._alone(ticket):  # pictures take memory, which may not be there
                preview = ticket.by_seed(walk.preview()) if shown else None
                pictures = ticket.by_seed(walk.pictures()) if walk.done else None
                events.append((ticket, Stepped(walk.step, walk.steps, preview)))
                if pictures is not None:
                    ticket.gone = True
                    ticket.track.ends()
                    seconds = time.monotonic() - ticket.submitted
                    events.append((ticket, Finished(pictures, run.model.version, walk.steps, seconds)))
        return events

    @contextlib.contextmanager
    def _alone(self, ticket: Ticket) -> Iterator[None]:
        """What goes wrong within is this job's fault, and its alone."""
        try:
            yield
        except Exception as error:
            log.warning("a job failed", exc_info=error)
            self._end([ticket], "engine_error", f"{type(error).__name__}: {error}")

    # On either side.

    def _end(self, tickets: Iterable[Ticket], code: Code, message: str) -> None:
        """These jobs have failed."""
        ended = [ticket for ticket in tickets if not ticket.gone]
        for ticket in ended:
            ticket.gone = True
            ticket.track.ends(code)
            self._measures.failed(code)
        post([(ticket, JobFailed(code, message)) for ticket in ended])

    def _say_positions(self) -> None:
        """Tells those who wait how many wait in front of them."""
        moved = [(i, ticket) for i, ticket in enumerate(self._waiting) if ticket.position != i]
        for i, ticket in moved:
            ticket.position = i
        post([(ticket, Queued(i)) for i, ticket in moved])
