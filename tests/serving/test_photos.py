"""Photos through the API: faces are found and set upright, and each is filled as `photo.fill` fills it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fakes import FakeEngine, decoded, encoded, files, hole, photo, served, until
from PIL import Image

from diffusion_lab.client import Client
from diffusion_lab.data.crops import Crop, center148
from diffusion_lab.holes import as_mask
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.photo.faces import find
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.settings import Limits, offered
from diffusion_lab.tasks import Task
from patience import PATIENCE
from portraits import two_on_a_wall
from small import MODEL, RESTORER, filled, small_cascade, small_inpainter


@pytest.fixture(scope="module")
def model() -> Inpainter:
    """A small model with random weights, that expects eyes where CelebA has them."""
    return small_inpainter(crop="center148")


@pytest.fixture(scope="module")
def service(model: Inpainter) -> Iterator[httpx.Client]:
    app = create_app(LocalEngine(model, "tiny@1"), offered(model.recipe), limits=Limits(squares=6))
    with served(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def group() -> Image.Image:
    return two_on_a_wall()


def mask_of(picture: Image.Image, *boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", picture.size)
    for box in boxes:
        mask.paste(255, box)
    return mask


LEFT, RIGHT, WALL = (100, 130, 160, 160), (400, 130, 460, 160), (250, 10, 300, 60)
"""Holes in the group: in a face each, and in none."""


def eyes_in(said: str) -> np.ndarray:
    """``(n, 2, 2)`` of an `X-Face`."""
    return np.array([[float(value) for value in face.split(",")] for face in said.split(";")]).reshape(-1, 2, 2)


def check(made: np.ndarray, wanted: Image.Image, before: Image.Image, mask: Image.Image) -> None:
    known = np.asarray(mask) == 0
    assert np.array_equal(made[known], np.asarray(before)[known])
    assert not np.array_equal(made[~known], np.asarray(before)[~known])
    assert np.abs(made.astype(int) - np.asarray(wanted)).max() <= 1  # kernels round by batch size


@pytest.mark.parametrize("boxes", [(LEFT,), (RIGHT,), (LEFT, RIGHT), (LEFT, RIGHT, WALL), (WALL,)])
@pytest.mark.parametrize("path", ["/v1/restore", "/v1/inpaint"])
def test_each_face_is_filled_upright(
    service: httpx.Client, model: Inpainter, group: Image.Image, path: str, boxes: tuple[tuple[int, int, int, int], ...]
) -> None:
    mask = mask_of(group, *boxes)
    answer = service.post(path, files=files(group, mask), data={"seed": "5", "feather": "2"})
    assert answer.status_code == 200
    (wanted,) = filled(model, group, as_mask(mask), [5], feather=2)
    check(decoded(answer.content), wanted, group, mask)
    known = sorted((face.eyes for face in find(group)), key=lambda eyes: eyes[0, 0])
    used = [eyes for eyes, box in zip(known, (LEFT, RIGHT), strict=True) if box in boxes]
    if not used:
        assert answer.headers["x-face"] == "none"
        return
    said = sorted(eyes_in(answer.headers["x-face"]), key=lambda eyes: eyes[0, 0])
    np.testing.assert_allclose(said, used, atol=0.051)


def test_it_is_another_filling_than_without_alignment(
    service: httpx.Client, model: Inpainter, group: Image.Image
) -> None:
    """And that one is the upright square around the hole."""
    mask = mask_of(group, RIGHT)
    made = {
        align: service.post("/v1/inpaint", files=files(group, mask), data={"seed": "5", "align": align})
        for align in ("auto", "off")
    }
    assert made["off"].headers["x-face"] == "off"
    (wanted,) = filled(model, group, as_mask(mask), [5], align="off")
    check(decoded(made["off"].content), wanted, group, mask)
    assert np.abs(decoded(made["off"].content).astype(int) - decoded(made["auto"].content)).max() > 8


@pytest.mark.parametrize("kind", ["form", "json"])
def test_a_person_may_say_where_the_eyes_are(
    service: httpx.Client, model: Inpainter, group: Image.Image, kind: str
) -> None:
    mask, align = mask_of(group, WALL), [[250, 30.5], [290, 45]]
    if kind == "form":
        given: dict[str, Any] = {"files": files(group, mask), "data": {"seed": "5", "align": json.dumps(align)}}
    else:
        pictures = {name: base64.b64encode(content).decode() for name, content in files(group, mask).items()}
        given = {"json": {**pictures, "seed": 5, "align": align}}
    answer = service.post("/v1/inpaint", **given)
    assert answer.headers["x-face"] == "250.0,30.5,290.0,45.0"
    (wanted,) = filled(model, group, as_mask(mask), [5], align=align)
    check(decoded(answer.content), wanted, group, mask)


def test_several_completions_and_a_job_say_the_same(
    service: httpx.Client, model: Inpainter, group: Image.Image
) -> None:
    mask = mask_of(group, LEFT, RIGHT)
    settings = {"seed": "3", "num_samples": "2"}
    at_once = service.post("/v1/inpaint", files=files(group, mask), data=settings).json()
    started = service.post("/v1/jobs", files=files(group, mask), data={**settings, "previews": "1"}).json()
    events = service.get(f"/v1/jobs/{started['id']}/events").text
    job = service.get(f"/v1/jobs/{started['id']}").json()
    for said in (at_once, started, job):
        assert said["face"] == "found"
        assert said["faces"] == at_once["faces"]
    assert len(at_once["faces"]) == 2
    edges = [face[side]["x"] for face in at_once["faces"] for side in ("left", "right")]
    assert all(40 <= edge <= 520 for edge in edges)
    for seed, image, listed in zip((3, 4), at_once["images"], job["images"], strict=True):
        (wanted,) = filled(model, group, as_mask(mask), [seed])
        kept = service.get(listed["url"])
        for content in (base64.b64decode(image["b64_png"]), kept.content):
            check(decoded(content), wanted, group, mask)
        np.testing.assert_allclose(eyes_in(kept.headers["x-face"]).reshape(-1, 2)[:, 0], edges, atol=0.051)
    # Both holes of the preview, which is 512 pixels wide, are on their way; nothing else is.
    told = [json.loads(line.partition(":")[2]) for line in events.splitlines() if line.startswith("data:")]
    (shown,) = (event["previews"] for event in told if event.get("previews"))
    assert len(shown) == 2
    small = np.asarray(group.resize((512, 274), Image.Resampling.BOX)).astype(int)
    inside = np.asarray(mask.resize((512, 274), Image.Resampling.BOX)) > 0
    for preview in shown:
        off = np.abs(decoded(base64.b64decode(preview.partition(",")[2])).astype(int) - small).mean(2)
        assert np.median(off[~inside]) <= 3  # WebP is lossy
        for left, top, right, bottom in (LEFT, RIGHT):
            scale = 512 / 560
            assert off[int(top * scale) : int(bottom * scale), int(left * scale) : int(right * scale)].mean() > 10


@pytest.mark.parametrize("watched", [False, True])
def test_the_client_says_where_and_is_told(
    service: httpx.Client, model: Inpainter, group: Image.Image, watched: bool
) -> None:
    on_step = (lambda progress: None) if watched else None
    both = mask_of(group, LEFT, RIGHT)
    with Client(str(service.base_url)) as client:
        (found,) = client.inpaint(group, both, seed=5, on_step=on_step)
        (off,) = client.inpaint(group, both, seed=5, align="off", on_step=on_step)
        (said,) = client.inpaint(group, mask_of(group, WALL), align=[(250, 30), (290, 45)], on_step=on_step)
        (wall,) = client.inpaint(group, mask_of(group, WALL), on_step=on_step)
    assert [made.face for made in (found, off, said, wall)] == ["found", "off", "found", "none"]
    assert [len(made.faces) for made in (found, off, said, wall)] == [2, 0, 1, 0]
    assert said.faces == (((250, 30), (290, 45)),)
    (wanted,) = filled(model, group, as_mask(both), [5], align="off")
    check(np.asarray(off.picture), wanted, group, both)


def test_openai_s_way(service: httpx.Client, model: Inpainter, group: Image.Image) -> None:
    mask = mask_of(group, RIGHT)
    clear = group.convert("RGBA")
    clear.putalpha(mask.point(lambda value: 255 - value))
    sent = {"image": encoded(group), "mask": encoded(clear)}
    for align, said in (("auto", "found"), ("off", "off"), ("[[370,140],[425,120]]", "370.0,140.0,425.0,120.0")):
        answer = service.post("/v1/images/edits", files=sent, data={"seed": "5", "align": align})
        assert answer.status_code == 200
        assert answer.headers["x-face"] == said or (said == "found" and len(eyes_in(answer.headers["x-face"])) == 1)
        (wanted,) = filled(model, group, as_mask(mask), [5], align=json.loads(align) if "[" in align else align)
        check(decoded(base64.b64decode(answer.json()["data"][0]["b64_json"])), wanted, group, mask)
    # With the hole in the picture itself, nothing is left of what lay there.
    answer = service.post("/v1/images/edits", files={"image": encoded(clear)}, data={"stream": "true"})
    assert "image_edit.completed" in answer.text
    assert answer.headers["x-face"] != "off"


def test_on_a_wall_there_is_no_face(service: httpx.Client, model: Inpainter) -> None:
    wall = Image.new("RGB", (200, 150), (90, 110, 100))
    mask = mask_of(wall, (50, 50, 90, 90))
    answer = service.post("/v1/inpaint", files=files(wall, mask), data={"seed": "1"})
    assert answer.headers["x-face"] == "none"
    (wanted,) = filled(model, wall, as_mask(mask), [1], align="off")
    check(decoded(answer.content), wanted, wall, mask)


class Faked(FakeEngine):
    def __init__(self, crop: Crop, task: Task | None = None) -> None:
        super().__init__()
        self.crop, self.task = crop, task or self.task


@pytest.mark.parametrize("task", ["inpainting", "whole"])
def test_a_model_that_knows_no_eyes_looks_for_none(group: Image.Image, task: str) -> None:
    """Nor does one that restores whole pictures; points are of no use then either."""
    whole = small_inpainter(RESTORER).task
    engine = Faked(center148(), whole) if task == "whole" else FakeEngine()
    sent = {"image": encoded(group)} | ({} if task == "whole" else {"mask": encoded(mask_of(group, LEFT))})
    with served(create_app(engine, offered({"model": MODEL}))) as url, httpx.Client(base_url=url) as client:
        for align in ("auto", "[[100,140],[140,140]]"):
            answer = client.post("/v1/restore", files=sent, data={"align": align})
            assert (answer.status_code, answer.headers["x-face"]) == (200, "off")


@pytest.mark.parametrize("path", ["/v1/inpaint", "/v1/restore", "/v1/jobs", "/v1/images/edits"])
@pytest.mark.parametrize(
    ("align", "said"),
    [
        ("perhaps", "align=perhaps must be auto, off, or both eyes"),
        ("[[1,2],[3", "must be auto, off, or both eyes"),
        ("[[1,2]]", "must be auto, off, or both eyes"),
        ("[[1,2],[1,2]]", "must be auto, off, or both eyes"),
        ('[[1,2],["3",4]]', "must be auto, off, or both eyes"),
        ("[[1,2],[3,NaN]]", "must be auto, off, or both eyes"),
        ("[[1,2],[3,1e999]]", "must be auto, off, or both eyes"),
        ("[" * 30_000, "must be auto, off, or both eyes"),
        ("[[1,2],[3,4000]]", "lies far outside of the picture, which is 60x40 pixels"),
        ("[[1,2],[-40,4]]", "lies far outside of the picture, which is 60x40 pixels"),
    ],
)
def test_eyes_that_are_none_are_said(service: httpx.Client, path: str, align: str, said: str) -> None:
    data = {"align": align} | ({"mask_mode": "white"} if path.endswith("edits") else {})
    answer = service.post(path, files=files(), data=data)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_request", "align")
    assert said in error["message"]
    assert len(error["message"]) < 300
    if "edits" not in path:  # in JSON, what is text in a form is none
        pictures = {name: base64.b64encode(content).decode() for name, content in files().items()}
        for value in (align, None, False, {"left": [1, 2]}, "[[10, 10], [30, 10]]"):
            answer = service.post(path, json={**pictures, "align": value})
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, "align"), value


def test_more_squares_than_may_be_filled_at_once_are_refused(service: httpx.Client, group: Image.Image) -> None:
    mask = mask_of(group, LEFT, RIGHT)
    answer = service.post("/v1/inpaint", files=files(group, mask), data={"num_samples": "4"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "num_samples")
    assert "2 faces and places, each filled 4 times, and 6 squares may be" in error["message"]
    assert service.post("/v1/inpaint", files=files(group, mask), data={"num_samples": "3"}).status_code == 200


def test_a_large_face_is_filled_in_large_squares_as_far_as_the_service_goes(group: Image.Image) -> None:
    cascade = small_cascade()
    cascade.recipe["data"]["crop"] = "center148"
    mask = mask_of(group, LEFT)
    made = {}
    for detail in (16, 64):
        app = create_app(
            LocalEngine(cascade, "tiny@1"), offered(cascade.recipe), limits=Limits(detail=detail, windows=20)
        )
        with served(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
            until(lambda client=client: client.get("/readyz").status_code == 200)
            answer = client.post("/v1/inpaint", files=files(group, mask), data={"seed": "5"})
            made[detail] = decoded(answer.content)
            (wanted,) = filled(cascade, group, as_mask(mask), [5], detail=detail)
            check(made[detail], wanted, group, mask)
            many = client.post("/v1/inpaint", files=files(group, mask), data={"seed": "5", "num_samples": "8"})
            assert many.status_code == (200 if detail == 16 else 422)
    assert np.abs(made[16].astype(int) - made[64]).max() > 8
    error = many.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "num_samples")
    assert "at 64 px the hole is seen through " in error["message"]
    assert "filled 8 times, and 20 may be at once: ask for less" in error["message"]


def test_each_square_is_measured(service: httpx.Client, group: Image.Image) -> None:
    """As training is, which knows squares and no photos."""

    def count() -> float:
        lines = service.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("diffusion_lab_mask_fraction_count"))

    before = count()
    service.post("/v1/inpaint", files=files(group, mask_of(group, LEFT, RIGHT)))
    assert count() == before + 2


def test_a_hole_and_a_photo_of_the_usual_kind(service: httpx.Client) -> None:
    assert service.post("/v1/inpaint", files=files(photo(), hole())).headers["x-face"] == "none"
