"""An engine that a test can hold and break, and the service on a real socket."""

import asyncio
import io
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image

from diffusion_lab.data.crops import full
from diffusion_lab.serving.engine import Code, Event, Finished, Job, Queued, Stage, Stats, Stepped
from diffusion_lab.serving.run import configured
from diffusion_lab.tasks import inpainting
from patience import until as until  # most tests want it beside the fakes

RED = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)


class Heard:
    """Measures that a test looks at."""

    def __init__(self) -> None:
        self.waits = 0
        self.steps: list[int] = []  # rows of each
        self.gone: list[Stage] = []
        self.failures: list[Code] = []

    def waited(self, seconds: float) -> None:
        self.waits += 1

    def stepped(self, rows: int, seconds: float) -> None:
        assert seconds > 0
        self.steps.append(rows)

    def cancelled(self, stage: Stage) -> None:
        self.gone.append(stage)

    def failed(self, code: Code) -> None:
        self.failures.append(code)


class FakeEngine:
    """Fills holes with red, in five steps, for as many jobs at once as come."""

    image_size, sides = 16, (16,)
    crop = full()
    task = inpainting()
    form = "eager"
    steps = 5

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As new."""
        self.version = "fake@1"
        self.held_at: int | None = None  # the step before which everybody waits; 0 is the queue
        self.refusal: Exception | None = None
        self.failure: Exception | None = None  # at step 2
        self.ready, self.draining, self.heartbeat = True, False, 0.0
        self.jobs: list[Job] = []
        self.running = 0

    async def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        if self.refusal is not None:
            raise self.refusal
        self.jobs.append(job)
        self.running += 1
        try:
            count = len(job.seeds)
            pictures = torch.where(job.mask, RED, job.image).expand(count, -1, -1, -1, -1)
            shown = {round(i * self.steps / (job.previews + 1)) for i in range(1, job.previews + 1)}
            yield Queued(0)
            for step in range(1, self.steps + 1):
                while self.held_at is not None and step > self.held_at:
                    await asyncio.sleep(0.002)
                if self.failure is not None and step == 2:
                    raise self.failure
                preview = (pictures + 1).mul(127.5).to(torch.uint8) if step in shown else None
                yield Stepped(step, self.steps, preview)
            yield Finished(pictures, self.version, self.steps, 0.5)
        finally:
            self.running -= 1

    def stats(self) -> Stats:
        return Stats(self.ready, self.draining, 0, self.running, self.heartbeat)

    async def swap(self, folder: Path) -> str:
        self.version = folder.name
        return self.version

    async def drain(self, seconds: float) -> None:
        self.draining = True


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of an app on the server that `serve` starts, which a client can leave."""
    config = configured(app)
    config.port, config.timeout_graceful_shutdown = 0, 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def leaving(url: str, path: str, sent: Mapping[str, bytes], **data: str) -> Iterator[None]:
    """A client that has sent its request, and leaves without an answer when the block ends."""
    with httpx.Client(base_url=url) as client:
        request = client.build_request("POST", path, files=sent, data=data)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((request.url.host, request.url.port or 80)) as gone:
        gone.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        yield


class Clock:
    """Stands in for `time` where a test says how late it is; nothing takes no time at all."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1e-9
        return self.now


def photo(width: int = 60, height: int = 40) -> Image.Image:
    """A picture in which every pixel is its own."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def hole(width: int = 60, height: int = 40) -> Image.Image:
    """A mask of the same size, white in the middle."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    return Image.fromarray(mask)


def transparent(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A picture whose hole is transparent."""
    picture = photo(*size).convert("RGBA")
    picture.putalpha(hole(*size).point(lambda value: 255 - value))
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def check_filled(after: np.ndarray) -> None:
    """The usual picture: red in the hole, where the border is a blend of both, and as it was everywhere else."""
    inside = np.asarray(hole()) > 127
    assert np.array_equal(after[~inside], np.asarray(photo())[~inside])
    red, green, blue = after[inside].mean(0)
    assert red > 200 > 80 > max(green, blue)


def files(image: Image.Image | bytes | None = None, mask: Image.Image | bytes | None = None) -> dict[str, bytes]:
    """The two files of a request; None is the usual one."""
    given = {"image": photo() if image is None else image, "mask": hole() if mask is None else mask}
    return {name: value if isinstance(value, bytes) else encoded(value) for name, value in given.items()}
