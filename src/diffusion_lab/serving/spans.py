"""Where the time of a request goes, as OpenTelemetry's spans.

======  ============================================================  ========================================
queue   from a job's acceptance to its first network call
stage   the network calls of one of the model's stages                ``stage``, ``side``, ``rows``, ``calls``
encode  pasting and encoding                                          ``pictures``
job     these three, of a job that goes on after its request's end
======  ============================================================  ========================================

They are children of the span that is current when the job is accepted, which is the request's; ``job`` is the root of a
trace of its own and has a link to it. What was given up or failed has an ``outcome``: ``cancelled``, or the error's
code. A network call has no span: there are hundreds of them, and they are shared.

Where no SDK records the request nothing is made, and OpenTelemetry need not be installed. Nothing here says what a
picture shows, or whose it is.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

try:
    from opentelemetry import trace
except ImportError:  # the engine does without FastAPI, which brings it
    if not TYPE_CHECKING:
        trace = None

if TYPE_CHECKING:
    from opentelemetry.trace import Span as Span

NAME = "diffusion_lab"


class Track(Protocol):
    """What the engine says of a job on its way, from threads of its own."""

    def enters(self, stage: int, side: int, rows: int) -> None:
        """It leaves the queue, or the stage before, for a stage whose network sees so many squares of that side."""

    def called(self) -> None:
        """The stage's network was asked once more."""

    def ends(self, outcome: str = "") -> None:
        """It is over; with an outcome if it came to nothing. What is said later is not heard."""


class Untracked:
    """Nobody records it."""

    def enters(self, stage: int, side: int, rows: int) -> None: ...

    def called(self) -> None: ...

    def ends(self, outcome: str = "") -> None: ...


class Tracked:
    """Makes a span of whatever a job has left behind.

    Args:
        parent: of its spans.
    """

    def __init__(self, parent: "Span") -> None:
        self._context = trace.set_span_in_context(parent)
        self._lock = threading.Lock()  # it may be given up while the model's thread speaks of it
        self._name = "queue"
        self._facts: dict[str, int] = {}
        self._calls = 0
        self._over = False
        self._since = time.time_ns()

    def enters(self, stage: int, side: int, rows: int) -> None:
        with self._lock:
            self._tell("")
            self._name, self._facts, self._calls = "stage", {"stage": stage, "side": side, "rows": rows}, 0

    def called(self) -> None:
        self._calls += 1

    def ends(self, outcome: str = "") -> None:
        with self._lock:
            self._tell(outcome)
            self._over = True

    def _tell(self, outcome: str) -> None:
        if self._over:
            return
        now = time.time_ns()
        facts: dict[str, int | str] = {**self._facts}
        if self._name == "stage":
            facts["calls"] = self._calls
        span = trace.get_tracer(NAME).start_span(self._name, self._context, attributes=facts, start_time=self._since)
        close(span, outcome, now)
        self._since = now


UNTRACKED = Untracked()


def recorded() -> "Span | None":
    """The span that is current, if somebody records it."""
    if trace is None:
        return None
    span = trace.get_current_span()
    return span if span.is_recording() else None


def track() -> Track:
    """Of a job that is accepted now."""
    parent = recorded()
    return UNTRACKED if parent is None else Tracked(parent)


def close(span: "Span | None", outcome: str = "", now: int | None = None) -> None:
    """Ends a span, if there is one; with an outcome if what it is of came to nothing."""
    if span is None:
        return
    if outcome:
        span.set_attribute("outcome", outcome)
        if outcome != "cancelled":
            span.set_status(trace.StatusCode.ERROR, outcome)
    span.end(now)


@contextmanager
def span(name: str, **facts: int) -> Iterator[None]:
    """What goes on within is a child of the current span."""
    if recorded() is None:
        yield
        return
    made, outcome = trace.get_tracer(NAME).start_span(name, attributes=facts), ""
    try:
        yield
    except BaseException as error:
        outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
        raise
    finally:
        close(made, outcome)


def apart(name: str) -> "Span | None":
    """The root of what goes on after the current span's end, linked to it; `inside` goes on within, `close` ends it."""
    cause = recorded()
    if cause is None:
        return None
    root = trace.set_span_in_context(trace.INVALID_SPAN)
    return trace.get_tracer(NAME).start_span(name, root, links=[trace.Link(cause.get_span_context())])


@contextmanager
def inside(span: "Span | None") -> Iterator[None]:
    """What begins within, tasks included, has that span for its current one."""
    if span is None:
        yield
        return
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        yield
