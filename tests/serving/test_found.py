"""The address that finds faces; what it finds is held by tests/test_faces.py."""

import base64

import httpx
import numpy as np
import pytest
from fakes import FakeEngine, encoded, served
from PIL import Image

from diffusion_lab.data.crops import center148
from diffusion_lab.frames import Frame
from diffusion_lab.photo.faces import find
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.settings import offered
from portraits import two_on_a_wall
from small import MODEL


@pytest.fixture(scope="module")
def group() -> Image.Image:
    return two_on_a_wall()


def xy(point: dict[str, float]) -> tuple[float, float]:
    assert set(point) == {"x", "y"}
    return point["x"], point["y"]


def test_all_faces_and_the_squares_that_the_model_is_shown(group: Image.Image) -> None:
    engine = FakeEngine()
    engine.crop = center148()
    with served(create_app(engine, offered({"model": MODEL}))) as url, httpx.Client(base_url=url) as client:
        answer = client.post("/v1/faces", files={"image": encoded(group)})
        expected = client.get("/v1/info").json()["eyes"]
    assert [xy(expected[side]) for side in ("left", "right")] == [(52.5 / 148, 77.4 / 148), (95.5 / 148, 77.4 / 148)]
    assert answer.status_code == 200
    said, found = answer.json()["faces"], find(group)
    assert len(said) == len(found) == 2
    for face, known in zip(said, found, strict=True):
        assert set(face) == {"left", "right", "outline"}
        eyes = np.array([xy(face["left"]), xy(face["right"])])
        np.testing.assert_allclose(eyes, known.eyes)
        corners = np.array([xy(corner) for corner in face["outline"]])
        # A square, clockwise from its upper left corner, in which the eyes lie where the crop has them.
        sides = np.roll(corners, -1, axis=0) - corners
        lengths = np.linalg.norm(sides, axis=1)
        np.testing.assert_allclose(lengths, lengths[0])
        np.testing.assert_allclose(sides[0] @ sides[1], 0, atol=1e-6 * lengths[0] ** 2)
        assert sides[0, 0] * sides[1, 1] - sides[0, 1] * sides[1, 0] > 0  # y goes down
        placed = corners[0] + np.array(center148().eyes) / 148 @ sides[[0, 1]]
        np.testing.assert_allclose(placed, eyes, atol=1e-6)
        square = Frame.of_eyes(eyes, np.array(center148().eyes) / 148)
        assert lengths[0] == pytest.approx(square.side)


def test_the_service_finds_them(service: httpx.Client, group: Image.Image) -> None:
    """In front of a model that does not say where it expects eyes there is no square to show."""
    content = encoded(group)
    sent = service.post("/v1/faces", files={"image": content})
    assert [face["outline"] for face in sent.json()["faces"]] == [[], []]
    as_json = service.post("/v1/faces", json={"image": base64.b64encode(content).decode()})
    assert as_json.json() == sent.json()
    nobody = service.post("/v1/faces", files={"image": encoded(Image.new("RGB", (64, 64)))})
    assert (nobody.status_code, nobody.json()) == (200, {"faces": []})
    assert service.post("/v1/eyes", files={"image": content}).status_code == 404
    assert service.get("/v1/info").json()["eyes"] is None


@pytest.mark.parametrize(
    ("files", "data", "status", "param"),
    [
        ({}, {"image": "text"}, 422, "image"),
        ({"image": b"no picture"}, {}, 400, "image"),
        ({"image": b"\x89PNG\r\n\x1a\n"}, {}, 400, "image"),
        ({"image": encoded(Image.new("L", (8, 8)))}, {"mask": "1"}, 422, "mask"),
        ({"image": encoded(Image.new("1", (4000, 4000)))}, {}, 413, "image"),
    ],
)
def test_bad_uploads(
    service: httpx.Client, files: dict[str, bytes], data: dict[str, str], status: int, param: str
) -> None:
    boundary = {} if files else {"files": {"other": (None, b"")}}  # multipart, not urlencoded
    answer = service.post("/v1/faces", **({"files": files} if files else boundary), data=data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
