"""The images API as OpenAI's own client sees it."""

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from fakes import FakeEngine, check_filled, decoded, encoded, files, hole, leaving, photo, transparent, until
from PIL import Image

from diffusion_lab.serving.engine import JobFailed, QueueFull


@pytest.fixture
def client(service: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


def png(picture: Image.Image, name: str = "picture.png") -> tuple[str, bytes, str]:
    return name, encoded(picture), "image/png"


def check(b64: str | None) -> None:
    assert b64 is not None
    check_filled(decoded(base64.b64decode(b64)))


def test_transparent_is_the_hole(client: openai.OpenAI) -> None:
    for image, mask in ((photo(), transparent()), (transparent(), None)):
        made = client.images.edit(
            image=png(image), mask=png(mask) if mask else openai.omit, prompt="a smile", n=2, model="gpt-image-1.5"
        )
        assert made.data is not None
        assert len(made.data) == 2
        assert (made.output_format, made.size, made.background) == ("png", "60x40", "opaque")
        for image_made in made.data:
            check(image_made.b64_json)


def test_the_two_conventions_are_opposites(service: httpx.Client, engine: FakeEngine) -> None:
    service.post("/v1/images/edits", files=files(mask=transparent()))
    service.post("/v1/inpaint", files=files())
    service.post("/v1/images/edits", files=files(), data={"mask_mode": "white"})
    service.post("/v1/images/edits", files=files(), data={"mask_mode": "nonzero"})
    service.post("/v1/images/edits", files=files(mask=transparent()), data={"mask_mode": "alpha"})
    service.post("/v1/inpaint", files=files(mask=transparent()), data={"mask_mode": "transparent"})
    masks = [job.mask for job in engine.jobs]
    assert len(masks) == 6
    assert all(mask.equal(masks[0]) for mask in masks)


def test_streaming_with_partial_images(client: openai.OpenAI) -> None:
    stream = client.images.edit(image=png(transparent()), prompt="a smile", stream=True, partial_images=2)
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [event.partial_image_index for event in events if event.type == "image_edit.partial_image"] == [0, 1]
    assert all((event.size, event.output_format) == ("60x40", "png") for event in events)
    for event in events:
        check(event.b64_json)
    assert events[-1].usage.total_tokens == 0


def test_without_previews_the_stream_is_the_result(client: openai.OpenAI) -> None:
    (only,) = client.images.edit(image=png(transparent()), prompt="a smile", stream=True)
    assert only.type == "image_edit.completed"


@pytest.mark.parametrize(("kind", "mode"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_formats(client: openai.OpenAI, kind: str, mode: str) -> None:
    made = client.images.edit(image=png(transparent()), prompt="", output_format=kind)  # type: ignore[call-overload]
    content = base64.b64decode(made.data[0].b64_json)
    opened = Image.open(io.BytesIO(content))
    assert opened.format == mode
    assert "compositeWithTrainedAlgorithmicMedia" in str(opened.info["xmp"])  # every picture says that a model made it
    if kind != "jpeg":
        check(made.data[0].b64_json)


def test_what_goes_beyond_openai(service: httpx.Client, engine: FakeEngine) -> None:
    data = {"num_inference_steps": "3", "sampler": "ddpm", "seed": "11", "n": "2", "feather": "1", "model": "x"}
    pictures = {"image[]": encoded(photo()), "mask_image": encoded(transparent())}
    answer = service.post("/v1/images/edits", files=pictures, data=data)
    assert answer.status_code == 200
    assert answer.headers["x-seed"] == "11"
    assert "warning" not in answer.headers
    assert engine.jobs[0].seeds == (11, 12)
    assert "not followed" in service.post("/v1/images/edits", files=pictures, data={"prompt": "a"}).headers["warning"]


@pytest.mark.parametrize(
    ("pictures", "data", "status", "code", "param"),
    [
        ({"image": photo(), "mask": hole()}, {}, 400, "no_alpha", "mask"),
        ({"image": photo()}, {}, 400, "no_alpha", "image"),
        ({"image": photo(), "mask": photo().convert("RGBA")}, {}, 400, "invalid_mask", "mask"),
        ({"image": photo(), "mask": transparent((40, 60))}, {}, 400, "invalid_mask", "mask"),
        ({"mask": transparent()}, {}, 422, "invalid_request", "image"),
        ({"image": transparent(), "image[]": photo()}, {}, 400, "invalid_request", "image"),
        ({"image": transparent()}, {"n": "9"}, 422, "invalid_request", "n"),
        ({"image": transparent()}, {"num_inference_steps": "2000"}, 422, "invalid_request", "num_inference_steps"),
        ({"image": transparent()}, {"size": "1024x1024"}, 400, "invalid_size", "size"),
        ({"image": transparent()}, {"response_format": "url"}, 422, "invalid_request", "response_format"),
        ({"image": transparent()}, {"output_format": "gif"}, 422, "invalid_request", "output_format"),
    ],
)
def test_what_cannot_be_done_is_said(
    service: httpx.Client,
    pictures: dict[str, Image.Image],
    data: dict[str, str],
    status: int,
    code: str,
    param: str,
) -> None:
    sent = {name: encoded(picture) for name, picture in pictures.items()}
    answer = service.post("/v1/images/edits", files=sent, data=data)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"


def test_refusals_are_what_the_client_knows(client: openai.OpenAI, engine: FakeEngine) -> None:
    with pytest.raises(openai.BadRequestError, match="no alpha channel"):
        client.images.edit(image=png(photo()), prompt="")
    for stream in (False, True):
        engine.refusal = QueueFull("64 jobs wait already", 7)
        with pytest.raises(openai.RateLimitError, match="64 jobs wait") as caught:
            client.images.edit(image=png(transparent()), prompt="", stream=stream)  # type: ignore[call-overload]
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.type == "rate_limit_error"


def test_a_stream_that_fails_raises(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.failure = JobFailed("non_finite_output", "not a number")
    with pytest.raises(openai.APIError, match="not a number"):
        list(client.images.edit(image=png(transparent()), prompt="", stream=True))


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_leaves_frees_its_place(service: httpx.Client, engine: FakeEngine, stream: str) -> None:
    engine.held_at = 2
    with leaving(str(service.base_url), "/v1/images/edits", {"image": encoded(transparent())}, stream=stream):
        until(lambda: engine.running == 1)
    until(lambda: engine.running == 0)


def test_with_a_real_model_and_retries(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        one, two = (
            client.images.edit(image=png(transparent()), prompt="", extra_body={"seed": 3}).data for _ in range(2)
        )
    assert one is not None
    assert two is not None
    first, second = (decoded(base64.b64decode(made[0].b64_json or "")).astype(int) for made in (one, two))
    assert np.abs(first - second).max() <= 1
