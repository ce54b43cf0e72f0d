import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fakes import FakeEngine, check_filled, encoded, hole, photo, served, until
from PIL import Image

from diffusion_lab.client import AsyncClient, Client, Completion, Progress, ServiceError
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.engine import JobFailed, QueueFull
from diffusion_lab.serving.security import Keys, digest
from diffusion_lab.serving.settings import offered
from small import MODEL

Inpaint = Callable[..., list[Completion]]


@pytest.fixture(params=["sync", "async"])
def inpaint(request: pytest.FixtureRequest, service: httpx.Client) -> Inpaint:
    """Either client's method, called with the usual pictures unless told otherwise."""

    def call(
        image: object = None, mask: object = None, *, url: str = str(service.base_url), **options: object
    ) -> object:
        given = (photo() if image is None else image, hole() if mask is None else mask)
        key = options.pop("key", None)

        async def main() -> list[Completion]:
            async with AsyncClient(url, key) as client:  # type: ignore[arg-type]
                return await client.inpaint(*given, **options)  # type: ignore[arg-type]

        if request.param == "async":
            return asyncio.run(main())
        with Client(url, key) as client:  # type: ignore[arg-type]
            return client.inpaint(*given, **options)  # type: ignore[arg-type]

    return call  # type: ignore[return-value]


def check(completion: Completion) -> None:
    check_filled(np.asarray(completion.picture))
    assert (completion.version, completion.network_calls) == ("fake@1", 5)


def test_pictures_in_whatever_form(inpaint: Inpaint, tmp_path: Path) -> None:
    photo().save(tmp_path / "me.png")
    for image in (photo(), encoded(photo()), tmp_path / "me.png", str(tmp_path / "me.png")):
        (completion,) = inpaint(image)
        check(completion)


def test_pictures_that_no_png_holds(inpaint: Inpaint) -> None:
    for mode in ("CMYK", "YCbCr", "LAB"):
        (completion,) = inpaint(photo().convert(mode))
        assert completion.picture.size == photo().size
    with pytest.raises(ValueError, match=r"a picture of floats \(F\) cannot be sent"):
        inpaint(photo().convert("F"))


@pytest.mark.parametrize("watched", [False, True])
def test_a_mask_of_another_kind(inpaint: Inpaint, watched: bool) -> None:
    on_step = (lambda progress: None) if watched else None
    strokes = Image.new("RGBA", hole().size, "black")
    strokes.putalpha(hole())
    with pytest.raises(ServiceError, match=r"it is RGBA and holds transparent \(.*or mask_mode=transparent") as refused:
        inpaint(mask=strokes, on_step=on_step)
    assert (refused.value.code, refused.value.param) == ("ambiguous_mask", "mask")
    (completion,) = inpaint(mask=strokes, mask_mode="nonzero", on_step=on_step)
    check(completion)


@pytest.mark.parametrize("watched", [False, True])
def test_completions_have_their_seeds(inpaint: Inpaint, watched: bool) -> None:
    on_step = (lambda progress: None) if watched else None
    completions = inpaint(num_samples=3, seed=7, on_step=on_step)
    assert [completion.seed for completion in completions] == [7, 8, 9]
    for completion in completions:
        check(completion)


def test_progress_with_previews(inpaint: Inpaint) -> None:
    seen: list[Progress] = []
    inpaint(num_samples=2, previews=1, on_step=seen.append)
    assert [(progress.step, progress.steps, progress.position) for progress in seen] == [
        (0, None, 0),
        *[(step, 5, None) for step in range(1, 6)],
    ]
    assert [len(progress.previews) for progress in seen] == [0, 0, 2, 0, 0, 0]
    assert seen[2].previews[0].size == (60, 40)


@pytest.mark.parametrize("watched", [False, True])
def test_the_service_says_no(inpaint: Inpaint, engine: FakeEngine, watched: bool) -> None:
    on_step = (lambda progress: None) if watched else None
    with pytest.raises(ServiceError, match="the mask is 40x60 and the image 60x40") as caught:
        inpaint(mask=hole(40, 60), on_step=on_step)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_mask", "mask")
    engine.refusal = QueueFull("64 jobs wait already", 7)
    with pytest.raises(ServiceError, match="64 jobs wait") as caught:
        inpaint(on_step=on_step)
    assert (caught.value.status, caught.value.retry_after) == (429, 7)
    engine.refusal, engine.failure = None, JobFailed("non_finite_output", "not a number")
    with pytest.raises(ServiceError, match="not a number") as caught:
        inpaint(on_step=on_step)
    assert caught.value.code == "non_finite_output"


def test_nobody_answers(inpaint: Inpaint) -> None:
    with pytest.raises(ServiceError, match=r"no answer from http://127\.0\.0\.1:9") as caught:
        inpaint(url="http://127.0.0.1:9")
    assert caught.value.code == "unreachable"


def test_somebody_else_answers(inpaint: Inpaint, service: httpx.Client) -> None:
    with pytest.raises(ServiceError, match="there is nothing at this address"):
        inpaint(url=f"{service.base_url}/elsewhere")


def test_whoever_watches_can_give_up(inpaint: Inpaint, engine: FakeEngine) -> None:
    def enough(progress: Progress) -> None:
        if progress.step == 2:
            engine.held_at = 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inpaint(on_step=enough)
    until(lambda: engine.running == 0)


def test_keys() -> None:
    app = create_app(FakeEngine(), offered({"model": MODEL}), keys=Keys([digest("sesame")]))
    with served(app) as url:
        with Client(url, "sesame") as client:
            assert len(client.inpaint(photo(), hole())) == 1
            assert client.info()["version"] == "fake@1"
        with Client(url) as client, pytest.raises(ServiceError, match="send your API key"):
            client.info()


class Broken(httpx.BaseTransport):
    """A connection that breaks after some lines of a stream, some times."""

    def __init__(self, times: int) -> None:
        self.real = httpx.HTTPTransport()
        self.times = times
        self.resumed: list[str | None] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self.real.handle_request(request)
        if not request.url.path.endswith("/events"):
            return answer
        self.resumed.append(request.headers.get("last-event-id"))
        if self.times == 0:
            return answer
        self.times -= 1

        def cut() -> Iterator[bytes]:
            for chunk in answer.stream:  # type: ignore[union-attr]
                yield chunk
                raise httpx.ReadError("cable pulled")

        class Cut(httpx.SyncByteStream):
            def __iter__(self) -> Iterator[bytes]:
                return cut()

            def close(self) -> None:
                answer.close()

        return httpx.Response(answer.status_code, headers=answer.headers, stream=Cut())

    def close(self) -> None:
        self.real.close()


def test_a_stream_that_breaks_is_taken_up_again(service: httpx.Client) -> None:
    transport = Broken(2)
    seen: list[int] = []
    with Client(str(service.base_url), transport=transport) as client:
        (completion,) = client.inpaint(photo(), hole(), on_step=lambda progress: seen.append(progress.step))
    check(completion)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert transport.resumed[0] is None
    assert transport.resumed[1] is not None
