"""The pictures that a model was trained on: where they are stands in its run, which they are in its recipe.

A run stays on its machine, so its `config.yaml` names folders. An inpainter is copied anywhere, so its recipe says all
but that: with the folder's new place it finds the same test split, however the split was made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab import recipe as recipes
from diffusion_lab.data.datamodule import FaceData
from diffusion_lab.inpainting import shipped

PLACES = ("root", "cache", "mirror", "download")
"""Settings of the data that are a machine's."""

OF_TRAINING = ("mask", "degrade", "window", "jitter")
"""Settings of the data that say how they are trained on."""

BUILT_IN = {
    "_target_": "diffusion_lab.data.datamodule.FaceData",
    "source": {
        "_target_": "diffusion_lab.data.celeba.CelebA",
        "root": {"_target_": "diffusion_lab.data.celeba.built_in_faces"},
        "name": "built-in faces",
    },
    "crop": {"_target_": "diffusion_lab.data.crops.center148"},
    "image_size": 32,
    "batch_size": 32,
}
"""As `conf/data/faces.yaml` has them."""

OTHERS = "name others by data=folder data.root=<folder>, data=celeba data.root=<folder>, or data=faces"


def located(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the data whose folders are named from the root, for a config that is read from elsewhere.

    Example:
        >>> located({"source": {"root": "/photos"}, "seed": 0})
        {'source': {'root': '/photos'}, 'seed': 0}
    """
    return _with_roots(data, lambda root: str(Path(root).expanduser().absolute()))


def portable(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings of the data without what is this machine's, for a recipe.

    Args:
        data: plain JSON.
        name: of the data, which may be that of a folder that the recipe does not name.

    Example:
        >>> data = {"_target_": "diffusion_lab.data.groups.folder", "root": "/photos", "name": None, "cache": "/tmp"}
        >>> portable(data, "photos")
        {'_target_': 'diffusion_lab.data.groups.folder', 'root': None, 'name': 'photos'}
    """
    left_out = (*PLACES, *OF_TRAINING, "seed")
    kept = {key: value for key, value in data.items() if key == "root" or key not in left_out}
    return _with_roots({**kept, "name": name} if "name" in kept else kept, lambda root: None)


def found(
    folder: Path, recipe: Mapping[str, Any], changes: Mapping[str, Any], cache: Path | str
) -> tuple[FaceData, str]:
    """The data that an inpainter was trained on, and what to do should they not be there.

    Args:
        folder: of the inpainter; its run's `config.yaml` stands beside it, if it is in its run.
        recipe: of the inpainter.
        changes: settings of the data that go over the run's, such as another root; None changes nothing.
        cache: folder of the decoded pictures.

    Raises:
        ValueError: if nobody knows which pictures, or where; or a change names no setting.
    """
    name = recipe["data"]["name"]
    said = f"'{folder}' was trained on {name}"
    settings = _of_the_run(folder) or _of_the_recipe(folder, recipe)
    if settings is None:
        raise ValueError(f"{said}, and neither its recipe nor a run around it says which pictures these are: {OTHERS}")
    of_no_use = {key: None for key in (*OF_TRAINING, "labels") if key in settings}
    settings = {**settings, **of_no_use, **({"download": False} if "download" in settings else {})}
    if settings.get("name", name) is None:
        settings["name"] = name  # the folder's, which may be called otherwise where it is now
    known = OmegaConf.create({"data": settings})
    OmegaConf.set_struct(known, True)
    merged = OmegaConf.merge(known, {"data": _without_none(changes)})
    resolved: Any = OmegaConf.to_container(merged, resolve=True)
    settings = {**resolved["data"], "mask": None, "seed": 0, "cache": str(cache)}
    roots = {f"data.{key}": value for key, value in recipes.flat(settings).items() if key.split(".")[-1] == "root"}
    lost = [key for key, value in roots.items() if value is None]
    if lost:
        raise ValueError(
            f"{said}, and no config.yaml of its run stands beside it to say where these pictures are: say it by "
            f"{' '.join(f'{key}=<folder>' for key in lost)}, or {OTHERS}"
        )
    try:
        data: FaceData = recipes.build(settings)
    except ValueError as error:
        raise ValueError(f"{said}, whose settings cannot be used here ({error}): {OTHERS}") from None
    place = " ".join(f"{key}=<folder>" for key in roots) or "data.root=<folder>"
    return data, f" ('{folder}' was trained on these pictures: say where they are now by {place}, or {OTHERS})"


def _of_the_run(folder: Path) -> dict[str, Any] | None:
    """The settings of the data in the run that an inpainter stands in; None if it stands in none."""
    path = folder.resolve().parent / "config.yaml"
    if not path.is_file():
        return None
    config = OmegaConf.load(path)
    if not (isinstance(config, DictConfig) and {"data", "inpainter"} <= config.keys()):
        return None  # of another program
    return dict(OmegaConf.to_container(config.data, resolve=True))  # type: ignore[arg-type]


def _of_the_recipe(folder: Path, recipe: Mapping[str, Any]) -> Mapping[str, Any] | None:
    settings: Mapping[str, Any] | None = recipe.get("training", {}).get("data")
    if settings is None and (folder == shipped() or recipe["data"]["name"] == "built-in faces"):
        trained = recipe["data"]
        crop = {"_target_": f"diffusion_lab.data.crops.{trained['crop']}"}
        return {**BUILT_IN, "image_size": trained["image_size"], "crop": crop}
    return settings


def _with_roots(node: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """A copy in which every root that is a path is another."""
    return {
        key: _with_roots(value, change)
        if isinstance(value, Mapping)
        else change(value)
        if key == "root" and isinstance(value, str)
        else value
        for key, value in node.items()
    }


def _without_none(node: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in node.items()
        if value is not None
    }
