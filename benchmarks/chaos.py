"""A campaign of random deaths: ``python benchmarks/chaos.py --rounds 100 --seed 0 --only trainer registry``.

Each round kills one subject at a random moment (SIGKILL, SIGTERM, or SIGSTOP for some seconds), or takes something
away from it, starts it again by the documented word, and lets an oracle look that knows nothing of the code under test.
A round is drawn from its own seed, so that `--seed 0` and its number name it. What a seed does not fix is how far the
machine had come by that moment; moments are counted in CPU seconds of the subject so as to come near to it.

A line a round; the outcomes stand in ``outcomes.jsonl`` of `--folder`, where the same command goes on after the rounds
that are there. The exit code is 1 if anything was lost, doubled or wrong; such a round's folder stays.
"""

import argparse
import json
import platform
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from chaos.faults import BadCache, BadCheckpoint, BadRegistry, Clock, FullDisk, ReadOnly
from chaos.keeping import Evaluation, Pipeline, Sweep, Writers
from chaos.oracle import Violation
from chaos.replicas import Replicas
from chaos.round import Outcome, Subject
from chaos.service import Service
from chaos.tracking import HangingMLflow, HangingWandb
from chaos.training import Trainer

SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "trainer": Trainer,
    "worker": lambda: Trainer(workers=1, only="worker"),
    "rank": lambda: Trainer(ranks=2, only="rank"),
    "registry": Writers,
    "evaluation": Evaluation,
    "sweep": Sweep,
    "pipeline": Pipeline,
    "service": Service,
    "replica": Replicas,
    "full-disk": FullDisk,
    "read-only": ReadOnly,
    "bad-checkpoint": BadCheckpoint,
    "bad-cache": BadCache,
    "bad-registry": BadRegistry,
    "clock": Clock,
    "wandb": HangingWandb,
    "mlflow": HangingMLflow,
}


def warm() -> None:
    """Imports what children need, so that they start with it; nothing is computed in this process."""
    torch.set_num_threads(1)
    import hydra.core.plugins
    import lightning.pytorch.loggers
    import mlflow
    import wandb

    import diffusion_lab.commands.train
    import diffusion_lab.data.datamodule
    import diffusion_lab.evaluation
    import diffusion_lab.registry
    import diffusion_lab.training.callbacks
    import diffusion_lab.training.looks
    import diffusion_lab.training.mlflow_logger
    import diffusion_lab.training.run  # noqa: F401

    hydra.core.plugins.Plugins.instance()
    _ = lightning, mlflow, wandb


def one(name: str, subject: Subject, number: int, seed: int, folder: Path) -> dict[str, Any]:
    """One round, as its line of outcomes."""
    place, begun = folder / "rounds" / f"{number}-{name}", time.monotonic()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        outcome = subject.round(place, random.Random(f"{seed} {name} {number}"))
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(["cut short"], [Violation("wrong", f"the round itself failed: {error!r}")])
    if not outcome.violations:
        shutil.rmtree(place, ignore_errors=True)
    return {
        "round": number,
        "subject": name,
        "seed": seed,
        "blows": outcome.blows,
        "seconds": round(time.monotonic() - begun, 1),
        "violations": [vars(violation) for violation in outcome.violations],
    }


def done(path: Path, seed: int) -> dict[int, dict[str, Any]]:
    """Rounds of that seed that a campaign before has finished; a half-written line is left out."""
    text = path.read_text() if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line["round"]: line for line in lines if line["seed"] == seed}


def summary(outcomes: list[dict[str, Any]]) -> str:
    struck = [blow for each in outcomes for blow in each["blows"] if "too late" not in blow and "left over" not in blow]
    blows = Counter(blow.split()[0] for blow in struck if blow.startswith("SIG"))
    kinds = Counter(violation["kind"] for each in outcomes for violation in each["violations"])
    figures = ", ".join(f"{kinds[kind]} {kind}" for kind in ("lost", "doubled", "wrong"))
    return f"{len(outcomes)} rounds, {blows.total()} signals ({dict(blows)}): {figures}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, default=[*SUBJECTS])
    parser.add_argument("--folder", type=Path, default=Path("logs/chaos"))
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    before = done(folder / "outcomes.jsonl", asked.seed)
    warm()
    subjects: dict[str, Subject] = {}
    outcomes = []
    print(f"{platform.node()}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    for number in range(asked.rounds):
        name = asked.only[number % len(asked.only)]
        if before.get(number, {}).get("subject") == name:
            outcomes.append(before[number])
            continue
        if name not in subjects:
            subjects[name] = SUBJECTS[name]()
            subjects[name].prepare(folder)
        outcome = one(name, subjects[name], number, asked.seed, folder)
        outcomes.append(outcome)
        with (folder / "outcomes.jsonl").open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        said = "; ".join(violation["what"] for violation in outcome["violations"]) or "well"
        print(f"{number} {name}: {'; '.join(outcome['blows'])} ({outcome['seconds']} s): {said}", flush=True)
    print(summary(outcomes))
    return 1 if any(each["violations"] for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
