"""The service with a signer: every finished picture has its credentials, whichever way it leaves."""

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fakes import FakeEngine, decoded, encoded, files, photo, served, transparent, until

from diffusion_lab.client import Client
from diffusion_lab.credentials import Credentials
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.settings import offered
from patience import PATIENCE
from small import MODEL

c2pa = pytest.importorskip("c2pa")

import certificates  # noqa: E402  it imports what comes with the extra


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the signer's two files are."""
    folder = tmp_path_factory.mktemp("signer")
    key = certificates.new_key()
    certificates.written_chain(folder, key)
    certificates.written_key(folder, key)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The address of a service that signs."""
    signer = Credentials(folder / "chain.pem", folder / "key.pem")
    with served(create_app(FakeEngine(), offered({"model": MODEL}), credentials=signer)) as address:
        yield address


@pytest.fixture
def signing(url: str) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        yield client


def check_signed(content: bytes, kind: str = "png") -> None:
    """It says that fake@1 made a part of it, and nothing is wrong but that nobody knows who says so."""
    with c2pa.Reader(f"image/{kind}", io.BytesIO(content)) as reader:
        found = json.loads(reader.json())
    failures = {failure["code"] for failure in found["validation_results"]["activeManifest"]["failure"]}
    assert (found["validation_state"], failures) == ("Valid", {"signingCredential.untrusted"})
    said = found["manifests"][found["active_manifest"]]["assertions"]
    (actions,) = [each["data"]["actions"] for each in said if each["label"] == "c2pa.actions.v2"]
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.edited"]
    assert actions[1]["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert actions[1]["softwareAgent"] == {"name": "fake", "version": "1"}


def is_signed(content: bytes, kind: str = "png") -> bool:
    return c2pa.Reader.try_create(f"image/{kind}", io.BytesIO(content)) is not None


def edited(client: httpx.Client, **data: str) -> list[bytes]:
    """What OpenAI's route answers."""
    answer = client.post("/v1/images/edits", files={"image": encoded(transparent())}, data=data)
    assert answer.status_code == 200
    return [base64.b64decode(image["b64_json"]) for image in answer.json()["data"]]


@pytest.mark.parametrize("path", ["/v1/inpaint", "/v1/restore"])
def test_a_png_has_the_pixels_of_an_unsigned_one(signing: httpx.Client, service: httpx.Client, path: str) -> None:
    signed, plain = (client.post(path, files=files()) for client in (signing, service))
    assert signed.status_code == plain.status_code == 200
    check_signed(signed.content)
    assert not is_signed(plain.content)
    assert np.array_equal(decoded(signed.content), decoded(plain.content))
    differing = {name for name, value in signed.headers.items() if plain.headers.get(name) != value}
    assert differing <= {"date", "x-request-id", "x-seed", "content-length"}


def test_all_completions_of_a_json_answer(signing: httpx.Client) -> None:
    answer = signing.post("/v1/inpaint", files=files(), data={"num_samples": "3"})
    images = answer.json()["images"]
    assert len(images) == 3
    for image in images:
        check_signed(base64.b64decode(image["b64_png"]))


def test_a_job_signs_its_pictures_and_no_previews(signing: httpx.Client) -> None:
    job = signing.post("/v1/jobs", files=files(), data={"previews": "2", "num_samples": "2"}).json()["id"]
    until(lambda: signing.get(f"/v1/jobs/{job}").json()["status"] == "succeeded")
    for image in signing.get(f"/v1/jobs/{job}").json()["images"]:
        check_signed(signing.get(image["url"]).content)
    previews = [
        preview
        for line in signing.get(f"/v1/jobs/{job}/events").text.splitlines()
        if line.startswith("data: ")
        for preview in json.loads(line.removeprefix("data: ")).get("previews", ())
    ]
    assert len(previews) == 4
    assert not any(is_signed(base64.b64decode(preview.partition(",")[2]), "webp") for preview in previews)


@pytest.mark.parametrize(
    "asked", [{"kind": "png"}, {"kind": "webp"}, {"kind": "jpeg"}, {"kind": "webp", "output_compression": "60"}]
)
def test_the_route_of_openai(signing: httpx.Client, service: httpx.Client, asked: dict[str, str]) -> None:
    asked = dict(asked)
    kind = asked.pop("kind")
    signed, plain = (edited(client, output_format=kind, n="2", **asked) for client in (signing, service))
    assert len(signed) == len(plain) == 2
    for ours, theirs in zip(signed, plain, strict=True):
        check_signed(ours, kind)
        assert not is_signed(theirs, kind)
        assert np.array_equal(decoded(ours), decoded(theirs))


def test_the_end_of_its_streams(signing: httpx.Client) -> None:
    data = {"stream": "true", "partial_images": "1"}
    answer = signing.post("/v1/images/edits", files={"image": encoded(transparent())}, data=data)
    events: list[dict[str, Any]] = [
        json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")
    ]
    partial, completed = (base64.b64decode(event["b64_json"]) for event in events)
    assert [event["type"] for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    check_signed(completed)
    assert not is_signed(partial)


def test_a_picture_may_be_filled_again(signing: httpx.Client) -> None:
    once = signing.post("/v1/inpaint", files=files()).content
    check_signed(signing.post("/v1/inpaint", files=files(image=once)).content)


def test_a_mask_is_no_picture_of_a_model(signing: httpx.Client) -> None:
    answer = signing.post("/v1/masks", files={"mask": files()["mask"]})
    assert answer.status_code == 200
    assert not is_signed(answer.content)


def test_our_client_reads_them(url: str) -> None:
    with Client(url) as client:
        (made,) = client.restore(encoded(photo()), files()["mask"])
    assert made.picture.size == (60, 40)


def test_no_answer_and_no_line_shows_the_key(
    signing: httpx.Client, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [line for line in (folder / "key.pem").read_text().splitlines() if "-" not in line]
    assert len(lines) > 1
    with caplog.at_level(logging.DEBUG):
        answers = [
            signing.get(path)
            for path in ("/", "/docs", "/openapi.json", "/v1/info", "/version", "/metrics", "/healthz", "/readyz")
        ]
        answers.append(signing.post("/v1/inpaint", files=files()))
    assert all(answer.status_code == 200 for answer in answers)
    for line in lines:
        assert line not in caplog.text
        assert not any(line.encode() in answer.content for answer in answers)


@pytest.mark.parametrize("hydra", [True, False])
def test_a_mistake_is_one_sentence_before_the_model_is_read(
    hydra: bool, folder: Path, tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    chain, key = tmp_path / "no, [chain] é=1.pem", folder / "key.pem"
    if hydra:
        code, _, err = run_script("serve.py", f"credentials.chain={chain}", f"credentials.key={key}")
    else:
        code, _, err = run_script("src/diffusion_lab/serving/__main__.py", "--credentials", str(chain), str(key))
    assert code == 1
    assert err == f"error: the certificates '{chain}' cannot be read (No such file or directory): name a PEM file\n"


class Broken:
    """Credentials of which something broke while the service ran, such as a certificate that has ended."""

    def signed(self, picture: bytes, model: str) -> bytes:
        raise c2pa.C2paError("Signature: the certificate was not valid at time of signing")


def test_what_cannot_be_signed_does_not_leave(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(FakeEngine(), offered({"model": MODEL}), credentials=Broken())
    with served(app) as address, httpx.Client(base_url=address, timeout=PATIENCE) as client:
        assert client.post("/v1/inpaint", files=files()).json()["error"]["code"] == "internal_error"
        edit = client.post("/v1/images/edits", files={"image": encoded(transparent())})
        assert (edit.status_code, edit.json()["error"]["code"]) == (500, "internal_error")
        job = client.post("/v1/jobs", files=files()).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "failed")
        assert client.get(f"/v1/jobs/{job}/images/0").status_code == 404
    assert "not valid at time of signing" in caplog.text
