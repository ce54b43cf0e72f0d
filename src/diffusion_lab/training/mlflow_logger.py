"""MLflow as a logger: a file without an account, or a server that may hang without costing a step."""

import json
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image

from diffusion_lab.files import replacing
from diffusion_lab.mlflow_store import experiment, place, shown
from diffusion_lab.recipe import flat
from diffusion_lab.sweeps import read_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

    Task = Callable[[MlflowClient, str], object]  # of (client, id of the run)

_PATIENCE = 30.0  # seconds that the end of a run waits for what is still to be sent
_AGAIN = 1.0  # seconds between two tries


class MLflowLogger(Logger):
    """Sends metrics, settings and pictures to MLflow from a thread of its own, which nobody waits for.

    Lightning's own logger asks the server within the step, and ends or blocks the training with it. Here what cannot be
    sent waits, and is sent when the server is back; what it refuses is dropped with a warning. A run that was killed
    and is gone on with has every entry of ``metrics.jsonl`` once at its end, each as it was first sent.

    Args:
        folder: of the run; a run resumed there goes on under the same MLflow run.
        name: of the experiment, which gathers runs; made if it is not there.
        store: folder for an SQLite file, where no URI is given.
        uri: of a server or database; None is that of the environment (MLFLOW_TRACKING_URI), or the store.

    Raises:
        ValueError: if MLflow is not installed.
    """

    def __init__(self, folder: Path | str, name: str, store: Path | str, uri: str | None = None) -> None:
        super().__init__()
        self.folder = Path(folder).absolute()
        self._name = name
        # MLflow is imported here: workers are forked from this thread, and must not find half an import.
        self.uri = place(uri, store)
        self._tasks: Queue[Task] = Queue()
        self._last = Event()  # nothing comes after what waits now
        self._sender: Thread | None = None
        self._reached: tuple[MlflowClient, str] | None = None
        self._there: dict[str, set[int]] = {}  # steps of each metric that MLflow has
        self._warned = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self.folder.name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        now, at = int(time.time() * 1000), step or 0

        def send(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Metric

            for key in values.keys() - self._there.keys():
                self._there[key] = {each.step for each in client.get_metric_history(run, key)}
            new = {key: value for key, value in values.items() if at not in self._there[key]}
            if new:
                client.log_batch(run, metrics=[Metric(key, value, now, at) for key, value in new.items()])
            for key in new:
                self._there[key].add(at)

        self._later(send)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The settings that the run began with as parameters, which MLflow never changes, and all of now as a file."""
        config = vars(params) if isinstance(params, Namespace) else params

        def send(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Param

            known = client.get_run(run).data.params
            new = [Param(key, str(value)[:6000]) for key, value in flat(config).items() if key not in known]
            for first in range(0, len(new), 100):  # as many as it takes at once
                client.log_batch(run, params=new[first : first + 100])
            client.log_dict(run, config, "config.yaml")

        self._later(send)

    @rank_zero_only
    def log_image(self, key: str, picture: Image.Image, step: int) -> None:
        self._later(lambda client, run: client.log_image(run, picture, key=key, step=step))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._sender is None:
            return
        for line in read_metrics(self.folder):  # what was still to be sent when the run was killed, or was refused
            self.log_metrics({key: value for key, value in line.items() if key != "step"}, int(line["step"]))
        self._tasks.put(lambda client, run: client.set_terminated(run, "FINISHED" if status == "success" else "FAILED"))
        self._last.set()
        self._sender.join(_PATIENCE)
        if self._sender.is_alive():
            rank_zero_warn(
                f"some entries did not reach MLflow at {shown(self.uri)} within {_PATIENCE:.0f} s "
                "of the run's end: metrics.jsonl and samples/ have them all"
            )
        self._sender = self._reached = None
        self._there = {}

    def _later(self, task: "Task") -> None:
        self._tasks.put(task)
        if self._sender is None:
            self._last.clear()
            self._sender = Thread(target=self._send, name="mlflow", daemon=True)
            self._sender.start()

    def _send(self) -> None:
        """What the thread does: one task after the other, until the last."""
        while not (self._last.is_set() and self._tasks.empty()):
            try:
                self._deliver(self._tasks.get(timeout=0.1))
            except Empty:
                continue

    def _deliver(self, task: "Task") -> None:
        """Tries until it works, or has failed three times while the server answered."""
        refused = 0
        while refused < 3:
            try:
                task(*self._reach())
                return
            except Exception as error:
                self._warn(error)
            refused += self._answers()
            time.sleep(_AGAIN)

    def _answers(self) -> bool:
        try:
            client, run = self._reach()
            client.get_run(run)
        except Exception:
            return False
        return True

    def _reach(self) -> "tuple[MlflowClient, str]":
        if self._reached is None:
            from mlflow import MlflowClient

            client = MlflowClient(self.uri)  # makes a database
            self._reached = client, self._begin(client)
        return self._reached

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            said = (str(error) or type(error).__name__).splitlines()[0][:200]
            rank_zero_warn(f"MLflow at {shown(self.uri)} did not take an entry; training goes on: {said}")
        self._warned = True

    def _begin(self, client: "MlflowClient") -> str:
        """The id of this folder's run, begun if there is none."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking.context.registry import resolve_tags

        note = self.folder / "mlflow.json"
        known = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        if known.get("uri") == shown(self.uri):
            try:
                if client.get_run(known["run"]).info.lifecycle_stage == "active":
                    client.update_run(known["run"], status="RUNNING")
                    return str(known["run"])
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        label = "/".join(self.folder.parts[-2:])  # a job of a sweep is called 0 or 1
        tags = resolve_tags({"folder": str(self.folder)})  # of who, with what, and of which commit
        run = str(client.create_run(experiment(client, self._name), tags=tags, run_name=label).info.run_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(note) as fresh:
            fresh.write_text(json.dumps({"uri": shown(self.uri), "run": run}) + "\n", encoding="utf-8")
        return run
