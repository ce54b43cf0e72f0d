"""The smallest inpainter that is one."""

from collections.abc import Mapping
from typing import Any

import torch

from diffusion_lab import recipe
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


def small_inpainter(model: Mapping[str, Any] = MODEL) -> Inpainter:
    """An inpainter for 16 pixels with random weights, in evaluation mode."""
    torch.manual_seed(0)
    made: Inpainter = recipe.build(model)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    made.recipe = {"model": model, "data": {"name": "none", "crop": "full", "image_size": 16}}
    return made.eval()
