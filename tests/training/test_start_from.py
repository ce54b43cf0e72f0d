"""Fine-tuning: a run that begins with the weights of a saved inpainter."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab import recipe
from small import small_cascade

RunScript = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny(tiny: list[str]) -> list[str]:
    return [*tiny, "trainer.max_steps=2"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "inpainter" / "model.safetensors")


def test_weights_are_taken_and_a_resumed_run_needs_the_folder_no_more(
    tiny: list[str], tmp_path: Path, run_script: RunScript
) -> None:
    first, second, folder = tmp_path / "first", tmp_path / "second", tmp_path / "saved, [é]=1 'x'"
    code, _, err = run_script("train.py", *tiny, f"hydra.run.dir={first}")
    assert code == 0, err
    shutil.copytree(first / "inpainter", folder)
    still = ["optimizer.lr=0", "seed=5", f"start_from={folder}", f"hydra.run.dir={second}"]
    code, _, err = run_script("train.py", *tiny, *still)
    assert code == 0, err
    one, other = weights(first), weights(second)
    for name in one:  # with a learning rate of 0 the average is what it began with, up to rounding
        torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-7)

    shutil.rmtree(folder)
    code, out, err = run_script("train.py", f"resume={second}", "trainer.max_steps=3", f"paths.logs={tmp_path}")
    assert code == 0, err
    assert "resumed from step=2.ckpt" in out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.channels=64"], "denoiser.network.channels is 32 there and 64 here"),
        (["objective=epsilon"], "denoiser.predicts._target_ is diffusion_lab.diffusion.flow.FlowVelocity there"),
    ],
)
def test_another_model_is_refused_with_what_differs(
    tiny: list[str], tmp_path: Path, run_script: RunScript, overrides: list[str], said: str
) -> None:
    first = tmp_path / "first"
    assert run_script("train.py", *tiny, f"hydra.run.dir={first}")[0] == 0
    code, _, err = run_script("train.py", *tiny, *overrides, f"start_from={first / 'inpainter'}")
    assert code == 1
    assert err.startswith(f"error: start_from={first / 'inpainter'} is of another model than this run: ")
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_of_a_cascade_the_stage_that_is_built_alike_is_taken(tmp_path: Path, number: int) -> None:
    model = small_cascade()
    with torch.no_grad():
        for parameter in model.stages[1].parameters():
            parameter.add_(1.0)
    model.save(tmp_path / "cascade")
    node = model.recipe["model"]["stages"][number]
    fresh = recipe.build(node)
    recipe.start_from(fresh, node, tmp_path / "cascade")
    for mine, theirs in zip(fresh.parameters(), model.stages[number].parameters(), strict=True):
        assert torch.equal(mine, theirs)
    other = {**node, "denoiser": {**node["denoiser"], "network": {**node["denoiser"]["network"], "channels": 64}}}
    with pytest.raises(ValueError, match=r"denoiser\.network\.channels is 32 there and 64 here"):
        recipe.start_from(recipe.build(other), other, tmp_path / "cascade")
