"""``python -m diffusion_lab.cascade``: makes one model of a base and refiners, and inpainters of one model again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.cascade import Cascade, apart, joined, load
from diffusion_lab.inpainting import Inpainter


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.cascade",
        description="Joins a base and refiners, trained apart, to one model; or takes one such model apart.",
    )
    parser.add_argument(
        "stages", nargs="+", type=Path, help="folders of inpainters, the coarsest first; or the folder of one cascade"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="folder of the cascade; or for its stages, as 0, 1 and so on in it"
    )
    parser.add_argument("--half", action="store_true", help="store the weights in float16: half the bytes")
    asked = parser.parse_args(arguments)
    try:
        given = load(asked.stages[0]) if len(asked.stages) == 1 else joined(asked.stages)
        made = {asked.output: given}
        if len(asked.stages) == 1 and isinstance(given, Cascade):
            made = {asked.output / str(number): stage for number, stage in enumerate(apart(given))}
        elif isinstance(given, Inpainter):
            raise ValueError(f"'{asked.stages[0]}' is one inpainter: name the folders of two or more, or of a cascade")
        for folder, model in made.items():
            (model.half() if asked.half else model).save(folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    for folder, model in made.items():
        sizes = " -> ".join(
            map(str, model.sizes if isinstance(model, Cascade) else [model.recipe["data"]["image_size"]])
        )
        what = "a cascade of" if isinstance(model, Cascade) else "an inpainter of"
        print(f"{folder}: {what} {sizes} px, {model.network_calls()} network calls a picture")


if __name__ == "__main__":
    main()
