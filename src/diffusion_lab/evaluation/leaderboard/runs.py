"""Trainings as they lie on disk, from the folders of sweeps and runs alone, and what of a sweep is not done.

A configuration is what a run was asked for, without its seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from diffusion_lab.evaluation.report import Report
from diffusion_lab.evaluation.results import read
from diffusion_lab.sweeps import JOB, SWEEP, Job, read_metrics

OVERRIDES = ".hydra/overrides.yaml"

APART = ("seed", "resume", "logger", "data.root", "data.num_workers", "trainer.devices", "trainer.accelerator")
"""Settings that make no other configuration; nor do ``paths.`` and ``callbacks.``."""


class Run(NamedTuple):
    """A training as it lies on disk.

    Args:
        folder: of it.
        asked: its settings, without those that make no other configuration.
        seed: of it, as text; "0" unless it was said.
        report: of its evaluation; None: there is none.
        curve: lines of its validations, with their steps.
        minutes: that it took, if a sweep noted them.
    """

    folder: Path
    asked: frozenset[str]
    seed: str
    report: Report | None
    curve: Sequence[Mapping[str, float]]
    minutes: float | None


class Open(NamedTuple):
    """A run that is not done, or is in no table.

    Args:
        name: what tells it from the others of its sweep, or its folder.
        state: how far it is.
    """

    name: str
    state: str


def runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in some folders, of sweeps or others, wherever below them they lie; none of a sweep that has not begun.

    Raises:
        ValueError: if a folder has neither runs nor a sweep, or a results.json is not one.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        places = sorted(path.parents[1] for path in folder.rglob(OVERRIDES))
        if not places and next(folder.rglob(SWEEP), None) is None:
            raise ValueError(f"'{folder}' holds no run: name the folder of a sweep, or of runs, below logs/")
        found |= {place.resolve(): _run(place) for place in places}
    return list(found.values())


def _run(folder: Path) -> Run:
    overrides = [str(each) for each in OmegaConf.load(folder / OVERRIDES)]
    keys = {each: each.partition("=")[0].lstrip("+~") for each in overrides}
    kept = (each for each, key in keys.items() if key not in APART and not key.startswith(("paths.", "callbacks.")))
    seeds = [each.partition("=")[2] for each, key in keys.items() if key == "seed"]
    results = folder / "evaluation" / "results.json"
    curve = [line for line in read_metrics(folder) if any(key.startswith("val/") for key in line)]
    minutes = Job(0, [], folder).noted().get("minutes") if (folder / JOB).is_file() else None
    report = read(results) if results.is_file() else None
    return Run(folder, frozenset(kept), (seeds or ["0"])[-1], report, curve, minutes)


def configurations(found: Sequence[Run]) -> list[list[Run]]:
    """The runs of each configuration, in the order in which these come."""
    groups: dict[frozenset[str], list[Run]] = {}
    for run in found:
        groups.setdefault(run.asked, []).append(run)
    return list(groups.values())


def unfinished(folders: Sequence[Path], found: Sequence[Run]) -> list[Open]:
    """The jobs of the sweeps in some folders that have not ended well, and runs without an evaluation.

    Args:
        folders: of sweeps or runs.
        found: the runs in them.
    """
    by_folder = {run.folder.resolve(): run for run in found}
    left: list[Open] = []
    for path in dict.fromkeys(path for folder in folders for path in sorted(folder.rglob(SWEEP))):
        facts = json.loads(path.read_text(encoding="utf-8"))
        for number, overrides in enumerate(facts["jobs"]):
            job = Job(number, overrides, path.parent / str(number))
            run = by_folder.pop(job.folder.resolve(), None)
            swept = [each for each in overrides if each.partition("=")[0] in facts["swept"]]
            if job.code != 0 or run is None or run.report is None:
                left.append(Open(" ".join(swept) or f"job {number}", _state(job, run)))
    left += [Open(f"{run.folder}", "not evaluated") for run in by_folder.values() if run.report is None]
    return left


def _state(job: Job, run: Run | None) -> str:
    """How far a job of a sweep is."""
    if job.code == 0:
        return "trained, not evaluated"
    if job.code is not None:
        return f"failed with exit code {job.code}"
    if run is None:
        return "not begun"
    steps = [int(line["step"]) + 1 for line in read_metrics(run.folder) if "step" in line]
    return f"not ended, at step {max(steps)}" if steps else "begun"
