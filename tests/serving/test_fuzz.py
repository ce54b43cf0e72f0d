"""Schemathesis over the whole OpenAPI: whatever is sent, the answer is one that was declared."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fakes import FakeEngine, encoded, hole, photo, served, transparent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.settings import Limits, offered
from patience import PATIENCE
from small import MODEL

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
PICTURES = st.sampled_from(
    [
        encoded(photo()),
        encoded(hole()),
        *3 * [encoded(transparent())],  # the only kind that an edit without a mask can do something with
        encoded(photo(), "JPEG"),
        encoded(photo())[:500],
        b"no picture",
        b"",
    ]
)
for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, PICTURES)

ENGINE = FakeEngine()
APP = create_app(ENGINE, offered({"model": MODEL}), limits=Limits(pixels=1_000_000, bytes=2**20))
SCHEMA = schemathesis.openapi.from_dict(APP.openapi())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
CASES = [(label, GenerationMode.POSITIVE) for label in OPERATIONS]
# Only what has a body or a number in it can be asked for wrongly.
CASES += [(label, GenerationMode.NEGATIVE) for label in OPERATIONS if label.startswith("POST") or "{number}" in label]


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[str]:
    with served(APP) as url:
        yield url


def fuzz(operation: schemathesis.schemas.APIOperation, url: str, mode: GenerationMode, examples: int) -> int:  # type: ignore[type-arg]
    """Sends that many requests; how many were answered as if nothing was wrong with them."""
    good = 0

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        nonlocal good
        answer = case.call_and_validate(base_url=url, checks=CHECKS)
        good += answer.status_code < 300

    send()
    return good


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_whatever_is_sent_the_answer_is_declared(fuzzed: str, label: str, mode: GenerationMode) -> None:
    fuzz(OPERATIONS[label], fuzzed, mode, examples=6)


ENDED = ("succeeded", "failed", "canceled")
RANK = {"starting": 0, "processing": 1, **dict.fromkeys(ENDED, 2)}
ENDS = {"completed": "succeeded", "failed": "failed", "canceled": "canceled"}
"""What the last event of a job says of its status."""


def lives(url: str) -> type[APIStateMachine]:
    """Goes from a job's start to its state, its events, its cancellation and its picture, as OpenAPI's links say."""
    jobs = schemathesis.openapi.from_dict(APP.openapi()).include(path_regex="^/v1/jobs")
    jobs.config.update(base_url=url)

    class Lives(jobs.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            self.known: dict[str, dict[str, Any]] = {}

        def validate_response(self, response: schemathesis.Response, case: schemathesis.Case, **_: object) -> None:
            case.validate_response(response, checks=CHECKS)
            if case.operation.label == "POST /v1/jobs":
                if response.status_code == 202:
                    self.told(response.json())
            elif (job := case.path_parameters["job_id"]) in self.known:
                self.holds(case, response, self.known[job])

        def holds(self, case: schemathesis.Case, response: schemathesis.Response, before: dict[str, Any]) -> None:
            if case.operation.path.endswith("/events"):
                if response.status_code == 200:
                    last = response.text.strip().rsplit("\n\n", 1)[-1]
                    fields = dict(line.split(": ", 1) for line in last.splitlines())
                    state = json.loads(fields["data"])
                    assert ENDS[fields["event"]] == state["status"]
                    self.told(state)
            elif "/images/" in case.operation.path:
                first = case.path_parameters["number"] == 0
                if before["status"] in ENDED and response.status_code in (200, 404):
                    assert not first or (response.status_code == 200) == (before["status"] == "succeeded")
            elif response.status_code == 200:
                self.told(response.json())
                assert case.method != "DELETE" or response.json()["status"] in ENDED
            else:
                assert response.status_code == 422, "a job that was there is none any more"

        def told(self, state: dict[str, Any]) -> None:
            """A job goes forwards, and what has ended stays as it is."""
            before = self.known.setdefault(state["id"], state)
            assert RANK[state["status"]] >= RANK[before["status"]]
            assert before["status"] not in ENDED or state == before
            self.known[state["id"]] = state
            SEEN[state["status"]] += 1

    return Lives


SEEN = Counter[str]()
"""States that jobs were found in."""


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_the_life_of_a_job(fuzzed: str, examples: int) -> None:
    ENGINE.pause = 0.03  # so that some are cancelled on the way
    SEEN.clear()
    lives(fuzzed).run(
        settings=settings(
            max_examples=examples,
            stateful_step_count=8,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
    )
    ENGINE.pause = 0.0
    if examples > 10:
        assert SEEN.keys() >= {"starting", "succeeded", "canceled"}


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), CASES)
def test_whatever_is_sent_at_length(fuzzed: str, label: str, mode: GenerationMode) -> None:
    good = fuzz(OPERATIONS[label], fuzzed, mode, examples=150)
    if mode is GenerationMode.POSITIVE and "{job_id}" not in label:
        assert good > 0  # it is not all refused at the door
    assert httpx.get(f"{fuzzed}/healthz", timeout=PATIENCE).status_code == 200
