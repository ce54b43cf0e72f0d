"""Pictures at the borders: PIL, uint8 and files on one side, tensors in [-1, 1] on the other."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffusion_lab.files import replacing

SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""What the IPTC calls a picture of which a model made a part. It is a name, and readers compare it: http, not https."""
MADE = "This picture was made, in part or whole, by a model: it is synthetic."
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SYNTHETIC}"/></rdf:RDF></x:xmpmeta>'
)
"""The same for machines."""


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to uint8, rounded: the inverse of `to_float` bit for bit."""
    return x.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(x: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1].

    Example:
        >>> x = torch.arange(256, dtype=torch.uint8)
        >>> torch.equal(to_uint8(to_float(x)), x)
        True
    """
    return x.float().div(127.5).sub(1)


def to_pil(x: Tensor) -> Image.Image:
    """``(3, H, W)`` in [-1, 1] to RGB."""
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).cpu().numpy())


def from_pil(picture: Image.Image) -> Tensor:
    """RGB to ``(3, H, W)`` in [-1, 1]."""
    return to_float(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))


def masked(x: Tensor, mask: Tensor, grey: float = 0.3) -> Tensor:
    """The picture with its hole in plain grey, to be looked at."""
    return torch.where(mask, torch.full_like(x, grey), x)


def png(picture: Image.Image) -> bytes:
    """A PNG whose metadata says that a model made it, and nothing else."""
    info = PngInfo()
    info.add_text("Software", "diffusion_lab")
    info.add_text("Comment", MADE)
    info.add_itxt("XML:com.adobe.xmp", XMP)
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def save_png(picture: Image.Image, path: Path) -> None:
    """Writes `png`; an interrupted write leaves what was there."""
    with replacing(path) as fresh:
        fresh.write_bytes(png(picture))


def sheet(rows: Sequence[Sequence[Tensor]], columns: Sequence[str], side: int = 96, gap: int = 4) -> Image.Image:
    """A contact sheet: one row per example, one captioned column per kind of picture.

    Args:
        rows: of pictures ``(3, H, W)`` in [-1, 1], each as long as `columns`.
        columns: captions; an empty one leaves its head blank.
        side: of each picture on the sheet, in pixels; small pictures are enlarged without smoothing.
        gap: between pictures, in pixels.
    """
    head = 18
    width, height = len(columns) * (side + gap) + gap, len(rows) * (side + gap) + gap + head
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=11)
    for j, caption in enumerate(columns):
        draw.text((gap + j * (side + gap), 3), caption, fill="black", font=font)
    for i, row in enumerate(rows):
        for j, x in enumerate(row):
            resample = Image.Resampling.NEAREST if x.shape[-1] < side else Image.Resampling.LANCZOS
            canvas.paste(
                to_pil(x).resize((side, side), resample), (gap + j * (side + gap), head + gap + i * (side + gap))
            )
    return canvas
