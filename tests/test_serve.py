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
from statistics import median
from tempfile import TemporaryFile

import httpx
import pytest
from PIL import Image

from diffusion_lab.inpainting import Inpainter
from patience import PATIENCE, until

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
    # Its log is a file: a pipe that nobody reads is full after some hundred requests, and then it stands still.
    with TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            if not found:
                process.wait(PATIENCE)
                log.seek(0)
                pytest.fail(line + log.read())
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


@pytest.mark.slow
def test_serve_then_drain(folder: Path) -> None:
    arguments = (f"inpainter={folder}", "port=0", "limits.steps=100000", f"drain={PATIENCE}")
    with (
        started("serve.py", *arguments) as (process, line, url),
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        assert line.startswith(f"Serving '{folder}' on http://127.0.0.1:")
        answer = client.post("/v1/inpaint", files=pictures())
        assert answer.status_code == 200
        assert Image.open(io.BytesIO(answer.content)).size == (40, 30)
        assert "text/html" in client.get("/").headers["content-type"]

        # A job that runs when SIGTERM comes is seen through; one that comes later is turned away, and told so.
        answers: list[httpx.Response] = []
        long = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url}/v1/inpaint", files=pictures(), data={"steps": 3000}, timeout=PATIENCE)
            )
        )
        long.start()
        until(lambda: "diffusion_lab_running 1.0" in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code != 200)
        assert client.get("/readyz").json()["error"]["message"] == "the service ends"
        late = client.post("/v1/inpaint", files=pictures())
        assert (late.status_code, late.headers["retry-after"]) == (503, "5")
        long.join()
        assert answers[0].status_code == 200
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_far_more_than_it_can_do(folder: Path) -> None:
    """Whoever comes is filled or refused with a time to come back; the service stays awake and in its memory."""
    arguments = (f"inpainter={folder}", "port=0", "engine.max_queue=4", "engine.max_batch=2")
    with started("serve.py", *arguments) as (process, _, url):
        steps = {"steps": 300}
        assert httpx.post(f"{url}/v1/inpaint", files=pictures(), data=steps, timeout=PATIENCE).status_code == 200
        before = most = resident(process.pid)
        asked: list[float] = []  # seconds that each look took
        filled: list[float] = []  # and each request that was filled

        async def ask(client: httpx.AsyncClient) -> httpx.Response:
            begun = time.monotonic()
            answer = await client.post("/v1/inpaint", files=pictures(), data=steps)
            if answer.status_code == 200:
                filled.append(time.monotonic() - begun)
            return answer

        async def load() -> list[httpx.Response]:
            """Eighty at once: six have a place."""
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
                return await asyncio.gather(*(ask(client) for _ in range(80)))

        def look() -> None:
            nonlocal most
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                while not over.wait(0.02):
                    begun = time.monotonic()
                    assert client.get("/healthz").status_code == 200
                    asked.append(time.monotonic() - begun)
                    most = max(most, resident(process.pid))

        over = threading.Event()
        looking = threading.Thread(target=look)
        looking.start()
        answers = asyncio.run(load())
        over.set()
        looking.join()
        codes = {code: sum(answer.status_code == code for answer in answers) for code in (200, 429, 503)}
        assert sum(codes.values()) == len(answers)
        assert codes[200] > 4
        assert codes[429] > 0
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code != 200)
        # Both are slower on a busy machine. A loop that waited for the model would make them alike.
        assert median(asked) < median(filled) / 4
        assert most - before < 100 * 2**20


def test_a_stream_ends_when_the_service_does(folder: Path) -> None:
    """What does not end within the drain fails, and says why; nobody is left hanging."""
    arguments = (f"inpainter={folder}", "port=0", "drain=0.5", "limits.steps=100000")
    with started("serve.py", *arguments) as (process, _, url):
        job = httpx.post(f"{url}/v1/jobs", files=pictures(), data={"steps": 100000}, timeout=PATIENCE).json()["id"]
        with httpx.stream("GET", f"{url}/v1/jobs/{job}/events", timeout=PATIENCE) as events:
            lines = events.iter_lines()
            assert any(line == "event: step" for line in lines)
            process.send_signal(signal.SIGINT)
            last = [json.loads(line[6:]) for line in lines if line.startswith("data: ")][-1]
        assert last["error"]["code"] == "shutting_down"
        assert process.wait(PATIENCE) == 0


def test_without_hydra(folder: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('hydra', 'omegaconf', 'lightning', 'wandb'))); "
        "from diffusion_lab.serving.__main__ import main; main()"
    )
    with started("-c", code, "--inpainter", str(folder), "--port", "0") as (process, line, url):
        assert str(folder) in line
        assert httpx.get(f"{url}/v1/info", timeout=PATIENCE).json()["image_size"] == 16
        process.terminate()
        assert process.wait(PATIENCE) == 0


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
            ([f"inpainter={folder}", "credentials.chain=chain.pem"], "name both credentials.chain and credentials.key"),
            (["inpainter=faces@production", f"registry={tmp_path / 'registry'}"], "faces"),
        ]
        for overrides, said in mistakes:
            code, _, err = run_script("serve.py", *overrides)
            assert code == 1
            assert err.startswith("error: ")
            assert len(err.strip().splitlines()) == 1
            assert said in err
