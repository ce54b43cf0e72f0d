"""Every figure is drawn from a tiny model, and shows what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageColor

from diffusion_lab import recipe
from diffusion_lab.charts import COLOURS
from diffusion_lab.commands.figures import main
from diffusion_lab.data.degradations import luma
from diffusion_lab.figures import GAP, SCHEDULES, SEEN, SIDE, SOLVERS, quality, reverse_process, tasks
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.tasks import restoration
from evaluated import results
from small import small_inpainter

CONF = Path(__file__).parents[1] / "conf"

LESSON = {
    "_target_": "diffusion_lab.lessons.dpm.DPM",
    "denoiser": {
        "_target_": "diffusion_lab.diffusion.denoiser.NetworkDenoiser",
        "network": {
            "_target_": "diffusion_lab.lessons.networks.RadialBasis",
            "inputs": 2,
            "outputs": 4,
            "hidden": 3,
            "steps": 4,
            "bumps": 2,
        },
        "schedule": {"_target_": "diffusion_lab.diffusion.schedule.cosine", "steps": 4},
        "predicts": {
            "_target_": "diffusion_lab.diffusion.denoiser.LearnedRange",
            "of": {"_target_": "diffusion_lab.diffusion.denoiser.Velocity"},
        },
    },
    "process": {"_target_": "diffusion_lab.lessons.gaussian.Gaussian"},
    "sampler": {
        "_target_": "diffusion_lab.lessons.dpm.reverse",
        "process": {"_target_": "diffusion_lab.lessons.gaussian.Gaussian"},
    },
}


def test_one_command_draws_them_all(
    inpainter: Inpainter, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion_lab.figures.SOLVERS", {"ddim, 2": SOLVERS["ddim, 50"]})
    inpainter.save(tmp_path / "inpainter")
    recipe.save(recipe.build(LESSON), {"model": LESSON}, tmp_path / "model")
    (tmp_path / "results.json").write_text(json.dumps(results()))
    said = [f"--inpainter={tmp_path}/inpainter", f"--lesson={tmp_path}/model", f"--output={tmp_path}/drawn"]
    assert main([*said, f"--cache={tmp_path}/cache", "--results", f"calls={tmp_path}/results.json"]) == 0
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["calls.png", "forward.png", "reverse.png", "snr.png", "swissroll.png"]
    assert main([*said, "--results", f"{tmp_path}/nothing.json"]) == 1
    assert "nothing.json" in capsys.readouterr().err


def test_every_solver_fills_the_same_hole_and_leaves_the_rest(inpainter: Inpainter) -> None:
    face = torch.full((3, 16, 16), 0.2)
    picture = np.asarray(reverse_process(inpainter, face)).astype(int)
    step, columns = SIDE + GAP, len(SEEN) + 2
    top, left = picture.shape[0] - 2 * len(SOLVERS) * step, picture.shape[1] - columns * step
    cells = picture[top:, left:].reshape(2 * len(SOLVERS), step, columns, step, 3).swapaxes(1, 2)[:, :, :SIDE, :SIDE]
    known, hole = cells[:, :, :20, :20], cells[:, :, 40:56, 40:56]
    assert np.unique(known[:, :, 0:10, 0:10]).tolist() == [153]  # .2 in 8 bits, in every cell
    ends = [hole[2 * i, columns - 2].tobytes() for i in range(len(SOLVERS))]
    assert len(set(ends)) == len(SOLVERS)  # each its own filling
    for i in range(len(SOLVERS)):
        assert hole[2 * i + 1].std() < hole[2 * i].std()  # x holds the noise, x_0 does not


def test_every_schedule_of_the_configuration_has_its_curve() -> None:
    learned = {"learned"}  # of a lesson, and not known before it is trained
    assert set(SCHEDULES) | learned == {path.stem for path in (CONF / "schedule").glob("*.yaml")}
    for name, make in SCHEDULES.items():
        configured = recipe.build(yaml.safe_load((CONF / "schedule" / f"{name}.yaml").read_text()))
        assert torch.equal(make().alpha_bar, configured.alpha_bar)


def test_quality_is_a_line_for_each_family_over_its_calls() -> None:
    def row(method: str, calls: int, fid: float | None) -> dict[str, object]:
        return {"method": method, "mask": "center", "network_calls": calls, "fid": fid, "lpips": 0.1 * calls}

    rows = [row("ddim_5", 5, 60.0), row("ddim_50", 50, 40.0), row("repaint", 230, 30.0), row("Telea", 0, 90.0)]
    picture = quality({"rows": rows, "protocol": {"n": 7}})
    pixels = np.asarray(picture)
    halves = pixels[:, : picture.width // 2], pixels[:, picture.width // 2 :]
    for half in halves:
        count = [int((half == ImageColor.getrgb(colour)).all(axis=2).sum()) for colour in COLOURS[:3]]
        assert count[0] > count[1] > 0  # a line, a point
        assert count[2] == 0  # what asks no network has no place on the axis
    alone = quality({"rows": [{**r, "fid": None} for r in rows], "protocol": {"n": 1}})
    assert isinstance(alone, Image.Image)
    assert alone.width < picture.width  # one picture has no FID


def test_each_task_shows_what_it_was_given(inpainter: Inpainter, tmp_path: Path) -> None:
    restoring = small_inpainter()
    restoring.task = restoration("colorization", luma)
    drawn = np.asarray(tasks([inpainter, restoring], tmp_path).convert("RGB")).astype(int)
    step, left, top = SIDE + GAP, drawn.shape[1] - 6 * (SIDE + GAP), drawn.shape[0] - 2 * (SIDE + GAP)

    def cell(row: int, column: int) -> np.ndarray:
        return drawn[top + row * step :, left + column * step :][:SIDE, :SIDE]

    grey = cell(1, 0)
    assert (grey.max(-1) == grey.min(-1)).all()
    assert np.abs(grey - np.asarray(Image.fromarray(cell(1, 2).astype(np.uint8)).convert("L"))[..., None]).max() <= 1
    assert (cell(0, 0) == cell(0, 2)).mean() > 0.4  # the known half
    assert (cell(0, 0) == round((0.3 + 1) * 127.5)).mean() > 0.4  # the hole
