"""A search for settings: Optuna says what to try, `train.py` tries it, `evaluate.py` may score it.

The space is written as Hydra writes sweeps: ``optimizer.lr=tag(log,interval(1e-4,1e-2))``, ``schedule=choice(linear,
cosine)``, ``model.depth=range(1,4)``. A study is a folder with `study.db`, one SQLite file that says all that was asked
and tried, and a run folder for each trial. A trial that was cut goes on in its folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from diffusion_lab.cli import quoted
from diffusion_lab.files import held
from diffusion_lab.sweeps import read_metrics, terminable, unranked

if TYPE_CHECKING:
    import optuna

LOOK = 0.2  # seconds between two looks at a training

GOES_ON, TRAINED_IN = "goes_on_in", "trained_in"
"""What a trial notes: whose folder it takes over, and its own."""


def main(scripts: Path, arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    Args:
        scripts: folder of `train.py` and `evaluate.py`.
        arguments: of the command; None: the process's.
    """
    parser = argparse.ArgumentParser(prog="sweep.py", description="Search for settings of train.py, by Optuna.")
    parser.add_argument(
        "study", type=Path, help="folder of the study, such as logs/rates; the same one goes on with it"
    )
    parser.add_argument(
        "overrides", nargs="*", help="of train.py, some as tag(log,interval(a,b)), choice(a,b), range(a,b)"
    )
    goal = parser.add_mutually_exclusive_group()
    for direction in ("minimize", "maximize"):
        goal.add_argument(f"--{direction}", metavar="FIGURE", help="val/... of train.py, or a key of results.json")
    parser.add_argument("--trials", type=int, default=20, help="to make now, at most (default: 20)")
    parser.add_argument("--evaluate", action="append", metavar="OVERRIDE", help="of evaluate.py; may be repeated")
    asked = parser.parse_intermixed_args(arguments)
    try:
        study = opened(asked.study, asked.minimize, asked.maximize, asked.overrides, asked.evaluate or [])
        with held(asked.study / ".study.lock"), terminable():
            search(study, asked.study, asked.trials, scripts)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit as stopped:
        print(f"stopped; sweep.py {asked.study} goes on", file=sys.stderr)
        return int(stopped.code or 0)
    return 0


def opened(
    folder: Path, minimize: str | None, maximize: str | None, overrides: Sequence[str], evaluate: Sequence[str]
) -> "optuna.Study":
    """The study of a folder, begun if there is none.

    Raises:
        ValueError: if Optuna is not installed, or it is not said what to search for, or something else than at first.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError("sweep.py needs Optuna: uv sync --extra optuna, or pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # scripts say themselves what went wrong
    begun = (folder / "study.db").is_file()
    figure = minimize or maximize
    if not begun and not (figure and overrides):
        raise ValueError(f"'{folder}' is no study yet: say what to search by --minimize or --maximize, and overrides")
    space(overrides)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').absolute()}",
        study_name="study",
        direction="maximize" if maximize else "minimize",
        load_if_exists=True,
    )
    wanted = {"figure": figure, "overrides": list(overrides), "evaluate": list(evaluate)}
    wanted["direction"] = "maximize" if maximize else "minimize"
    if "asked" not in study.user_attrs:
        study.set_user_attr("asked", wanted)
    before = study.user_attrs["asked"]
    differ = [key for key in ("figure", "overrides", "evaluate") if wanted[key] and wanted[key] != before[key]]
    if differ or (figure and wanted["direction"] != before["direction"]):
        raise ValueError(f"'{folder}' searches for something else ({before}): say no more than its name to go on")
    return study


def space(overrides: Sequence[str]) -> list[Override]:
    """What is searched, as Hydra reads it.

    Raises:
        ValueError: if nothing is, or in a way that is not known.
    """
    found = OverridesParser.create().parse_overrides(list(overrides))
    swept = [override for override in found if override.is_sweep_override()]
    for override in swept:
        value = override.value()
        whole = isinstance(value, RangeSweep) and all(isinstance(x, int) for x in (value.start, value.stop, value.step))
        if not (isinstance(value, IntervalSweep) or whole or override.is_choice_sweep()):
            raise ValueError(f"{override.input_line}: use interval(a,b), choice(a,b) or range(a,b) of whole numbers")
    if overrides and not swept:
        raise ValueError("there is nothing to search: write a setting as optimizer.lr=interval(1e-4,1e-2)")
    return swept


def suggested(trial: "optuna.Trial", override: Override) -> str:
    """The override with the value that Optuna suggests."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        low, high, log = value.start, value.end, "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return f"{key}={trial.suggest_int(key, low, high, log=log)}"
        return f"{key}={trial.suggest_float(key, low, high, log=log)}"
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        start, stop, step = int(value.start), int(value.stop), int(value.step)
        return f"{key}={trial.suggest_int(key, start, start + (stop - start - 1) // step * step, step=step)}"
    return f"{key}={trial.suggest_categorical(key, list(override.sweep_string_iterator()))}"


def search(study: "optuna.Study", folder: Path, trials: int, scripts: Path) -> None:
    """Makes trials, those first that were cut when the study was last at work.

    Args:
        study: that says what is searched.
        folder: of the runs.
        trials: how many to make.
        scripts: folder of `train.py` and `evaluate.py`.

    Raises:
        ValueError: if none has come to an end.
    """
    import optuna

    for cut in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(cut.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(cut.params, user_attrs={GOES_ON: cut.user_attrs.get(TRAINED_IN, cut.number)})
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))

    def objective(trial: "optuna.Trial") -> float:
        try:
            return tried(trial, study.user_attrs["asked"], folder, scripts)
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # Optuna would take the other for a failure, and it is to go on

    study.optimize(objective, trials, catch=Failed)
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise ValueError("no trial has come to an end: what went wrong is said above")
    best = study.best_trial
    told = " ".join(f"{key}={value}" for key, value in best.params.items())
    asked = study.user_attrs["asked"]
    print(f"best of {len(study.trials)} trials: {asked['figure']} {best.value:.6g} by {told}, in {place(best, folder)}")


class Failed(RuntimeError):
    """A script of a trial ended with an error, which it has said itself."""


def place(trial: "optuna.Trial | optuna.trial.FrozenTrial", folder: Path) -> Path:
    """The run folder of a trial."""
    return folder / str(trial.user_attrs.get(GOES_ON, trial.number))


def tried(trial: "optuna.Trial", asked: Mapping[str, Any], folder: Path, scripts: Path) -> float:
    """Trains, evaluates if the figure is none of the training, and returns it; a pruned training is stopped cleanly."""
    import optuna

    run = place(trial, folder)
    trial.set_user_attr(TRAINED_IN, run.name)
    figure = str(asked["figure"])
    swept = {override.input_line: override for override in space(asked["overrides"])}
    overrides = [suggested(trial, swept[line]) if line in swept else line for line in asked["overrides"]]
    print(f"\ntrial {trial.number}: {' '.join(overrides)}", flush=True)
    into = quoted(f"hydra.run.dir={run.absolute()}", ["hydra.run.dir"])
    watched = figure if figure.startswith("val/") else f"val/{figure}"
    seen: set[int] = set()

    def hopeless() -> bool:
        for line in read_metrics(run):
            if watched in line and line["step"] not in seen:
                seen.add(int(line["step"]))
                trial.report(line[watched], int(line["step"]))
        return trial.should_prune()

    with _script(scripts / "train.py", [*overrides, into]) as training:
        while training.poll() is None:
            if hopeless():
                print(f"trial {trial.number}: pruned", flush=True)
                raise optuna.TrialPruned
            time.sleep(LOOK)
    if training.returncode:
        raise Failed(f"trial {trial.number}: train.py ended with exit code {training.returncode}")
    if figure.startswith("val/"):
        values = [line[figure] for line in read_metrics(run) if figure in line]
        if not values:
            raise ValueError(f"train.py has logged no {figure}: name another, or another metrics=")
        return float(values[-1])
    inpainter = quoted(f"inpainter={run / 'inpainter'}", ["inpainter"])
    with _script(scripts / "evaluate.py", [*asked["evaluate"], inpainter]) as scoring:
        scoring.wait()
    if scoring.returncode:
        raise Failed(f"trial {trial.number}: evaluate.py ended with exit code {scoring.returncode}")
    return scored(json.loads((run / "evaluation" / "results.json").read_text(encoding="utf-8"))["rows"], figure)


def scored(rows: Sequence[Mapping[str, Any]], figure: str) -> float:
    """A figure's mean over the kinds of holes, of the rows that a network made.

    Example:
        >>> scored([{"network_calls": 5, "fid": 2.0}, {"network_calls": 0, "fid": 99.0}], "fid")
        2.0
    """
    values = [row.get(figure) for row in rows if row["network_calls"]]
    numbers = [float(value) for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        raise ValueError(f"results.json has no {figure}; there is {', '.join(rows[0])}")
    return sum(numbers) / len(numbers)


@contextmanager
def _script(path: Path, overrides: Sequence[str]) -> "Iterator[subprocess.Popen[bytes]]":
    """A script at work; it is told to stop, and waited for, when the block is left before it has ended."""
    process = subprocess.Popen([sys.executable, str(path), *overrides], env=unranked(os.environ))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # training saves a checkpoint first
        process.wait()
