"""What a round is: one subject, one blow or more, and what the oracle says."""

import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from chaos.oracle import Violation

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
"""From which a round draws: three in five are kill -9."""


@dataclass
class Outcome:
    """How a round went.

    Args:
        blows: each in words: the signal, and when.
        violations: what the oracle found.
    """

    blows: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)


class Subject(Protocol):
    """Something that is killed and must not mind."""

    def prepare(self, folder: Path) -> None:
        """What all rounds need, such as an undisturbed run; does nothing where a campaign before has done it."""

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        """One round in an empty folder."""


def ended(outcome: Outcome, code: int, what: str) -> None:
    """Who was started again ends well."""
    if code != 0:
        outcome.violations.append(Violation("wrong", f"{what} ended with exit code {code}"))
