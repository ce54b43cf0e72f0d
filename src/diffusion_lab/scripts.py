"""What several scripts do: which model is meant, and which pictures it is scored on."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli import sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.fabric import Fabric
    from rich.console import Console
    from torch import Tensor

    from diffusion_lab.cascade import Model
    from diffusion_lab.data.datamodule import FaceData
    from diffusion_lab.data.labels import Labels


def chosen(inpainter: str | None, logs: str) -> Path:
    """The inpainter that was asked for; else the newest run's; else the one that comes with the package."""
    from diffusion_lab.inpainting import newest

    return Path(inpainter) if inpainter else newest(Path(logs))


def for_its_task(arguments: list[str]) -> list[str]:
    """Puts the task that the inpainter was trained for before the arguments, unless they name one."""
    if any(argument.startswith("-") for argument in arguments if not argument.startswith("--config")):
        return [re.sub("^task=", "task@_global_=", argument) for argument in arguments]  # somebody asks for help
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if "task" not in given:
        from diffusion_lab import recipe

        asked = given.get("inpainter", "null").strip("'")
        folder = chosen(None if asked == "null" else asked, given.get("paths.logs", "logs").strip("'"))
        arguments = [f"task={recipe.task(recipe.read(folder))}", *arguments]
    return [re.sub("^task=", "task@_global_=", argument) for argument in arguments]


def as_trained(arguments: list[str]) -> list[str]:
    """Where no `data=` names others, settings of the data go over those that the inpainter was trained on."""
    if any(argument.startswith("data=") for argument in arguments):
        return arguments
    return [f"++{argument}" if argument.startswith("data.") else argument for argument in arguments]


class Subject(NamedTuple):
    """An inpainter that is to be scored, and on what."""

    inpainter: "Model"
    data: "FaceData"
    fabric: "Fabric"
    console: "Console"
    output: Path
    protocol: dict[str, Any]
    learned: "Callable[[], FaceData]"
    """What it was trained on; ValueError where that is not known, or not here."""


def subject(cfg: DictConfig) -> Subject:
    """Loads what a scoring script is about: the pictures that the inpainter was trained on, or those of `data=`.

    These too are taken in the size and the crop that it was trained on.
    """
    from hydra.utils import instantiate
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from rich.console import Console

    from diffusion_lab import cascade, trained_on
    from diffusion_lab.inpainting import shipped

    folder = chosen(cfg.inpainter, cfg.paths.logs)
    beside = Path(cfg.paths.logs) / "shipped" if folder == shipped() else folder.parent
    try:
        fabric = Fabric(accelerator=cfg.accelerator, devices=cfg.devices)
    except (MisconfigurationException, RuntimeError) as error:
        raise ValueError(
            f"accelerator={cfg.accelerator} devices={cfg.devices} is not to be had on this machine ({error}): "
            "use accelerator=cpu, or fewer devices"
        ) from None
    fabric.launch()
    inpainter = cascade.load(folder).to(fabric.device).eval()
    trained = inpainter.recipe["data"]
    if "_target_" in cfg.data:
        cfg.data.image_size = cfg.data.image_size or trained["image_size"]
        cfg.data.crop._target_ = cfg.data.crop._target_ or f"diffusion_lab.data.crops.{trained['crop']}"
        data, advice = instantiate(cfg.data), ""
    else:
        changes: Any = OmegaConf.to_container(cfg.data, resolve=True)
        data, advice = trained_on.found(folder, inpainter.recipe, changes, cfg.paths.cache)
    wide = None if sys.stdout.isatty() else 120  # a file has no edge at 80 columns that would cut the table
    console = Console(quiet=not fabric.is_global_zero, width=wide)
    console.print(f"Scoring {folder} on the {cfg.split} split of {data.name}", highlight=False)
    if fabric.is_global_zero:
        try:
            data.source.prepare()
        except OSError as error:
            raise FileNotFoundError(f"{sentence(error)}{advice}") from None
    fabric.barrier()
    protocol = {
        "data": data.name,
        "trained_on": trained["name"],
        "crop": data.crop.name,
        "split": cfg.split,
        "inpainter": str(folder),
    }
    output = Path(cfg.output or beside / "evaluation")

    def learned() -> "FaceData":
        if "_target_" in cfg.get("training", {}):
            cfg.training.image_size = cfg.training.image_size or data.image_size
            cfg.training.crop._target_ = cfg.training.crop._target_ or f"diffusion_lab.data.crops.{data.crop.name}"
            known: FaceData = instantiate(cfg.training)
        elif data.name == trained["name"]:
            known = data
        else:
            known, _ = trained_on.found(folder, inpainter.recipe, {"image_size": data.image_size}, cfg.paths.cache)
            if known.name != trained["name"]:
                raise ValueError(
                    f"'{folder}' was trained on {trained['name']}, which are not here: name these pictures by "
                    "data@training=folder training.root=<folder> training.shares=[1,0,0], or by data@training=celeba"
                )
        if fabric.is_global_zero:
            known.source.prepare()
        fabric.barrier()
        return known

    return Subject(inpainter, data, fabric, console, output, protocol, learned)


def labelled(data: "FaceData", labels: "Labels | None", split: str) -> "dict[str, Tensor]":
    """Which pictures of a split have which attribute, bool (N,) by name; none where nothing is known of them.

    Args:
        data: the pictures.
        labels: says it; None takes the list that the source has, if it has one.
        split: of the pictures.
    """
    from diffusion_lab.data.labels import Listed

    if labels is None and not data.source.attribute_names:
        return {}
    labels = labels or Listed()
    values = labels(data.source, data.crop, data.pictures, split)
    return dict(zip(labels.names(data.source), (values > 0.5).T, strict=True))
