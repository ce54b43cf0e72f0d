"""Turns a public checkpoint into an inpainter folder: ``python -m diffusion_lab.networks.checkpoints FILE --help``."""

import argparse
import sys
from collections.abc import Sequence
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
        prog=f"python -m {CHECKPOINTS}", description="Turn a checkpoint into an inpainter."
    )
    parser.add_argument(
        "file", type=Path, help=".pt, .pth or .safetensors; or a folder with a UNet2DModel's config.json"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--schedule", required=True, help="it was trained on: linear, cosine, quadratic, ...")
    parser.add_argument("--steps", type=int, default=1000, help="of that schedule")
    parser.add_argument("--start", type=float, help="first beta of a linear schedule, 1e-4 unless said")
    parser.add_argument("--end", type=float, help="last beta of a linear schedule, 0.02 unless said")
    parser.add_argument("--image-size", type=int, help="pixels; a config.json knows it")
    parser.add_argument("--heads", type=int, help="attention heads; or --head-width; a config.json knows it")
    parser.add_argument("--head-width", type=int, help="channels of each attention head")
    parser.add_argument(
        "--new-attention-order", action="store_true", help="as guided-diffusion calls it; its 64-px model"
    )
    parser.add_argument("--data", default="unknown data", help="what it was trained on; stands beside every number")
    parser.add_argument("--crop", default="full", help="how those pictures were cropped")
    return parser.parse_args(given)


def convert(asked: argparse.Namespace) -> tuple[checkpoints.Converted, str]:
    """The network of a file, and the name of the function by which it is told the level."""
    if asked.file.is_dir():
        weights = sorted(asked.file.glob("*.safetensors")) or sorted(asked.file.glob("*.bin"))
        if not weights:
            raise FileNotFoundError(f"neither *.safetensors nor *.bin in '{asked.file}': download the weights as well")
        state = checkpoints.read_tensors(weights[0])
        return checkpoints.from_diffusers(checkpoints.read_config(asked.file), state), "by_index"
    state = checkpoints.read_tensors(asked.file)
    if asked.image_size is None:
        raise ValueError("the picture's size cannot be seen in the tensors: say --image-size")
    heads, heads_first = (asked.heads, asked.head_width), not asked.new_attention_order
    if any(name.startswith(PALETTE) for name in state):
        return checkpoints.from_palette(state, asked.image_size, *heads, heads_first), "by_bare_gamma"
    if "out.2.positional_embedding" in state:
        width = asked.head_width or 64
        return checkpoints.from_guided_classifier(state, asked.image_size, width, heads_first), "by_index"
    return checkpoints.from_guided_diffusion(state, asked.image_size, *heads, heads_first), "by_index"


def described(asked: argparse.Namespace, found: checkpoints.Converted, told: str) -> dict[str, Any]:
    """The recipe of an inpainter around a converted network."""
    target = f"{found.network.__module__}.{found.network.__qualname__}"
    ends = {name: value for name, value in (("start", asked.start), ("end", asked.end)) if value is not None}
    epsilon = {"_target_": f"{DIFFUSION}.denoiser.Epsilon"}
    learned = {"_target_": f"{DIFFUSION}.denoiser.LearnedRange", "of": epsilon}
    conditional = found.options["condition_channels"] > 0
    return {
        "model": {
            "_target_": "diffusion_lab.inpainting.Inpainter",
            "denoiser": {
                "_target_": f"{DIFFUSION}.denoiser.NetworkDenoiser",
                "network": {"_target_": target, **found.options},
                "schedule": {"_target_": f"{DIFFUSION}.schedule.{asked.schedule}", "steps": asked.steps, **ends},
                "predicts": learned if found.options["out_channels"] == 6 else epsilon,
                "told": {"_target_": f"{CHECKPOINTS}.told.{told}", "_partial_": True},
            },
            # A model of whole pictures never saw clean pixels beside noisy ones.
            "sampler": {"_target_": f"{DIFFUSION}.samplers.{'palette' if conditional else 'repaint'}"},
            "constrain": {
                "_target_": f"{DIFFUSION}.sampling.{'keep_clean' if conditional else 'keep_noised'}",
                "_partial_": True,
            },
        },
        "data": {"name": asked.data, "crop": asked.crop, "image_size": found.options["image_size"]},
        "training": {"converted_from": asked.file.name},
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
        if found.network is Classifier:
            target = f"{Classifier.__module__}.{Classifier.__qualname__}"
            recipe.save(found.build(), {"model": {"_target_": target, **found.options}}, asked.output)
        else:
            plan = described(asked, found, told)
            inpainter = recipe.build(plan["model"])
            inpainter.denoiser.network.load_state_dict(found.state)
            recipe.save(inpainter, plan, asked.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {asked.output}: {sum(t.numel() for t in found.state.values()):,} parameters, {found.options}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
