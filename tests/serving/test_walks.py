"""Walks through the lives of jobs along OpenAPI's links, by schemathesis' state machine.

What becomes of a job depends on no clock: before the request that makes it is answered it has succeeded, failed or
stopped in the queue, as its engine says beforehand, and there it waits until somebody follows its events or cancels it.
"""

import asyncio
import base64
import json
import random
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
import schemathesis
from fakes import FakeEngine, encoded, hole, photo
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode
from schemathesis.core.errors import InvalidStateMachine
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.stateful.state_machine import APIStateMachine, StepInput
from starlette.types import Receive, Scope, Send
from test_fuzz import CHECKS

from diffusion_lab.serving import desk, errors, jobs
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.engine import Event, Job, JobFailed, Queued
from diffusion_lab.serving.jobs import CANCEL, EVENTS, IMAGE, SHOW, START
from diffusion_lab.serving.security import Keys, digest
from diffusion_lab.serving.settings import Limits, offered
from small import MODEL

FATES = ("succeeded", "starting", "failed")
"""What may become of a job before anybody asks; who starts waits."""
ENDS = {"completed": "succeeded", "failed": "failed", "canceled": "canceled"}
"""What the last event of a job says of its status."""
MINE, OTHER = {"X-API-Key": "mine"}, {"X-API-Key": "other's"}
FILES = {"image": encoded(photo()), "mask": encoded(hole())}
PICTURES = {
    "multipart/form-data": FILES,
    "application/json": {name: base64.b64encode(content).decode() for name, content in FILES.items()},
}
LINKS = {"state": SHOW, "cancel": CANCEL, "events": EVENTS, "image": IMAGE}


class FatedEngine(FakeEngine):
    """Lets become of a job what was said beforehand."""

    def reset(self) -> None:
        super().reset()
        self.gates: list[asyncio.Event] = []
        self.fates: list[str] = []
        self.next = FATES[0]

    @property
    def settled(self) -> bool:
        """Whether all that is left of jobs waits."""
        waiting = sum(not gate.is_set() for gate in self.gates)
        return self.running <= waiting

    async def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        fate, gate = self.next, asyncio.Event()
        self.fates.append(fate)
        self.gates.append(gate)
        if fate != "starting":
            gate.set()
        try:
            async for event in super().submit(job):
                yield event
                if isinstance(event, Queued):
                    await gate.wait()
                if fate == "failed":
                    raise JobFailed("engine_error", "as it was to be")
        finally:
            gate.set()


class Here(Executor):
    """Does everything at once, where it is asked for it."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*given, **named))
        except Exception as error:
            done.set_exception(error)
        return done


class Service:
    """The service as an ASGI app that can begin anew, and answers when everything has settled."""

    def __init__(self) -> None:
        self.engine = FatedEngine()
        self.anew()

    def anew(self) -> None:
        """No job was ever there."""
        self.engine.reset()
        self.ids = random.Random(0)
        keys = Keys([digest(held["X-API-Key"]) for held in (MINE, OTHER)])
        limits = Limits(pixels=1_000_000, bytes=2**20)
        self.app: FastAPI = create_app(self.engine, offered({"model": MODEL}), limits=limits, keys=keys)

    def token_urlsafe(self, length: int) -> str:
        return self.ids.randbytes(length).hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        while not self.engine.settled:
            await asyncio.sleep(0)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    monkeypatch.setattr(jobs, "secrets", made)  # where the ids of jobs come from
    monkeypatch.setattr(desk, "ThreadPoolExecutor", lambda *_, **__: Here())
    return made


class Walked:
    """What a test saw: how often each link was followed, what became of jobs, and all requests with their answers."""

    def __init__(self) -> None:
        self.links = Counter[str]()
        self.states = Counter[str]()
        self.answers: list[tuple[str, int]] = []


def lives(service: Service, walked: Walked) -> type[APIStateMachine]:
    """Goes from a job's start to its state, its events, its cancellation and its picture, as OpenAPI's links say."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", service).include(path_regex="^/v1/jobs")
    schema.config.generation.update(modes=[GenerationMode.POSITIVE], with_security_parameters=False)
    schema.config.phases.stateful.inference.algorithms = []  # the links that are declared, and no guesses

    class Lives(schema.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            service.anew()
            self.known: dict[str, dict[str, Any]] = {}  # what was last said of each job
            self.numbers: dict[str, int] = {}

        def step(self, given: StepInput) -> Any:
            if given.transition is not None and given.is_applied:
                walked.links[given.case.operation.definition.raw["operationId"]] += 1
            return super().step(given)

        def before_call(self, case: schemathesis.Case) -> None:
            name = case.operation.definition.raw["operationId"]
            if name == START:
                if isinstance(case.body, dict):
                    asked = {field: value for field, value in case.body.items() if field not in FILES}
                    case.body = asked | PICTURES[case.media_type]
                    service.engine.next = FATES[zlib.crc32(repr(asked).encode()) % len(FATES)]  # as if by chance
                return
            # Whoever has another key, or none, is told the same of it as of a job that never was, and changes nothing.
            for headers, code in ((OTHER, 404), ({}, 401)):
                answer = case.call(headers=headers)
                if case.path_parameters["job_id"] in self.known and answer.status_code != 422:
                    assert answer.status_code == code
            job_id = case.path_parameters["job_id"]
            if name == EVENTS and job_id in self.known and self.known[job_id]["status"] == "starting":
                service.engine.gates[self.numbers[job_id]].set()
                self.known[job_id]["status"] = "succeeded"

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"headers": MINE}

        def validate_response(self, response: schemathesis.Response, case: schemathesis.Case, **_: object) -> None:
            walked.answers.append((case.operation.label, response.status_code))
            case.validate_response(response, checks=CHECKS)
            name = case.operation.definition.raw["operationId"]
            if name == START:
                if response.status_code == 202:
                    state = response.json()
                    number = self.numbers[state["id"]] = len(self.numbers)
                    self.known[state["id"]] = state | {"status": service.engine.fates[number]}
            elif (known := self.known.get(case.path_parameters["job_id"])) is None:
                assert response.status_code in (404, 422)
            elif response.status_code != 422:
                self.holds(name, case, response, known)

        def holds(
            self, name: str, case: schemathesis.Case, response: schemathesis.Response, known: dict[str, Any]
        ) -> None:
            """A job is what it has come to, for all that is asked afterwards."""
            if name == CANCEL and known["status"] == "starting":
                known["status"] = "canceled"
            walked.states[known["status"]] += 1
            if name == IMAGE:
                pictures = len(known["seeds"]) if known["status"] == "succeeded" else 0
                assert response.status_code == (200 if 0 <= case.path_parameters["number"] < pictures else 404)
                return
            assert response.status_code == 200
            if name == EVENTS:
                if not response.text.strip():  # Last-Event-ID says that all of them were read
                    return
                last = response.text.strip().rsplit("\n\n", 1)[-1]
                fields = dict(line.split(": ", 1) for line in last.splitlines())
                state = json.loads(fields["data"])
                assert ENDS[fields["event"]] == state["status"]
            else:
                state = response.json()
            assert (state["id"], state["status"], state["seeds"]) == (known["id"], known["status"], known["seeds"])
            assert len(state["images"]) == (len(known["seeds"]) if known["status"] == "succeeded" else 0)

    return Lives


def walk(service: Service, examples: int) -> Walked:
    walked = Walked()
    lives(service, walked).run(
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
    )
    return walked


def test_every_link_leads_to_an_operation() -> None:
    document = create_app(FakeEngine(), offered({"model": MODEL})).openapi()
    operations = [one for path in document["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names)
    links = {
        name: link["operationId"]
        for one in operations
        for answer in one["responses"].values()
        for name, link in answer.get("links", {}).items()
    }
    assert links == LINKS
    assert set(links.values()) <= set(names)


def checked(service: Service, examples: int = 25) -> Walked:
    """A walk that went along all links, and saw jobs in all that becomes of them."""
    walked = walk(service, examples)
    assert walked.links.keys() == set(LINKS.values())
    assert walked.states.keys() == {*FATES, "canceled"}
    return walked


@pytest.mark.slow
def test_jobs_live_as_their_links_say(service: Service) -> None:
    walked = checked(service)
    assert walk(service, examples=25).answers == walked.answers  # nothing of it was by chance


async def refuses_the_second(self: jobs.Jobs, work: jobs.Work) -> None:
    if work.ended is not None:
        raise RuntimeError("it was cancelled already")
    await CANCELS(self, work)


async def cancels_nothing(self: jobs.Jobs, work: jobs.Work) -> None:
    pass


async def revives(self: jobs.Jobs, work: jobs.Work) -> None:
    await CANCELS(self, work)
    work.state.status = "processing"


async def forgets(self: jobs.Jobs, work: jobs.Work) -> None:
    await CANCELS(self, work)
    del self._works[work.state.id]


def anybodys(self: jobs.Jobs, job_id: str, holder: str) -> jobs.Work:
    return FINDS(self, job_id, self._works[job_id].holder if job_id in self._works else holder)


async def undeclared(self: jobs.Jobs, work: jobs.Work) -> None:
    raise errors.Mistake(409, "conflict", "it has ended")


CANCELS, FINDS = jobs.Jobs.cancel, jobs.Jobs.find
FAULTS = [
    pytest.param(jobs.Jobs, "cancel", refuses_the_second, "Server error", id="500 for a second cancel"),
    pytest.param(jobs.Jobs, "cancel", cancels_nothing, "canceled", id="a cancel of nothing"),
    pytest.param(jobs.Jobs, "cancel", revives, "processing", id="a cancelled job lives"),
    pytest.param(jobs.Jobs, "cancel", forgets, "404", id="a cancelled job is forgotten"),
    pytest.param(jobs.Jobs, "cancel", undeclared, "Undocumented status code", id="an answer of no declared code"),
    pytest.param(jobs.Jobs, "find", anybodys, "404", id="with another key"),
    pytest.param(jobs.JobState, "header", lambda self: 1 / 0, "Server error", id="500 for a picture"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "name", "fault", "said"), FAULTS)
def test_a_walk_notices(
    service: Service, monkeypatch: pytest.MonkeyPatch, where: type, name: str, fault: object, said: str
) -> None:
    monkeypatch.setattr(where, name, fault)
    with pytest.raises((AssertionError, FailureGroup), match=said):
        checked(service)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        pytest.param("operationId", "end_job", InvalidStateMachine, id="names no operation"),
        pytest.param("parameters", {"job_id": "$response.body#/name"}, AssertionError, id="finds no id"),
    ],
)
def test_a_walk_notices_a_link_that_leads_nowhere(
    service: Service, field: str, value: object, error: type[Exception]
) -> None:
    start = service.app.openapi()["paths"]["/v1/jobs"]["post"]  # what is answered is this very document
    start["responses"]["202"]["links"]["cancel"][field] = value
    with pytest.raises(error, match=CANCEL if error is AssertionError else "end_job"):
        checked(service, examples=10)
