"""The address that says where the eyes of a face are, so that the page can align it: see `diffusion_lab.faces`."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict

from diffusion_lab.faces import find
from diffusion_lab.serving.desk import Desk
from diffusion_lab.serving.errors import declared
from diffusion_lab.serving.requests import read_form


class Point(BaseModel):
    """A place in the picture, in pixels from its upper left corner."""

    x: float
    y: float


class Eyes(BaseModel):
    """Both eyes of a face, as one looks at the picture."""

    left: Point
    right: Point


class Faces(BaseModel):
    """The most certain face of a picture, if one is seen at all."""

    faces: list[Eyes]


class Nothing(BaseModel):
    """No field beside the image."""

    model_config = ConfigDict(extra="forbid")


Find = Callable[[Image.Image], Eyes | None]
"""An upright RGB picture -> the eyes of the most certain face; None if no face is seen."""


def eyes(picture: Image.Image) -> Eyes | None:
    """Of the most certain face."""
    found = find(picture)
    if not found:
        return None
    left, right = (Point(x=x, y=y) for x, y in found[0].eyes.tolist())
    return Eyes(left=left, right=right)


def finder() -> Find:
    """What finds eyes here."""
    return eyes


def router(desk: Desk, find: Find, body: dict[str, Any], locks: list[Any]) -> APIRouter:
    """`/v1/eyes`.

    Args:
        desk: reads uploads.
        find: the eyes.
        body: OpenAPI's description of a request with an image.
        locks: that keep it shut.
    """
    routes = APIRouter(prefix="/v1", tags=["inpainting"], dependencies=locks)
    closed = [401] if locks else []

    @routes.post(
        "/eyes",
        responses=declared(400, *closed, 408, 413, 415, 422, 429),
        openapi_extra=body,
        summary="Find the eyes of a face",
    )
    async def of(request: Request) -> Faces:
        """Of the most certain face in a picture, so that it can be aligned as the model knows faces."""
        form = await read_form(request, ("image",))
        form.validated(Nothing)
        found = await desk.looked(form.needed("image"), find)
        return Faces(faces=[] if found is None else [found])

    return routes
