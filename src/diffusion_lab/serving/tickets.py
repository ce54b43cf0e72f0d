"""Jobs in an engine's hands, and how their events reach whoever awaits them."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from diffusion_lab.serving.engine import Event, Job
from diffusion_lab.serving.spans import UNTRACKED, Track


@dataclass(eq=False)
class Ticket:
    """A job in the engine's hands.

    Args:
        job: what is asked for.
        rows: of its largest network call.
        work: rows of all of its network calls together.
        submitted: on the monotonic clock.
        deadline: likewise.
        loop: where its events are awaited.
        track: hears where its time goes.
        events: on their way there.
        position: of its last `Queued`.
        due: when its turn is; see `turns.Turns`.
        gone: whether nobody waits any more: it has ended, or was given up.
    """

    job: Job
    rows: int
    work: int
    submitted: float
    deadline: float
    loop: asyncio.AbstractEventLoop
    track: Track = UNTRACKED
    events: asyncio.Queue[Event | Exception] = field(default_factory=asyncio.Queue)
    position: int = -1
    due: int = 0
    gone: bool = False

    def by_seed(self, rows: Tensor) -> Tensor:
        """``(n P, ...)`` as ``(n, P, ...)``."""
        return rows.reshape(len(self.job.seeds), -1, *rows.shape[1:])


def post(events: Sequence[tuple[Ticket, Event | Exception]]) -> None:
    """Hands events to the loops that await them, once for each loop."""

    def deliver(mine: Sequence[tuple[Ticket, Event | Exception]]) -> None:
        for ticket, event in mine:
            ticket.events.put_nowait(event)

    for loop in {ticket.loop for ticket, _ in events}:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(deliver, [(ticket, event) for ticket, event in events if ticket.loop is loop])
