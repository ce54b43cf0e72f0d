"""The real MLflow on a file, and servers that hang, go away, come back and refuse."""

import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from diffusion_lab.training import mlflow_logger
from diffusion_lab.training.loggers import JSONLinesLogger, read_metrics
from diffusion_lab.training.mlflow_logger import MLflowLogger

mlflow = pytest.importorskip("mlflow")

RunScript = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, which take MLflow seconds to make."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return Path(shutil.copy(empty, tmp_path / "logs")).parent


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(mlflow_logger, "_AGAIN", 0.01)


def runs(store: Path) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))


def history(store: Path, run: Any, key: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    return [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)]


def log(logger: MLflowLogger, lines: Sequence[tuple[dict[str, float], int]], status: str) -> None:
    for values, step in lines:
        logger.log_metrics(values, step)
    logger.finalize(status)


def test_a_run_that_is_gone_on_with_is_one_run(tiny: list[str], store: Path, run_script: RunScript) -> None:
    folder, logs = store / "x" / "run", store
    watched = ["logger=mlflow", "name=x", "trainer.log_every_n_steps=1", f"hydra.run.dir={folder}"]
    for steps in (2, 3):
        code, _, err = run_script("train.py", *tiny, *watched, f"trainer.max_steps={steps}")
        assert code == 0, err
        (run,) = runs(logs)
        assert (run.info.run_name, run.info.status) == ("x/run", "FINISHED")
    for key in ("train/loss", "train/learning_rate", "val/loss"):
        ours = [(line["step"], line[key]) for line in read_metrics(folder) if key in line]
        assert history(logs, run, key) == ours
    assert len(history(logs, run, "train/loss")) == 3
    assert run.data.params["model.channels"] == "32"
    assert run.data.params["trainer.max_steps"] == "2"  # what it began with
    there = Path(run.info.artifact_uri.removeprefix("file://"))
    assert there.is_relative_to(logs / "mlflow")
    assert yaml.safe_load((there / "config.yaml").read_text())["trainer"]["max_steps"] == 3  # what it is at now
    sheets = sorted(path for path in (there / "images").glob("*.png"))
    assert [path.name.split("+")[2] for path in sheets] == ["2", "3"]
    with Image.open(sheets[1]) as kept, Image.open(folder / "samples" / "0000003.png") as drawn:
        assert kept.tobytes() == drawn.tobytes()
    assert not list(there.rglob("*.ckpt"))


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that takes every call and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_hangs_costs_no_step(
    hanging: str, tiny: list[str], tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", hanging)
    monkeypatch.setattr(mlflow_logger, "_PATIENCE", 0.1)
    folder = tmp_path / "run"
    with pytest.warns(UserWarning, match="entries did not reach MLflow at http.*metrics.jsonl and samples/ have them"):
        code, _, err = run_script(
            "train.py",
            *tiny,
            "logger=mlflow",
            "trainer.max_steps=3",
            "trainer.log_every_n_steps=1",
            f"hydra.run.dir={folder}",
        )
    assert code == 0, err
    assert [line["step"] for line in read_metrics(folder) if "train/loss" in line] == [0, 1, 2]
    assert (folder / "inpainter" / "model.safetensors").is_file()


def test_what_was_logged_while_the_server_was_away_comes_when_it_is_back(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, tries = MLflowLogger._begin, []

    def away(self: MLflowLogger, client: Any) -> str:
        tries.append(client)
        if len(tries) < 20:
            raise ConnectionError("nobody is there")
        return begin(self, client)

    monkeypatch.setattr(MLflowLogger, "_begin", away)
    logger = MLflowLogger(store / "run", "x", store)
    with pytest.warns(UserWarning, match="did not take an entry; training goes on: nobody is there"):
        log(logger, [({"loss": step / 2, "epoch": 0}, step) for step in range(5)], "failed")
    (run,) = runs(store)
    assert history(store, run, "loss") == [(step, step / 2) for step in range(5)]
    assert (run.info.status, "epoch" in run.data.metrics) == ("FAILED", False)


def test_a_run_that_was_killed_has_every_entry_once(store: Path) -> None:
    """Of its first life MLflow has one step of three; the second does the last two again."""
    folder = store / "run"
    JSONLinesLogger(folder).log_metrics({"loss": 0.5}, 0)
    log(MLflowLogger(folder, "x", store), [({"loss": 0.5}, 0)], "failed")
    for step in (1, 2):
        JSONLinesLogger(folder).log_metrics({"loss": step / 3, "val/loss": step / 7}, step)
    log(MLflowLogger(folder, "x", store), [({"loss": 2 / 3, "val/loss": 2 / 7}, 2)], "failed")
    again = [({"loss": step / 3, "val/loss": step / 7}, step) for step in (1, 2)]
    log(MLflowLogger(folder, "x", store), again, "success")
    (run,) = runs(store)
    assert sorted(history(store, run, "loss")) == [(0, 0.5), (1, 1 / 3), (2, 2 / 3)]
    assert sorted(history(store, run, "val/loss")) == [(1, 1 / 7), (2, 2 / 7)]
    assert run.info.status == "FINISHED"


def test_an_entry_that_is_refused_keeps_none_back(store: Path) -> None:
    logger = MLflowLogger(store / "run", "x", store)
    with pytest.warns(UserWarning, match="did not take an entry.*Invalid value"):
        log(logger, [({"loss": 1.0}, 0), ({"no#name": 2.0}, 1), ({"loss": 3.0}, 2)], "success")
    (run,) = runs(store)
    assert history(store, run, "loss") == [(0, 1.0), (2, 3.0)]


def test_a_run_that_is_deleted_there_is_begun_anew(store: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    for _ in range(2):
        logger = MLflowLogger(store / "run", "x", store)
        log(logger, [({"loss": 1.0}, 0)], "success")
        (run,) = runs(store)
        assert history(store, run, "loss") == [(0, 1.0)]
        client.delete_run(run.info.run_id)


def test_without_mlflow_it_is_said_before_anything_is_trained(
    tiny: list[str], run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, _, err = run_script("train.py", *tiny, "logger=mlflow")
    assert code == 1
    assert "MLflow is not installed: uv sync --extra mlflow" in err
