"""The service in front of models of other tasks: masks are needed, of no use, or as one likes."""

import asyncio
import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from fakes import FakeEngine, decoded, encoded, hole, photo, served, transparent, until
from PIL import Image

from diffusion_lab.client import AsyncClient, Client, Completion, Progress, ServiceError
from diffusion_lab.data.degradations import luma
from diffusion_lab.holes import as_mask
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.settings import offered
from diffusion_lab.tasks import Task, inpainting, restoration, several
from patience import PATIENCE
from small import MODEL, RESTORER, SEVERAL, filled, small_inpainter

TASKS = {"needed": inpainting(), "none": restoration("colorization", luma), "optional": several(luma)}
WHOLE = "this model restores whole pictures (task colorization): leave the mask out"
MISSING = "mask: is missing; this model fills holes (task inpainting): say where by a mask"


class Faked(FakeEngine):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task


@contextmanager
def serving(engine: Any) -> Iterator[httpx.Client]:
    with (
        served(create_app(engine, offered({"model": MODEL}))) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture(scope="module", params=list(TASKS))
def offer(request: pytest.FixtureRequest) -> Iterator[tuple[str, httpx.Client, Faked]]:
    """What the model wants of a mask, the service in front of it, and the engine."""
    engine = Faked(TASKS[request.param])
    with serving(engine) as client:
        yield request.param, client, engine


def sent(client: httpx.Client, path: str, **pictures: bytes) -> httpx.Response:
    return client.post(path, files=pictures)


@pytest.mark.parametrize("path", ["/v1/restore", "/v1/inpaint", "/v1/jobs", "/v1/images/edits"])
class TestMasks:
    """One rule, whichever way a picture comes in."""

    def test_without_a_mask(self, offer: tuple[str, httpx.Client, Faked], path: str) -> None:
        wants, client, engine = offer
        engine.reset()
        answer = sent(client, path, image=encoded(photo()))
        if wants == "needed":
            said = answer.json()["error"]
            # OpenAI's way looks for transparency then, which a photo has not.
            known = (400, "no_alpha") if path.endswith("edits") else (422, "invalid_request")
            assert (answer.status_code, said["code"]) == known
            assert path.endswith("edits") or (said["message"], said["param"]) == (MISSING, "mask")
            assert not engine.jobs
        else:
            assert answer.status_code in (200, 202)
            until(lambda: len(engine.jobs) == 1)
            assert bool(engine.jobs[0].mask.all())

    def test_with_a_mask(self, offer: tuple[str, httpx.Client, Faked], path: str) -> None:
        wants, client, engine = offer
        engine.reset()
        mask = encoded(transparent()) if path.endswith("edits") else encoded(hole())
        for content in (mask, b"no picture at all"):  # there is no use for it, whatever it is
            answer = sent(client, path, image=encoded(photo()), mask=content)
            if wants == "none":
                said = answer.json()["error"]
                assert (answer.status_code, said["code"], said["param"]) == (400, "invalid_mask", "mask")
                assert said["message"] == WHOLE
            else:
                assert answer.status_code == 400 if content != mask else answer.status_code in (200, 202)
        until(lambda: len(engine.jobs) == (0 if wants == "none" else 1))
        assert all(0 < float(job.mask.float().mean()) < 1 for job in engine.jobs)

    def test_transparency_is_a_hole_only_where_one_is_needed(
        self, offer: tuple[str, httpx.Client, Faked], path: str
    ) -> None:
        wants, client, engine = offer
        engine.reset()
        answer = sent(client, path, image=encoded(transparent()))
        if wants == "needed" and not path.endswith("edits"):
            assert answer.status_code == 422
            return
        assert answer.status_code in (200, 202)
        until(lambda: len(engine.jobs) == 1)
        assert bool(engine.jobs[0].mask.all()) == (wants != "needed")

    def test_a_form_s_input_that_nobody_chose_a_file_for_is_no_mask(
        self, offer: tuple[str, httpx.Client, Faked], path: str
    ) -> None:
        wants, client, engine = offer
        engine.reset()
        part = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
        body = part % (b"image", b"me.png", encoded(photo())) + part % (b"mask", b"", b"") + b"--x--\r\n"
        answer = client.post(path, content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert (answer.status_code < 300) == (wants != "needed")


def test_what_the_service_says_of_its_task(offer: tuple[str, httpx.Client, Faked]) -> None:
    wants, client, engine = offer
    assert client.get("/v1/info").json()["task"] == {"name": engine.task.name, "mask": wants}
    schema = client.get("/openapi.json").json()
    for path in ("/v1/restore", "/v1/inpaint", "/v1/jobs"):
        body = schema["paths"][path]["post"]["requestBody"]["content"]
        for kind in ("multipart/form-data", "application/json"):
            assert body[kind]["schema"]["required"] == (["image", "mask"] if wants == "needed" else ["image"])
            assert ("mask" in body[kind]["schema"]["properties"]) == (wants != "none")
        example = body["application/json"]["examples"]["small"]["value"]
        assert client.post(path, json=example).status_code in (200, 202)


@pytest.fixture(scope="module", params=["jpeg", "several"])
def real(request: pytest.FixtureRequest) -> Iterator[tuple[Inpainter, httpx.Client]]:
    """A small model that takes whole pictures, and the service in front of it."""
    model = small_inpainter({"jpeg": RESTORER, "several": SEVERAL}[request.param])
    with serving(LocalEngine(model, "tiny@1")) as client:
        yield model, client


@pytest.mark.parametrize("size", [(60, 40), (16, 16), (9, 7), (7, 300)])
def test_the_picture_is_what_restore_py_makes(real: tuple[Inpainter, httpx.Client], size: tuple[int, int]) -> None:
    model, client = real
    answer = client.post("/v1/restore", files={"image": encoded(photo(*size))}, data={"seed": "5"})
    assert (answer.status_code, answer.headers["x-seed"]) == (200, "5")
    (wanted,) = filled(model, photo(*size), None, [5])
    made = decoded(answer.content)
    assert made.shape == np.asarray(wanted).shape
    assert np.abs(made.astype(int) - np.asarray(wanted)).max() <= 1


def test_several_completions_and_a_job_are_the_same_pictures(real: tuple[Inpainter, httpx.Client]) -> None:
    _, client = real
    settings = {"seed": 3, "num_samples": 2, "steps": 2}
    image = base64.b64encode(encoded(photo())).decode()
    at_once = client.post("/v1/restore", json={"image": image, **settings}).json()
    job = client.post("/v1/jobs", json={"image": image, **settings, "previews": 1}).json()
    events = client.get(f"/v1/jobs/{job['id']}/events").text
    assert "event: completed" in events
    assert "data:image/webp" in events
    for k, made in enumerate(at_once["images"]):
        other = client.get(f"/v1/jobs/{job['id']}/images/{k}").content
        first, second = decoded(base64.b64decode(made["b64_png"])), decoded(other)
        assert np.abs(first.astype(int) - second).max() <= 1


def test_a_part_alone_is_made_anew_where_a_mask_says_so() -> None:
    model = small_inpainter(SEVERAL)
    with serving(LocalEngine(model, "tiny@1")) as client:
        files = {"image": encoded(photo()), "mask": encoded(hole())}
        answer = client.post("/v1/restore", files=files, data={"seed": "5"})
    (wanted,) = filled(model, photo(), as_mask(hole()), [5])
    made, inside = decoded(answer.content), np.asarray(hole()) > 127
    assert np.array_equal(made[~inside], np.asarray(photo())[~inside])
    assert np.abs(made.astype(int) - np.asarray(wanted)).max() <= 1


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_clients_restore(real: tuple[Inpainter, httpx.Client], kind: str, watched: bool) -> None:
    model, service = real
    told: list[Progress] = []
    on_step = told.append if watched else None
    url = str(service.base_url)

    async def main() -> list[Completion]:
        async with AsyncClient(url) as client:
            return await client.restore(photo(), seed=5, on_step=on_step)

    def plain() -> list[Completion]:
        with Client(url) as client:
            return client.restore(photo(), seed=5, on_step=on_step)

    (made,) = asyncio.run(main()) if kind == "async" else plain()
    (wanted,) = filled(model, photo(), None, [5])
    assert np.abs(np.asarray(made.picture).astype(int) - np.asarray(wanted)).max() <= 1
    assert bool(told) == watched


def test_the_client_says_the_task_s_own_sentence(offer: tuple[str, httpx.Client, Faked]) -> None:
    wants, service, _ = offer
    with Client(str(service.base_url)) as client:
        if wants == "none":
            with pytest.raises(ServiceError, match="restores whole pictures"):
                client.inpaint(photo(), hole())
        elif wants == "needed":
            with pytest.raises(ServiceError, match="say where by a mask"):
                client.restore(photo())


def test_an_enlargement_of_a_small_picture_is_as_large_as_the_model_makes_it() -> None:
    with serving(LocalEngine(small_inpainter(RESTORER), "tiny@1")) as client:
        answer = client.post("/v1/restore", files={"image": encoded(photo(8, 6))})
        edit = client.post("/v1/images/edits", files={"image": encoded(photo(8, 6))}).json()
    assert Image.open(io.BytesIO(answer.content)).size == (16, 12)
    assert edit["size"] == "16x12"
