import json
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_lab import recipe
from diffusion_lab.inpainting import Inpainter, newest, shipped
from diffusion_lab.networks.checkpoints.__main__ import arguments


def test_a_folder_is_the_inpainter(inpainter: Inpainter, tmp_path: Path) -> None:
    inpainter.save(tmp_path / "inpainter")
    again = Inpainter.load(tmp_path / "inpainter")
    image, mask = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 1, 16, 16) < 0.5
    assert torch.equal(inpainter(image, mask, seeds=[1, 2]), again(image, mask, seeds=[1, 2]))
    assert again.recipe == inpainter.recipe
    assert not again.training
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "recipe.json").read_text() == (tmp_path / "inpainter" / "recipe.json").read_text()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "diffusion_lab.recipe.importlib.import_module",
        "diffusion_lab.recipe.load_file",  # ours by path, not by birth
        "diffusion_lab.pictures.Path",
        "diffusion_labs.evil",
        "diffusion_lab.diffusion.schedule.nothing",
        "diffusion_lab",
        "",
    ],
)
def test_a_foreign_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="recipe names"):
        recipe.build({"model": [{"_target_": target}]})


@pytest.mark.parametrize("fault", ["missing", "left over", "misshapen"])
def test_loading_is_strict(inpainter: Inpainter, tmp_path: Path, fault: str) -> None:
    inpainter.save(tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    if fault == "missing":
        del state[name]
    elif fault == "left over":
        state["more"] = torch.zeros(1)
    else:
        state[name] = torch.zeros(1, 2, 3)
    save_file(state, path)
    with pytest.raises(ValueError, match="another architecture"):
        Inpainter.load(tmp_path / "a")


def test_damage_is_said_in_a_sentence(inpainter: Inpainter, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    inpainter.save(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:100])
    with pytest.raises(ValueError, match="is damaged"):
        Inpainter.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="incomplete"):
        Inpainter.load(folder)
    (folder / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        Inpainter.load(folder)
    with pytest.raises(FileNotFoundError, match=r"no recipe\.json"):
        Inpainter.load(tmp_path / "nowhere")


def test_a_failed_save_leaves_the_old_folder(
    inpainter: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    inpainter.save(folder)
    before = (folder / "model.safetensors").read_bytes()
    inpainter.recipe["unwritable"] = object()
    with pytest.raises(TypeError):
        inpainter.save(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_the_newest_run_serves(inpainter: Inpainter, tmp_path: Path) -> None:
    assert newest(tmp_path) == shipped()
    for i, run in enumerate(("b/2", "a/1", "sweep/x/0")):
        inpainter.save(tmp_path / run / "inpainter")
        os.utime(tmp_path / run / "inpainter" / "recipe.json", (i, i))
    assert newest(tmp_path) == tmp_path / "sweep/x/0" / "inpainter"


def test_half_precision_weights_load(inpainter: Inpainter, tmp_path: Path) -> None:
    inpainter.save(tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path)
    assert {p.dtype for p in Inpainter.load(tmp_path / "a").parameters()} == {torch.float32}


def test_the_recipe_is_json(inpainter: Inpainter, tmp_path: Path) -> None:
    inpainter.save(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "recipe.json").read_text())["model"] == inpainter.recipe["model"]


@pytest.mark.parametrize("name", ["celeba 256.pt", "ddpm-celebahq-256"])
def test_weights_of_another_project_are_answered_with_the_command_that_converts_them(tmp_path: Path, name: str) -> None:
    weights = tmp_path / name
    if weights.suffix:
        weights.touch()
    else:
        weights.mkdir()
        (weights / "config.json").touch()
    with pytest.raises(ValueError, match="as another project wrote them") as refused:
        Inpainter.load(weights)
    said = re.search(r"python -m diffusion_lab\.networks\.checkpoints (.+?) and name inpainter=", str(refused.value))
    assert said is not None
    asked = arguments(shlex.split(said[1]))
    assert asked.file == weights
    assert asked.output == weights.with_name(f"{weights.stem}-inpainter")
    assert asked.schedule == "linear"
