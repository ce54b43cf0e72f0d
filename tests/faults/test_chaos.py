"""The campaign of random deaths: its oracle sees what is amiss, and a hundred rounds of it."""

import hashlib
import importlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("chaos.oracle")


def kinds(violations: list[Any]) -> list[str]:
    return [violation.kind for violation in violations]


LINES = [{"step": step, "train/loss": step / 7, "train/pictures_per_second": 9.0} for step in range(5)]
LINES += [{"step": 4, "val/loss": 0.25}]


def written(path: Path, lines: list[dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (lambda lines: lines, []),
        (
            lambda lines: [
                {**line, "train/pictures_per_second": 1.0} if "train/loss" in line else line for line in lines
            ],
            [],
        ),
        (lambda lines: lines[:-1], ["lost"]),
        (lambda lines: lines[:2] + lines[3:], ["lost"]),
        (lambda lines: lines + lines[-1:], ["doubled"]),
        (lambda lines: lines[:4] + lines[2:], ["doubled", "doubled"]),
        (lambda lines: [*lines, {"step": 9, "train/loss": 0.0}], ["wrong"]),
        (lambda lines: [{**lines[0], "train/loss": 1e-9}, *lines[1:]], ["wrong"]),
    ],
)
def test_lines_of_metrics(oracle: ModuleType, tmp_path: Path, fault: Callable[[Any], Any], seen: list[str]) -> None:
    whole, found = written(tmp_path / "whole", LINES), written(tmp_path / "found", fault(LINES))
    assert kinds(oracle.same_lines(found, whole)) == seen


def test_half_a_line_and_no_lines(oracle: ModuleType, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", LINES)
    half = tmp_path / "half"
    half.write_text(whole.read_text()[:-9] + whole.read_text())
    assert kinds(oracle.same_lines(half, whole)) == ["wrong"]
    assert kinds(oracle.same_lines(tmp_path / "none", whole)) == ["lost"]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("select 1", []),
        ("update metrics set timestamp = 9", []),
        ("update metrics set value = 9 where key = 'train/pictures_per_second'", []),
        ("delete from metrics where key = 'val/loss'", ["lost"]),
        ("delete from metrics where step = 2 or step = 3", ["lost"]),
        ("insert into metrics select * from metrics where step = 1", ["doubled"]),
        ("insert into metrics values ('val/loss', 3, 0.25, 7, 'ours')", ["wrong"]),
        ("update metrics set value = 1e-9 where key = 'val/loss'", ["lost", "wrong"]),
        ("update tags set value = 'elsewhere'", ["lost", "lost"]),
    ],
)
def test_what_mlflow_has(oracle: ModuleType, tmp_path: Path, fault: str, seen: list[str]) -> None:
    """In the columns of MLflow's tables, beside another run's."""
    said = written(tmp_path / "metrics.jsonl", LINES)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as file:
        file.execute("create table metrics (key text, step int, value real, timestamp int, run_uuid text)")
        file.execute("create table tags (key text, value text, run_uuid text)")
        file.executemany("insert into tags values ('folder', ?, ?)", [("/ours", "ours"), ("/others", "others")])
        values = [(key, line["step"], line[key], 7, "ours") for line in LINES for key in line if key != "step"]
        file.executemany("insert into metrics values (?, ?, ?, ?, ?)", [*values, ("val/loss", 8, 0.5, 7, "others")])
        file.execute(fault)
        file.commit()
    assert kinds(oracle.mirrored(said, tmp_path / "mlflow.db", Path("/ours"))) == seen


def test_a_flipped_bit(oracle: ModuleType, tmp_path: Path) -> None:
    whole, found = tmp_path / "whole", tmp_path / "found"
    whole.write_bytes(bytes(range(256)))
    found.write_bytes(bytes(range(256)))
    assert oracle.same_bytes(found, whole) == []
    found.write_bytes(bytes([0, 3, *range(2, 256)]))
    assert kinds(oracle.same_bytes(found, whole)) == ["wrong"]
    assert kinds(oracle.same_bytes(tmp_path / "none", whole)) == ["lost"]


def test_a_checkpoint_that_is_not_its_sum_s(oracle: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "step=1.ckpt"
    path.write_bytes(b"weights")
    (tmp_path / "step=1.ckpt.sha256").write_text(hashlib.sha256(b"weights").hexdigest())
    assert oracle.sealed(tmp_path) == []
    path.write_bytes(b"weighty")
    assert kinds(oracle.sealed(tmp_path)) == ["wrong"]


@pytest.fixture
def registry(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Two models and their two versions, as the format is documented: made by hand."""
    models = []
    home = tmp_path / "registry" / "faces"
    for number in (1, 2):
        model, version = tmp_path / f"model{number}", home / str(number)
        model.mkdir()
        (model / "model.safetensors").write_bytes(bytes([number]) * 100)
        shutil.copytree(model, version)
        (version / "card.md").write_text("# faces")
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in version.iterdir()}
        (version / "manifest.json").write_text(json.dumps({"files": files}))
        models.append(model)
    (home / "aliases.json").write_text(
        json.dumps({"newest": {"version": 2, "moves": [{"version": 1}, {"version": 2}]}})
    )
    return home, models


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (lambda home: None, []),
        (lambda home: (home / "1" / "model.safetensors").write_bytes(bytes(100)), ["wrong", "lost", "wrong"]),
        (lambda home: (home / "2" / "card.md").unlink(), ["wrong"]),
        (lambda home: (home / "2" / "card.md").write_text("# Faces"), ["wrong"]),
        (lambda home: (home / "2" / "more").touch(), ["wrong"]),
        (lambda home: (home / "1" / "manifest.json").unlink(), ["wrong"]),
        (lambda home: shutil.rmtree(home / "1"), ["lost", "wrong"]),
        (lambda home: shutil.copytree(home / "2", home / "3"), ["doubled"]),
        (lambda home: (home / "aliases.json").unlink(), ["lost"]),
        (lambda home: (home / "aliases.json").write_text('{"newest": {"vers'), ["lost"]),
        (lambda home: (home / "aliases.json").write_text('{"newest": {"version": 3, "moves": []}}'), ["wrong"]),
    ],
)
def test_a_registry(
    oracle: ModuleType, registry: tuple[Path, list[Path]], fault: Callable[[Path], object], seen: list[str]
) -> None:
    home, models = registry
    fault(home)
    assert kinds(oracle.registry(home, models, "newest")) == seen


def test_an_alias_that_moved_twice(oracle: ModuleType, registry: tuple[Path, list[Path]]) -> None:
    home, models = registry
    assert oracle.registry(home, models, "newest", [1, 2]) == []
    assert kinds(oracle.registry(home, models, "newest", [2])) == ["doubled"]


def test_jobs(oracle: ModuleType) -> None:
    assert oracle.once("abc", "abc") == []
    assert kinds(oracle.once("ab", "abc")) == ["lost"]
    assert kinds(oracle.once("abca", "abc")) == ["doubled"]
    assert kinds(oracle.once("abcd", "abc")) == ["wrong"]


def test_known_pixels(oracle: ModuleType) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    hole = np.zeros((4, 4), np.bool_)
    hole[1:3, 1:3] = True
    answer = picture.copy()
    answer[hole] = 200
    assert oracle.known_pixels(answer, picture, hole) == []
    answer[0, 0, 2] = 1
    assert kinds(oracle.known_pixels(answer, picture, hole)) == ["wrong"]
    assert kinds(oracle.known_pixels(answer[:3], picture, hole)) == ["wrong"]


def test_figures_of_an_evaluation(oracle: ModuleType, tmp_path: Path) -> None:
    def results(name: str, lpips: float, seconds: float) -> Path:
        (tmp_path / name).write_text(json.dumps({"rows": [{"lpips": lpips, "seconds_per_image": seconds}]}))
        return tmp_path / name

    whole = results("whole", 0.2, 1.0)
    assert oracle.same_results(results("slower", 0.2, 2.0), whole) == []
    assert kinds(oracle.same_results(results("other", 0.2000001, 1.0), whole)) == ["wrong"]
    assert kinds(oracle.same_results(tmp_path / "none", whole)) == ["lost"]


KILLED = (
    "registry",
    "evaluation",
    "sweep",
    "pipeline",
    "registry",
    "evaluation",
    "sweep",
    "trainer",
    "registry",
    "service",
)


@pytest.mark.slow
def test_a_hundred_rounds(tmp_path: Path) -> None:
    """Cheap subjects come more often than dear ones; a second call finds them all done."""
    command = [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "--folder", str(tmp_path), "--only", *KILLED]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--rounds", "100"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 rounds" in done.stdout.splitlines()[-1]
    assert done.stdout.splitlines()[-1].endswith(": 0 lost, 0 doubled, 0 wrong")
    lines = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(100))
    again = subprocess.run([*command, "--rounds", "100"], capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0
    assert (tmp_path / "outcomes.jsonl").read_text().splitlines() == lines
