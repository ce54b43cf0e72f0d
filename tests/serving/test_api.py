import base64
import contextlib
import io
import json
import re
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fakes import FakeEngine, decoded, encoded, files, hole, leaving, photo, served, until
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from diffusion_lab.holes import as_mask
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.serving import desk
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.engine import JobFailed, NotReady, QueueFull
from diffusion_lab.serving.measures import brightness, mask_fraction
from diffusion_lab.serving.settings import Limits, offered
from patience import PATIENCE
from small import MODEL, filled


def uri(picture: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(encoded(picture)).decode()}"


def error(answer: httpx.Response) -> dict[str, str]:
    """The error of an answer, whose shape is looked at."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "param"}
    assert body["error"]["message"]
    return body["error"]  # type: ignore[no-any-return]


def measured(service: httpx.Client, name: str, **labels: str) -> float:
    """A value of /metrics; 0 where it was never counted."""
    for family in text_string_to_metric_families(service.get("/metrics").text):
        for sample in family.samples:
            if sample.name == f"diffusion_lab_{name}" and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


class TestFilling:
    @pytest.mark.parametrize("size", [(60, 40), (16, 16), (7, 300), (640, 480)])
    def test_only_the_hole_changes_at_any_size(self, service: httpx.Client, size: tuple[int, int]) -> None:
        answer = service.post("/v1/inpaint", files=files(photo(*size), hole(*size)), data={"seed": "3"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        headers = {"x-seed": "3", "x-model-version": "fake@1", "x-network-calls": "5"}
        assert {name: answer.headers[name] for name in headers} == headers
        before, after, inside = np.asarray(photo(*size)), decoded(answer.content), np.asarray(hole(*size)) > 127
        assert np.array_equal(before[~inside], after[~inside])
        assert not np.array_equal(before[inside], after[inside])

    def test_the_picture_is_what_inpaint_py_makes(self, url: str, model: Inpainter) -> None:
        answer = httpx.post(f"{url}/v1/inpaint", files=files(), data={"seed": 5, "feather": 3}, timeout=PATIENCE)
        (wanted,) = filled(model, photo(), as_mask(hole()), [5], feather=3)
        difference = decoded(answer.content).astype(int) - np.asarray(wanted)
        assert np.abs(difference).max() <= 1

    def test_json_is_the_same_request(self, url: str) -> None:
        settings = {"seed": 7, "steps": 2, "sampler": "heun", "num_samples": 2}
        text = {name: str(value) for name, value in settings.items()}
        form = httpx.post(f"{url}/v1/inpaint", files=files(), data=text, timeout=PATIENCE).json()
        plain = base64.b64encode(encoded(hole())).decode()
        json = {"image": uri(photo()), "mask": plain, **settings}
        both = httpx.post(f"{url}/v1/inpaint", json=json, timeout=PATIENCE).json()
        assert [made["seed"] for made in both["images"]] == [7, 8]
        assert both["network_calls"] == form["network_calls"] == 3
        for one, other in zip(both["images"], form["images"], strict=True):
            first, second = (decoded(base64.b64decode(made["b64_png"])).astype(int) for made in (one, other))
            assert np.abs(first - second).max() <= 1

    @pytest.mark.parametrize(
        ("accept", "count", "kind"),
        [
            ("*/*", 1, "image/png"),
            ("*/*", 2, "application/json"),
            ("application/json", 1, "application/json"),
            ("image/*", 1, "image/png"),
            ("image/png;q=0.2, application/json;q=0.9", 1, "application/json"),
            ("text/html", 1, None),
            ("image/png", 2, None),
        ],
    )
    def test_accept_decides(self, service: httpx.Client, accept: str, count: int, kind: str | None) -> None:
        answer = service.post(
            "/v1/inpaint", files=files(), data={"num_samples": str(count)}, headers={"Accept": accept}
        )
        if kind is None:
            assert answer.status_code == 406
            assert error(answer)["code"] == "not_acceptable"
        else:
            assert answer.headers["content-type"] == kind

    def test_without_a_seed_every_call_has_its_own(self, service: httpx.Client) -> None:
        seeds = {service.post("/v1/inpaint", files=files()).headers["x-seed"] for _ in range(3)}
        assert len(seeds) == 3

    def test_what_was_said_of_the_sampler_reaches_the_engine(self, service: httpx.Client, engine: FakeEngine) -> None:
        for data in ({}, {"steps": "4"}, {"sampler": "ddpm"}, {"sampler": "", "steps": ""}):
            assert service.post("/v1/inpaint", files=files(), data=data).status_code == 200
        from diffusion_lab.diffusion.schedule import linear

        calls = [None if job.sampler is None else job.sampler.network_calls(linear()) for job in engine.jobs]
        assert calls == [None, 4, 10, None]


def drawn(kind: str) -> Image.Image:
    """The usual hole as another program would save it."""
    inside = np.asarray(hole()) > 127
    red = np.zeros((*inside.shape, 3), np.uint8)
    red[inside, 0] = 255
    clear = Image.new("RGBA", hole().size, "white")
    clear.putalpha(hole())
    return {"labels": Image.fromarray(inside.astype(np.uint8)), "red": Image.fromarray(red), "clear": clear}[kind]


class TestMasks:
    """One reading of masks, whichever way they come in."""

    @pytest.mark.parametrize("kind", ["labels", "red", "clear"])
    @pytest.mark.parametrize("path", ["/v1/inpaint", "/v1/jobs"])
    def test_every_kind_is_the_same_hole(self, service: httpx.Client, engine: FakeEngine, path: str, kind: str) -> None:
        for mask in (hole(), drawn(kind)):
            assert service.post(path, files=files(mask=mask)).status_code in (200, 202)
        until(lambda: len(engine.jobs) == 2)
        assert engine.jobs[0].mask.equal(engine.jobs[1].mask)

    @pytest.mark.parametrize("path", ["/v1/inpaint", "/v1/jobs", "/v1/masks"])
    def test_what_can_be_read_in_two_ways_is_said_until_it_is_told(self, service: httpx.Client, path: str) -> None:
        classes = np.zeros((40, 60), np.uint8)
        classes[:10], classes[10:20] = 1, 2
        given = files(mask=Image.fromarray(classes))
        given = {name: content for name, content in given.items() if name == "mask" or path != "/v1/masks"}
        answer = service.post(path, files=given)
        found = error(answer)
        assert (answer.status_code, found["code"], found["param"]) == (400, "ambiguous_mask", "mask")
        assert "it is L and holds 0 (50 %), 1 (25 %), 2 (25 %); say mask_mode=white" in found["message"]
        assert service.post(path, files=given, data={"mask_mode": "nonzero"}).status_code in (200, 202)
        refused = service.post(path, files=given, data={"mask_mode": "transparent"})
        assert (refused.status_code, error(refused)["code"]) == (400, "invalid_mask")
        wrong = service.post(path, files=given, data={"mask_mode": "black"})
        assert (wrong.status_code, error(wrong)["param"]) == (422, "mask_mode")

    def test_a_mask_as_it_is_read(self, service: httpx.Client) -> None:
        for mask in (drawn("labels"), drawn("red"), drawn("clear"), hole()):
            answer = service.post("/v1/masks", files={"mask": encoded(mask)})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
            assert np.array_equal(decoded(answer.content)[..., 0], np.asarray(hole()))
        whole = service.post("/v1/masks", files={"mask": encoded(drawn("clear"))}, data={"mask_mode": "transparent"})
        assert np.array_equal(decoded(whole.content)[..., 0], 255 - np.asarray(hole()))


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    exif[0x010E] = "a secret"
    exif.get_ifd(0x8825)[1] = "N"
    return encoded(photo(40, 60), "JPEG", exif=exif, quality=95)


def moving(kind: str) -> bytes:
    return encoded(photo(), kind, save_all=True, append_images=[photo().rotate(180)])


class TestUploads:
    """Whatever is uploaded, the answer is a picture or a sentence."""

    @pytest.mark.parametrize(
        "picture",
        [
            photo().convert("L"),
            photo().convert("LA"),
            photo().convert("RGBA"),
            photo().convert("P"),
            photo().convert("1"),
            Image.fromarray(np.random.default_rng(0).integers(0, 65535, (40, 60), dtype=np.uint16)),
        ],
        ids=lambda picture: picture.mode,
    )
    def test_every_mode_is_read(self, service: httpx.Client, picture: Image.Image) -> None:
        answer = service.post("/v1/inpaint", files=files(picture))
        assert answer.status_code == 200
        assert decoded(answer.content).shape == (40, 60, 3)

    @pytest.mark.parametrize(
        "content",
        [
            encoded(photo().convert("CMYK"), "JPEG"),
            encoded(photo(), "WEBP", lossless=True),
            encoded(photo(), "MPO", save_all=True, append_images=[photo()]),
            encoded(photo(), "AVIF"),
        ],
        ids=["CMYK", "WebP", "MPO of a phone", "AVIF"],
    )
    def test_every_format_is_read(self, service: httpx.Client, content: bytes) -> None:
        assert service.post("/v1/inpaint", files=files(content)).status_code == 200

    def test_a_turned_photo_comes_back_upright_and_without_its_metadata(self, service: httpx.Client) -> None:
        answer = service.post("/v1/inpaint", files=files(exif_turned()))
        result = Image.open(io.BytesIO(answer.content))
        assert result.size == (60, 40)
        assert not result.getexif()
        assert b"secret" not in answer.content
        assert "synthetic" in str(result.info["Comment"])

    def test_a_profile_does_not_travel(self, service: httpx.Client) -> None:
        answer = service.post("/v1/inpaint", files=files(encoded(photo(), icc_profile=b"a profile", dpi=(300, 300))))
        assert set(Image.open(io.BytesIO(answer.content)).info) == {"Software", "Comment", "XML:com.adobe.xmp", "xmp"}

    @pytest.mark.parametrize(
        ("image", "mask", "status", "code", "param", "said"),
        [
            (b"", None, 400, "invalid_image", "image", "cannot be read"),
            (b"<html>", None, 400, "invalid_image", "image", "cannot be read"),
            (encoded(photo())[:900], None, 400, "invalid_image", "image", "truncated|cannot be read"),
            (encoded(photo(), "JPEG")[:-200], None, 400, "invalid_image", "image", "truncated|cannot be read"),
            (encoded(photo(), "GIF"), None, 400, "invalid_image", "image", "another kind"),
            (encoded(photo(), "TIFF"), None, 400, "invalid_image", "image", "another kind"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", None, 400, "invalid_image", "image", "another kind of file: HEIC"),
            (
                encoded(photo(), "AVIF", save_all=True, append_images=[photo().rotate(180)]),
                None,
                400,
                "invalid_image",
                "image",
                "anim",
            ),
            (
                encoded(photo(), "PNG", save_all=True, append_images=[hole()]),
                None,
                400,
                "invalid_image",
                "image",
                "anim",
            ),
            (
                encoded(photo(), "WEBP", save_all=True, append_images=[hole()]),
                None,
                400,
                "invalid_image",
                "image",
                "anim",
            ),
            (encoded(Image.new("1", (9000, 9000))), None, 413, "too_large", "image", "9000x9000"),
            (encoded(Image.new("1", (14_000, 14_000))), None, 413, "too_large", "image", "pixels"),
            (None, encoded(Image.new("1", (9000, 9000))), 413, "too_large", "mask", "9000x9000"),
            (None, hole(40, 60), 400, "invalid_mask", "mask", "40x60 and the image 60x40"),
            (None, Image.new("L", (60, 40), 0), 400, "invalid_mask", "mask", "black all over"),
            (None, Image.new("L", (60, 40), 255), 400, "invalid_mask", "mask", "white all over"),
            (None, b"%PDF", 400, "invalid_mask", "mask", "the mask cannot be read"),
            (photo(1, 1), Image.new("L", (1, 1), 255), 400, "invalid_mask", "mask", "white all over"),
        ],
    )
    def test_what_cannot_be_used_is_said(
        self,
        service: httpx.Client,
        engine: FakeEngine,
        image: Image.Image | bytes | None,
        mask: Image.Image | bytes | None,
        status: int,
        code: str,
        param: str,
        said: str,
    ) -> None:
        answer = service.post("/v1/inpaint", files=files(image, mask))
        found = error(answer)
        assert (answer.status_code, found["code"], found["param"]) == (status, code, param)
        assert re.search(said, found["message"])
        assert "BytesIO" not in found["message"]
        assert engine.jobs == []  # nothing of it reached the engine

    def test_a_hidden_bomb_in_the_text_of_a_png_is_refused(self, service: httpx.Client) -> None:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

        plain = encoded(photo())
        bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"0" * 50_000_000, 9))
        answer = service.post("/v1/inpaint", files=files(plain[:33] + bomb + plain[33:]))
        assert answer.status_code in (200, 400)

    @pytest.mark.parametrize(
        ("data", "param"),
        [
            ({"num_samples": "0"}, "num_samples"),
            ({"num_samples": "9"}, "num_samples"),
            ({"num_samples": "two"}, "num_samples"),
            ({"steps": "1001"}, "steps"),
            ({"steps": "-1"}, "steps"),
            ({"sampler": "euler"}, "sampler"),
            ({"seed": str(2**63)}, "seed"),
            ({"feather": "65"}, "feather"),
            ({"previews": "2"}, "previews"),
            ({"guidance": "2"}, "guidance"),
            ({"sampler": "heun", "steps": "1"}, "steps"),
        ],
    )
    def test_settings_have_bounds(self, service: httpx.Client, data: dict[str, str], param: str) -> None:
        answer = service.post("/v1/inpaint", files=files(), data=data)
        assert answer.status_code == 422
        assert error(answer)["param"] == param

    @pytest.mark.parametrize(
        ("body", "status", "code", "param"),
        [
            ("{", 400, "invalid_json", None),
            ("[]", 422, "invalid_request", None),
            ("[" * 10_000, 400, "invalid_json", None),
            ("{}", 422, "invalid_request", "image"),
            (json.dumps({"image": 5, "mask": ""}), 422, "invalid_request", "image"),
            (json.dumps({"image": "a$b", "mask": "aGk="}), 400, "invalid_base64", "image"),
            (json.dumps({"image": "abc", "mask": "aGk="}), 400, "invalid_base64", "image"),
            (json.dumps({"image": uri(photo()), "mask": "aGk="}), 400, "invalid_mask", "mask"),
            (json.dumps({"image": uri(photo()), "mask": uri(hole()), "steps": "4"}), 422, "invalid_request", "steps"),
            (json.dumps({"image": uri(photo()), "mask": uri(hole()), "steps": True}), 422, "invalid_request", "steps"),
        ],
    )
    def test_json_that_cannot_be_used_is_said(
        self, service: httpx.Client, body: str, status: int, code: str, param: str | None
    ) -> None:
        answer = service.post("/v1/inpaint", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, error(answer)["code"], error(answer)["param"]) == (status, code, param)

    @pytest.mark.parametrize(
        ("kind", "body", "status"),
        [
            ("text/plain", b"hello", 415),
            ("application/x-www-form-urlencoded", b"image=1", 415),
            ("", b"", 415),
            ("multipart/form-data", b"--x--", 400),
            ("multipart/form-data; boundary=x", b"--y\r\nnonsense", 400),
        ],
    )
    def test_other_content_types(self, service: httpx.Client, kind: str, body: bytes, status: int) -> None:
        answer = service.post("/v1/inpaint", content=body, headers={"Content-Type": kind} if kind else {})
        assert answer.status_code == status
        assert error(answer)["code"] in ("unsupported_media_type", "bad_request")

    def test_parts_that_do_not_belong(self, service: httpx.Client) -> None:
        twice = [*files().items(), ("image", encoded(photo()))]
        assert service.post("/v1/inpaint", files=twice).status_code in (400, 422)
        strange = service.post("/v1/inpaint", files={"image": encoded(photo()), "picture": encoded(photo())})
        assert error(strange)["param"] == "picture"
        text = service.post("/v1/inpaint", files={"mask": encoded(hole())}, data={"image": "no file"})
        assert "must be a file" in error(text)["message"]


class TestBounds:
    def test_a_body_may_be_too_large_however_it_comes(self, service: httpx.Client) -> None:
        large = b"0" * (2**20 + 1)
        told = service.post("/v1/inpaint", files=files(large))
        untold = service.post(
            "/v1/inpaint", content=(large[i : i + 65536] for i in range(0, len(large), 65536)), headers=json_type()
        )
        for answer in (told, untold):
            assert answer.status_code == 413
            assert error(answer)["code"] == "too_large"
            assert answer.headers["x-request-id"]

    def test_a_body_that_does_not_come_is_not_waited_for(self, engine: FakeEngine) -> None:
        app = create_app(engine, offered({"model": MODEL}), limits=Limits(seconds=0.2))
        with served(app) as url, socket.create_connection(("127.0.0.1", httpx.URL(url).port or 80)) as slow:
            slow.sendall(b"POST /v1/inpaint HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 100\r\n\r\n{")
            slow.settimeout(PATIENCE)
            assert b" 408 " in slow.recv(4096)

    def test_pictures_in_flight_have_a_budget(self, engine: FakeEngine) -> None:
        app = create_app(engine, offered({"model": MODEL}), limits=Limits(held=3000))
        with served(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
            engine.held_at = 0
            assert client.post("/v1/jobs", files=files()).status_code == 202  # 2,400 pixels
            full = client.post("/v1/jobs", files=files())
            assert (full.status_code, full.headers["retry-after"]) == (429, "5")
            assert measured(client, "rejected_total", reason="memory") == 1
            engine.held_at = None
            until(lambda: engine.running == 0)
            until(lambda: client.post("/v1/inpaint", files=files()).status_code == 200)

    def test_bodies_in_flight_have_a_budget(self, engine: FakeEngine) -> None:
        app = create_app(engine, offered({"model": MODEL}), limits=Limits(arriving=10_000))
        with served(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
            answer = client.post("/v1/inpaint", files=files(photo(100, 100), hole(100, 100)))
            assert (answer.status_code, error(answer)["code"]) == (429, "queue_full")
            assert client.post("/v1/inpaint", files=files(photo(20, 20), hole(20, 20))).status_code == 200


def json_type() -> dict[str, str]:
    return {"Content-Type": "application/json"}


class TestErrors:
    @pytest.mark.parametrize(
        ("refusal", "failure", "status", "code", "retry"),
        [
            (QueueFull("64 jobs wait already", 7), None, 429, "queue_full", "7"),
            (NotReady("the engine warms up", 5), None, 503, "not_ready", "5"),
            (None, JobFailed("non_finite_output", "not a number"), 500, "non_finite_output", None),
            (None, JobFailed("engine_error", "it broke"), 500, "engine_error", None),
            (None, JobFailed("deadline_exceeded", "too late"), 504, "deadline_exceeded", None),
            (None, JobFailed("shutting_down", "the service ends"), 503, "shutting_down", "5"),
        ],
    )
    def test_what_the_engine_says_is_passed_on(
        self,
        service: httpx.Client,
        engine: FakeEngine,
        refusal: Exception | None,
        failure: Exception | None,
        status: int,
        code: str,
        retry: str | None,
    ) -> None:
        engine.refusal, engine.failure = refusal, failure
        answer = service.post("/v1/inpaint", files=files())
        assert (answer.status_code, error(answer)["code"], answer.headers.get("retry-after")) == (status, code, retry)
        assert error(answer)["message"] == str(refusal or failure)
        assert engine.running == 0

    def test_a_fault_of_ours_says_nothing_of_itself(
        self, service: httpx.Client, engine: FakeEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine.failure = RuntimeError("the password is swordfish")
        answer = service.post("/v1/inpaint", files=files(), headers={"X-Request-ID": "abc-1"})
        assert (answer.status_code, error(answer)["code"]) == (500, "internal_error")
        assert "swordfish" not in answer.text
        assert answer.headers["x-request-id"] == "abc-1"
        assert "content-security-policy" in answer.headers
        assert any("abc-1" in record.message and record.exc_info for record in caplog.records)

    def test_addresses_and_methods_that_are_none(self, service: httpx.Client) -> None:
        assert error(service.get("/nothing"))["code"] == "not_found"
        wrong = service.put("/v1/inpaint")
        assert (wrong.status_code, wrong.headers["allow"], error(wrong)["code"]) == (405, "POST", "method_not_allowed")
        assert service.get("/page/../../security.py").status_code == 404
        assert service.get("/page/%2e%2e/security.py").status_code == 404


class TestLeaving:
    """Plain endpoints are not cancelled when their client leaves, unless somebody looks."""

    @pytest.mark.parametrize("stage", [0, 2])
    def test_a_client_that_leaves_frees_its_place(self, service: httpx.Client, engine: FakeEngine, stage: int) -> None:
        engine.held_at = stage
        before = measured(service, "requests_total", route="/v1/inpaint", code="499")
        with leaving(str(service.base_url), "/v1/inpaint", files()):
            until(lambda: engine.running == 1)
        until(lambda: engine.running == 0)
        until(lambda: measured(service, "requests_total", route="/v1/inpaint", code="499") == before + 1)

    def test_its_neighbour_stays(self, service: httpx.Client, engine: FakeEngine) -> None:
        engine.held_at = 2
        answers: list[httpx.Response] = []
        stays = threading.Thread(target=lambda: answers.append(service.post("/v1/inpaint", files=files())))
        stays.start()
        until(lambda: engine.running == 1)
        with leaving(str(service.base_url), "/v1/inpaint", files()):
            until(lambda: engine.running == 2)
        until(lambda: engine.running == 1)
        engine.held_at = None
        stays.join()
        assert answers[0].status_code == 200

    @pytest.mark.slow
    def test_five_hundred_that_leave_leave_nothing_behind(self, model: Inpainter) -> None:
        from diffusion_lab.serving.local import LocalEngine

        engine = LocalEngine(model, "tiny@1")
        with served(create_app(engine, offered(model.recipe))) as url:
            until(lambda: engine.stats().ready)
            threads = threading.active_count()
            kinds = [("/v1/inpaint", {}), ("/v1/images/edits", {"stream": "true", "mask_mode": "white"})]
            for i in range(500):
                path, data = kinds[i % 2]
                seconds = 0.001 + (i % 25) * 0.004  # while sending, queued, mid step, pasting
                with contextlib.suppress(httpx.TimeoutException):
                    httpx.post(f"{url}{path}", files=files(), data={**data, "steps": "200"}, timeout=seconds)
            until(lambda: engine.stats().queued + engine.stats().running == 0)
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                assert client.post("/v1/inpaint", files=files()).status_code == 200
            assert threading.active_count() <= threads + 4


class TestOperations:
    def test_health(self, service: httpx.Client, engine: FakeEngine) -> None:
        assert service.get("/healthz").json() == service.get("/readyz").json() == {"status": "ok"}
        engine.ready = False
        assert (service.get("/healthz").status_code, service.get("/readyz").status_code) == (200, 503)
        assert service.get("/readyz").headers["retry-after"] == "5"
        engine.heartbeat = 1000.0
        assert service.get("/healthz").status_code == 503

    def test_info(self, service: httpx.Client) -> None:
        info = service.get("/v1/info").json()
        assert info["samplers"][info["default_sampler"]] == {"steps": 3, "least": 1, "most": 1000}
        assert (info["version"], info["image_size"], info["limits"]["pixels"]) == ("fake@1", 16, 1_000_000)
        assert service.get("/version").json()["model"] == "fake@1"

    def test_what_is_measured(self, service: httpx.Client) -> None:
        names = ("mask_fraction", "input_brightness")
        before = {f"{name}_{part}": measured(service, f"{name}_{part}") for name in names for part in ("sum", "count")}
        image, mask = Image.new("RGB", (16, 16), (51, 51, 51)), hole(16, 16)
        assert service.post("/v1/inpaint", files=files(image, mask)).status_code == 200
        after = {name: measured(service, name) - value for name, value in before.items()}
        assert after == pytest.approx(
            {
                "mask_fraction_sum": 1 / 16,
                "mask_fraction_count": 1,
                "input_brightness_sum": 0.2,
                "input_brightness_count": 1,
            }
        )
        assert measured(service, "model_info", version="fake@1") == 1
        assert measured(service, "queue_depth") == 0

    def test_brightness_and_fraction(self) -> None:
        image, mask = torch.ones(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
        image[:, :2], mask[:, :1] = -1, True
        assert mask_fraction(mask) == 0.25
        assert brightness(image, mask) == pytest.approx(2 / 3)
        assert brightness(image, torch.ones_like(mask)) == 0.5

    def test_the_page_is_strict_about_where_things_come_from(self, service: httpx.Client) -> None:
        answer = service.get("/")
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in service.get("/v1/info", headers={"Origin": "http://evil"}).headers


class TestOpenAPI:
    @pytest.fixture
    def schema(self, service: httpx.Client) -> Any:
        return service.get("/openapi.json").json()

    def test_every_error_is_declared_in_our_shape(self, schema: Any) -> None:
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                codes = {int(code) for code in operation["responses"]}
                assert operation["summary"], path
                if method == "post":
                    assert codes >= {400, 408, 413, 415, 422, 429}, path
                    assert (503 in codes) == (path not in ("/v1/faces", "/v1/masks")), path  # which need no engine
                for code, response in operation["responses"].items():
                    if int(code) >= 400:
                        found = response["content"]["application/json"]["schema"]
                        assert found == {"$ref": "#/components/schemas/Failure"}, (path, code)
        assert schema["components"]["schemas"]["Error"]["required"] == ["code", "message"]

    def test_its_examples_run(self, service: httpx.Client, schema: Any) -> None:
        ran = 0
        for path, operations in schema["paths"].items():
            body = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in body.get("examples", {}).values():
                assert service.post(path, json=example["value"]).status_code in (200, 202)
                ran += 1
        assert ran == 5


@pytest.mark.parametrize("work", ["opened", "cut", "finish"])
def test_the_service_stays_awake_while_pictures_are_worked_on(
    service: httpx.Client, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More requests than it has coders are held where they read, cut or paste; meanwhile it answers."""
    held, go = threading.Semaphore(0), threading.Event()
    done = getattr(desk, work)

    def hold(*given: Any) -> Any:
        held.release()
        assert go.wait(PATIENCE)
        return done(*given)

    monkeypatch.setattr(desk, work, hold)
    with ThreadPoolExecutor() as clients:
        sent = [clients.submit(service.post, "/v1/inpaint", files=files()) for _ in range(desk.CODERS + 2)]
        for _ in range(desk.CODERS):
            assert held.acquire(timeout=PATIENCE)
        for path in ("/healthz", "/readyz", "/v1/info", "/metrics"):
            assert service.get(path).status_code == 200
        assert not any(answer.done() for answer in sent)
        go.set()
        assert {answer.result().status_code for answer in sent} == {200}
