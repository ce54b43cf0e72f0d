"""Picture files as people have them, opened: checked before they are decoded, upright, and as 8-bit RGB."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from diffusion_lab import files

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "HEIC")
MOST_PIXELS = 64_000_000
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
SIGNATURES = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
PHOTOMETRIC, SAMPLE_FORMAT, BITS, SUBFILE = 262, 339, 258, 254
"""Tags of TIFF."""


def opened(
    source: Path | bytes, what: str, most_pixels: int = MOST_PIXELS, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """A still picture from a file or from bytes, upright, checked before it is decoded.

    Args:
        source: path or content.
        what: how errors call it, such as "image".
        most_pixels: more are refused.
        formats: those that are read, by their names; HEIC where the extra ``heic`` is installed.

    Raises:
        TooLarge: if it has too many pixels.
        ValueError: if it is not a picture, or of several pages, or animated, or truncated.
        FileNotFoundError: if there is no such file.
        OSError: if what is there is no file, or may not be read.
    """
    named = f"{what}={source}" if isinstance(source, Path) else f"the {what}"
    content = source if isinstance(source, bytes) else _content(source, named, formats)
    with readable(named, content, formats):
        picture = recognised(content, formats)
        pages = page_count(picture)
    if picture.width * picture.height > most_pixels:
        raise TooLarge(f"{named} is {picture.width}x{picture.height}, more than {most_pixels / 1e6:.3g} megapixels")
    if pages > 1 and picture.format == "TIFF":
        raise ValueError(f"{named} has {pages} pages: save the one that you mean as a file of its own")
    if pages > 1:
        raise ValueError(f"{named} is animated: name a still picture")
    with readable(named, content, formats):
        return upright(picture)


class TooLarge(ValueError):
    """A picture has more pixels than may be decoded."""


def _content(source: Path, named: str, formats: tuple[str, ...]) -> bytes:
    try:
        return files.content(source)  # no file stays open behind an error
    except FileNotFoundError:
        raise FileNotFoundError(f"{named} does not exist: name a {'/'.join(formats[:3])} file") from None
    except OSError as error:
        raise OSError(f"{named} cannot be read: {error}") from None


@contextmanager
def readable(named: str, content: bytes, formats: tuple[str, ...]) -> Iterator[None]:
    """Says in a sentence what Pillow makes of a damaged file, for which it raises nearly anything."""
    try:
        yield
    except Image.DecompressionBombError:
        raise TooLarge(f"{named} has more pixels than can be read") from None
    except Exception as error:
        kind = kind_of(content)
        reason: object = error
        if isinstance(error, UnidentifiedImageError) and kind in formats:
            reason = f"it is damaged, or a kind of {kind} that is not known here: save it with 8 bits a channel"
        elif isinstance(error, UnidentifiedImageError):
            reason = "it is another kind of file" + (f": {kind}" if kind else "")
        raise ValueError(f"{named} cannot be read as a {'/'.join(formats[:3])} picture ({reason})") from None


def kind_of(content: bytes) -> str | None:
    """What a file says that it is in its first bytes; None for what is not known here.

    Example:
        >>> kind_of(b"GIF89a..."), kind_of(b"<html>")
        ('GIF', None)
    """
    if content[4:8] == b"ftyp":
        brands = content[8 : min(int.from_bytes(content[:4]), 256)]
        kinds = {brands[i : i + 4] for i in range(0, len(brands), 4)}
        return "HEIC" if kinds & HEIC_BRANDS else "AVIF" if kinds & {b"avif", b"avis"} else None
    return next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)


def recognised(content: bytes, formats: tuple[str, ...] | None) -> ImageFile.ImageFile:
    """The picture in some bytes, not decoded yet.

    Args:
        content: of a file.
        formats: those that may be tried; None are all that Pillow has, and HEIC.

    Raises:
        Exception: nearly any, which is Pillow's way to say that it cannot be read.
        ValueError: if it is HEIC and there is no decoder.
    """
    if kind_of(content) == "HEIC" and (formats is None or "HEIC" in formats):
        if not heic():
            raise ValueError("HEIC needs the package pillow-heif: install it, or save the picture as JPEG")
        formats = ("HEIF",)  # as its decoder calls it
    elif formats is not None:
        formats = tuple(name for name in formats if name != "HEIC")
    return Image.open(io.BytesIO(content), formats=formats)


@cache
def heic() -> bool:
    """Whether HEIC can be decoded here; Pillow knows its decoder from the first call on."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


def page_count(picture: ImageFile.ImageFile) -> int:
    """How many pictures a file holds that a person would call pictures."""
    if picture.format in ("MPO", "HEIF"):  # a phone's: depth maps and second views lie behind the photo
        return 1
    count = int(getattr(picture, "n_frames", 1))
    if count == 1 or not isinstance(picture, TiffImageFile):
        return count
    kinds = []
    for page in range(count):
        picture.seek(page)
        kinds.append(int(picture.tag_v2.get(SUBFILE, 0)))
    picture.seek(0)
    return 1 + sum(not kind & 0b101 for kind in kinds[1:])  # neither a smaller copy nor a mask of another page


def upright(picture: ImageFile.ImageFile) -> Image.Image:
    """A picture decoded, and turned as its EXIF says; ``info["white"]`` is a TIFF's, where that is not as usual.

    Raises:
        Exception: nearly any, if it cannot be read.
    """
    tags = picture.tag_v2 if isinstance(picture, TiffImageFile) and deep(picture) else {}
    counts_down = tags.get(PHOTOMETRIC) == 0
    signed = tags.get(SAMPLE_FORMAT) == (2,) and tags.get(BITS) == (16,)
    if counts_down:
        raise ValueError("its grey counts from white to black: save it from black to white")
    turned: Image.Image = ImageOps.exif_transpose(picture)
    turned.load()
    if signed:
        turned.info["white"] = 2**15 - 1
    return turned


def deep(picture: Image.Image) -> bool:
    """Whether a picture is grey of more than 8 bits, or of floats."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def as_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB, transparent parts on white.

    Grey of more than 8 bits is scaled by what its values mean. Whole numbers: white is 255 if none is larger (as 16
    bits such a picture would be black all over), else 65535. Floats: white is the first of 1, 255 and 65535 that is not
    exceeded by more than a tenth, which resampling does.

    Raises:
        ValueError: if its values do not say what white is.
    """
    if deep(picture):
        return Image.fromarray(_eight_bits(picture)).convert("RGB")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(picture).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    floats = picture.mode == "F"
    slack = 0.1 if floats else 0.0
    whites = (1, 255, 65535) if floats else (255, int(picture.info.get("white", 65535)))
    white = next((white for white in whites if high <= white * (1 + slack)), None)
    # Sixteen levels of 255 are nearly black: of such floats nobody knows whether 1 or 255 was meant.
    faint = floats and white is not None and white > 1 and 16 * high < white
    if white is None or faint or not low >= -white * slack:
        wanted = "0 to 1, to 255 or to 65535" if floats else "0 to 255 or to 65535"
        raise ValueError(
            f"the picture's values ({picture.mode}) go from {low:.6g} to {high:.6g}, which does not say what white is: "
            f"save it with values from {wanted}"
        )
    return (values * (255 / white)).round().clip(0, 255).astype(np.uint8)
