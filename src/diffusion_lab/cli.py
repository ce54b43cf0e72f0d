"""The command line of the scripts: Hydra, with paths as they are and errors in a sentence."""

import argparse
import difflib
import functools
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from diffusion_lab import sweeps

# For every group that its help lists, Hydra would copy all that is stored in this singleton: half of the time.
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
# From Python 3.14 on, argparse reads each help text when it is given one; Hydra 1.3's of the shell's completion is none
# before it is printed.
if hasattr(argparse.ArgumentParser, "_check_help"):
    argparse.ArgumentParser._check_help = lambda parser, action: None

FULL = "HYDRA_FULL_ERROR"

PACKAGE = Path(__file__).parent
COMMANDS = PACKAGE / "commands"


def configuration() -> Path:
    """The folder of the configuration: what an installed package brings, or ``conf/`` of a clone."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parents[1] / "conf"


def as_called(text: str) -> str:
    """What is said to a person, with the commands named as that person called this one.

    Who has a clone types ``train.py``, and who installed the package ``diffusion-lab train``.
    """
    if Path(sys.argv[0]).absolute().parent != COMMANDS:
        return text
    names = "|".join(path.stem for path in COMMANDS.glob("[a-z]*.py"))
    return re.sub(rf"(?<![\w./\\-])({names})\.py\b", r"diffusion-lab \1", text)


MULTIRUN = ("-m", "--multirun")

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
        group = configuration() / str(error.key)
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
        config: name of the top file in the configuration, and of the script.
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
            print(f"error: {as_called(sentence(error))}", file=sys.stderr)
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
                name = fresh_name()
                OmegaConf.register_new_resolver("fresh_name", lambda: name, replace=True)
                os.environ[FULL] = "1"  # Hydra hands its errors on instead of printing them
                hydra.main(version_base="1.3", config_path=str(configuration()), config_name=config)(task)()
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


def configured_beside() -> list[str]:
    """The ``--config-dir`` of this call, for another one that it makes."""
    sources = HydraConfig.get().runtime.config_sources
    return [word for source in sources if source.provider == "command-line" for word in ("--config-dir", source.path)]


def fresh_name() -> str:
    """A name for a run that no other has: when it began, and eight hexadecimal digits by chance."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(4)}"


def run_folder() -> Path:
    """Where this run lives, absolute."""
    return Path(HydraConfig.get().runtime.output_dir).resolve()


def resumed(arguments: list[str]) -> list[str]:
    """Puts a resumed run or sweep back into its folder, under the overrides that it was started with and then new ones.

    `kept` writes the new ones down once the run goes on: a mistake among them must not stay with the run. A sweep notes
    them when its jobs are known.

    Raises:
        FileNotFoundError: if there is no such run.
        ValueError: if a run was asked to go on as a sweep; or if torchrun started several ranks, each of which would
            name a folder of its own.
    """
    placing = ("hydra.run.dir=", "hydra.sweep.dir=", "resume=")
    placed = any(argument.startswith(placing) for argument in arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ and not placed:
        raise ValueError(
            "under torchrun every rank needs the same folder: add hydra.run.dir=logs/<experiment>/<run>, or leave "
            "torchrun out, since trainer.devices=2 starts the processes of one machine by itself"
        )
    asked = [argument.partition("=")[2].strip("'") for argument in arguments if argument.startswith("resume=")]
    if not asked or asked[-1] == "null":
        return arguments
    rest = [argument for argument in arguments if not argument.startswith("resume=")]
    several = [flag for flag in rest if flag in MULTIRUN]
    rest = [argument for argument in rest if argument not in MULTIRUN]
    run = newest_run(rest, bool(several)) if asked[-1] == "auto" else Path(asked[-1])
    if (run / sweeps.SWEEP).is_file():
        anew = {argument.partition("=")[0] for argument in rest}
        earlier = [argument for argument in sweeps.asked(run) if argument.partition("=")[0] not in anew]
        return ["--multirun", *earlier, *rest, quoted(f"hydra.sweep.dir={run.resolve()}", ["hydra.sweep.dir"])]
    if several:
        raise ValueError(f"'{run}' is no sweep (it has no {sweeps.SWEEP}): leave {several[0]} out, or name a sweep")
    overrides = run / ".hydra" / "overrides.yaml"
    if not overrides.is_file():
        raise FileNotFoundError(f"'{run}' is no run folder (it has no .hydra/overrides.yaml): name one under logs/")
    earlier = [str(override) for override in OmegaConf.load(overrides)]
    return [*earlier, *rest, quoted(f"hydra.run.dir={run.resolve()}", ["hydra.run.dir"])]


def kept() -> None:
    """Writes the overrides of this run where `resumed` looks for them.

    Hydra would have written them before anything is known of the run, over those of one that is at work there.
    """
    overrides = [str(override) for override in HydraConfig.get().overrides.task]
    path = run_folder() / ".hydra" / "overrides.yaml"
    path.parent.mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create(overrides), path)


def newest_run(arguments: Sequence[str], several: bool = False) -> Path:
    """The run or sweep that was written to last, of the experiment that the arguments name.

    Args:
        arguments: of the command.
        several: whether a sweep is wanted.
    """
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    logs = Path(given.get("paths.logs", "logs").strip("'"))
    name = given.get("name", given.get("experiment", "faces"))
    marks = [*(logs / name).glob(f"*/{sweeps.SWEEP}")]
    marks += [] if several else [*(logs / name).glob("*/checkpoints")]

    def written(mark: Path) -> float:
        return max(path.stat().st_mtime for path in (mark, *mark.parent.glob("*/checkpoints")))

    if not marks:
        what = "sweep" if several else "run with checkpoints"
        raise FileNotFoundError(f"resume=auto found no {what} in '{logs / name}': start one without resume=")
    return max(marks, key=written).parent
