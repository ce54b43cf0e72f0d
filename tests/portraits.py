"""Faces of the package, as a person's photos have them."""

import io
import zipfile

from PIL import Image

from diffusion_lab.data.celeba import built_in_faces


def portraits(count: int) -> list[Image.Image]:
    """The first faces, 178 pixels wide and upright."""
    with zipfile.ZipFile(built_in_faces() / "img_align_celeba.zip") as archive:
        names = archive.namelist()[:count]
        return [Image.open(io.BytesIO(archive.read(name))).convert("RGB").crop((0, 28, 178, 206)) for name in names]


def two_on_a_wall() -> Image.Image:
    """A picture of 560x300 with two faces, the right one turned."""
    one, other = portraits(2)
    wall = Image.new("RGB", (560, 300), (90, 110, 100))
    wall.paste(one, (40, 60))
    wall.paste(other.rotate(20), (340, 60))
    return wall
