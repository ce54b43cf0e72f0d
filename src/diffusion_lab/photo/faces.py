"""Where the faces of a picture are: BlazeFace (Bazarevsky et al. 2019), run by OpenCV at several scales.

Its weights lie in ``blazeface/``, whose README says where they are from.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusion_lab.frames import Frame, Pixels, Points

WEIGHTS = Path(__file__).parent / "blazeface" / "face_detection_back.tflite"
SIDE = 256
"""Of what the network sees, in pixels."""
GRIDS = ((16, 2), (8, 6))
"""It answers for so many places a side, so many times each."""
LEAST = 0.5
"""Probability from which a face is worth a closer look."""
FINE = 1024
"""Longer sides are shrunk to it first."""
SCALES = ((1, 0.5), (2, 0.75))
"""Looks are at squares of the longer side divided by these, half a square apart; what is found in a part must then be
so probable from close up, since parts of faces, hands and flowers look like small faces."""
CLOSER = 6.0
"""The last look is at a square so many eye distances wide, upright with the face: the network likes that best."""
SAME = 0.4
"""Share of the smaller of two boxes from which they are of one face."""


@dataclass(frozen=True)
class Face:
    """A face that was found.

    Args:
        certainty: probability.
        box: left, top, right and bottom of a square from the brow to the chin, upright; in pixels, as all that follows.
        landmarks: ``(6, 2)``: the eye on the left as one looks at an upright face, the eye on the right, the tip of the
            nose, the middle of the mouth, and where the ears begin, left and right.
    """

    certainty: float
    box: tuple[float, float, float, float]
    landmarks: Points

    @property
    def eyes(self) -> Points:
        """``(2, 2)``."""
        return self.landmarks[:2]

    def overlap(self, other: "Face") -> float:
        """What the boxes share, of the smaller one."""
        low, high = np.maximum(self.box[:2], other.box[:2]), np.minimum(self.box[2:], other.box[2:])
        shared = float(np.clip(high - low, 0, None).prod())
        return shared / min(float(np.prod(np.subtract(face.box[2:], face.box[:2]))) for face in (self, other))


class BlazeFace:
    """The detector; its network is read at the first picture.

    Args:
        weights: the TFLite file.
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self.weights = weights
        self.lock = Lock()  # its network holds one picture at a time
        grids = [
            np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).repeat(times, axis=0)
            for size, times in GRIDS
            for axis in [(np.arange(size) + 0.5) / size]
        ]
        self.places = np.concatenate(grids)  # (896, 2), each answer's own place in [0, 1]

    def __call__(self, picture: Image.Image) -> list[Face]:
        """All faces of an upright RGB picture, the most certain first.

        The whole is looked at, then its parts, and each face closely; nothing is drawn at random.
        """
        copy = picture.copy()
        copy.thumbnail((FINE, FINE), Image.Resampling.BILINEAR)
        pixels, scale = np.asarray(copy), picture.width / copy.width
        faces: list[Face] = []
        with self.lock:
            for parts, least in SCALES:
                seen = [face for frame in looks(*copy.size, parts) for face in self.look(pixels, frame)]
                closer = [self.closer(pixels, face) for face in apart(seen, faces)]
                faces += apart([face for face in closer if face.certainty >= least], faces)
        faces.sort(key=lambda face: -face.certainty)
        return [Face(f.certainty, _box(np.array(f.box) * scale), f.landmarks * scale) for f in faces]

    def closer(self, pixels: Pixels, face: Face) -> Face:
        """The same face, seen upright and as large as the network likes; without certainty if it is gone then."""
        (x, y), (right, down) = face.landmarks[:4].mean(axis=0), face.eyes[1] - face.eyes[0]
        side, angle = CLOSER * float(np.hypot(right, down)), float(np.arctan2(down, right))
        frame = Frame(float(x), float(y), side, angle)
        seen = [other for other in self.look(pixels, frame) if other.overlap(face) >= SAME]
        return seen[0] if seen else replace(face, certainty=0.0)

    def look(self, pixels: Pixels, frame: Frame) -> list[Face]:
        """The faces within a square, the most certain first; some are seen several times."""
        shown = frame.cut(pixels, SIDE).astype(np.float32) / 127.5 - 1
        self.network.setInput(shown.transpose(2, 0, 1)[None])
        answers = self.network.forward(("regressors", "classificators"))
        boxes, logits = (answer.reshape(len(self.places), -1) for answer in answers)
        certain = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64).clip(-100, 100)))
        found = []
        for i in sorted(np.flatnonzero(certain >= LEAST), key=lambda i: -certain[i]):
            # Middle, size and six points of a face, all but the size relative to the answer's own place.
            numbers = boxes[i].reshape(8, 2).astype(np.float64) / SIDE
            middle, landmarks = numbers[0] + self.places[i], numbers[2:] + self.places[i]
            corners = middle + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * numbers[1] / 2
            x, y = frame.outside(corners).mean(0)
            half = numbers[1].max() * frame.side / 2
            found.append(Face(float(certain[i]), (x - half, y - half, x + half, y + half), frame.outside(landmarks)))
        return found

    @cached_property
    def network(self) -> Any:
        from cv2 import dnn

        # Of the two outputs OpenCV 5's new engine finds one; OpenCV 4 has the other engine alone.
        engine = [dnn.ENGINE_CLASSIC] if hasattr(dnn, "ENGINE_CLASSIC") else []
        return dnn.readNetFromTFLite(str(self.weights), *engine)


def looks(width: int, height: int, parts: int) -> Iterator[Frame]:
    """The squares that are looked at: the whole picture, or smaller ones that overlap by half or more.

    Example:
        >>> [(frame.x, frame.side) for frame in looks(1000, 100, 2)]
        [(250.0, 500.0), (500.0, 500.0), (750.0, 500.0)]
        >>> list(looks(64, 64, 2))
        []
    """
    side = max(width, height) / parts
    if parts > 1 and side < 0.75 * SIDE:  # there is nothing finer to be seen
        return
    xs, ys = (
        np.linspace(min(side, length) / 2, length - min(side, length) / 2, max(1, math.ceil(2 * length / side) - 1))
        for length in (width, height)
    )
    yield from (Frame(float(x), float(y), side) for y in ys for x in xs)


def apart(faces: Sequence[Face], taken: Sequence[Face] = ()) -> list[Face]:
    """Of faces that overlap the most certain one, the most certain first, and none that overlaps one that is taken.

    This is non-maximum suppression.
    """
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.certainty, face.box)):
        if all(face.overlap(other) < SAME for other in (*taken, *kept)):
            kept.append(face)
    return kept


@cache
def detector() -> BlazeFace:
    """The one of this process."""
    return BlazeFace()


def find(picture: Image.Image) -> list[Face]:
    """All faces of an upright RGB picture, the most certain first."""
    return detector()(picture)


def _box(edges: NDArray[np.float64]) -> tuple[float, float, float, float]:
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom
