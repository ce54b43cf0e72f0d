"""Weights from elsewhere: guided-diffusion, RePaint, Janspiry's Palette, diffusers."""

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffusion_lab.networks.checkpoints.guided import from_guided_classifier, from_guided_diffusion, from_palette
from diffusion_lab.networks.checkpoints.hugging_face import from_diffusers, to_diffusers
from diffusion_lab.networks.checkpoints.names import Converted

__all__ = [
    "Converted",
    "from_diffusers",
    "from_guided_classifier",
    "from_guided_diffusion",
    "from_palette",
    "read_config",
    "read_tensors",
    "to_diffusers",
]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, of which nothing is run.

    Args:
        path: of safetensors, or of what torch.save wrote of a state dict.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"'{path}' cannot be read as tensors ({reason}): use another copy") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"'{path}' holds more than named tensors: save the network's state dict alone")
    return state


def read_config(folder: Path) -> dict[str, object]:
    """The config.json of a diffusers folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no config.json in '{folder}': name the folder of a UNet2DModel (often called unet)")
    try:
        found: dict[str, object] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON ({error}): use another copy") from None
    return found
