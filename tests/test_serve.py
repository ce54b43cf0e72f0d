"""The service as a person starts and stops it."""

import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from diffusion_lab.inpainting import Inpainter

ROOT = Path(__file__).parents[1]
RunScript = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(inpainter: Inpainter, tmp_path: Path) -> Path:
    """An inpainter, in a folder whose name Hydra would choke on."""
    inpainter.save(tmp_path / "my, [model] é=1")
    return tmp_path / "my, [model] é=1"


@contextmanager
def started(*command: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The service in a process of its own: it, its first line, and its address."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.communicate(timeout=20)[1]
        yield process, line, found[0]
    finally:
        process.kill()
        process.communicate()


def pictures() -> dict[str, bytes]:
    found = {}
    for name, picture in (("image", Image.new("RGB", (40, 30), "teal")), ("mask", Image.new("L", (40, 30), 0))):
        if name == "mask":
            picture.paste(255, (10, 10, 20, 20))
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        found[name] = stream.getvalue()
    return found


def resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def test_serve_then_drain(folder: Path) -> None:
    with started("serve.py", f"inpainter={folder}", "port=0") as (process, line, url):
        assert line.startswith(f"Serving '{folder}' on http://127.0.0.1:")
        answer = httpx.post(f"{url}/v1/inpaint", files=pictures(), timeout=60)
        assert answer.status_code == 200
        assert Image.open(io.BytesIO(answer.content)).size == (40, 30)
        assert "text/html" in httpx.get(url).headers["content-type"]

        # A job that runs when SIGTERM comes is seen through; one that comes later is turned away, and told so.
        answers: list[httpx.Response] = []
        long = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url}/v1/inpaint", files=pictures(), data={"steps": 300}, timeout=60)
            )
        )
        long.start()
        while "diffusion_lab_running 1.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while (ready := httpx.get(f"{url}/readyz")).status_code == 200:
            time.sleep(0.01)
        assert ready.json()["error"]["message"] == "the service ends"
        late = httpx.post(f"{url}/v1/inpaint", files=pictures())
        assert (late.status_code, late.headers["retry-after"]) == (503, "5")
        long.join()
        assert answers[0].status_code == 200
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_ten_times_more_than_it_can_do(folder: Path) -> None:
    """Whoever comes is filled or refused with a time to come back; the service stays awake and in its memory."""
    arguments = (f"inpainter={folder}", "port=0", "engine.max_queue=4", "engine.max_batch=2")
    with started("serve.py", *arguments) as (process, _, url):
        steps = {"steps": 200}
        idle: list[float] = []
        health: list[float] = []
        begun = time.monotonic()
        assert httpx.post(f"{url}/v1/inpaint", files=pictures(), data=steps, timeout=60).status_code == 200
        every = (time.monotonic() - begun) / 2 / 10
        before = most = resident(process.pid)

        async def load() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
                asked = []
                for _ in range(80):
                    asked.append(asyncio.create_task(client.post("/v1/inpaint", files=pictures(), data=steps)))
                    await asyncio.sleep(every)
                return await asyncio.gather(*asked)

        def look(until: Callable[[float], bool], health: list[float]) -> None:
            nonlocal most
            with httpx.Client(base_url=url, timeout=60) as client:
                while not until(0.05):
                    asked = time.monotonic()
                    assert client.get("/healthz").status_code == 200
                    health.append(time.monotonic() - asked)
                    most = max(most, resident(process.pid))

        pauses = iter(range(40))
        look(lambda seconds: time.sleep(seconds) or next(pauses, None) is None, idle)
        over = threading.Event()
        looking = threading.Thread(target=look, args=(over.wait, health))
        looking.start()
        answers = asyncio.run(load())
        over.set()
        looking.join()
        codes = {code: sum(answer.status_code == code for answer in answers) for code in (200, 429, 503)}
        assert sum(codes.values()) == len(answers)
        assert codes[429] > codes[200] > 4
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code != 200)
        # What an idle service takes as well is the machine's, which may have other things to do.
        assert sorted(health)[int(0.99 * len(health))] < 0.1 + max(idle)
        assert most - before < 100 * 2**20


def test_a_stream_ends_when_the_service_does(folder: Path) -> None:
    """What does not end within the drain fails, and says why; nobody is left hanging."""
    arguments = (f"inpainter={folder}", "port=0", "drain=0.5", "limits.steps=100000")
    with started("serve.py", *arguments) as (process, _, url):
        job = httpx.post(f"{url}/v1/jobs", files=pictures(), data={"steps": 100000}, timeout=60).json()["id"]
        with httpx.stream("GET", f"{url}/v1/jobs/{job}/events", timeout=60) as events:
            lines = events.iter_lines()
            assert any(line == "event: step" for line in lines)
            process.send_signal(signal.SIGINT)
            last = [json.loads(line[6:]) for line in lines if line.startswith("data: ")][-1]
        assert last["error"]["code"] == "shutting_down"
        assert process.wait(timeout=30) == 0


def test_without_hydra(folder: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('hydra', 'omegaconf', 'lightning', 'wandb'))); "
        "from diffusion_lab.serving.__main__ import main; main()"
    )
    with started("-c", code, "--inpainter", str(folder), "--port", "0") as (process, line, url):
        assert str(folder) in line
        assert httpx.get(f"{url}/v1/info").json()["image_size"] == 16
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_the_newest_run_is_served_unless_told(folder: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        shutil.copytree(folder, tmp_path / "logs" / name / "inpainter")
    os.utime(tmp_path / "logs" / "old" / "inpainter" / "recipe.json", (0, 0))
    with started("serve.py", f"paths.logs={tmp_path / 'logs'}", "port=0") as (_, line, _url):
        assert "the newest run's" in line
        assert str(tmp_path / "logs" / "new" / "inpainter") in line


def test_mistakes_are_one_sentence(folder: Path, run_script: RunScript, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mistakes = [
            (["inpainter=nowhere"], "no recipe.json in 'nowhere'"),
            ([f"inpainter={folder}", f"port={port}"], f"port={port}"),
            ([f"inpainter={folder}", "port=99999"], "port=99999"),
            ([f"inpainter={folder}", "host=0.0.0.0"], "no API key is set"),
            ([f"inpainter={folder}", "keys=[swordfish]"], "no SHA-256"),
            ([f"inpainter={folder}", "prot=1"], "prot"),
            (["inpainter=faces@production", f"registry={tmp_path / 'registry'}"], "faces"),
        ]
        for overrides, said in mistakes:
            code, _, err = run_script("serve.py", *overrides)
            assert code == 1
            assert err.startswith("error: ")
            assert len(err.strip().splitlines()) == 1
            assert said in err
