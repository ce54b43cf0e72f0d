"""The address that finds eyes; what it finds is held by tests/test_faces.py."""

import base64
import io
import zipfile

import httpx
import pytest
from diffusion_lab.serving.eyes import Eyes
from PIL import Image

from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.faces import find


@pytest.fixture(scope="module")
def faces() -> list[Image.Image]:
    with zipfile.ZipFile(built_in_faces() / "img_align_celeba.zip") as archive:
        return [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in archive.namelist()[:12]]


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_the_service_finds_them(service: httpx.Client, faces: list[Image.Image]) -> None:
    assert service.get("/v1/info").json()["finds_eyes"] is True
    content = encoded(faces[3])
    sent = service.post("/v1/eyes", files={"image": content})
    assert sent.status_code == 200
    (face,) = sent.json()["faces"]
    assert Eyes.model_validate(face).left.x == pytest.approx(find(faces[3])[0].eyes[0, 0])
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
