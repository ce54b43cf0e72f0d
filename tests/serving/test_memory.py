"""No memory left in the model's thread, wherever it asks for some; and a thread that dies."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import torch
from engines import Elementwise, alone, begun, code_of, elementwise, job, result_of, run, running
from fakes import files, served, until
from torch import Tensor

from diffusion_lab.serving import local
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.batching import Walk, begin
from diffusion_lab.serving.engine import NotReady
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.settings import offered
from patience import PATIENCE
from small import MODEL, small_inpainter

ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory")]
"""What a GPU's allocator raises, Python's, and the CPU's."""


def scarce(function: Callable[..., Any], error: Exception, guilty: Callable[..., bool]) -> Callable[..., Any]:
    """A function that finds no memory for whom a test says."""

    def call(*arguments: Any) -> Any:
        if guilty(*arguments):
            raise error
        return function(*arguments)

    return call


@pytest.mark.parametrize("place", ["the start", "a preview", "the pictures"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_job_that_finds_no_memory_fails_alone(
    error: Exception, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "the start":
        monkeypatch.setattr(local, "begin", scarce(begin, error, lambda *asked: asked[3] == (0,)))
    else:
        name = "preview" if place == "a preview" else "pictures"
        method = scarce(getattr(Walk, name), error, lambda walk: len(walk.rows.x) == 1)
        monkeypatch.setattr(Walk, name, method)

    async def main() -> None:
        inpainter = elementwise(Elementwise())
        async with running(inpainter) as engine:
            good = asyncio.create_task(result_of(engine, job(1, 2, previews=2)))  # two rows
            assert await code_of(engine, job(0, previews=2)) == "engine_error"
            made = (await good).pictures
            assert engine.stats().ready
            monkeypatch.undo()
            assert torch.equal(made, alone(inpainter, job(1, 2)))
            assert torch.equal((await result_of(engine, job(0))).pictures, alone(inpainter, job(0)))

    run(main())


def test_a_service_without_memory_fails_each_job_and_recovers() -> None:
    inpainter = small_inpainter()
    short = threading.Event()

    def refuse(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        if short.is_set():
            raise torch.OutOfMemoryError("CUDA out of memory")

    inpainter.denoiser.network.register_forward_pre_hook(refuse)
    engine = LocalEngine(inpainter, "tiny@1", max_batch=4)
    with (
        served(create_app(engine, offered({"model": MODEL}))) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        until(lambda: client.get("/readyz").status_code == 200)
        short.set()
        for _ in range(3):
            answer = client.post("/v1/inpaint", files=files())
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
            assert client.get("/healthz").status_code == 200
        short.clear()
        assert client.post("/v1/inpaint", files=files()).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_takes_health_with_it_at_once() -> None:
    """What no handler catches ends it; who waited is told, and nobody is let in any more."""
    network = Elementwise(held=True)

    def die(channels: Tensor, output: Tensor) -> Tensor:
        raise SystemExit("gone")

    async def main() -> None:
        async with running(elementwise(network)) as engine:
            app = create_app(engine, offered({"model": MODEL}))
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                assert (await client.get("/healthz")).status_code == 200
                task = await begun(engine, job(1))
                await network.inside()
                waiting = await begun(engine, job(2))
                network.fault = die
                network.let(1)
                for one in (task, waiting):
                    with pytest.raises(Exception, match="the service ends"):
                        await one
                await asyncio.to_thread(engine._thread.join)
                answer = await client.get("/healthz")
                assert answer.status_code == 503
                assert answer.json()["error"]["message"] == "the model's thread has died"
                assert (await client.get("/readyz")).status_code == 503
                assert "heartbeat_seconds +Inf" in (await client.get("/metrics")).text
                with pytest.raises(NotReady, match="has died"):
                    await result_of(engine, job(3))

    run(main())
