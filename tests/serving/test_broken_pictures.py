"""Whatever a picture is: never a 500, nothing decoded that is over the limit, and the service as well as before."""

import base64
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from broken import SECRET, corpus, encoded, small
from fakes import FakeEngine, files, hole, photo
from PIL import ImageFile

LIMIT = 1_000_000
"""Pixels that the service of these tests takes."""
PLACES = ("/v1/restore", "/v1/inpaint", "/v1/jobs", "/v1/images/edits", "/v1/faces", "/v1/masks")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Pixels of all pictures that Pillow has decoded."""
    found: list[int] = []
    load = ImageFile.ImageFile.load

    def watched(picture: ImageFile.ImageFile) -> object:
        found.append(picture.width * picture.height)
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    yield found
    assert max(found, default=0) <= LIMIT


def sent(service: httpx.Client, place: str, content: bytes, *, as_mask: bool = False) -> httpx.Response:
    """A request with a broken picture, as the picture or as its mask."""
    good = encoded(photo(), "PNG")
    both = {"image": good if as_mask else content, "mask": content if as_mask else encoded(hole(), "PNG")}
    needed = {"/v1/masks": ("mask",), "/v1/faces": ("image",)}.get(place, ("image", "mask"))
    if place == "/v1/masks":
        both["mask"] = content
    settings = {} if place in ("/v1/masks", "/v1/faces") else {"align": "off"}
    return service.post(place, files={name: both[name] for name in needed}, data=settings)


def sound(answer: httpx.Response, name: str) -> int:
    assert answer.status_code in (200, 202, 400, 413, 422, 429), (name, answer.status_code, answer.text[:300])
    if answer.status_code >= 400:
        found = answer.json()["error"]
        assert found["message"], name
        assert not re.search(r"Traceback|File \"|BytesIO|0x[0-9a-f]{6}", found["message"]), (name, found["message"])
    return answer.status_code


def test_there_are_two_hundred_of_all_kinds() -> None:
    assert len(corpus()) >= 200
    assert len(set(corpus().values())) >= 200
    kinds = Counter(name.split(" as ")[0] for name in corpus() if " as " in name)
    assert {"1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"} <= kinds.keys()


def test_each_of_them_somewhere(service: httpx.Client, engine: FakeEngine, decoded: list[int]) -> None:
    """As a picture at one address and as a mask at another, in turn; the slow test sends each to all."""
    codes = Counter[int]()
    for i, (name, content) in enumerate(corpus().items()):
        codes[sound(sent(service, PLACES[i % len(PLACES)], content), name)] += 1
        codes[sound(sent(service, PLACES[i % 4], content, as_mask=True), name)] += 1
    assert codes[400] > 100
    assert codes[413] > 10
    assert service.get("/healthz").status_code == 200
    assert service.post("/v1/inpaint", files=files()).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_each_of_them_everywhere(service: httpx.Client, decoded: list[int], place: str) -> None:
    for name, content in corpus().items():
        sound(sent(service, place, content), name)
        if place not in ("/v1/masks", "/v1/faces"):
            sound(sent(service, place, content, as_mask=True), name)
    assert service.get("/healthz").status_code == 200
    assert service.post("/v1/inpaint", files=files()).status_code == 200


def test_broken_pictures_in_json(service: httpx.Client, decoded: list[int]) -> None:
    for name, content in list(corpus().items())[::7]:
        body = {key: base64.b64encode(part).decode() for key, part in files(content).items()}
        sound(service.post("/v1/restore", json={**body, "align": "off"}), name)
    assert service.get("/healthz").status_code == 200


def test_nothing_of_a_photo_stays(
    service: httpx.Client,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither on disk, where large uploads wait for a moment, nor in what is logged: of good requests and bad ones."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    turned = corpus()["JPEG turned by 9"]
    assert SECRET in turned
    large = encoded(small(size=(640, 480)), "PNG")
    assert len(large) > 900_000
    posts = [turned, turned[:-40], large, large[:-1000]]
    for content in posts:
        parts = {"image": (f"{SECRET.decode()}.jpg", content), "mask": encoded(hole(24, 20), "PNG")}
        for place in ("/v1/restore", "/v1/jobs", "/v1/images/edits"):
            service.post(place, files=parts, data={"align": "off"})
    engine.failure = RuntimeError("as the test wants it")
    assert (
        service.post(
            "/v1/inpaint", files={**files(), "image": (f"{SECRET.decode()}.png", encoded(photo(), "PNG"))}
        ).status_code
        == 500
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    said = caplog.text.encode() + "".join(capfd.readouterr()).encode()
    for trace in (SECRET, large[500:540], base64.b64encode(large[300:360])):
        assert trace not in said
        assert repr(trace)[2:-1].encode() not in said


def test_names_of_files_lead_nowhere(service: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../../x.png", "/etc/passwd", "..\\..\\x.png", "x\0.png", "a" * 5000, "", "."):
        answer = service.post("/v1/inpaint", files={**files(), "image": (name, encoded(photo(), "PNG"))})
        assert answer.status_code in (200, 400, 422), name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "/page/../api.py",
        "/page/..%2fapi.py",
        "/page/%2e%2e/%2e%2e/api.py",
        "/page/....//api.py",
        "/page/..%5capi.py",
        "/page//etc/passwd",
        "/page/%00",
        "/page/page.css%00.html",
        "//etc/passwd",
        "/v1/jobs/..%2f..%2fetc%2fpasswd",
        "/v1/jobs/%00",
        "/v1/jobs/x/images/-1",
        "/v1/jobs/x/images/99999999999999999999999",
    ],
)
def test_paths_lead_nowhere(service: httpx.Client, path: str) -> None:
    answer = service.get(path)
    assert answer.status_code in (400, 404, 422)
    assert "def create_app" not in answer.text
    assert "root:" not in answer.text


def test_ids_of_jobs_cannot_be_guessed(service: httpx.Client) -> None:
    """128 random bits: of 64 ids no two share six characters anywhere in the same place."""
    ids = [service.post("/v1/jobs", files=files(), data={"align": "off"}).json()["id"] for _ in range(64)]
    assert all(re.fullmatch(r"[\w-]{22}", one) for one in ids)  # 16 bytes
    for start in range(0, 18, 6):
        assert len({one[start : start + 6] for one in ids}) == 64


def test_a_body_without_an_end_is_not_read_to_it(service: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        yield b"--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
        for _ in range(4096):
            yield bytes(65536)

    try:
        answer = service.post(
            "/v1/inpaint", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
    except httpx.HTTPError:  # it has hung up meanwhile
        pass
    else:
        assert answer.status_code == 413
    assert service.get("/healthz").status_code == 200
