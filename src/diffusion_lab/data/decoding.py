"""From the bytes of a picture file to an RGB picture the right way up."""

from PIL import Image

from diffusion_lab.opening import as_rgb, recognised, upright


def decode(data: bytes) -> Image.Image:
    """Decode a picture to RGB: turned as its EXIF says, transparency laid over white, any colour mode.

    Of several pages or frames it is the first.

    Raises:
        OSError: the bytes are not a whole picture, or its values do not say what white is.

    Examples:
        >>> decode(b"<html>not found</html>")
        Traceback (most recent call last):
        ...
        OSError: not a picture that can be read: cannot identify image file
    """
    if not data:
        raise OSError("the file is empty")
    try:
        return as_rgb(upright(recognised(data, None)))
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
        reason = str(error).split(" <")[0]  # without the address of a buffer, which differs from run to run
        raise OSError(f"not a picture that can be read: {reason}") from None
