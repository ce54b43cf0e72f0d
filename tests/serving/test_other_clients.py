"""Clients that others wrote, against our images API."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from fakes import FakeEngine, check_filled, decoded, encoded, photo, transparent

SDK = ("ai@6", "@ai-sdk/openai@3")


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
    command = ["node", "edit.mjs", f"{service.base_url}/v1".replace("//v1", "/v1"), "image.png", "mask.png"]
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
