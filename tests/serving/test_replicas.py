import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import Heard, until
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from safetensors.torch import load_file, save_file

from diffusion_lab.diffusion.samplers import ddim
from diffusion_lab.inpainting import Inpainter, version_of
from diffusion_lab.serving.cluster import replicated
from diffusion_lab.serving.engine import (
    Event,
    Finished,
    Job,
    JobFailed,
    NotReady,
    QueueFull,
    Stepped,
    SwapRefused,
)
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.replicas import ReplicatedEngine
from patience import PATIENCE
from small import small_inpainter

pytestmark = [
    # Not imported here: `cluster.SETTINGS` must be there before it is.
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra"),
    pytest.mark.slow,
    # Ray Serve against a newer pydantic, when it is imported.
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field` is deprecated"),
    # Ray leaves its pipes and processes to the end of the process.
    pytest.mark.filterwarnings("ignore:subprocess \\d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def job(seed: int, steps: int = 3, previews: int = 0) -> Job:
    generator = torch.Generator().manual_seed(seed)
    parts = 1 + seed % 2
    image = torch.rand(parts, 3, 16, 16, generator=generator) * 2 - 1
    mask = torch.rand(parts, 1, 16, 16, generator=generator) < 0.4
    return Job(image, mask, (seed, seed + 1), ddim(steps=steps), previews)


async def events_of(engine: ReplicatedEngine | LocalEngine, asked: Job) -> list[Event]:
    return [event async for event in engine.submit(asked)]


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def offspring(process: int) -> set[int]:
    """All processes that descend from one."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(status.parent.name)] = int(fields[1])
    found, new = set(), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replicas") / "first"
    small_inpainter().save(path)
    return path


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def engine(folder: Path, heard: Heard) -> Iterator[ReplicatedEngine]:
    """Two replicas on this machine; afterwards nothing of Ray is left."""
    before = offspring(os.getpid())
    engine = replicated(folder, heard, replicas=2, cpus=0.5, max_batch=8, max_queue=16)
    ours = offspring(os.getpid()) - before
    assert {standing.process for standing in engine.standings} <= ours
    yield engine
    ours |= offspring(os.getpid()) - before
    asyncio.run(engine.drain(1))
    until(lambda: not any(Path(f"/proc/{process}").exists() for process in ours))


def test_a_replica_that_is_killed_under_load_costs_no_job_and_comes_back(
    engine: ReplicatedEngine, heard: Heard, folder: Path
) -> None:
    steps = 200  # so many that few end before one dies
    jobs = [job(seed, steps=steps, previews=2) for seed in range(20)]
    both = {standing.process for standing in engine.standings}
    assert len(both) == 2
    victim = min(both)
    told: list[list[Event]] = [[] for _ in jobs]

    async def follow(i: int) -> None:
        async with aclosing(engine.submit(jobs[i])) as events:
            async for event in events:
                told[i].append(event)

    async def main() -> None:
        under_way = [asyncio.create_task(follow(i)) for i in range(len(jobs))]
        # More than one replica takes, so that both are at work,
        while sum(any(isinstance(event, Stepped) for event in events) for events in told) < 5:
            await asyncio.sleep(0.005)
        # and they stay at work: more is left than they take together.
        assert sum(isinstance(event, Finished) for events in told for event in events) <= len(jobs) - 2 * 4
        os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*under_way)
        assert engine.stats().queued == engine.stats().running == 0

        local = LocalEngine(Inpainter.load(folder), "local")
        await local.ready()
        expected = await asyncio.gather(*(events_of(local, asked) for asked in jobs))
        await local.drain(0)
        for mine, theirs in zip(told, expected, strict=True):
            got, wanted = finished(mine), finished(theirs)
            assert (got.pictures - wanted.pictures).abs().max() <= 1 / 255
            assert (got.version, got.network_calls) == (version_of(folder), steps)
            # Who began anew is not told of a step twice, and sees as many previews.
            taken = [event for event in mine if isinstance(event, Stepped)]
            assert [event.step for event in taken] == list(range(1, steps + 1))
            assert sum(event.preview is not None for event in taken) == 2

    run(main())
    assert heard.failures == heard.gone == []
    until(lambda: len({standing.process for standing in engine.standings} - {victim}) == 2)
    assert engine.stats().ready


def test_who_goes_frees_the_place_in_the_replica(engine: ReplicatedEngine, heard: Heard) -> None:
    async def main() -> None:
        await asyncio.gather(*(events_of(engine, job(seed)) for seed in range(4)))  # what was measured so far
        heard.steps.clear()
        heard.gone.clear()
        async with aclosing(engine.submit(job(1, steps=3000))) as events:
            async for event in events:
                if isinstance(event, Stepped) and event.step == 3:
                    break
        assert engine.stats().running == 0
        assert heard.gone == ["running"]
        end = time.monotonic() + PATIENCE
        while any(standing.stats.running for standing in engine.standings):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        await asyncio.gather(*(events_of(engine, job(seed)) for seed in range(4)))
        assert len(heard.steps) < 1500  # the rest was never taken

    run(main())


def test_a_trace_goes_through_the_replicas(engine: ReplicatedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)

    async def one(seed: int) -> trace.SpanContext:
        with provider.get_tracer("test").start_as_current_span("request") as request:
            finished(await events_of(engine, job(seed, steps=4)))
        return request.get_span_context()

    async def main() -> None:
        requests = await asyncio.gather(*(one(seed) for seed in range(6)))
        for seed, request in enumerate(requests):
            spans = exporter.get_finished_spans()
            mine = [span for span in spans if span.context.trace_id == request.trace_id and span.parent is not None]
            rows = 2 * job(seed).image.shape[0]
            stage = {"stage": 0, "side": 16, "rows": rows, "calls": 4}
            assert [(span.name, dict(span.attributes or {})) for span in mine] == [("queue", {}), ("stage", stage)]
            assert {span.parent.span_id for span in mine if span.parent} == {request.span_id}

    run(main())


def changed(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy with other weights."""
    copy = folder.parent / name
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    save_file({key: change(tensor) for key, tensor in tensors.items()}, copy / "model.safetensors")
    return copy


def test_all_replicas_adopt_a_model_or_none(engine: ReplicatedEngine, folder: Path) -> None:
    bad = changed(folder, "bad", lambda tensor: tensor * float("nan"))
    good = changed(folder, "good", lambda tensor: tensor * 1.1)
    old = engine.version

    async def main() -> None:
        with pytest.raises(SwapRefused, match="no numbers"):
            await engine.swap(bad)
        assert engine.version == old
        for seed in range(6):
            assert finished(await events_of(engine, job(seed))).version == old

        going = True
        versions: list[list[str]] = [[] for _ in range(4)]

        async def load(seed: int) -> None:
            while going:
                versions[seed].append(finished(await events_of(engine, job(seed))).version)

        under_way = [asyncio.create_task(load(seed)) for seed in range(4)]
        while not all(versions):
            await asyncio.sleep(0.01)
        assert await engine.swap(good) == engine.version == version_of(good) != old
        swapped = [len(seen) for seen in versions]
        while not all(len(seen) > before + 2 for seen, before in zip(versions, swapped, strict=True)):
            await asyncio.sleep(0.01)
        going = False
        await asyncio.gather(*under_way)
        for seen, before in zip(versions, swapped, strict=True):
            assert set(seen) == {old, engine.version}
            assert set(seen[before + 1 :]) == {engine.version}  # one was under way when the swap was over

    run(main())
    until(lambda: [standing.version for standing in engine.standings] == [version_of(good)] * 2, PATIENCE)


def test_a_replica_that_comes_back_serves_the_model_that_was_adopted(engine: ReplicatedEngine, folder: Path) -> None:
    """The one that stands ready as ever began with the first model."""
    assert engine.version == version_of(folder.parent / "good")
    victim = engine.standings[0].process
    os.kill(victim, signal.SIGKILL)

    async def main() -> None:
        while True:
            versions = {finished(await events_of(engine, job(seed))).version for seed in range(4)}
            assert versions == {engine.version}
            standings = engine.standings
            both = len({standing.process for standing in standings} - {victim}) == 2
            if both and all(standing.version == engine.version for standing in standings):
                return

    run(main())


def test_more_than_the_queues_hold_is_refused(engine: ReplicatedEngine) -> None:
    async def main() -> None:
        async def ends(seed: int) -> str:
            try:
                finished(await events_of(engine, job(seed, steps=20)))
            except QueueFull as full:
                return "refused" if full.retry_after >= 1 else "refused for no time"
            return "done"

        ended = await asyncio.gather(*(ends(seed) for seed in range(80)))
        assert ended.count("refused") >= 80 - 2 * (16 + 8)
        assert ended.count("done") >= 2 * 16

    run(main())


def test_the_rest_fails_when_the_time_to_end_is_over(engine: ReplicatedEngine, heard: Heard) -> None:
    """The last test: the engine is drained."""

    async def main() -> None:
        events = engine.submit(job(1, steps=100))
        while not isinstance(await anext(events), Stepped):
            pass
        draining = asyncio.create_task(engine.drain(0))
        with pytest.raises(JobFailed) as failed:  # noqa: PT012  steps that were taken may come first
            while True:
                await anext(events)
        assert failed.value.code == "shutting_down"
        with pytest.raises(NotReady):
            await anext(engine.submit(job(2)))
        await draining
        assert engine.stats().draining

    run(main())
    assert heard.failures == ["shutting_down"]


def test_too_small_a_machine_is_said_at_once(folder: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("set engine.replicas= or engine.gpus=")):
        replicated(folder, Heard(), replicas=1000, cpus=0.0, gpus=1.0)
    until(lambda: not [process for process in offspring(os.getpid()) if "ray" in command(process)], 20)


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""
