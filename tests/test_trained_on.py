"""Which pictures a model was trained on, as a run, a recipe or neither of them says."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from diffusion_lab.inpainting import shipped
from diffusion_lab.recipe import read
from diffusion_lab.trained_on import BUILT_IN, found, located, portable

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Of the data in the config of a run on a folder whose name is 'cats'."""
    (tmp_path / "cats").mkdir()
    for i in range(40):
        Image.new("RGB", (20, 20)).save(tmp_path / "cats" / f"{i}.png")
    return {
        "_target_": "diffusion_lab.data.groups.folder",
        "root": str(tmp_path / "cats"),
        "crop": {"_target_": "diffusion_lab.data.crops.full"},
        "image_size": 16,
        "batch_size": 4,
        "mask": {"_target_": "diffusion_lab.data.masks.FromFolder", "folder": "/masks/that/are/gone"},
        "seed": 5,
        "cache": "/of/another/machine",
        "name": None,
        "shares": [1, 1, 2],
        "split_seed": 7,
    }


def run(tmp_path: Path, settings: dict[str, Any], **config: Any) -> Path:
    """The inpainter's place in a run."""
    folder = tmp_path / "run" / "inpainter"
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"data": settings, "inpainter": {}, **config}), folder.parent / "config.yaml")
    return folder


RECIPE = {"data": {"name": "cats", "crop": "full", "image_size": 16}}


def test_a_run_and_its_recipe_find_the_same_split(settings: dict[str, Any], tmp_path: Path) -> None:
    there, _ = found(run(tmp_path, settings), RECIPE, {}, tmp_path / "cache")
    recipe = {**RECIPE, "training": {"data": portable(settings, "cats")}}
    here, _ = found(tmp_path / "copied", recipe, {"root": settings["root"]}, tmp_path / "cache")
    assert there.name == here.name == "cats"
    assert there.source.names("test") == here.source.names("test")
    assert len(there.source.names("test")) > 10  # half of 40, not a tenth
    assert len(there.pictures("test")) == len(there.source.names("test"))
    assert there.cache == here.cache == tmp_path / "cache"


def test_what_is_changed_goes_over_what_the_run_says_and_nothing_else(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = run(tmp_path, settings)
    changes = {"image_size": None, "crop": {"_target_": None}, "split_seed": 8}
    data, _ = found(folder, RECIPE, changes, tmp_path)
    assert data.image_size == 16
    assert data.source.names("test") != found(folder, RECIPE, {}, tmp_path)[0].source.names("test")


def test_a_recipe_says_nothing_of_the_machine(settings: dict[str, Any]) -> None:
    nested = {"_target_": "FaceData", "source": {"root": "/photos", "name": "faces"}, "cache": "/cache"}
    assert "/" not in str(portable(settings, "cats")) + str(portable(nested, "faces"))
    built_in = portable({**BUILT_IN, "cache": "/cache"}, "built-in faces")
    assert built_in == BUILT_IN  # where these are, every machine knows


def test_folders_are_named_from_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert located({"source": {"root": "photos"}, "root": None, "name": "root"}) == {
        "source": {"root": str(tmp_path / "photos")},
        "root": None,
        "name": "root",
    }


def test_the_built_in_faces_are_those_of_the_command_line() -> None:
    conf = OmegaConf.load(CONF / "data" / "faces.yaml")
    assert OmegaConf.to_container(OmegaConf.masked_copy(conf, list(BUILT_IN))) == BUILT_IN  # type: ignore[arg-type]


def test_the_model_that_comes_with_the_package_is_scored_on_the_faces_that_do(tmp_path: Path) -> None:
    data, _ = found(shipped(), read(shipped()), {}, tmp_path)
    assert (data.name, data.image_size, data.crop.name) == ("built-in faces", 256, "center148")
    old = {"data": {"name": "built-in faces", "crop": "center140", "image_size": 32}}  # without settings in its recipe
    data, _ = found(tmp_path, old, {}, tmp_path)
    assert (data.name, data.image_size, data.crop.name) == ("built-in faces", 32, "center140")


def test_where_nobody_knows_them_no_others_take_their_place(settings: dict[str, Any], tmp_path: Path) -> None:
    foreign = {"data": {"name": "CelebA-HQ", "crop": "full", "image_size": 256}}
    with pytest.raises(ValueError, match="was trained on CelebA-HQ, and neither its recipe nor a run around it says"):
        found(tmp_path / "converted", foreign, {}, tmp_path)
    (tmp_path / "config.yaml").write_text("data:\n  - of another program\n")
    with pytest.raises(ValueError, match="neither its recipe nor a run around it"):
        found(tmp_path / "converted", foreign, {}, tmp_path)
    recipe = {**RECIPE, "training": {"data": portable(settings, "cats")}}
    with pytest.raises(ValueError, match=r"no config.yaml of its run .*: say it by data.root=<folder>, or name others"):
        found(tmp_path / "copied", recipe, {}, tmp_path)


def test_a_folder_from_elsewhere_calls_nothing_that_is_not_ours(settings: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "called"
    evil = {**settings, "crop": {"_target_": "pathlib.Path.touch", "self": str(mark)}}
    with pytest.raises(ValueError, match="may only name what diffusion_lab defines"):
        found(run(tmp_path, evil), RECIPE, {}, tmp_path)
    recipe = {**RECIPE, "training": {"data": evil}}
    with pytest.raises(ValueError, match="may only name what diffusion_lab defines"):
        found(tmp_path / "copied", recipe, {}, tmp_path)
    assert not mark.exists()


def test_nothing_is_downloaded_to_score(settings: dict[str, Any], tmp_path: Path) -> None:
    celeba = {key: settings[key] for key in ("crop", "image_size", "batch_size", "mask", "seed", "cache")}
    celeba |= {"_target_": "diffusion_lab.data.groups.celeba", "root": str(tmp_path / "celeba"), "download": True}
    data, advice = found(run(tmp_path, celeba), RECIPE, {}, tmp_path)
    with pytest.raises(OSError, match="There is no folder"):
        data.source.prepare()
    assert "say where they are now by data.root=<folder>" in advice
