"""Whose turn it is: the order in which jobs leave the queue."""

from bisect import insort
from collections.abc import Iterator, Sequence

from diffusion_lab.serving.tickets import Ticket


class Turns:
    """Jobs that wait: short ones before long ones, clients by turns, and nobody behind for ever.

    The clock is the work that has been done, in rows of network calls. A job is due when as much again would be done as
    it needs, had its client the engine to itself: counted from when it comes, or from when the client's job before it
    is due. What is due first goes first. So a job is passed by shorter ones, but by none that comes after the engine
    has done as much work as the job needs itself; and many jobs of one client let those of another pass.
    """

    def __init__(self) -> None:
        self._waiting: list[Ticket] = []
        self._done = 0
        self._due: dict[str, int] = {}  # when the last job of each client is

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Gives a job its place."""
        client = ticket.job.client
        ticket.due = max(self._done, self._due.get(client, 0)) + ticket.work
        if client:
            self._due[client] = ticket.due
        insort(self._waiting, ticket, key=lambda one: one.due)  # behind those that are due at the same time

    def remove(self, ticket: Ticket) -> None:
        """Takes out a job that was given up; its client's next one does not wait for it."""
        self._waiting.remove(ticket)
        if ticket.job.client in self._due:
            self._due[ticket.job.client] -= ticket.work

    def begin(self, running: Sequence[Ticket], most: int) -> list[Ticket]:
        """Takes out those whose turn it is.

        Args:
            running: those that have begun and not ended.
            most: rows of a network call. Jobs that fit into one begin while those that run leave a part of it free, so
                that nobody holds it for one that needs more than is left; the last may need a second call. A larger job
                has calls of its own beside them, one at a time.
        """
        rows = sum(one.rows for one in running if one.rows <= most)
        large = any(one.rows > most for one in running)
        begun = []
        while self._waiting:
            first = self._waiting[0].rows
            if large if first > most else rows >= most:
                break
            large, rows = (True, rows) if first > most else (large, rows + first)
            begun.append(self._waiting.pop(0))
        return begun

    def worked(self, rows: int) -> None:
        """The clock goes on."""
        self._done += rows
        self._due = {client: due for client, due in self._due.items() if due > self._done}

    def clear(self) -> list[Ticket]:
        """Takes all of them out."""
        left, self._waiting = self._waiting, []
        return left
