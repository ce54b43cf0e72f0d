"""Clients that others wrote, against our images API."""

import asyncio
import base64
import io
import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, check_filled, decoded, encoded, photo, transparent

SDK = ("ai@6", "@ai-sdk/openai@3")


def address(service: httpx.Client) -> str:
    return str(service.base_url).rstrip("/")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds Vercel's AI SDK."""
    if shutil.which("npm") is None:
        pytest.skip("there is no Node here")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(Path(__file__).parent / "edit.mjs", folder)
    (folder / "package.json").write_text("{}")
    done = subprocess.run(["npm", "install", "--silent", *SDK], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm brought no {' and '.join(SDK)}: {done.stderr[:200]}")
    return folder


@pytest.mark.slow
@pytest.mark.network
def test_vercels_ai_sdk(service: httpx.Client, engine: FakeEngine, project: Path) -> None:
    (project / "image.png").write_bytes(encoded(photo()))
    (project / "mask.png").write_bytes(encoded(transparent()))
    command = ["node", "edit.mjs", f"{address(service)}/v1", "image.png", "mask.png"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["images"]) == 2
    for picture in told["images"]:
        check_filled(decoded(base64.b64decode(picture)))
    (job,) = engine.jobs
    assert len(job.seeds) == 2
    mask = job.mask
    service.post("/v1/images/edits", files={"image": encoded(photo()), "mask": encoded(transparent())})
    assert engine.jobs[1].mask.equal(mask)


def test_open_webuis_edit_of_an_image(service: httpx.Client, engine: FakeEngine) -> None:
    """What `image_edits` of its `routers/images.py` sends, by the client that it sends it with: there is no mask."""
    aiohttp = pytest.importorskip("aiohttp")

    async def edits() -> Any:
        form = aiohttp.FormData()
        for key, value in {"model": "faces", "prompt": "a smile", "n": 1, "response_format": "b64_json"}.items():
            form.add_field(key, str(value))
        picture = io.BytesIO(encoded(transparent()))
        form.add_field("image", picture, filename=f"{uuid.uuid4()}.png", content_type="image/png")
        url, key = f"{address(service)}/v1/images/edits?api-version=1", {"Authorization": "Bearer none"}
        async with aiohttp.ClientSession() as session, session.post(url, headers=key, data=form) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)

    (made,) = asyncio.run(edits())["data"]
    check_filled(decoded(base64.b64decode(made["b64_json"])))
    assert len(engine.jobs) == 1
