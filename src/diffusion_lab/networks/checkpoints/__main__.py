"""Turns a public checkpoint into a folder of ours: ``python -m diffusion_lab.networks.checkpoints FILE --help``."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab import recipe
from diffusion_lab.networks import checkpoints
from diffusion_lab.networks.checkpoints.guided import PALETTE
from diffusion_lab.networks.classifier import Classifier

DIFFUSION = "diffusion_lab.diffusion"
CHECKPOINTS = "diffusion_lab.networks.checkpoints"


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {CHECKPOINTS}", description="Turn a checkpoint into an inpainter, or into a classifier."
    )
    parser.add_argument(
        "file", type=Path, help=".pt, .pth or .safetensors; or a folder with a UNet2DModel's config.json"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--schedule", required=True, help="it was trained on: linear, cosine, quadratic, ...")
    parser.add_argument("--steps", type=int, default=1000, help="of that schedule")
    parser.add_argument(
        "--start", type=float, help="first beta; unless said, 1e-4 * 1000 / steps (guided-diffusion), 1e-4 (diffusers)"
    )
    parser.add_argument("--end", type=float, help="last beta; unless said, 0.02 likewise")
    parser.add_argument("--rescale-timesteps", action="store_true", help="as guided-diffusion calls it")
    parser.add_argument("--image-size", type=int, help="pixels; a config.json knows it")
    parser.add_argument("--heads", type=int, help="attention heads; or --head-width; a config.json knows it")
    parser.add_argument("--head-width", type=int, help="channels of each attention head")
    parser.add_argument("--num-heads-upsample", type=int, help="if guided-diffusion was given one: it must be --heads")
    parser.add_argument(
        "--new-attention-order", action="store_true", help="as guided-diffusion calls it; its 64-px model"
    )
    parser.add_argument("--classes", type=Path, help="text file with the name of a class on each line; else 0, 1, ...")
    parser.add_argument("--data", default="unknown data", help="what it was trained on; stands beside every number")
    parser.add_argument("--crop", default="full", help="how those pictures were cropped")
    return parser.parse_args(given)


def convert(asked: argparse.Namespace) -> tuple[checkpoints.Converted, str]:
    """The network of a file, and the name of the function by which it is told the level."""
    by_index = "by_scaled_index" if asked.rescale_timesteps else "by_index"
    if asked.file.is_dir():
        weights = sorted(asked.file.glob("*.safetensors")) or sorted(asked.file.glob("*.bin"))
        if not weights:
            raise FileNotFoundError(f"neither *.safetensors nor *.bin in '{asked.file}': download the weights as well")
        state = checkpoints.read_tensors(weights[0])
        return checkpoints.from_diffusers(checkpoints.read_config(asked.file), state), by_index
    state = checkpoints.read_tensors(asked.file)
    if asked.image_size is None:
        raise ValueError("the picture's size cannot be seen in the tensors: say --image-size")
    heads_first = not asked.new_attention_order
    if "out.2.positional_embedding" in state:
        width = asked.head_width or 64
        return checkpoints.from_guided_classifier(state, asked.image_size, width, heads_first), by_index
    heads = asked.heads, asked.head_width, heads_first, asked.num_heads_upsample
    if any(name.startswith(PALETTE) for name in state):
        if asked.rescale_timesteps:
            raise ValueError(
                "Palette's network is told gamma, which does not depend on T: leave out --rescale-timesteps"
            )
        return checkpoints.from_palette(state, asked.image_size, *heads), "by_bare_gamma"
    return checkpoints.from_guided_diffusion(state, asked.image_size, *heads), by_index


def schedule_of(asked: argparse.Namespace) -> dict[str, Any]:
    """The schedule in the recipe.

    Raises:
        ValueError: for one that does not exist, or is not made of these numbers.
    """
    # diffusers' betas are those of its configuration, whatever T is; guided-diffusion's depend on T.
    as_they_stand = asked.file.is_dir() and asked.schedule in ("linear", "quadratic")
    said = {"start": 1e-4, "end": 0.02} if as_they_stand else {}
    said |= {name: value for name, value in (("start", asked.start), ("end", asked.end)) if value is not None}
    node = {"_target_": f"{DIFFUSION}.schedule.{asked.schedule}", "steps": asked.steps, **said}
    try:
        recipe.build(node)
    except TypeError:
        raise ValueError(
            f"--schedule {asked.schedule} is not made of {', '.join(f'--{name}' for name in ('steps', *said))}: "
            "take linear, quadratic, sigmoid, cosine or jsd, the last two without --start and --end"
        ) from None
    return node


def classes_of(asked: argparse.Namespace, count: int) -> dict[str, Any]:
    """What the recipe says of a network's classes: their names, and that a picture has exactly one."""
    if not count and asked.classes:
        raise ValueError(f"--classes '{asked.classes}' names classes, but the network knows none: leave it out")
    if not count:
        return {}
    names = asked.classes.read_text().splitlines() if asked.classes else [str(number) for number in range(count)]
    if len(names) != count:
        raise ValueError(f"'{asked.classes}' has {len(names)} lines, but the network knows {count} classes")
    return {"attributes": names, "exclusive": True}


def described(asked: argparse.Namespace, found: checkpoints.Converted, told: str) -> dict[str, Any]:
    """The recipe of an inpainter or a classifier around a converted network."""
    shared = {
        "network": {"_target_": f"{found.network.__module__}.{found.network.__qualname__}", **found.options},
        "schedule": schedule_of(asked),
        "told": {"_target_": f"{CHECKPOINTS}.told.{told}", "_partial_": True},
    }
    classifies = found.network is Classifier
    return {
        "model": classifier(shared) if classifies else inpainter(shared, found.options),
        "data": {
            "name": asked.data,
            "crop": asked.crop,
            "image_size": found.options["image_size"],
            **classes_of(asked, found.options["outputs"] if classifies else found.options.get("attributes", 0)),
        },
        "training": {"converted_from": asked.file.name},
    }


def classifier(shared: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a classifier that can guide: of the classes that it knows, a picture has one."""
    exclusive = {"_target_": f"{DIFFUSION}.guidance.exclusive", "_partial_": True}
    return {
        "_target_": "diffusion_lab.classifying.AttributeClassifier",
        "denoiser": {"_target_": f"{DIFFUSION}.guidance.NetworkClassifier", **shared, "reads": exclusive},
    }


def inpainter(shared: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The node of an inpainter, which samples as the program does that it comes from."""
    epsilon = {"_target_": f"{DIFFUSION}.denoiser.Epsilon"}
    learned = {"_target_": f"{DIFFUSION}.denoiser.LearnedRange", "of": epsilon}
    # A model of whole pictures never saw clean pixels beside noisy ones.
    whole = {"sampler": {"_target_": f"{DIFFUSION}.samplers.repaint"}, "constrain": "keep_noised"}
    palette = {"sampler": {"_target_": f"{DIFFUSION}.samplers.palette", "variance_mix": 0.0}, "constrain": "keep_clean"}
    way = palette if options["condition_channels"] > 0 else whole
    return {
        "_target_": "diffusion_lab.inpainting.Inpainter",
        "denoiser": {
            "_target_": f"{DIFFUSION}.denoiser.NetworkDenoiser",
            **shared,
            "predicts": learned if options["out_channels"] == 6 else epsilon,
        },
        "sampler": way["sampler"],
        "constrain": {"_target_": f"{DIFFUSION}.sampling.{way['constrain']}", "_partial_": True},
    }


def main(given: Sequence[str] | None = None) -> int:
    """Converts as the command line says; what is wrong is said in one sentence.

    Args:
        given: the arguments; None reads the command line's.

    Returns:
        0, or 1 if it could not be done.
    """
    asked = arguments(given)
    try:
        found, told = convert(asked)
        plan = described(asked, found, told)
        made = recipe.build(plan["model"])
        made.denoiser.network.load_state_dict(found.state)
        recipe.save(made, plan, asked.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {asked.output}: {sum(t.numel() for t in found.state.values()):,} parameters, {found.options}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
