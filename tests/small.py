"""The smallest models that are some."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusion_lab import photo, recipe
from diffusion_lab.cascade import Cascade, Model
from diffusion_lab.data.crops import named
from diffusion_lab.inpainting import Inpainter

UNET = {
    "_target_": "diffusion_lab.networks.unet.UNet",
    "image_size": 16,
    "channels": 32,
    "multipliers": [1],
    "depth": 1,
}
DENOISER = {
    "_target_": "diffusion_lab.diffusion.denoiser.NetworkDenoiser",
    "network": UNET,
    "schedule": {"_target_": "diffusion_lab.diffusion.schedule.cosine", "steps": 100},
    "predicts": {"_target_": "diffusion_lab.diffusion.denoiser.Velocity"},
    "told": {"_target_": "diffusion_lab.diffusion.denoiser.by_gamma", "_partial_": True},
}
MODEL = {
    "_target_": "diffusion_lab.inpainting.Inpainter",
    "denoiser": DENOISER,
    "sampler": {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 3},
    "constrain": {"_target_": "diffusion_lab.diffusion.sampling.keep_clean", "_partial_": True},
}

DEGRADATIONS = "diffusion_lab.data.degradations"
REFINED = {"_target_": f"{DEGRADATIONS}.noisy_reduced", "_partial_": True, "factor": 2}
REFINER = {**MODEL, "task": {"_target_": "diffusion_lab.tasks.refinement", "degrade": REFINED}}
COARSE = {**MODEL, "denoiser": {**DENOISER, "network": {**UNET, "image_size": 8}}}
JPEG = {"_target_": f"{DEGRADATIONS}.jpeg", "_partial_": True, "quality": [5, 30]}
RESTORER = {**MODEL, "task": {"_target_": "diffusion_lab.tasks.restoration", "name": "jpeg", "degrade": JPEG}}
EITHER = {"_target_": f"{DEGRADATIONS}.either", "_partial_": True, "degradations": [JPEG]}
SEVERAL = {**MODEL, "task": {"_target_": "diffusion_lab.tasks.several", "degrade": EITHER}}


def small_inpainter(model: Mapping[str, Any] = MODEL, crop: str = "full") -> Inpainter:
    """An inpainter for 16 pixels with random weights, in evaluation mode."""
    torch.manual_seed(0)
    made: Inpainter = recipe.build(model)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    made.recipe = {"model": model, "data": {"name": "none", "crop": crop, "image_size": 16}}
    return made.eval()


def filled(
    model: Model,
    picture: Image.Image,
    mask: Tensor | None,
    seeds: list[int],
    feather: int = 0,
    align: Any = "auto",
    detail: int = 512,
) -> list[Image.Image]:
    """What `inpaint.py` makes of a picture."""
    crop, eyes = named(model.recipe["data"]["crop"]), photo.eyes_of(align)
    cut = photo.cut(picture, mask, model.sides, crop, model.task, eyes, detail)
    return photo.fill(model, cut, seeds, feather=feather)


def small_cascade() -> Cascade:
    """A cascade of 8 -> 16 pixels with random weights, in evaluation mode."""
    model = Cascade([small_inpainter(COARSE), small_inpainter(REFINER)], [8, 16])
    node = {"_target_": "diffusion_lab.cascade.Cascade", "sizes": [8, 16], "stages": [COARSE, REFINER]}
    model.recipe = {
        "model": node,
        "data": {"name": "none", "crop": "full", "image_size": 16},
        "training": {"stages": [{}, {}]},
    }
    return model.eval()
