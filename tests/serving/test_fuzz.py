"""Schemathesis over the whole OpenAPI: whatever is sent, the answer is one that was declared."""

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from fakes import FakeEngine, encoded, hole, photo, served, transparent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
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

APP = create_app(FakeEngine(), offered({"model": MODEL}), limits=Limits(pixels=1_000_000, bytes=2**20))
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


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), CASES)
def test_whatever_is_sent_at_length(fuzzed: str, label: str, mode: GenerationMode) -> None:
    good = fuzz(OPERATIONS[label], fuzzed, mode, examples=150)
    if mode is GenerationMode.POSITIVE and "{job_id}" not in label:
        assert good > 0  # it is not all refused at the door
    assert httpx.get(f"{fuzzed}/healthz", timeout=PATIENCE).status_code == 200
