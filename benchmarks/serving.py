"""The service under load: ``python benchmarks/serving.py --inpainter FOLDER``, on loopback.

Servers of the same model, each a process of its own, are asked in turn, so that noise falls on all alike:

- ours: step-level batching, ``python -m diffusion_lab.serving``;
- naive: one request at a time behind a lock, what a tutorial would write;
- grouped: request-level batching; requests that came within 20 ms and want the same steps are filled together;
- plain, with ``--bfloat16``: naive in float32 by PyTorch's own operations, while the others are in bfloat16.

Then ours alone: ten times more than it can do, and clients that leave at every stage.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

STEPS = (5, 10, 20)
"""Requests ask for these in turn."""
WAIT = 0.02
"""Seconds that request-level batching waits for company."""


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


IMAGE = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
MASK = png(np.pad(np.full((32, 32), 255, dtype=np.uint8), 16))


def rival(kind: str, folder: Path, port: int, low: bool) -> None:
    """The servers that ours is compared with; in bfloat16 by the same form of the network as ours, if `low`."""
    import torch
    import uvicorn
    from fastapi import FastAPI, File, Form, Response

    from diffusion_lab.data.crops import named
    from diffusion_lab.diffusion.samplers import ddpm
    from diffusion_lab.holes import as_mask
    from diffusion_lab.inpainting import Inpainter
    from diffusion_lab.opening import as_rgb, opened
    from diffusion_lab.photo import Photo, cut, paste
    from diffusion_lab.pictures import png as encoded
    from diffusion_lab.serving.backends import bfloat16

    app, inpainter = FastAPI(), Inpainter.load(folder)
    network = inpainter.denoiser.network
    if kind == "plain":
        network.channels_last = False
    elif low:
        inpainter.denoiser.network = bfloat16(network, folder)
    crop = named(inpainter.recipe["data"]["crop"])
    lock, waiting = asyncio.Lock(), asyncio.Queue()

    def shown(image: bytes, mask: bytes) -> Photo:
        return cut(as_rgb(opened(image, "image")), as_mask(opened(mask, "mask")), inpainter.sides, crop)

    def fill(photos: list[Photo], seeds: list[int], steps: int) -> torch.Tensor:
        return inpainter(  # no face is in what is asked here, and so one part in each
            torch.cat([photo.images for photo in photos]),
            torch.cat([photo.holes for photo in photos]),
            seeds=seeds,
            sampler=ddpm(steps),
        )

    async def group() -> None:
        while True:
            asked = [await waiting.get()]
            await asyncio.sleep(WAIT)
            while not waiting.empty():
                asked.append(waiting.get_nowait())
            for steps in sorted({one[2] for one in asked}):
                same = [one for one in asked if one[2] == steps]
                for i in range(0, len(same), 16):
                    photos, seeds, _, answers = zip(*same[i : i + 16], strict=True)
                    for answer, made in zip(
                        answers, await asyncio.to_thread(fill, list(photos), list(seeds), steps), strict=True
                    ):
                        answer.set_result(made)

    tasks = []

    @app.post("/v1/inpaint")
    async def inpaint(
        image: bytes = File(), mask: bytes = File(), seed: int = Form(0), steps: int = Form(10)
    ) -> Response:
        photo = await asyncio.to_thread(shown, image, mask)
        if kind != "grouped":
            async with lock:
                filled = (await asyncio.to_thread(fill, [photo], [seed], steps))[0]
        else:
            if not tasks:
                tasks.append(asyncio.create_task(group()))
            answer = asyncio.get_running_loop().create_future()
            waiting.put_nowait((photo, seed, steps, answer))
            filled = await answer
        return Response(encoded(paste(photo, filled[None])), media_type="image/png")

    @app.get("/readyz")
    async def ready() -> None: ...

    uvicorn.run(app, port=port, log_level="warning")


def free_port() -> int:
    with socket.socket() as ear:
        ear.bind(("127.0.0.1", 0))
        return int(ear.getsockname()[1])


@contextlib.contextmanager
def server(kind: str, folder: Path, low: bool) -> Iterator[tuple[str, int]]:
    """One of them, on a port of its own: its address and process."""
    port = free_port()
    what = ["-m", "diffusion_lab.serving"] if kind == "ours" else [__file__, "--rival", kind]
    said = ["--inpainter", str(folder), "--port", str(port), *(["--bfloat16"] if low else [])]
    process = subprocess.Popen([sys.executable, *what, *said], stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(60)


async def ask(client: httpx.AsyncClient, number: int) -> int:
    """One picture; the status of the answer."""
    files = {"image": ("image.png", IMAGE), "mask": ("mask.png", MASK)}
    answer = await client.post("/v1/inpaint", files=files, data={"seed": number, "steps": STEPS[number % len(STEPS)]})
    return answer.status_code


async def closed_loop(url: str, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Clients that each ask again as soon as they are answered: pictures a second, and latencies."""
    latencies: list[float] = []
    begun = time.perf_counter()

    async def one(offset: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            number = offset
            while time.perf_counter() - begun < seconds:
                asked = time.perf_counter()
                assert await ask(client, number) == 200
                latencies.append(time.perf_counter() - asked)
                number += 1

    await asyncio.gather(*(one(i) for i in range(clients)))
    return len(latencies) / (time.perf_counter() - begun), latencies


async def open_loop(url: str, rate: float, seconds: float) -> tuple[list[float], Counter[int]]:
    """Requests at random times whatever the answers: latencies from when they were due, and how they were answered."""
    latencies: list[float] = []
    codes: Counter[int] = Counter()
    dice = random.Random(0)
    tasks = []
    # One connection per request in flight: a pool that is full would hold back what is due.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def one(number: int, due: float) -> None:
            code = await ask(client, number)
            codes[code] += 1
            if code == 200:
                latencies.append(time.perf_counter() - due)

        due, number, end = time.perf_counter(), 0, time.perf_counter() + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number, due)))
            number += 1
            due += dice.expovariate(rate)
        await asyncio.gather(*tasks)
    return latencies, codes


def spread(latencies: list[float]) -> str:
    """p50, p95 and p99 in milliseconds."""
    if len(latencies) < 2:
        return "-"
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return " / ".join(f"{1000 * cuts[q - 1]:,.0f}" for q in (50, 95, 99))


def memory(pid: int) -> float:
    """Resident, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def worked(pid: int) -> float:
    """Seconds that its threads have computed: what other work on the machine takes from them is not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def files(pid: int) -> int:
    """Open file descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def compare(folder: Path, clients: list[int], rounds: int, seconds: float, low: bool) -> float:
    """Prints the tables of the servers; what ours can do in pictures a second."""
    kinds = ("ours", "naive", "grouped", *(["plain"] if low else []))
    with contextlib.ExitStack() as stack:
        urls, pids = {}, {}
        for kind in kinds:
            urls[kind], pids[kind] = stack.enter_context(server(kind, folder, low))
            asyncio.run(closed_loop(urls[kind], 2, 2))
        print(f"\nClosed loop, steps {STEPS} in turn, {rounds} rounds of {seconds:g} s each, interleaved")
        print("| clients | server | pictures/s | CPU s a picture | of ours | answers | p50 / p95 / p99 ms |")
        print("|---:|---|---:|---:|---:|---:|---|")
        most = dict.fromkeys(kinds, 0.0)
        for number in clients:
            rates: dict[str, list[float]] = {kind: [] for kind in kinds}
            costs: dict[str, list[float]] = {kind: [] for kind in kinds}
            found: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(rounds):
                for kind in kinds:
                    before = worked(pids[kind])
                    rate, latencies = asyncio.run(closed_loop(urls[kind], number, seconds))
                    costs[kind].append((worked(pids[kind]) - before) / len(latencies))
                    rates[kind].append(rate)
                    found[kind] += latencies
            for kind in kinds:
                rate, cost = statistics.median(rates[kind]), statistics.median(costs[kind])
                most[kind] = max(most[kind], rate)
                times = sorted(a / b for a, b in zip(costs[kind], costs["ours"], strict=True))
                ratio = f"{statistics.median(times):.2f} ({times[0]:.2f} to {times[-1]:.2f})"
                row = (number, kind, f"{rate:.2f}", f"{cost:.2f}", ratio, len(found[kind]), spread(found[kind]))
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
        arriving = 0.8 * most["naive"]
        print(f"\nOpen loop, {arriving:.2f} requests/s at random times (.8 of what naive can do), {rounds} rounds")
        print("| server | answered | p50 / p95 / p99 ms |\n|---|---:|---|")
        found = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind in kinds:
                found[kind] += asyncio.run(open_loop(urls[kind], arriving, 2 * seconds))[0]
        for kind in kinds:
            print(f"| {kind} | {len(found[kind])} | {spread(found[kind])} |", flush=True)
    return most["ours"]


async def overload(url: str, pid: int, rate: float, seconds: float) -> None:
    """Ten times more than it can do, while somebody asks for its health."""
    beats: list[float] = []
    resident = [memory(pid)]
    over = asyncio.Event()

    async def watch() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            while not over.is_set():
                asked = time.perf_counter()
                (await client.get("/healthz")).raise_for_status()
                beats.append(time.perf_counter() - asked)
                resident.append(memory(pid))
                await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    latencies, codes = await open_loop(url, rate, seconds)
    over.set()
    await watching
    print(f"\nOverload: {rate:.0f} requests/s for {seconds:g} s: answers {dict(sorted(codes.items()))}")
    print(f"answered 200 in p50 / p95 / p99 ms: {spread(latencies)}; /healthz: {spread(beats)} (n = {len(beats)})")
    print(f"resident MiB before {resident[0]:.0f}, most {max(resident):.0f}, after {memory(pid):.0f}", flush=True)


async def disconnects(url: str, pid: int, count: int) -> None:
    """Clients that leave while they send, wait, or read."""
    port = int(url.rsplit(":", 1)[1])
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        fields = {"steps": "200"}
        request = client.build_request("POST", "/v1/inpaint", files={"image": IMAGE, "mask": MASK}, data=fields)
        jobs = client.build_request("POST", "/v1/jobs", files={"image": IMAGE, "mask": MASK}, data=fields)
        raw = {}
        for name, built in (("inpaint", request), ("jobs", jobs)):
            body = await built.aread()
            head = [f"POST {built.url.raw_path.decode()} HTTP/1.1"]
            head += [f"{key}: {value}" for key, value in built.headers.items()]
            raw[name] = "\r\n".join(head).encode() + b"\r\n\r\n" + body
        before = memory(pid), files(pid)
        dice = random.Random(1)
        stages: Counter[str] = Counter()
        for _ in range(count):
            stage = dice.choice(("sending", "waiting", "running", "reading events"))
            stages[stage] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if stage == "sending":
                writer.write(raw["inpaint"][: dice.randrange(1, len(raw["inpaint"]))])
                await writer.drain()
            elif stage == "reading events":
                writer.write(raw["jobs"])
                await writer.drain()
                answer = ""
                while "}" not in answer:
                    answer += (await reader.read(4096)).decode()
                job = json.loads(answer[answer.index("{") :])["id"]
                writer.write(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await writer.drain()
                await reader.read(64)
                await client.delete(f"/v1/jobs/{job}")
            else:
                writer.write(raw["inpaint"])
                await writer.drain()
                await asyncio.sleep(0 if stage == "waiting" else dice.uniform(0.02, 0.2))
            writer.transport.abort()
        for _ in range(100):
            text = (await client.get("/metrics")).text
            left = sum(
                float(line.split()[-1])
                for line in text.splitlines()
                if line.startswith(("diffusion_lab_running ", "diffusion_lab_queue_depth "))
            )
            if left == 0:
                break
            await asyncio.sleep(0.1)
        code = await ask(client, 0)
    print(f"\n{count} clients left: {dict(stages)}; jobs left over {left:.0f}, the next one is answered {code}")
    print(f"resident MiB {before[0]:.0f} -> {memory(pid):.0f}, open files {before[1]} -> {files(pid)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inpainter", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--disconnects", type=int, default=500, help="0 compares alone")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--rival", choices=("naive", "grouped", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rival:
        rival(given.rival, given.inpainter, given.port, given.bfloat16)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.inpainter}")
    able = compare(given.inpainter, given.clients, given.rounds, given.seconds, given.bfloat16)
    if not given.disconnects:
        return
    with server("ours", given.inpainter, given.bfloat16) as (url, pid):
        asyncio.run(closed_loop(url, 4, 3))
        asyncio.run(overload(url, pid, 10 * able, 3 * given.seconds))
    with server("ours", given.inpainter, given.bfloat16) as (url, pid):
        asyncio.run(closed_loop(url, 4, 3))
        asyncio.run(disconnects(url, pid, given.disconnects))


if __name__ == "__main__":
    main()
