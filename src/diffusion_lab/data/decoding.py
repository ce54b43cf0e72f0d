"""From the bytes of a picture file to an RGB picture the right way up."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps

_SCALE_16_BIT: Mapping[str, float] = dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N", "I"), 1 / 257)


def decode(data: bytes) -> Image.Image:
    """Decode a picture to RGB: turned as its EXIF says, transparency laid over white, any colour mode.

    Raises:
        OSError: the bytes are not a whole picture.

    Examples:
        >>> decode(b"<html>not found</html>")
        Traceback (most recent call last):
        ...
        OSError: not a picture that can be read: cannot identify image file
    """
    if not data:
        raise OSError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        reason = str(error).split(" <")[0]  # without the address of a buffer, which differs from run to run
        raise OSError(f"not a picture that can be read: {reason}") from None
    if picture.mode in _SCALE_16_BIT:
        grey = np.asarray(picture, dtype=np.float64) * _SCALE_16_BIT[picture.mode]
        picture = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
