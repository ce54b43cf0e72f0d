"""What the pages show is run as it stands there, in front of a small model."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fakes import encoded, hole, photo, transparent

from patience import PATIENCE

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures that the pages speak of, to work in."""
    for name, content in {
        "me.jpg": encoded(photo(), "JPEG"),
        "me.png": encoded(photo()),
        "hole.png": encoded(hole()),
        "transparent.png": encoded(transparent()),
    }.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize(("page", "least"), [("README.md", 2), ("docs/serving.md", 7)])
def test_curl_lines(page: str, least: int, here: Path, url: str) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("curl ")]
    assert len(lines) >= least
    job = ""
    for line in lines:
        command = line.replace("localhost:8000", url).replace("<id>", job)
        done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=PATIENCE)
        if saved := re.search(r"-o (\S+)", line):
            assert (here / saved[1]).read_bytes().startswith(b"\x89PNG"), line
        elif line.startswith("curl -sN"):
            assert b"event: completed" in done.stdout
        else:
            said = json.loads(done.stdout)
            assert "error" not in said or said["error"] is None, line
            job = said.get("id", job)


def test_python_blocks(here: Path, url: str) -> None:
    found = blocks("docs/serving.md", "python")
    assert len(found) >= 2
    for block in found:
        exec(block.replace("http://localhost:8000", url), {})
    assert len(list(here.glob("filled-*.png"))) == 4
