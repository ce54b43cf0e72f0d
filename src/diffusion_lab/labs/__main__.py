"""``python -m diffusion_lab.labs``: start the labs in a folder, check what was written, build the notebooks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.labs import text


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status, of `check` 0 if all that was asked for is solved."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_lab.labs", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="command")
    starts = commands.add_parser("start", help="write the labs into a folder, for a student to fill in")
    starts.add_argument("folder", type=Path)
    starts.add_argument("--language", choices=text.LANGUAGES, default="en")
    starts.add_argument("--script", action="store_true", help="percent scripts instead of notebooks")
    starts.add_argument("--solutions", action="store_true", help="with the solutions")
    checks = commands.add_parser("check", help="say whether exercises are solved")
    checks.add_argument("numbers", nargs="*", metavar="exercise", help="such as 1.3")
    checks.add_argument("--all", action="store_true", help="every exercise")
    checks.add_argument("--folder", type=Path, default=Path(), help="of the student's notebooks; here if not said")
    checks.add_argument("--json", action="store_true", help="marks as one JSON object")
    builds = commands.add_parser("build", help="write the notebooks of both languages from their sources")
    builds.add_argument("folder", type=Path, nargs="?", default=Path("labs"))
    builds.add_argument("--solutions", action="store_true", help="with the solutions")
    asked = parser.parse_args(given)
    if asked.command == "check" and bool(asked.numbers) == asked.all:
        checks.error("say which exercises, such as 1.3, or --all")
    try:
        if asked.command == "check":
            from diffusion_lab.labs.marking import checked  # brings torch, which the others do without

            return checked(asked.numbers, asked.folder, asked.json)
        if asked.command == "start":
            paths = text.written(asked.folder, asked.language, asked.solutions, ".py" if asked.script else ".ipynb")
        else:
            paths = [
                path
                for language in text.LANGUAGES
                for path in text.written(asked.folder / language, language, asked.solutions, replace=True)
            ]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
