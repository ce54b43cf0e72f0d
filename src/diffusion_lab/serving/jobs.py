"""Jobs: long work that goes on while nobody watches, followed by events that can be taken up again."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from diffusion_lab.serving import spans
from diffusion_lab.serving.desk import Desk, Order, data_uri, webp
from diffusion_lab.serving.engine import Event, Finished, Queued, Stepped
from diffusion_lab.serving.errors import Error, Mistake, declared, understood
from diffusion_lab.serving.faces import Alignment
from diffusion_lab.serving.requests import read_form
from diffusion_lab.serving.settings import JobSettings

log = logging.getLogger(__name__)

MOST_PREVIEWS = 8 * 2**20
"""Characters of previews that a job keeps."""
START, SHOW, CANCEL, EVENTS, IMAGE = "start_job", "show_job", "cancel_job", "job_events", "job_image"
"""The operations' names in OpenAPI, by which its links lead from one to another."""


class JobImage(BaseModel):
    """A picture of a job."""

    seed: int
    url: str


class JobState(Alignment):
    """How a job stands."""

    id: str
    status: Literal["starting", "processing", "succeeded", "failed", "canceled"]
    position: int | None = None
    step: int = 0
    steps: int | None = None
    seeds: list[int]
    model_version: str
    network_calls: int | None = None
    seconds: float | None = None
    error: Error | None = None
    images: list[JobImage] = Field(default_factory=list)


@dataclass(eq=False)
class Work:
    """A job in the store.

    Args:
        state: how it stands.
        holder: of the key that started it, as `Keys` names it; to everybody else there is no such job.
        events: (name, data), the first is number 0.
        changed: set, and put in place anew, with every event.
        pictures: PNG, once it has succeeded.
        size: bytes that it holds.
        ended: when it ended, on the monotonic clock.
        task: works on it.
        span: of all of it; None if nobody records it.
    """

    state: JobState
    holder: str
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    pictures: list[bytes] = field(default_factory=list)
    size: int = 0
    ended: float | None = None
    task: asyncio.Task[None] | None = None
    span: "spans.Span | None" = None

    def tell(self, name: str, data: dict[str, Any]) -> None:
        """One more event; the oldest previews are dropped where they become too many."""
        self.events.append((name, data))
        self.size += sum(map(len, data.get("previews", ())))
        for _, earlier in self.events:
            if self.size <= MOST_PREVIEWS:
                break
            if earlier.get("previews"):
                self.size -= sum(map(len, earlier["previews"]))
                earlier["previews"] = []
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """Keeps jobs until some time after their end, and no more of them than memory allows.

    Args:
        desk: works on them.
        most: jobs, those that have ended included.
        most_bytes: of results and previews; beyond, the oldest that have ended are forgotten.
        seconds: for which a job is kept after its end.
    """

    def __init__(self, desk: Desk, most: int = 512, most_bytes: int = 256 * 2**20, seconds: float = 900.0) -> None:
        self.desk = desk
        self.most = most
        self.most_bytes = most_bytes
        self.seconds = seconds
        self._works: dict[str, Work] = {}

    def find(self, job_id: str, holder: str) -> Work:
        """A job by its id.

        Raises:
            Mistake: if there is none, or none any more, or it is another holder's: nobody learns which.
        """
        self._forget()
        work = self._works.get(job_id)
        if work is None or work.holder != holder:
            message = f"there is no job '{job_id[:64]}'; jobs are forgotten {self.seconds:g} s after their end"
            raise Mistake(404, "no_such_job", message, "job_id")
        return work

    async def start(self, order: Order, holder: str) -> Work:
        """Hands an order of a holder's to the engine and goes on with it in the background.

        Raises:
            Refused: if the engine does not take it.
            Mistake: if there are too many jobs.
        """
        events, span = self.desk.events(order), spans.apart("job")
        try:
            self._forget(room=1)
            if len(self._works) >= self.most:
                raise Mistake(429, "queue_full", f"{self.most} jobs are under way already", retry_after=5)
            with spans.inside(span):
                first = await anext(events)
        except BaseException:
            spans.close(span, "refused")
            await events.aclose()
            raise
        state = JobState(
            id=secrets.token_urlsafe(16),
            status="starting",
            seeds=list(order.job.seeds),
            model_version=self.desk.engine.version,
            **vars(Alignment.of(order.photo)),
        )
        work = self._works[state.id] = Work(state, holder, span=span)
        with spans.inside(span):
            work.task = asyncio.create_task(self._work(work, order, first, events))
        await asyncio.sleep(0)  # a task that is cancelled before it starts never cleans up
        return work

    async def cancel(self, work: Work) -> None:
        """Gives a job up, if it has not ended."""
        if work.task is not None and work.ended is None:
            work.task.cancel()
            await asyncio.wait([work.task])

    async def close(self) -> None:
        """Gives all jobs up."""
        for work in list(self._works.values()):
            await self.cancel(work)

    async def follow(self, work: Work, after: int) -> AsyncIterator[ServerSentEvent]:
        """The events of a job that come after a given one, as they come, until its end."""
        number = after + 1
        while True:
            changed = work.changed
            while number < len(work.events):
                name, data = work.events[number]
                yield ServerSentEvent(id=str(number), event=name, data=data)
                number += 1
            if work.ended is not None:
                return
            if number >= len(work.events):
                await changed.wait()

    async def _work(self, work: Work, order: Order, first: Event, events: AsyncGenerator[Event, None]) -> None:
        state = work.state
        try:
            async with aclosing(events):
                await self._on(work, order, first)
                async for event in events:
                    await self._on(work, order, event)
            name, state.status = "completed", "succeeded"
        except asyncio.CancelledError:
            name, state.status = "canceled", "canceled"
        except Exception as error:
            mistake = understood(error)
            if mistake.status == 500 and mistake.error.code == "internal_error":
                log.exception("job %s failed", state.id)
            name, state.status, state.error = "failed", "failed", mistake.error
        spans.close(work.span, "cancelled" if name == "canceled" else state.error.code if state.error else "")
        state.position = None
        work.ended = time.monotonic()
        work.tell(name, state.model_dump(mode="json"))
        self._forget()

    async def _on(self, work: Work, order: Order, event: Event) -> None:
        state = work.state
        match event:
            case Queued(position):
                state.position = position
                work.tell("queued", {"position": position})
            case Stepped(step, steps, preview):
                shown = [] if preview is None else await self.desk.preview(order, preview, webp)
                state.status, state.position, state.step, state.steps = "processing", None, step, steps
                previews = [data_uri(content, "webp") for content in shown]
                work.tell("step", {"step": step, "steps": steps, "previews": previews})
            case Finished():
                filled = await self.desk.finish(order, event)
                work.pictures = filled.pictures
                work.size += sum(map(len, filled.pictures))
                state.model_version, state.network_calls = event.version, event.network_calls
                state.seconds = round(event.seconds, 3)
                state.images = [
                    JobImage(seed=seed, url=f"/v1/jobs/{state.id}/images/{i}") for i, seed in enumerate(filled.seeds)
                ]

    def _forget(self, room: int = 0) -> None:
        """Drops what is too old, and the oldest that have ended where there is too much."""
        now = time.monotonic()
        ended = sorted((w for w in self._works.values() if w.ended is not None), key=lambda w: w.ended or 0)
        held = sum(work.size for work in self._works.values())
        for work in ended:
            full = len(self._works) + room > self.most or (held > self.most_bytes and work is not ended[-1])
            if now - (work.ended or 0) > self.seconds or full:
                held -= work.size
                del self._works[work.state.id]


def router(desk: Desk, jobs: Jobs, body: dict[str, Any], dependencies: Sequence[Any], holder: Any) -> APIRouter:
    """The endpoints.

    Args:
        desk: reads the requests.
        jobs: the store.
        body: OpenAPI's description of the request.
        dependencies: who may come in.
        holder: whose a request is, as a dependency.
    """
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=list(dependencies))
    settings = desk.bounded(JobSettings)

    Holder = Annotated[str, holder]

    async def found(job_id: str, holder: Holder) -> Work:
        return jobs.find(job_id, holder)

    Found = Annotated[Work, Depends(found)]
    gone = declared(401, 404, 422) if dependencies else declared(404, 422)
    refusals = declared(400, 408, 413, 415, 422, 429, 503, *([401] if dependencies else []))

    # OpenAPI's links: what can be done with an answer.
    named = {"parameters": {"job_id": "$response.body#/id"}}
    links = {
        "state": {"operationId": SHOW, **named},
        "cancel": {"operationId": CANCEL, **named},
        "events": {"operationId": EVENTS, **named},
        "image": {"operationId": IMAGE, "parameters": {**named["parameters"], "number": 0}},
    }
    refusals[202] = {"links": links}

    @routes.post("", status_code=202, responses=refusals, openapi_extra=body, operation_id=START, summary="Start a job")
    async def start(request: Request, response: Response, holder: Holder) -> JobState:
        """Fills the hole, or restores the picture, in the background; fields as of `/v1/restore`, and `previews`.

        The job goes on if nobody watches. Follow it at `events`, or ask for it now and then. With another API key than
        the one that started it there is no such job.
        """
        form = await read_form(request, ("image", "mask"))
        asked = form.validated(settings)
        order = await desk.take(
            form.needed("image"), form.files.get("mask"), asked, previews=asked.previews, client=holder
        )
        work = await jobs.start(order, holder)
        response.headers["Location"] = f"/v1/jobs/{work.state.id}"
        return work.state

    @routes.get("/{job_id}", responses=gone, operation_id=SHOW, summary="How a job stands")
    async def show(work: Found) -> JobState:
        """The job; its pictures are at the addresses in `images` once it has succeeded."""
        return work.state

    @routes.delete("/{job_id}", responses=gone, operation_id=CANCEL, summary="Cancel a job")
    async def cancel(work: Found) -> JobState:
        """Gives the job up within one step; one that has ended stays as it is."""
        await jobs.cancel(work)
        return work.state

    @routes.get(
        "/{job_id}/images/{number}",
        responses={**gone, 200: {"content": {"image/png": {}}, "description": "The picture at its full size"}},
        response_class=Response,
        operation_id=IMAGE,
        summary="A picture of a job",
    )
    async def image(work: Found, number: int) -> Response:
        """A PNG; known pixels are those of the picture that was sent, value for value."""
        if not 0 <= number < len(work.pictures):
            known = "has ended without one" if work.ended is not None else "has none yet"
            message = f"there is no picture {number}" if work.pictures else f"the job {known}"
            raise Mistake(404, "no_such_image", message, "number")
        headers = {
            "X-Seed": str(work.state.seeds[number]),
            "X-Model-Version": work.state.model_version,
            "X-Face": work.state.header(),
            "Cache-Control": "private, max-age=600, immutable",
        }
        return Response(work.pictures[number], media_type="image/png", headers=headers)

    # Their bodies are JSON here as well, and not the stream's type.
    unstreamed = {code: {k: v for k, v in response.items() if k != "model"} for code, response in gone.items()}

    @routes.get(
        "/{job_id}/events",
        responses=unstreamed,
        response_class=EventSourceResponse,
        operation_id=EVENTS,
        summary="Follow a job (server-sent)",
    )
    async def events(
        work: Found,
        last_event_id: Annotated[
            int | None, Header(ge=0, description="the last event that was read; those after it follow")
        ] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """Events `queued` {position}, `step` {step, steps, previews}, then one of `completed`, `failed`, `canceled`.

        Previews are data URIs of the whole picture, its longer side 512 at most. The last event holds the job. Events
        are numbered from 0; send `Last-Event-ID` to take a broken stream up again.
        """
        async for event in jobs.follow(work, -1 if last_event_id is None else last_event_id):
            yield event

    return routes
