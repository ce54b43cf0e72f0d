"""The faces of a photo, as answers tell of them, and the address that finds them: see `diffusion_lab.photo.faces`."""

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from diffusion_lab.data.crops import Crop
from diffusion_lab.frames import Points
from diffusion_lab.photo import Photo
from diffusion_lab.photo.faces import find
from diffusion_lab.photo.parts import aligned
from diffusion_lab.serving.described import described
from diffusion_lab.serving.desk import Desk
from diffusion_lab.serving.errors import declared
from diffusion_lab.serving.requests import read_form

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
"""Of a square, clockwise."""


class Point(BaseModel):
    """A place in the picture, in pixels from its upper left corner."""

    x: float
    y: float

    @classmethod
    def each(cls, points: Points) -> "list[Point]":
        """Of ``(n, 2)``."""
        return [cls(x=x, y=y) for x, y in points.tolist()]


class Eyes(BaseModel):
    """Both eyes of a face, as one looks at it upright."""

    left: Point
    right: Point

    @classmethod
    def of(cls, eyes: Points) -> "Eyes":
        left, right = Point.each(eyes)
        return cls(left=left, right=right)


class Alignment(BaseModel):
    """Which faces of a photo were set upright for the model.

    `face` is `found` if those in `faces` were, `none` if no face was seen where the hole is, and `off` if none was
    looked for: nobody wanted it, the model does not say where it expects eyes, or it restored the whole picture.
    """

    face: Literal["found", "none", "off"] = "off"
    faces: list[Eyes] = Field(default_factory=list)

    @classmethod
    def of(cls, photo: Photo) -> "Alignment":
        if photo.faces is None:
            return cls()
        return cls(face="found" if photo.used else "none", faces=[Eyes.of(eyes) for eyes in photo.used])

    def header(self) -> str:
        """The same as `X-Face` says it.

        Example:
            >>> eyes = Eyes.of(np.array([[30.0, 40.0], [50.25, 41.0]]))
            >>> Alignment(face="found", faces=[eyes, eyes]).header(), Alignment().header()
            ('30.0,40.0,50.2,41.0;30.0,40.0,50.2,41.0', 'off')
        """
        places = [(eyes.left.x, eyes.left.y, eyes.right.x, eyes.right.y) for eyes in self.faces]
        return ";".join(",".join(f"{value:.1f}" for value in place) for place in places) or self.face


class Face(Eyes):
    """A face in a picture.

    `outline` is the square that the model in service would be shown of it, from its upper left corner on, clockwise;
    empty if the model does not say where it expects eyes, and so is shown no face upright.
    """

    outline: list[Point]


class Faces(BaseModel):
    """All faces of a picture, the most certain first."""

    faces: list[Face]


class Nothing(BaseModel):
    """No field beside the image."""

    model_config = ConfigDict(extra="forbid")


def seen(picture: Image.Image, crop: Crop) -> Faces:
    """All faces of an upright RGB picture, for a model of a crop."""
    faces = []
    for face in find(picture):
        left, right = Point.each(face.eyes)
        frame = aligned(face.eyes, crop)
        outline = [] if frame is None else Point.each(frame.outside(CORNERS))
        faces.append(Face(left=left, right=right, outline=outline))
    return Faces(faces=faces)


def router(desk: Desk, locks: list[Any]) -> APIRouter:
    """`/v1/faces`.

    Args:
        desk: reads uploads.
        locks: that keep it shut.
    """
    routes = APIRouter(prefix="/v1", tags=["inpainting"], dependencies=locks)
    closed = [401] if locks else []

    @routes.post(
        "/faces",
        responses=declared(400, *closed, 408, 413, 415, 422, 429),
        openapi_extra=described(Nothing, files=("image",)),
        summary="Find the faces of a picture",
    )
    async def of(request: Request) -> Faces:
        """Where they are, the eyes as one looks at them, and the square that the model in service is shown of each."""
        form = await read_form(request, ("image",))
        form.validated(Nothing)
        return await desk.looked(form.needed("image"), lambda picture: seen(picture, desk.engine.crop))

    return routes
