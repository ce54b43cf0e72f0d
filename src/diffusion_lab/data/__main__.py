"""``python -m diffusion_lab.data verify ROOT``: open every picture of a folder and list the bad ones."""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

from diffusion_lab.data.celeba import IMAGES, CelebA
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.folder import Folder
from diffusion_lab.data.index import PARTITION
from diffusion_lab.data.source import SPLITS, Source


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status, 0 when every picture is whole."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_lab.data", description="Look after folders of pictures.")
    commands = parser.add_subparsers(required=True, metavar="command")
    verify = commands.add_parser("verify", help="open every picture and list those that cannot be read")
    verify.add_argument("root", type=Path, help="CelebA's folder, or any folder of pictures")
    try:
        return _verify(parser.parse_args(arguments).root)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _verify(root: Path) -> int:
    like_celeba = any((root / name).exists() for name in (IMAGES, f"{IMAGES}.zip", PARTITION))
    source: Source = CelebA(root) if like_celeba else Folder(root)
    source.prepare()
    total = sum(len(source.names(split)) for split in SPLITS)
    bad = 0
    for name, fault in track(_faults(source), "Opening pictures", total, console=Console(stderr=True), transient=True):
        if fault is not None:
            bad += 1
            print(f"{name}: {fault}")
    print(f"{total - bad:,} of {total:,} pictures in {root} are whole.")
    return 1 if bad else 0


def _faults(source: Source) -> Iterator[tuple[str, str | None]]:
    """(name, what is wrong with it or None) of every picture, in order."""

    def fault(name: str) -> tuple[str, str | None]:
        try:
            decode(source.read(name))
        except OSError as error:
            return name, str(error)
        return name, None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split in SPLITS:
            names = source.names(split)
            for start in range(0, len(names), 1024):  # a future for each of 200,000 pictures at once would be a lot
                yield from pool.map(fault, names[start : start + 1024])


if __name__ == "__main__":
    sys.exit(main())
