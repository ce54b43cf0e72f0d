"""A Hydra launcher that gives every job of a sweep a process of its own.

Hydra's basic launcher runs all jobs in one process. With several devices Lightning then starts each rank with the
whole sweep's command line, and ranks of different jobs can meet: a job that fails on one rank pairs its neighbours'
ranks with the next job's. Here a job is an ordinary single run, in a fresh process, in the folder of the sweep.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

ConfigStore.instance().store(
    group="hydra/launcher",
    name="processes",
    node={"_target_": "hydra_plugins.processes.ProcessLauncher"},
    provider="diffusion_lab",
)


class ProcessLauncher(Launcher):
    """Runs the jobs one after the other, goes on when one fails, and prints a table at the end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        returns, rows = [], []
        sources = self.config.hydra.runtime.config_sources
        beside = [
            word for source in sources if source.provider == "command-line" for word in ("--config-dir", source.path)
        ]
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            job = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(job):
                job.hydra.job.id = job.hydra.job.num = number
            folder = (Path(job.hydra.sweep.dir) / job.hydra.sweep.subdir).absolute()
            named = " ".join(filter_overrides(overrides))
            print(f"\njob {number}: {named}", flush=True)
            begun = time.monotonic()
            code = run_alone([*beside, *filter_overrides(overrides)], folder)
            minutes = (time.monotonic() - begun) / 60
            rows.append((named, folder, code, minutes))
            done = JobReturn(
                overrides=overrides,
                cfg=job,
                working_dir=str(folder),
                status=JobStatus.COMPLETED if code == 0 else JobStatus.FAILED,
            )
            done.return_value = (
                code if code == 0 else RuntimeError(f"'{named}' ended with exit code {code}; see {folder}")
            )
            returns.append(done)
            if code in (130, 143):  # somebody stopped it: the rest of the sweep is not wanted either
                break
        self.table(rows)
        return returns

    def table(self, rows: list[tuple[str, Path, int, float]]) -> None:
        """One line per job, with the last value of every validation metric."""
        from rich.console import Console
        from rich.table import Table

        from diffusion_lab.training.loggers import read_metrics

        last = [
            {k: v for line in read_metrics(folder) for k, v in line.items() if k.startswith("val/")}
            for _, folder, *_ in rows
        ]
        metrics = sorted({key for values in last for key in values})
        table = Table("job", *metrics, "minutes", "ended", "folder")
        common = set.intersection(*(set(named.split()) for named, *_ in rows)) if len(rows) > 1 else set()
        for (named, folder, code, minutes), values in zip(rows, last, strict=True):
            cells = [f"{values[key]:.4f}" if key in values else "" for key in metrics]
            varied = " ".join(word for word in named.split() if word not in common)
            table.add_row(
                varied, *cells, f"{minutes:.1f}", "well" if code == 0 else f"exit {code}", os.path.relpath(folder)
            )
        console = Console()
        if not console.is_terminal:
            console = Console(width=160)
        console.print(table)


def run_alone(overrides: list[str], folder: Path) -> int:
    """Runs the script once as if by hand, outside any group of ranks; its exit code."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "HYDRA_FULL_ERROR")
    }
    escaped = str(folder).replace("'", r"\'")
    command = [sys.executable, str(Path(sys.argv[0]).absolute()), *overrides, f"hydra.run.dir='{escaped}'"]
    process = subprocess.Popen(command, env=inherited)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the child got it too
        return process.wait()
