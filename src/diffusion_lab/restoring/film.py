"""A film of the denoising: from the hole to the result, as the model sees it after one network call and the next."""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from diffusion_lab.photo import Photo, paste
from diffusion_lab.pictures import MADE, XMP, to_float, to_uint8

FORMATS = (".gif", ".webp")
"""GIF plays everywhere and has 256 colours; WebP has all, bit for bit."""
SIDE = 512
"""The longer side of a film, at most."""
MOMENTS = 48
"""Network calls that are shown, at most, evenly spread."""
SHOWN, HELD = 80, 2000
"""Milliseconds of a frame, and of the first and the last."""


class Camera:
    """Keeps what the model sees on the way.

    Args:
        photo: that is filled.
        steps: network calls for each of its parts.
    """

    def __init__(self, photo: Photo, steps: int) -> None:
        self.photo = photo.within(SIDE)
        count = min(steps - 1, MOMENTS)  # after the last one comes the result itself
        self.moments = {round(steps * (i + 1) / (count + 1)) for i in range(count)}
        self.steps = [0] * len(photo.parts)
        self.seen: list[list[Tensor]] = [[] for _ in photo.parts]

    def look(self, part: int, picture: Tensor) -> None:
        """As `photo.fill` tells it; pictures that are not shown stay on the device."""
        self.steps[part] += 1
        if self.steps[part] in self.moments:
            self.seen[part].append(to_uint8(picture).cpu())

    def frames(self, number: int, result: Image.Image) -> list[Image.Image]:
        """The hole in grey, all parts as they are filled side by side, and the result.

        Args:
            number: of the completion.
            result: that it came to.
        """
        grey = torch.full_like(self.photo.images, 0.3)
        ways = [torch.stack([look[number] for look in looks]) for looks in zip(*self.seen, strict=True)]  # (P, 3, S, S)
        if result.size != self.photo.size:
            result = result.resize(self.photo.size, Image.Resampling.BOX, reducing_gap=2.0)
        return [paste(self.photo, grey), *(paste(self.photo, to_float(way)) for way in ways), result]


def encoded(frames: Sequence[Image.Image], suffix: str) -> bytes:
    """A film that plays over and over, and says that a model made it.

    Args:
        frames: RGB, of one size.
        suffix: one of `FORMATS`.
    """
    gif = suffix.lower() == ".gif"
    said = {"comment": MADE.encode()} if gif else {"xmp": XMP.encode(), "lossless": True}
    durations = [HELD, *[SHOWN] * (len(frames) - 2), HELD]
    film = io.BytesIO()
    frames[0].save(
        film, "GIF" if gif else "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, **said
    )
    return film.getvalue()
