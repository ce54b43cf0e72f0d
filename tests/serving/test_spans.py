"""Where the time of a request goes, as OpenTelemetry's spans."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from engines import Elementwise, code_of, elementwise, job, result_of, run, running
from fakes import encoded, hole, photo
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from test_cascades import of_elementwise

from diffusion_lab.cascade import Model
from diffusion_lab.data.crops import full
from diffusion_lab.holes import as_mask
from diffusion_lab.photo import cut
from diffusion_lab.serving import spans
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.desk import Desk, Order
from diffusion_lab.serving.engine import Stepped
from diffusion_lab.serving.errors import Mistake
from diffusion_lab.serving.jobs import Jobs
from diffusion_lab.serving.measures import Measures
from diffusion_lab.serving.settings import Limits, offered
from small import MODEL

SMALL = Limits(detail=8)  # no squares of more than that, in which the last stage would be walked twice
FILES = {"image": encoded(photo()), "mask": encoded(hole())}
PHOTO = cut(photo(), as_mask(hole()), [8], full(), eyes=())


class Recorder:
    """An SDK of the test's own, beside the process' one."""

    def __init__(self) -> None:
        self.exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.request = self.provider.get_tracer("test").start_as_current_span

    def spans(self) -> list[ReadableSpan]:
        """All that have ended, by when they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def told(self) -> list[tuple[str, dict[str, object]]]:
        """Names and attributes of those below the request."""
        return [(span.name, dict(span.attributes or {})) for span in self.spans() if span.name != "request"]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    made = Recorder()
    monkeypatch.setattr(trace, "get_tracer", made.provider.get_tracer)
    yield made
    made.provider.shutdown()


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def check_within(parent: ReadableSpan, children: list[ReadableSpan]) -> None:
    """Children of a span follow each other within it."""
    last, end = times(parent)
    for child in children:
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id
        assert last <= child.start_time <= child.end_time <= end
        last = child.end_time


STAGES = [("queue", {}), ("stage", {"stage": 0, "side": 4, "rows": 1, "calls": 5})]
STAGES += [("stage", {"stage": 1, "side": 8, "rows": 1, "calls": 3}), ("encode", {"pictures": 1})]
"""Of a cascade from 4 to 8 px that takes five steps and three."""


@asynccontextmanager
async def served(model: Model) -> AsyncIterator[httpx.AsyncClient]:
    async with running(model) as engine:
        app = httpx.ASGITransport(create_app(engine, offered({"model": MODEL}), limits=SMALL))
        async with httpx.AsyncClient(transport=app, base_url="http://service") as client:
            yield client


def test_a_request_is_a_queue_its_stages_and_an_encoding(recorder: Recorder) -> None:
    cascade, _ = of_elementwise()

    async def main() -> None:
        async with served(cascade) as client:
            with recorder.request("request"):
                answer = await client.post("/v1/restore", files=FILES)
            assert answer.headers["x-network-calls"] == "8"

    run(main())
    assert recorder.told() == STAGES
    request, *below = recorder.spans()
    check_within(request, below)
    assert [span.end_time for span in below[:2]] == [span.start_time for span in below[1:3]]  # nothing lies between


def test_a_job_that_outlives_its_request_is_a_trace_of_its_own(recorder: Recorder) -> None:
    cascade, _ = of_elementwise()

    async def main() -> None:
        async with served(cascade) as client:
            with recorder.request("request"):
                started = (await client.post("/v1/jobs", files=FILES)).json()
            await client.get(f"/v1/jobs/{started['id']}/events")  # until its end

    run(main())
    assert recorder.told() == [("job", {}), *STAGES]
    request, root, *below = recorder.spans()
    assert root.parent is None
    assert root.context.trace_id != request.context.trace_id
    assert [link.context for link in root.links] == [request.context]
    check_within(root, below)


def test_squares_of_a_job_are_rows_of_its_stage(recorder: Recorder) -> None:
    async def main() -> None:
        async with running(elementwise(Elementwise())) as engine:
            with recorder.request("request"):
                await result_of(engine, job(1, 2, parts=2))

    run(main())
    assert recorder.told() == [("queue", {}), ("stage", {"stage": 0, "side": 8, "rows": 4, "calls": 5})]
    check_within(recorder.spans()[0], recorder.spans()[1:])


def test_jobs_that_are_given_up_say_how_far_they_came(recorder: Recorder) -> None:
    network = Elementwise(held=True)

    async def main() -> None:
        async with running(elementwise(network), max_batch=1) as engine:
            with recorder.request("request"):
                async with aclosing(engine.submit(job(1))) as first, aclosing(engine.submit(job(2))) as second:
                    network.let(2)
                    async for event in first:
                        if isinstance(event, Stepped) and event.step == 2:
                            break
                    await anext(second)

    run(main())
    gone = {"outcome": "cancelled"}
    told = recorder.told()
    assert len(told) == 3
    assert ("queue", {}) in told  # of the first
    assert ("queue", gone) in told  # of the second
    assert ("stage", {"stage": 0, "side": 8, "rows": 1, "calls": 2, **gone}) in told
    request, *below = recorder.spans()
    for span in below:
        check_within(request, [span])
        assert span.status.is_unset  # nothing went wrong


def test_a_job_that_is_cancelled_says_so_at_its_root(recorder: Recorder) -> None:
    network = Elementwise(held=True)

    async def main() -> None:
        async with served(elementwise(network)) as client:
            with recorder.request("request"):
                started = (await client.post("/v1/jobs", files=FILES)).json()
            await network.inside()
            assert (await client.delete(f"/v1/jobs/{started['id']}")).json()["status"] == "canceled"

    run(main())
    gone = {"outcome": "cancelled"}
    stage = {"stage": 0, "side": 8, "rows": 1, "calls": 0, **gone}
    assert recorder.told() == [("job", gone), ("queue", {}), ("stage", stage)]
    check_within(recorder.spans()[1], recorder.spans()[2:])


def test_a_job_that_is_not_taken_says_so_too(recorder: Recorder) -> None:
    async def main() -> None:
        async with running(elementwise(Elementwise())) as engine:
            desk = Desk(engine, offered({"model": MODEL}), SMALL, Measures())
            with recorder.request("request"), pytest.raises(Mistake, match="0 jobs are under way"):
                await Jobs(desk, most=0).start(Order(PHOTO, job(1), 0, PHOTO), "")

    run(main())
    assert recorder.told() == [("job", {"outcome": "refused"})]


def test_jobs_that_fail_say_why(recorder: Recorder) -> None:
    network = Elementwise()

    async def main() -> None:
        async with running(elementwise(network)) as engine:
            network.fault = lambda channels, output: output * float("nan")
            with recorder.request("request"):
                assert await code_of(engine, job(1)) == "non_finite_output"

    run(main())
    failed = recorder.spans()[-1]
    assert failed.name == "stage"
    assert dict(failed.attributes or {})["outcome"] == "non_finite_output"
    assert failed.status.status_code is trace.StatusCode.ERROR


def test_what_a_replica_notes_makes_the_spans_of_an_engine_at_hand(recorder: Recorder) -> None:
    cascade, _ = of_elementwise()

    async def main() -> None:
        async with running(cascade) as engine:
            with recorder.request("request"):
                front = spans.track()
            notes = spans.Noted()
            async for event in engine.submit(job(1), notes):
                passages = notes.taken()
                assert not (isinstance(event, Stepped) and not passages)
                front.heard(passages)
                front.heard(passages[-1:])  # twice is once
            front.ends()
            front.heard(passages)  # too late

    run(main())
    assert recorder.told() == STAGES[:-1]
    request, *below = recorder.spans()
    assert {span.parent.span_id for span in below if span.parent} == {request.context.span_id}
    assert [span.end_time for span in below[:2]] == [span.start_time for span in below[1:]]


def test_a_job_that_lost_its_replica_waits_once_more(recorder: Recorder) -> None:
    with recorder.request("request"):
        front = spans.track()
    now = time.time_ns()
    lost, taken = spans.Passage(0, 8, 2, since=now, calls=3), spans.Passage(0, 8, 2, since=now + 10**9, calls=1)
    front.heard([lost])
    front.again("replica_lost")
    front.heard([taken])
    front.heard([replace(taken, calls=5)])
    front.ends()
    stage = {"stage": 0, "side": 8, "rows": 2}
    whole = [("queue", {}), ("stage", {**stage, "calls": 3, "outcome": "replica_lost"})]
    assert recorder.told() == [*whole, ("queue", {}), ("stage", {**stage, "calls": 5})]
    _, queue, first, again, second = recorder.spans()
    assert (queue.end_time, second.start_time) == (now, now + 10**9) == (first.start_time, again.end_time)
    assert first.end_time == again.start_time


def test_where_nobody_records_nothing_is_made(recorder: Recorder) -> None:
    async def main() -> None:
        async with running(elementwise(Elementwise())) as engine:
            await result_of(engine, job(1))
            with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=True))):  # not sampled
                await result_of(engine, job(2))
                assert spans.track() is spans.UNTRACKED
                assert spans.apart("job") is None
                with spans.span("encode"):
                    pass
        await asyncio.sleep(0)

    run(main())
    assert recorder.spans() == []


def test_opentelemetry_need_not_be_installed() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
import diffusion_lab.serving.local
from diffusion_lab.cascade import Model
from diffusion_lab.data.crops import full
from diffusion_lab.holes import as_mask
from diffusion_lab.photo import cut
from diffusion_lab.serving import spans
assert spans.track() is spans.UNTRACKED and spans.apart("job") is None
spans.close(None)
with spans.span("encode"), spans.inside(None):
    print("well")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "well\n", done.stderr


def test_they_are_in_the_trace_of_the_frameworks_request() -> None:
    """In a process of its own: a provider of traces is set once for all."""
    code = """
import sys
sys.path.append("..")
from engines import Elementwise, elementwise
from fakes import encoded, hole, photo
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.settings import Limits, offered
from patience import until
from small import MODEL
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
engine = LocalEngine(elementwise(Elementwise()), "first")
client = TestClient(create_app(engine, offered({"model": MODEL})))
until(lambda: engine.stats().ready)
assert client.post("/v1/restore", files={"image": encoded(photo()), "mask": encoded(hole())}).status_code == 200
made = {span.context.span_id: span for span in exporter.get_finished_spans()}
(server,) = (span for span in made.values() if span.kind is trace.SpanKind.SERVER)
def above(span):
    return span if span.parent is None else above(made[span.parent.span_id])
ours = sorted((s for s in made.values() if s.name in ("queue", "stage", "encode")), key=lambda s: s.start_time)
for span in ours:
    assert above(span) is server
    assert server.start_time <= span.start_time <= span.end_time <= server.end_time
print([span.name for span in ours])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.stdout.strip() == "['queue', 'stage', 'encode']", done.stderr
