"""The command line of the scripts: Hydra, with paths as they are and errors in a sentence."""

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from rich.console import Console

    from diffusion_lab.cascade import Model
    from diffusion_lab.data.datamodule import FaceData
    from diffusion_lab.frames import Points
    from diffusion_lab.photo import Photo

FULL = "HYDRA_FULL_ERROR"

USER_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)
"""What a person can mend; anything else is a fault of ours and shows its traceback."""


def quoted(argument: str, paths: Sequence[str]) -> str:
    """An override whose value is a path, quoted before Hydra's grammar reads it.

    Example:
        >>> quoted("image=a b,c=[1].png", ["image"])
        "image='a b,c=[1].png'"
        >>> quoted("steps=1,2", ["image"])
        'steps=1,2'
    """
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+~") not in paths or value in ("", "null", "auto") or value[0] in "'\"":
        return argument
    escaped = re.sub(r"(\\*)'", r"\1\1\'", value)  # a backslash counts only in front of a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped).replace("${", r"\${")
    return f"{key}='{escaped}'"


def sentence(error: BaseException) -> str:
    """What a person needs of an error: the innermost cause, on one line."""
    while error.__cause__ is not None and not isinstance(error, OmegaConfBaseException | OSError):
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: '{error.filename}'"
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and error.parent_node is not None:
        group = Path(sys.argv[0]).parent / "conf" / str(error.key)
        if group.is_dir():
            options = sorted(path.stem for path in group.glob("*.yaml"))
            return f"no {error.key} is chosen that could have settings: add {error.key}=<one of {', '.join(options)}>"
        known = [str(key) for key in error.parent_node]
        near = difflib.get_close_matches(str(error.key), known) or known
        return f"there is no setting '{error.full_key}'; there is {', '.join(near)}"
    text = str(error).split("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = [line for line in lines if not re.match(r"(full_key|object_type|reference_type|Set the environment)", line)]
    return " ".join(shown) or type(error).__name__


def command(
    config: str,
    paths: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    before: Callable[[list[str]], list[str]] | None = None,
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Makes a script of a function of its config.

    A mistake of the user's ends in one sentence on stderr and exit code 1; ``HYDRA_FULL_ERROR=1`` shows the traceback.

    Args:
        config: name of the top file in ``conf/`` beside the script.
        paths: overrides that are paths: their values are taken as they stand.
        rename: overrides whose name is also a group's, and the setting that they mean here.
        before: changes the arguments before Hydra sees them.
    """
    renamed = rename or {}

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        full: str | None = None

        def restore() -> None:
            os.environ.pop(FULL, None) if full is None else os.environ.update({FULL: full})

        def report(error: Exception) -> NoReturn:
            if full == "1":
                raise error
            print(f"error: {sentence(error)}", file=sys.stderr)
            sys.exit(1)

        @functools.wraps(main)
        def task(cfg: DictConfig) -> None:
            restore()  # children of this process see what the person set, not what `run` needs
            try:
                shown = {setting: name for name, setting in renamed.items()}
                missing = sorted(shown.get(key, key) for key in OmegaConf.missing_keys(cfg))
                if missing:
                    raise ValueError(f"{config}.py needs {', '.join(f'{key}=...' for key in missing)}")
                main(cfg)
            except USER_ERRORS as error:
                report(error)  # here, since Hydra would print of its own what passes through it
            except (ImportError, RuntimeError) as error:
                if "torchvision" not in str(error):
                    raise
                pair = " and ".join(f"{name} {version(name)}" for name in ("torch", "torchvision"))
                report(ValueError(f"{pair} do not fit each other ({error}): install a pair that was released together"))

        def run() -> None:
            nonlocal full
            full = os.environ.get(FULL)
            try:
                arguments = [quoted(argument, paths) for argument in sys.argv[1:]]
                for name, setting in renamed.items():
                    arguments = [re.sub(f"^{name}=", f"{setting}=", argument) for argument in arguments]
                sys.argv[1:] = before(arguments) if before else arguments
                os.environ[FULL] = "1"  # Hydra hands its errors on instead of printing them
                hydra.main(version_base="1.3", config_path="conf", config_name=config)(task)()
            except BrokenPipeError:  # whoever read our output has read enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(141)
            except USER_ERRORS as error:
                report(error)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                sys.exit(130)
            finally:
                restore()

        return run

    return decorate


def run_folder() -> Path:
    """Where this run lives, absolute."""
    return Path(HydraConfig.get().runtime.output_dir).resolve()


def resumed(arguments: list[str]) -> list[str]:
    """Puts a resumed run back into its folder, under the overrides that it was started with and then the new ones.

    `kept` writes the new ones down once the run goes on: a mistake among them must not stay with the run.

    Raises:
        FileNotFoundError: if there is no such run.
        ValueError: if torchrun started several ranks, each of which would name a folder after its own second.
    """
    placed = any(argument.startswith(("hydra.run.dir=", "resume=")) for argument in arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ and not placed:
        raise ValueError(
            "under torchrun every rank needs the same folder: add hydra.run.dir=logs/<experiment>/<run>, or leave "
            "torchrun out, since trainer.devices=2 starts the processes of one machine by itself"
        )
    asked = [argument.partition("=")[2].strip("'") for argument in arguments if argument.startswith("resume=")]
    if not asked or asked[-1] == "null":
        return arguments
    rest = [argument for argument in arguments if not argument.startswith("resume=")]
    run = newest_run(rest) if asked[-1] == "auto" else Path(asked[-1])
    overrides = run / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        raise FileNotFoundError(f"'{run}' is no run folder (it has no .hydra/overrides.yaml): name one under logs/")
    earlier = [str(override) for override in OmegaConf.load(overrides)]
    place = quoted(f"hydra.run.dir={run.resolve()}", ["hydra.run.dir"])
    return [*earlier, *rest, place, "hydra.output_subdir=null"]


def kept() -> None:
    """Writes the overrides of this run where `resumed` looks for them."""
    cfg = HydraConfig.get()
    if cfg.output_subdir is None:
        overrides = [str(override) for override in cfg.overrides.task]
        OmegaConf.save(OmegaConf.create(overrides), run_folder() / ".hydra" / "overrides.yaml")


def newest_run(arguments: Sequence[str]) -> Path:
    """The run that was written to last, of the experiment that the arguments name."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    logs = Path(given.get("paths.logs", "logs").strip("'"))
    name = given.get("name", given.get("experiment", "faces"))
    runs = sorted((logs / name).glob("*/checkpoints"), key=lambda folder: folder.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(
            f"resume=auto found no run with checkpoints in '{logs / name}': start one without resume="
        )
    return runs[-1].parent


def chosen(inpainter: str | None, logs: str) -> Path:
    """The inpainter that was asked for; else the newest run's; else the one that comes with the package."""
    from diffusion_lab.inpainting import newest

    return Path(inpainter) if inpainter else newest(Path(logs))


PICTURE_PATHS = ["image", "mask", "output", "inpainter", "paths.logs"]
"""The settings of `picture_restored` that are paths."""


def eyes_of(align: Any) -> "Sequence[Points] | None":
    """What `photo.cut` is told of a setting `align`: auto, off, or two points [[x, y], [x, y]].

    Raises:
        ValueError: for anything else.

    Examples:
        >>> eyes_of("auto"), eyes_of("off"), eyes_of(False)
        (None, (), ())
        >>> eyes_of([[30, 40], [50, 40]])[0].tolist()
        [[30.0, 40.0], [50.0, 40.0]]
    """
    import numpy as np

    if align in ("auto", "off", False):  # YAML reads off as False
        return None if align == "auto" else ()
    try:
        points = np.array(align, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape != (2, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1:
        raise ValueError(
            f"align={align} must be auto, off, or both eyes as one looks at the picture, in pixels: [[x,y],[x,y]]"
        )
    return [points]


def told(photo: "Photo", align: Any) -> list[str]:
    """What a person is told of the faces of a photo: one line for each in which something is filled."""
    found = [part.eyes for part in photo.parts if part.eyes is not None]
    if found:
        places = [" and ".join(f"({x:.0f}, {y:.0f})" for x, y in eyes) for eyes in found]
        return [f"face: {'found' if align == 'auto' else 'given'}, eyes at {place}" for place in places]
    if align != "auto":
        return ["face: not looked for, filled without alignment"]
    if photo.faces:
        return [f"face: found, but not where the hole is ({len(photo.faces)} in all), filled without alignment"]
    return ["face: none found, filled without alignment"]


def picture_restored(cfg: DictConfig) -> None:
    """What `inpaint.py` and `restore.py` do: one picture in, one or more out."""
    from hydra.utils import instantiate

    from diffusion_lab import cascade, photo
    from diffusion_lab.data.crops import named
    from diffusion_lab.holes import as_mask
    from diffusion_lab.inpainting import device
    from diffusion_lab.opening import as_rgb, opened
    from diffusion_lab.pictures import save_png

    output = Path(cfg.output)
    if output.suffix.lower() != ".png":
        raise ValueError(f"output={output} must end in .png: another format would change the known pixels")
    align = OmegaConf.to_container(cfg.align) if OmegaConf.is_config(cfg.align) else cfg.align
    eyes = eyes_of(align)
    image = as_rgb(opened(Path(cfg.image), "image"))
    hole = None if cfg.hole is None else as_mask(opened(Path(cfg.hole), "mask"), cfg.mask_mode)
    folder = chosen(cfg.inpainter, cfg.paths.logs)
    print(f"inpainter: {folder}", flush=True)
    seeds = list(range(cfg.seed, cfg.seed + cfg.num_samples))
    inpainter, sampler = cascade.load(folder).to(device(cfg.device)), instantiate(cfg.get("sampler"))
    data = inpainter.recipe["data"]
    crop = named(data["crop"])
    cut = photo.cut(image, hole, int(data["image_size"]), crop, inpainter.task, eyes)
    if hole is not None:
        lines = (
            told(cut, align) if crop.eyes else [f"face: not looked for, the model's crop ({crop.name}) knows no eyes"]
        )
        print("\n".join(lines), flush=True)
    pictures = photo.fill(inpainter, cut, seeds, sampler, cfg.feather, cfg.attributes)
    for seed, picture in zip(seeds, pictures, strict=True):
        path = output if len(seeds) == 1 else output.with_stem(f"{output.stem}-{seed}")
        save_png(picture, path)
        print(f"wrote {path} (seed {seed}, {inpainter.network_calls(sampler) * len(cut.parts)} network calls)")


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


class Subject(NamedTuple):
    """An inpainter that is to be scored, and on what."""

    inpainter: "Model"
    data: "FaceData"
    fabric: "Fabric"
    console: "Console"
    output: Path
    protocol: dict[str, Any]


def subject(cfg: DictConfig) -> Subject:
    """Loads what a scoring script is about: pictures of the size and the crop that the inpainter was trained on."""
    from hydra.utils import instantiate
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from rich.console import Console

    from diffusion_lab import cascade
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
    trained_on = inpainter.recipe["data"]
    cfg.data.image_size = cfg.data.image_size or trained_on["image_size"]
    cfg.data.crop._target_ = cfg.data.crop._target_ or f"diffusion_lab.data.crops.{trained_on['crop']}"
    data = instantiate(cfg.data)
    wide = None if sys.stdout.isatty() else 120  # a file has no edge at 80 columns that would cut the table
    console = Console(quiet=not fabric.is_global_zero, width=wide)
    console.print(f"Scoring {folder} on the {cfg.split} split of {data.name}", highlight=False)
    if fabric.is_global_zero:
        data.source.prepare()
    fabric.barrier()
    protocol = {
        "data": data.name,
        "trained_on": trained_on["name"],
        "crop": data.crop.name,
        "split": cfg.split,
        "inpainter": str(folder),
    }
    return Subject(inpainter, data, fabric, console, Path(cfg.output or beside / "evaluation"), protocol)
