"""An evaluation that was killed and went on: nothing measured twice, nothing of another one, no digit that differs."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor

from diffusion_lab.data.masks import center, half, rectangle
from diffusion_lab.evaluation import (
    Method,
    Report,
    evaluate,
    kernel,
    mean_fill,
    page,
    problems,
    reference,
    weights_sha256,
)
from diffusion_lab.evaluation.results import read
from diffusion_lab.metrics import seam
from diffusion_lab.tasks import inpainting
from killing import deadly
from test_evaluation import Faces, Pixels, noise

EVALUATE = Path(__file__).parents[1] / "evaluate.py"
PROBLEMS = problems(inpainting(), {"center": center, "box": rectangle})


class Dies(Exception):
    """As a kill, but in this process."""


class Counting:
    """Noise, and how often it was asked; from some call on it dies."""

    def __init__(self, last: float = float("inf")) -> None:
        self.calls, self.last = 0, last

    def __call__(self, image: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        if self.calls == self.last:
            raise Dies
        self.calls += 1
        return noise(image, mask, seeds)


def everything(folder: Path | None, fill: Any = noise, fabric: Fabric | None = None, **options: Any) -> Report:
    """All that an evaluation can measure, of seven pictures in four batches on one process."""
    given = {
        "extractor": Pixels(),
        "batch_size": 2,
        "measures": {"seam": seam},
        "sets": {"kid": kernel},
        "crops": True,
        "gallery": 4,
        "inputs": {"weights": "a"},
    } | options
    methods = [Method("first", fill), mean_fill(), Method("last", fill)]
    return evaluate(methods, Faces(7), PROBLEMS, fabric=fabric, unfinished=folder, **given)  # type: ignore[arg-type]


def saved(folder: Path) -> tuple[Any, bytes]:
    """results.json but for the seconds, and the grid."""
    results = json.loads((folder / "results.json").read_text())
    for row in results["rows"]:
        assert row.pop("seconds_per_image") > 0
    return results, (folder / "grid.png").read_bytes()


def page_of(report: Report) -> str:
    """report.html but for the seconds."""
    return page.written({"": replace(report, rows=[{**row, "seconds_per_image": 0.0} for row in report.rows])})


@pytest.mark.parametrize("most", [100, 5])
def test_a_killed_evaluation_goes_on_and_nothing_is_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], most: int
) -> None:
    """Killed in a row's first batch, within a row, at the last batch of all; with features kept, and as sums."""
    monkeypatch.setattr(reference, "KEPT", most)
    whole = Pixels()
    uncut = everything(None, extractor=whole)
    uncut.save(tmp_path / "whole")
    assert "Going on" not in capsys.readouterr().out
    for calls, done in {0: 0, 1: 2, 4: 14, 6: 18, 15: 41}.items():  # the mean's row of 7 comes between
        folder, extractor, first, second = tmp_path / str(calls), Pixels(), Counting(calls), Counting()
        with pytest.raises(Dies):
            everything(folder, first, extractor=extractor)
        again = everything(folder, second, extractor=extractor)
        again.save(tmp_path / f"report {calls}")
        assert page_of(again) == page_of(uncut)
        assert saved(tmp_path / f"report {calls}") == saved(tmp_path / "whole")
        assert (first.calls, second.calls) == (calls, 16 - calls)
        assert extractor.seen == whole.seen
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Going on")]
        said = f"Going on where it was cut: {done} of 42 completions are measured, in {folder}"
        assert told == ([said] if done else [])


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"num_images": 6},
        {"batch_size": 3},
        {"completions": 2},
        {"crops": False},
        {"examples": 1},
        {"gallery": 3},
        {"measures": {}},
        {"sets": {}},
        {"inputs": {"weights": "b"}},
        {"protocol": {"samplers": {"first": {"steps": 3}}}},
        {"reference": Faces(8)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_nothing_of_another_evaluation_is_taken(tmp_path: Path, other: dict[str, Any]) -> None:
    everything(tmp_path)
    fill, alone = Counting(), Counting()
    everything(tmp_path, fill, **other).save(tmp_path / "one")
    everything(None, alone, **other).save(tmp_path / "other")
    assert fill.calls == alone.calls
    assert saved(tmp_path / "one") == saved(tmp_path / "other")


def test_other_pictures_holes_or_methods_are_another_evaluation(tmp_path: Path) -> None:
    """Of the same names: the pixels count, and the holes."""
    dark, moved = Faces(7), problems(inpainting(), {"center": half, "box": rectangle})
    dark.images = dark.images // 2
    ask = partial(evaluate, extractor=Pixels(), batch_size=4, unfinished=tmp_path)
    ask([mean_fill(), Method("noise", noise)], Faces(7), PROBLEMS)
    for pictures, asked, name in ((dark, PROBLEMS, "noise"), (Faces(7), moved, "noise"), (Faces(7), PROBLEMS, "other")):
        fill = Counting()
        ask([mean_fill(), Method(name, fill)], pictures, asked)
        assert fill.calls == 4


def test_what_is_damaged_is_measured_again(tmp_path: Path) -> None:
    everything(None).save(tmp_path / "whole")
    kept, fill = tmp_path / "kept", Counting()
    with pytest.raises(Dies):
        everything(kept, Counting(6))
    for file in ("0-0", "0-1", "0-2/2"):
        (kept / f"{file}.safetensors").write_bytes((kept / f"{file}.safetensors").read_bytes()[:-9])
    everything(kept, fill).save(tmp_path / "again")
    assert saved(tmp_path / "again") == saved(tmp_path / "whole")
    assert fill.calls == 16 - 6 + 4 + 1


def test_weights_are_known_by_their_values() -> None:
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert weights_sha256(one) != weights_sha256(other)
    other.load_state_dict(one.state_dict())
    assert weights_sha256(one) == weights_sha256(other)
    assert weights_sha256(one.bfloat16()) != weights_sha256(other)
    assert weights_sha256(torch.nn.BatchNorm1d(2)) == weights_sha256(torch.nn.BatchNorm1d(2))  # with a number alone


def _deadly(fabric: Fabric, folder: Path, name: str, call: int) -> None:
    torch.set_num_threads(1)
    file = folder / ("dead" if fabric.global_rank else "whole")  # the first process lives
    (folder / "whole").touch()
    report = everything(folder / name, deadly(str(file), call).fill, fabric)
    if fabric.is_global_zero:
        report.save(folder / f"{name} report")
        (folder / f"{name}.html").write_text(page_of(report))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_of_which_one_is_killed_go_on(tmp_path: Path) -> None:
    """Two pictures and then one more on the second process: it dies in the third row, when the first may be ahead."""
    devices = partial(Fabric, accelerator="cpu", devices=2, strategy="ddp_spawn")
    with pytest.raises(Exception, match="SIGKILL"):
        devices().launch(_deadly, tmp_path, "killed", 3)
    assert (tmp_path / "dead").exists()
    assert (tmp_path / "killed" / "0-0.safetensors").exists()
    assert (tmp_path / "killed" / "0-2" / "1.safetensors").exists()
    devices().launch(_deadly, tmp_path, "killed", 3)
    devices().launch(_deadly, tmp_path, "uninterrupted", 3)
    assert saved(tmp_path / "killed report") == saved(tmp_path / "uninterrupted report")
    assert (tmp_path / "killed.html").read_text() == (tmp_path / "uninterrupted.html").read_text()


@pytest.mark.slow
def test_the_script_goes_on_and_leaves_its_report_alone(tmp_path: Path) -> None:
    """On the model that comes with the package; killed in the last batch of the last of six rows."""
    dead = tmp_path / "dead"
    command = [
        *(sys.executable, str(EVALUATE), "num_images=3", "batch_size=2", "sampler=ddim", "sampler.steps=2"),
        *("~masks.free_form", "~baselines.telea", f"paths.logs={tmp_path}", f"paths.cache={tmp_path / 'cache'}"),
        *("+baselines.deadly._target_=killing.deadly", f"+baselines.deadly.file={dead}", "+baselines.deadly.call=3"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    run = partial(subprocess.run, capture_output=True, text=True, env=environment)
    output = f"output={tmp_path / 'killed'}"
    assert run([*command, output]).returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["unfinished"]
    again = run([*command, output])
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("Going on where it was cut: 17 of 18 completions are measured") == 1
    whole = run([*command, f"output={tmp_path / 'whole'}"])
    assert whole.returncode == 0, whole.stderr
    assert "Going on" not in whole.stdout
    assert saved(tmp_path / "killed") == saved(tmp_path / "whole")
    names = {"report.html", "results.json", "results.md", "grid.png"}
    assert {path.name for path in (tmp_path / "killed").iterdir()} == names
    assert read(tmp_path / "whole").protocol["n"] == 3
