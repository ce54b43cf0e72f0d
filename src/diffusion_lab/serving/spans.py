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

Under Ray a replica takes notes of a job (`Noted`), which travel with its events, and the front, where the request is,
makes the spans of them. Times are those of the replica's own clock. A job that lost its replica has a second ``queue``.

Where no SDK records the request nothing is made, and OpenTelemetry need not be installed. Nothing here says what a
picture shows, or whose it is.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Protocol

try:
    from opentelemetry import trace
except ImportError:  # the engine does without FastAPI, which brings it
    if not TYPE_CHECKING:
        trace = None

if TYPE_CHECKING:
    from opentelemetry.trace import Span as Span

NAME = "diffusion_lab"


@dataclass(frozen=True)
class Passage:
    """A job's way through a stage, so far.

    Args:
        stage: its number.
        side: of the squares that its network sees, in pixels.
        rows: how many of them.
        since: when it was entered, in nanoseconds of the epoch.
        calls: of its network, until now.
    """

    stage: int
    side: int
    rows: int
    since: int
    calls: int = 0


class Track(Protocol):
    """What the engine says of a job on its way, from threads of its own."""

    def enters(self, stage: int, side: int, rows: int) -> None:
        """It leaves the queue, or the stage before, for a stage whose network sees so many squares of that side."""

    def called(self) -> None:
        """The stage's network was asked once more."""

    def ends(self, outcome: str = "") -> None:
        """It is over; with an outcome if it came to nothing. What is said later is not heard."""


class Followed(Track, Protocol):
    """What a front says of a job that another process does."""

    def heard(self, passages: Sequence[Passage]) -> None:
        """What was noted there, in order; the last of them may come again with more calls."""

    def again(self, outcome: str) -> None:
        """It waits once more, since where it was came to nothing."""


class Untracked:
    """Nobody records it."""

    def enters(self, stage: int, side: int, rows: int) -> None: ...

    def called(self) -> None: ...

    def ends(self, outcome: str = "") -> None: ...

    def heard(self, passages: Sequence[Passage]) -> None: ...

    def again(self, outcome: str) -> None: ...


class Noted:
    """Keeps it for the process that has the request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passages: list[Passage] = []

    def enters(self, stage: int, side: int, rows: int) -> None:
        with self._lock:
            self._passages.append(Passage(stage, side, rows, time.time_ns()))

    def called(self) -> None:
        with self._lock:
            last = self._passages[-1]
            self._passages[-1] = replace(last, calls=last.calls + 1)

    def ends(self, outcome: str = "") -> None: ...

    def taken(self) -> Sequence[Passage]:
        """Those that were not taken yet, and the last one as it stands now."""
        with self._lock:
            passages, self._passages = self._passages, self._passages[-1:]
        return passages


class Tracked:
    """Makes a span of whatever a job has left behind.

    Args:
        parent: of its spans.
    """

    def __init__(self, parent: "Span") -> None:
        self._context = trace.set_span_in_context(parent)
        self._lock = threading.Lock()  # it may be given up while the model's thread speaks of it
        self._passage: Passage | None = None  # None: in the queue
        self._over = False
        self._since = time.time_ns()

    def enters(self, stage: int, side: int, rows: int) -> None:
        self.heard([Passage(stage, side, rows, time.time_ns())])

    def called(self) -> None:
        if self._passage is not None:
            self.heard([replace(self._passage, calls=self._passage.calls + 1)])

    def heard(self, passages: Sequence[Passage]) -> None:
        with self._lock:
            for passage in passages:
                if self._passage is None or passage.since != self._passage.since:
                    self._tell("", passage.since)
                self._passage = passage

    def again(self, outcome: str) -> None:
        with self._lock:
            self._tell(outcome, time.time_ns())
            self._passage = None

    def ends(self, outcome: str = "") -> None:
        with self._lock:
            self._tell(outcome, time.time_ns())
            self._over = True

    def _tell(self, outcome: str, now: int) -> None:
        if self._over:
            return
        name, facts = "queue", {}
        if self._passage is not None:
            name, facts = "stage", asdict(self._passage)
            self._since = facts.pop("since")
        span = trace.get_tracer(NAME).start_span(name, self._context, attributes=facts, start_time=self._since)
        close(span, outcome, now)
        self._since = now


UNTRACKED = Untracked()


def recorded() -> "Span | None":
    """The span that is current, if somebody records it."""
    if trace is None:
        return None
    span = trace.get_current_span()
    return span if span.is_recording() else None


def track() -> Followed:
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
