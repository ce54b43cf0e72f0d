"""What an engine is: jobs in, events out. `local.LocalEngine` is a model in this process."""

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from diffusion_lab.data.crops import Crop
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.tasks import Task
from diffusion_lab.windows import Windows

Code = Literal["non_finite_output", "deadline_exceeded", "engine_error", "shutting_down"]
Stage = Literal["queued", "running"]


@dataclass(frozen=True)
class Job:
    """One request, checked already: the squares of a picture, each filled once per seed.

    Args:
        image: ``(P, 3, S, S)`` float32 in [-1, 1], of one of the model's sides; what the task shows of a hole is all
            that is looked at in it.
        mask: ``(P, 1, S, S)`` bool, True = what is made anew: the hole, or all of it.
        seeds: one per completion, n of them; `photo.part_seeds` makes those of the squares.
        sampler: None is the inpainter's own.
        previews: how many are wanted on the way, evenly spread.
        seconds: until the job is given up, from its submission; None is the engine's own limit.
        client: whose it is, for clients to take turns; an empty one stands for itself.
    """

    image: Tensor
    mask: Tensor
    seeds: tuple[int, ...]
    sampler: Sampler | None = None
    previews: int = 0
    seconds: float | None = None
    client: str = ""

    @property
    def rows(self) -> int:
        """Squares in all: n P."""
        return len(self.seeds) * len(self.image)

    def windows(self, size: int) -> int:
        """Rows of its largest network call: as `rows`, but a large square counts once for each of its windows.

        Args:
            size: of the model's smallest squares.
        """
        return len(self.seeds) * len(Windows.over(self.mask, size))

    def check(self, sides: Collection[int]) -> None:
        """Says it where a program has made a job that is none.

        Args:
            sides: that S may be.

        Raises:
            ValueError: in that case.
        """
        parts, side = len(self.image), self.image.shape[-1]
        fits = self.image.shape == (parts, 3, side, side) and self.mask.shape == (parts, 1, side, side)
        if not (fits and side in sides and self.rows):
            known = " or ".join(f"3x{side}x{side}" for side in sorted(sides))
            raise ValueError(
                f"a job needs images of {known}, as many masks of one channel and that size, and a seed, got "
                f"{tuple(self.image.shape)}, {tuple(self.mask.shape)} and {len(self.seeds)} seeds"
            )


@dataclass(frozen=True)
class Queued:
    """The job waits.

    Args:
        position: how many jobs wait in front of it; shorter ones may still come in between.
    """

    position: int


@dataclass(frozen=True)
class Stepped:
    """The network was asked once more.

    Args:
        step: how often by now, from 1.
        steps: how often in all.
        preview: ``(n, P, 3, s, s)`` uint8, what the model sees in the holes now, at the smallest of its sides; None
            between previews.
    """

    step: int
    steps: int
    preview: Tensor | None


@dataclass(frozen=True)
class Finished:
    """The holes are filled.

    Args:
        pictures: ``(n, P, 3, S, S)`` float32 in [-1, 1] on the CPU, equal to the image outside the holes; smaller ones
            if the model has no squares so large (a swap may come between).
        version: of the model that filled them.
        network_calls: that each square took.
        seconds: since the submission.
    """

    pictures: Tensor
    version: str
    network_calls: int
    seconds: float


Event = Queued | Stepped | Finished


class Refused(Exception):
    """Nothing was computed; the same job may be welcome later.

    Args:
        message: why.
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, int]]:
        return type(self), (str(self), self.retry_after)  # so that it travels between processes


class QueueFull(Refused):
    """As many jobs wait as may."""


class NotReady(Refused):
    """The engine warms up, or is about to end."""


class JobFailed(Exception):
    """This job alone has failed.

    Args:
        code: for programs.
        message: for people.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["JobFailed"], tuple[Code, str]]:
        return type(self), (self.code, str(self))


class SwapRefused(Exception):
    """The new model is not fit to serve; the old one goes on."""


@dataclass(frozen=True)
class Stats:
    """How the engine stands.

    Args:
        ready: whether a job would be taken now, but for a full queue.
        draining: whether it is about to end.
        queued: jobs that wait.
        running: jobs whose pictures are being made.
        heartbeat: seconds since the model's thread last came round; it does so every second when idle, and once a
            step otherwise; infinite if it has ended without being told to.
    """

    ready: bool
    draining: bool
    queued: int
    running: int
    heartbeat: float


class Measures(Protocol):
    """What the engine tells of itself, from threads of its own."""

    def waited(self, seconds: float) -> None:
        """A job left the queue for its first step."""

    def stepped(self, rows: int, seconds: float) -> None:
        """One step of all running jobs was taken: so many pictures or windows, in so many seconds."""

    def cancelled(self, stage: Stage) -> None:
        """Whoever asked for a job has gone."""

    def failed(self, code: Code) -> None:
        """A job has failed."""


class Engine(Protocol):
    """Whatever fills holes: a model in this process, or replicas elsewhere."""

    @property
    def image_size(self) -> int:
        """Of the model in service, in pixels; a swap never changes it."""

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the squares that the model in service fills, in pixels, its size first."""

    @property
    def crop(self) -> Crop:
        """That the model in service was trained on."""

    @property
    def task(self) -> Task:
        """What the model in service is for; a swap never changes it."""

    @property
    def version(self) -> str:
        """Of the model in service."""

    @property
    def form(self) -> str:
        """Of its networks: eager, compiled, onnxruntime, int8 or bfloat16."""

    def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        """Queued, then stepped for every network call, then finished; closing it gives the job up within one step.

        Raises:
            Refused: at the first event, if the job is not taken.
            JobFailed: at any later one.
        """

    def stats(self) -> Stats:
        """How it stands now; never waits."""

    async def swap(self, folder: Path) -> str:
        """Puts the inpainter of a folder into service, and says its version; running jobs end on the old one.

        Raises:
            SwapRefused: if it is damaged, unfit, of another size or task, or does not do what it is known to do.
        """

    async def drain(self, seconds: float) -> None:
        """Takes no more jobs, gives those it has so many seconds to end, fails the rest, and stops."""
