"""The lessons through train.py, as a person runs them."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffusion_lab import recipe
from diffusion_lab.lessons.dpm import DPM
from diffusion_lab.training.loggers import read_metrics

RunScript = Callable[..., tuple[int, str, str]]


def train(run_script: RunScript, run: Path, experiment: str, *overrides: str) -> dict[str, float]:
    """The last values of a run."""
    code, out, err = run_script(
        "train.py",
        f"experiment={experiment}",
        "logger=jsonl",
        "trainer.accelerator=cpu",
        "trainer.validations=1",
        "optimizer.learning_rate.warmup=10",
        f"hydra.run.dir={run}",
        f"paths.logs={run.parent}",
        *overrides,
    )
    assert code == 0, err
    assert f"the model is {run}/model" in out
    assert f"look at {run}/samples" in out
    assert "evaluate.py" not in out
    return read_metrics(run)[-1]


def test_binary(run_script: RunScript, tmp_path: Path) -> None:
    """600 steps come within .9 bits of the truth; what is saved is what was measured."""
    run = tmp_path / "logs" / "binary" / "run"
    small = ["schedule.steps=60", "data.batch_size=64", "trainer.max_steps=600", "ema.decays=[0.9]"]
    values = train(run_script, run, "dpm2015_binary", *small)
    assert values["val/bits_true"] == pytest.approx(math.log2(5))
    assert math.log2(5) < values["val/bits"] < math.log2(5) + 0.9
    assert values["val/bits"] < values["val/bits_eq14"] < values["val/bits"] + 1.5

    model = DPM.load(run / "model")
    assert model.recipe["data"] == {
        "name": "heartbeat",
        "crop": "none",
        "image_size": 20,
        "attributes": [],
    }
    whole = torch.ones(64, 20, dtype=torch.bool)
    drawn = model(torch.zeros(64, 20), whole, seeds=range(64))
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    again = DPM.load(run / "model")(torch.zeros(8, 20), whole[:8], seeds=range(8))
    assert torch.equal(again, drawn[:8])  # the same seed draws the same, whatever the batch


def test_swiss_roll(run_script: RunScript, tmp_path: Path) -> None:
    """150 steps come within 4 bits of the truth, and the betas have moved."""
    run = tmp_path / "logs" / "roll" / "run"
    small = ["schedule.steps=12", "model.bumps=13", "data.batch_size=64", "trainer.max_steps=150", "ema.decays=[0.9]"]
    values = train(run_script, run, "dpm2015_swissroll", *small)
    assert values["val/bits_true"] < values["val/bits"] < values["val/bits_true"] + 4

    model = DPM.load(run / "model")
    fresh = recipe.build(model.recipe["model"])
    moved = model.denoiser.schedule.alpha_bar - fresh.denoiser.schedule.alpha_bar
    moved = moved.detach()
    assert float(moved[[0, 1, -1]].abs().max()) == 0
    assert float(moved[2:-1].abs().max()) > 0.01
    points, mask = torch.tensor([[0.5, 9.0]]), torch.tensor([[False, True]])
    completed = model(points, mask, seeds=[0])
    assert float(completed[0, 0]) == 0.5
    assert abs(float(completed[0, 1])) < 5


def test_a_model_that_is_no_dpm_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = {"_target_": "diffusion_lab.lessons.networks.Readout", "features": 2, "outputs": 1, "steps": 4, "bumps": 2}
    recipe.save(recipe.build(linear), {"model": linear}, tmp_path / "model")
    with pytest.raises(ValueError, match="holds a Readout, not a DPM"):
        DPM.load(tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "gap"), [("dpm2015_binary", 0.12), ("dpm2015_swissroll", 0.6)])
def test_as_published(run_script: RunScript, tmp_path: Path, experiment: str, gap: float) -> None:
    values = train(run_script, tmp_path / "logs" / "lesson" / "run", experiment)
    assert values["val/bits_true"] < values["val/bits"] + 0.03  # the error of 300 examples
    assert values["val/bits"] < values["val/bits_true"] + gap
