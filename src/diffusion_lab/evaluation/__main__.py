"""``python -m diffusion_lab.evaluation compare|leaderboard A B ...``: several evaluations, or sweeps, side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from diffusion_lab.evaluation import leaderboard
from diffusion_lab.evaluation.page import write
from diffusion_lab.evaluation.results import read


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_lab.evaluation", description="Look at evaluations.")
    commands = parser.add_subparsers(required=True, metavar="command")
    compare = commands.add_parser("compare", help="write one page of several evaluations, by protocol")
    compare.add_argument(
        "results", type=Path, nargs="+", help="results.json of evaluate.py, or the folder that holds it"
    )
    compare.add_argument("--output", type=Path, default=Path("report.html"), help="(default: report.html)")
    compare.set_defaults(run=_compare)
    board = commands.add_parser("leaderboard", help="set the configurations of sweeps beside each other")
    board.add_argument("folders", type=Path, nargs="+", metavar="folder", help="of a sweep, or of runs")
    board.add_argument("--by", metavar="FIGURE", help="that orders them, such as fid or val/psnr (default: lpips)")
    board.add_argument("--output", type=Path, help="folder for leaderboard.md and .json (default: the first folder)")
    board.set_defaults(run=_leaderboard)
    asked = parser.parse_args(arguments)
    try:
        print(asked.run(asked))
    except OSError as error:
        print(f"error: {error.strerror}: '{error.filename}'", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _compare(asked: argparse.Namespace) -> str:
    """Writes the page, and says so."""
    runs = dict(zip(labels(asked.results), map(read, asked.results), strict=True))
    write(asked.output, runs)
    count = len({report.protocol_sha256 for report in runs.values()})
    said = "" if count == 1 else f"; they are of {count} protocols, whose figures do not compare"
    return f"Wrote {asked.output}: {len(runs)} evaluations{said}"


def _leaderboard(asked: argparse.Namespace) -> str:
    """Prints and writes the boards, and says what stands in none."""
    found = leaderboard.runs(asked.folders)
    boards = leaderboard.boards(found, asked.by)
    console = Console(width=None if sys.stdout.isatty() else 160)
    folder = asked.output or asked.folders[0]
    left = leaderboard.unfinished(asked.folders, found)
    leaderboard.show(boards, left, console)
    leaderboard.save(boards, left, folder, f"Leaderboard of {asked.folders[0].resolve().name}")
    several = "" if len(boards) < 2 else f"; {len(boards)} protocols, whose figures do not compare"
    said = f"; {len(left)} are not done or stand in no table" if left else ""
    return f"Wrote leaderboard.html, .md and .json to {folder}: {len(found)} runs{said}{several}"


def labels(paths: Sequence[Path]) -> list[str]:
    """What tells paths apart: they, without the folders that all begin and end with.

    ValueError if one is named twice.

    Example:
        >>> labels([Path("logs/a/evaluation"), Path("logs/b/evaluation/results.json")])
        ['a', 'b']
    """
    parts = [(path.parent if path.name == "results.json" else path).absolute().parts for path in paths]
    if len(set(parts)) < len(parts):
        twice = next(path for path, each in zip(paths, parts, strict=True) if parts.count(each) > 1)
        raise ValueError(f"'{twice}' is named twice: name each evaluation once")
    if len(parts) == 1:
        return [parts[0][-1]]
    for end in (0, -1):
        while len({each[end] for each in parts}) == 1 and min(map(len, parts)) > 1:
            parts = [each[1:] if end == 0 else each[:-1] for each in parts]
    return ["/".join(each) for each in parts]


if __name__ == "__main__":
    sys.exit(main())
