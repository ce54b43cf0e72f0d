"""Masks from picture files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from diffusion_lab import files
from diffusion_lab.data.folder import KINDS, picture_files
from diffusion_lab.data.masks.drawing import uniforms, whole_number
from diffusion_lab.holes import MaskMode, as_mask
from diffusion_lab.opening import opened


class FromFolder:
    """A mask function that picks one of the mask files in a folder, resized to the nearest pixel.

    Args:
        folder: searched for pictures, its subfolders too.
        mask_mode: what is the hole in them; None is seen from what varies, see :func:`diffusion_lab.holes.as_mask`.

    Raises:
        OSError: there is no such folder, or no picture in it.
        ValueError: the folder is None, which the yaml file has until it is set.
    """

    def __init__(self, folder: Path | str | None, mask_mode: MaskMode | None = None) -> None:
        if folder is None:
            raise ValueError("mask=folder needs mask.folder=<folder with mask files>.")
        self.folder = Path(folder).expanduser()
        self.mask_mode = mask_mode
        self.files = picture_files(self.folder)
        if not self.files:
            raise FileNotFoundError(f"There are no mask files ({KINDS}) in {self.folder}; set mask.folder to some.")

    def __call__(self, size: int, generator: Generator) -> Tensor:
        """The mask of one of the files, bool (1, size, size).

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no picture, or can be read in more than one way, or is all hole or has none.
        """
        path = self.folder / self.files[whole_number(0, len(self.files) - 1, next(uniforms(1, generator)))]
        try:
            picture = opened(files.content(path), "mask")
        except (OSError, ValueError) as error:
            raise OSError(f"The mask {path} cannot be used: {error}.") from None
        try:
            read = Image.fromarray(as_mask(picture, self.mask_mode)[0].numpy())
        except ValueError as error:
            raise ValueError(f"The mask {path} cannot be used: {error}.") from None
        hole = np.array(read.resize((size, size), Image.Resampling.NEAREST))
        if hole.all() or not hole.any():
            raise ValueError(
                f"The mask {path} is all {'white' if hole.all() else 'black'} at {size} px; "
                "a mask needs white where the hole is and black elsewhere."
            )
        return torch.from_numpy(hole).unsqueeze(0)
