"""A Hydra launcher that gives every job of a sweep a process of its own.

Hydra's basic launcher runs all jobs in one process. With several devices Lightning then starts each rank with the
whole sweep's command line, and ranks of different jobs can meet: a job that fails on one rank pairs its neighbours'
ranks with the next job's. Here a job is an ordinary single run, in a fresh process, in the folder of the sweep.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from diffusion_lab import sweeps

ConfigStore.instance().store(
    group="hydra/launcher",
    name="processes",
    node={"_target_": "hydra_plugins.processes.ProcessLauncher", "jobs": None, "only": None},
    provider="diffusion_lab",
)


class ProcessLauncher(Launcher):
    """Runs each job once, goes on when one fails, and prints a table at the end.

    Args:
        jobs: how many run at a time; None: as many as there are devices for, one on the CPU.
        only: number of the one job that is run, the others being left to other calls; None: all.
    """

    def __init__(self, jobs: int | None, only: int | None) -> None:
        self.jobs = jobs
        self.only = only

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        listing = [list(filter_overrides(overrides)) for overrides in job_overrides]
        sweep = Path(self.config.hydra.sweep.dir).absolute()
        numbers = sweeps.enlist(sweep, listing, self.swept(), self.arguments())
        returns, jobs = [], {}
        each, accelerator = 1, "cpu"
        for number, overrides, mine in zip(numbers, job_overrides, listing, strict=True):
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(cfg):
                cfg.hydra.job.id = cfg.hydra.job.num = number
            folder = sweep / cfg.hydra.sweep.subdir
            jobs[number] = sweeps.Job(number, mine, folder)
            each = max(each, cfg.trainer.devices)
            accelerator = cfg.trainer.accelerator
            returns.append(JobReturn(overrides=overrides, cfg=cfg, working_dir=str(folder)))
        wanted = [job for number, job in jobs.items() if self.only in (None, number)]
        if not wanted:
            raise ValueError(f"hydra.launcher.only={self.only}: this sweep has the jobs {min(jobs)} to {max(jobs)}")
        if done := sum(job.code == 0 for job in jobs.values()):
            print(f"{done} of {len(jobs)} jobs are done, in {os.path.relpath(sweep)}", flush=True)
        cards = [] if accelerator in ("cpu", "mps") else sweeps.graphics_cards(os.environ)
        stopped = sweeps.run(
            wanted, partial(command, self.beside()), sweeps.places(self.jobs, cards, each, os.cpu_count() or 1)
        )
        table(list(jobs.values()))
        if stopped:
            print(f"stopped; the same command with resume={os.path.relpath(sweep)} goes on", flush=True)
            sys.exit(stopped)
        if failed := [job for job in wanted if job.code != 0]:
            said = "; ".join(f"job {job.number} with exit code {job.code} ({job.folder})" for job in failed)
            raise ValueError(f"{len(failed)} of {len(wanted)} jobs failed: {said}. resume={sweep} tries them again")
        for returned, number in zip(returns, numbers, strict=True):
            returned.status, returned.return_value = JobStatus.COMPLETED, jobs[number].code
        return returns

    def beside(self) -> list[str]:
        """The ``--config-dir`` of the sweep."""
        sources = self.config.hydra.runtime.config_sources
        return [w for source in sources if source.provider == "command-line" for w in ("--config-dir", source.path)]

    def swept(self) -> set[str]:
        """The settings that differ between jobs."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = parser.parse_overrides(list(self.config.hydra.overrides.task))
        keys = {override.get_key_element() for override in given if override.is_sweep_override()}
        return keys | {str(key) for key in self.config.hydra.sweeper.get("params") or {}}

    def arguments(self) -> list[str]:
        """That the sweep was asked for with, but for what belongs to this call alone."""
        given = self.config.hydra.overrides
        passing = ("hydra.mode", "hydra.sweep.dir", "hydra.launcher.only")
        own = [str(each) for each in given.hydra if str(each).lstrip("+").partition("=")[0] not in passing]
        return [*map(str, given.task), *own]


def table(jobs: Sequence[sweeps.Job]) -> None:
    """One line per job, with the last value of every validation metric."""
    from rich.console import Console
    from rich.table import Table

    last = [
        {k: v for line in sweeps.read_metrics(job.folder) for k, v in line.items() if k.startswith("val/")}
        for job in jobs
    ]
    metrics = sorted({key for values in last for key in values})
    shown = Table("job", *metrics, "minutes", "ended", "folder")
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job, values in zip(jobs, last, strict=True):
        noted = job.noted() if job.code is not None else {}
        said = {None: "not yet", 0: "well"}.get(job.code, f"exit {job.code}")
        shown.add_row(
            " ".join(word for word in job.overrides if word not in common),
            *(f"{values[key]:.4f}" if key in values else "" for key in metrics),
            f"{noted['minutes']:.1f}" if noted else "",
            said,
            os.path.relpath(job.folder),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(shown)


def command(beside: Sequence[str], job: sweeps.Job) -> list[str]:
    """The script once, as if by hand, with the configuration that the sweep was given beside the packaged one."""
    escaped = str(job.folder).replace("'", r"\'")
    return [sys.executable, str(Path(sys.argv[0]).absolute()), *beside, *job.overrides, f"hydra.run.dir='{escaped}'"]
