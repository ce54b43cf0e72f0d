"""``python -m diffusion_lab.evaluation compare A B ...``: one page of several evaluations, by protocol."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    asked = parser.parse_args(arguments)
    try:
        runs = dict(zip(labels(asked.results), map(read, asked.results), strict=True))
        write(asked.output, runs)
    except OSError as error:
        print(f"error: {error.strerror}: '{error.filename}'", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    count = len({report.protocol_sha256 for report in runs.values()})
    said = "" if count == 1 else f"; they are of {count} protocols, whose figures do not compare"
    print(f"Wrote {asked.output}: {len(runs)} evaluations{said}")
    return 0


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
