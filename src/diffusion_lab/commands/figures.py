"""Draws diffusion itself: ``diffusion-lab figures``.

Of a model: forward.png, a face on its way into noise; snr.png, the schedules; reverse.png, one hole as every solver
fills it. With --lesson, swissroll.png instead: the trajectories of 2015's lesson. With --results, calls.png and its
like: quality against network calls, from what evaluate.py wrote. With --tasks, tasks.png: what models of different
tasks are given, and what they make of it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def main(given: Sequence[str] | None = None) -> int:
    """Draws what the arguments name; without any, what there is to draw of the newest model.

    Args:
        given: the arguments; None reads the command line's.

    Returns:
        0, or 1 if something was not there.
    """
    parser = argparse.ArgumentParser(prog="diffusion-lab figures", description=__doc__)
    parser.add_argument("--inpainter", type=Path, help="folder; without it the newest run's, or the one that ships")
    parser.add_argument("--tasks", nargs="*", default=[], type=Path, metavar="FOLDER", help="inpainters: tasks.png")
    parser.add_argument("--lesson", type=Path, help="model/ of a run of experiment=dpm2015_swissroll")
    parser.add_argument(
        "--results", nargs="*", default=[], metavar="NAME=FILE", help="results.json of evaluate.py: NAME.png"
    )
    parser.add_argument("--output", type=Path, default=Path("figures"), help="folder")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "diffusion_lab")
    asked = parser.parse_args(given)  # before torch is imported, and help need not wait
    import torch

    from diffusion_lab import figures
    from diffusion_lab.inpainting import Inpainter, newest

    if given is None:  # the process is ours: pictures come out alike whatever the number of cores
        torch.set_num_threads(1)

    def save(picture: "Image.Image", name: str) -> None:
        asked.output.mkdir(parents=True, exist_ok=True)
        picture.quantize(256).save(asked.output / f"{name}.png", optimize=True)
        print(f"wrote {asked.output / name}.png")

    try:
        for named_file in asked.results:
            name, _, file = named_file.rpartition("=")
            save(figures.quality(json.loads(Path(file).read_text())), name or "quality")
        if asked.tasks:
            save(figures.tasks([Inpainter.load(folder) for folder in asked.tasks], asked.cache), "tasks")
        if asked.lesson:
            save(figures.swiss_roll(asked.lesson), "swissroll")
        if asked.inpainter or not (asked.results or asked.lesson or asked.tasks):
            save(figures.signal_to_noise(), "snr")
            save(figures.forward_process(figures.faces(64, 1, asked.cache)[0]), "forward")
            inpainter = Inpainter.load(asked.inpainter or newest(Path("logs")))
            face = figures.faces(inpainter.recipe["data"]["image_size"], 6, asked.cache)[5]
            save(figures.reverse_process(inpainter, face), "reverse")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
