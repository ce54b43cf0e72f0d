"""Masks from picture files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from diffusion_lab.data.decoding import decode
from diffusion_lab.data.folder import picture_files
from diffusion_lab.data.masks.drawing import uniforms, whole_number


class FromFolder:
    """A mask function that picks one of the mask files in a folder: white = hole, resized to the nearest pixel.

    Args:
        folder: searched for pictures, its subfolders too.

    Raises:
        OSError: there is no such folder, or no picture in it.
        ValueError: the folder is None, which the yaml file has until it is set.
    """

    def __init__(self, folder: Path | str | None) -> None:
        if folder is None:
            raise ValueError("mask=folder needs mask.folder=<folder with mask files, white = hole>.")
        self.folder = Path(folder).expanduser()
        self.files = picture_files(self.folder)
        if not self.files:
            raise FileNotFoundError(
                f"There are no mask files (png, jpg, webp, bmp) in {self.folder}; set mask.folder to some."
            )

    def __call__(self, size: int, generator: Generator) -> Tensor:
        """The mask of one of the files, bool (1, size, size).

        Raises:
            OSError: the file cannot be read.
            ValueError: it is all white or all black.
        """
        name = self.files[whole_number(0, len(self.files) - 1, next(uniforms(1, generator)))]
        try:
            grey = decode((self.folder / name).read_bytes()).convert("L")
        except OSError as error:
            raise OSError(f"The mask {self.folder / name} cannot be used: {error}.") from None
        white = np.asarray(grey.resize((size, size), Image.Resampling.NEAREST)) >= 128
        if white.all() or not white.any():
            raise ValueError(
                f"The mask {self.folder / name} is all {'white' if white.all() else 'black'} at {size} px; "
                "a mask needs white where the hole is and black elsewhere."
            )
        return torch.from_numpy(white).unsqueeze(0)
