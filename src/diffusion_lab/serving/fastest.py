"""The form of a network that is fastest on this machine, by measurement at the start."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from diffusion_lab.networks.export import example, exportable
from diffusion_lab.serving.backends import Backend, bfloat16, eager, int8, onnxruntime

log = logging.getLogger(__name__)

SECONDS = 20.0
"""Within which it is known."""
EXPORTING = 10.0
"""Of which an export to ONNX may take so many; compiling takes minutes on a CPU, and is no candidate."""
ROWS = (1, 4)
"""Pictures in the calls that are timed: a visitor alone, and several."""
ROUNDS = 7
MARGIN = 0.9
"""Part of the first form's time that another may take at most to be preferred: less is noise, and rounds otherwise."""


def candidates(low: bool, integers: bool = False) -> dict[str, Backend]:
    """The forms that may be taken, that which rounds like training's validation first.

    Args:
        low: whether bfloat16 may be.
        integers: whether int8 may be, whose files should be there: to make them takes minutes.
    """
    allowed: dict[str, Backend] = {
        **({"bfloat16": bfloat16} if low else {}),
        **({"int8": int8} if integers else {}),
    }
    return {"eager": eager, **allowed, "onnxruntime": partial(onnxruntime, patience=EXPORTING)}


class Fastest:
    """A backend: one of several, that which answered fastest when the first network came.

    What was chosen stays for all networks that come later, be they further stages or swaps: while jobs run nothing can
    be timed.

    Args:
        forms: by name; the first is what the others are compared with, and taken if nothing else can be had.
        timer: tells seconds.
    """

    def __init__(self, forms: Mapping[str, Backend], timer: Callable[[], float] = time.perf_counter) -> None:
        self.forms = forms
        self.timer = timer
        self.name: str | None = None  # of what was chosen

    def __call__(self, network: nn.Module, folder: Path, stage: int = 0) -> nn.Module:
        if self.name is not None:
            return self.forms[self.name](network, folder, stage)
        made = self._made(network, folder, stage, self.timer() + SECONDS)
        self.name = first = next(iter(made))
        costs = self._costs(network, made, self.timer() + SECONDS / 4) if len(made) > 1 else {}
        if costs:
            best = min(costs, key=lambda name: costs[name])
            self.name = best if costs[best] < MARGIN * costs[first] else first
        said = (
            ", ".join(f"{name} {1000 * cost:.1f} ms a picture" for name, cost in costs.items())
            or "nothing else is here"
        )
        log.info("engine.backend=auto: this machine is served by %s (%s)", self.name, said)
        return made[self.name]

    def _made(self, network: nn.Module, folder: Path, stage: int, until: float) -> dict[str, nn.Module]:
        """The network in all forms that can be had in time."""
        made: dict[str, nn.Module] = {}
        for name, form in self.forms.items():
            # What may take long is begun only if it would end in time, and leave some of it.
            if made and self.timer() + EXPORTING > until - SECONDS / 4:
                log.info("engine.backend=auto: no time is left to try %s", name)
                continue
            try:
                made[name] = form(network, folder, stage)
            except (ValueError, OSError) as error:
                if not made:
                    raise
                log.info("engine.backend=auto: no %s here: %s", name, error)
        return made

    @torch.no_grad()
    def _costs(self, network: nn.Module, made: Mapping[str, nn.Module], until: float) -> dict[str, float]:
        """Seconds a picture takes in each form: calls in turn, medians, and the geometric mean over `ROWS`."""
        device = next(network.parameters()).device
        inputs = {rows: [x.to(device) for x in example(exportable(network), rows)] for rows in ROWS}
        taken: dict[str, dict[int, list[float]]] = {name: {rows: [] for rows in ROWS} for name in made}
        for number in range(ROUNDS + 1):  # the first warms up
            for name, form in made.items():
                for rows, given in inputs.items():
                    began = self.timer()
                    form(*given).sum().item()  # waits for the device
                    if number:
                        taken[name][rows].append((self.timer() - began) / rows)
            if number and self.timer() > until:
                break
        return {
            name: statistics.geometric_mean(statistics.median(seconds) for seconds in times.values())
            for name, times in taken.items()
        }
