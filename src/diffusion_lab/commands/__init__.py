"""``diffusion-lab NAME``: what an installed package can do, where a clone has a script for each.

A command is a module with a `main`, and is imported when it is asked for: its help does not wait for torch.
"""

import difflib
import importlib
import os
import re
import sys
from importlib.metadata import version

CONFIGURED = {
    "train": "train a model, on the built-in faces or one's own pictures",
    "evaluate": "score a model against its task's baselines",
    "inpaint": "fill the hole of one picture",
    "restore": "restore one picture by what a model was trained for",
    "likelihood": "bits per dimension of a model",
    "serve": "open a page and an API",
    "pipeline": "train, evaluate, ask the gate, register, promote",
}
"""Commands whose every setting is a Hydra override."""

OTHERS = {
    "sweep": ("diffusion_lab.commands.sweep", "search for settings by Optuna"),
    "registry": ("diffusion_lab.commands.registry", "look after trained models"),
    "monitor": ("diffusion_lab.serving.monitor", "say whether visitors send what the model was trained on"),
    "figures": ("diffusion_lab.commands.figures", "draw diffusion itself"),
    "labs": ("diffusion_lab.labs.__main__", "learn it with one's own hands: start, check"),
}
"""Commands with options, and the module of each."""

MODULES = {
    **{name: f"{__name__}.{name}" for name in CONFIGURED},
    **{name: place for name, (place, _) in OTHERS.items()},
}


def main() -> int:
    """Runs the command that the first argument names; returns the exit status.

    The program's name becomes the command's file: what starts a process again, as Lightning does for each further
    device, a sweep for each job and the pipeline for each stage, starts that file with the same overrides.
    """
    program, *arguments = sys.argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        try:
            print(listing(), flush=True)
        except BrokenPipeError:  # whoever read it has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif name == "--version":
        print(f"diffusion-lab {version('diffusion-lab')}")
    elif name in ("-sc", "--shell-completion"):
        completed(program, arguments)
    elif name in MODULES:
        module = importlib.import_module(MODULES[name])
        sys.argv[:] = [str(module.__file__), *arguments[1:]]
        return int(module.main() or 0)
    else:
        near = difflib.get_close_matches(name, MODULES) or list(MODULES)
        print(f"error: there is no command '{name}'; there is {', '.join(near)}", file=sys.stderr)
        return 1
    return 0


def listing() -> str:
    """Every command with what it is for."""
    said = {**CONFIGURED, **{name: text for name, (_, text) in OTHERS.items()}}
    lines = [f"  {name:<12}{text}" for name, text in said.items()]
    return "\n".join(
        [
            "usage: diffusion-lab COMMAND [SETTING=VALUE ...]",
            "",
            *lines,
            "",
            "COMMAND --help says what can be set. Groups of one's own stand beside the packaged ones in the folder of",
            "--config-dir FOLDER; --cfg job prints what would run. Tab completes after",
            'eval "$(diffusion-lab -sc install=bash)"',
        ]
    )


def completed(program: str, arguments: list[str]) -> None:
    """Answers the shell, which asks for the script that completes or for what may stand at the cursor.

    Hydra does that for one program. The command in front is completed here and taken off the line that Hydra sees.

    Args:
        program: as it was called: the shell completes for a program of that name.
        arguments: ``-sc``, then ``install=``, ``uninstall=`` or ``query=`` and the name of a shell.
    """
    name = "train"  # any command can write the script
    if any(argument.startswith("query=") for argument in arguments):
        line = os.environ.get("COMP_LINE", "")
        called, name, rest = [*re.split(r"\s+", line.lstrip(), maxsplit=2), "", ""][:3]
        if not re.match(r"\s*\S+\s+\S+\s", line):  # the cursor is still at the command
            print("\n".join(command for command in MODULES if command.startswith(name)))
            return
        if name not in CONFIGURED:
            return
        os.environ["COMP_LINE"] = f"{called} {rest}"
        if beside := re.search(r"(?:--config-dir|-cd)[ =]+(\S+)\s", rest):
            arguments = ["--config-dir", beside[1], *arguments]
    module = importlib.import_module(MODULES[name])
    sys.argv[:] = [program, *arguments]
    module.main()
