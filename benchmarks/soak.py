"""Days in the life of a service: ``python benchmarks/soak.py --minutes 90``.

A tiny model with random weights is served as a person would serve it, from a registry whose alias moves every
`--swap` minutes. Visits come at random, `--rate` a second: pictures of several sizes, jobs with previews, faces, broken
uploads, people who leave midway (`benchmarks/soak/visits.py`). Outside of its hole every picture is compared bit for
bit with what was sent; one picture is asked for again in every line, and stays as it was as long as the model does.

After `--every` seconds visits pause until the last has ended, and a line is added to ``lines.jsonl`` of `--folder`:
memory, handles, threads, the service's share of a core, seconds of a filling, counts. At the end there is a verdict,
and the exit code is 1 if an answer was wrong or something grows. Needs Linux: all of that is read from ``/proc``.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from soak.trend import Trend, trend
from soak.visits import Ask, Visited, filling, visit

from diffusion_lab.registry import Registry
from diffusion_lab.registry.gate import by_hand
from evaluated import results
from patience import PATIENCE
from small import small_inpainter

ROOT = Path(__file__).parents[1]
TICK = os.sysconf("SC_CLK_TCK")
LEAST = 10
"""Lines after the warm-up that a trend takes."""
GROWTH = {"rss": 0.01, "handles": 1.0, "threads": 1.0}
"""What may be added in an hour: a part of the memory, and a number of the others."""


class Faces:
    """A registry of two tiny models of faces, whose alias goes from one to the other."""

    def __init__(self, root: Path) -> None:
        self.registry, self.now = Registry(root / "registry"), 2
        for seed in (0, 1):
            model = small_inpainter(crop="center140")
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(seed))
            model.save(root / str(seed))
            (root / str(seed) / "results.json").write_text(json.dumps(results(seed=seed)))
            self.registry.register("faces", root / str(seed), root / str(seed) / "results.json", "# tiny")
        self.move()

    def move(self) -> str:
        """The label of the version that is to be in service now."""
        self.now = 3 - self.now
        self.registry.promote("faces", self.now, by_hand(f"faces@{self.now}", "soak"), "live")
        return f"faces@{self.now}"


@dataclass
class Soak:
    """What was seen so far.

    Args:
        url: of the service.
        pid: of its process.
        rng: draws the visits.
        rate: of them, a second.
        visited: all of them.
        lines: that were written.
        wrong: everything that was.
        first: the picture that each version made of the same request.
    """

    url: str
    pid: int
    rng: random.Random
    rate: float
    visited: list[Visited] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    first: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    async def load(self, until: float) -> None:
        """Visits until then, and returns when the last has ended."""
        visits: set[asyncio.Task[None]] = set()
        while time.monotonic() < until:
            task = asyncio.create_task(self.one(random.Random(self.rng.random())))
            visits.add(task)
            task.add_done_callback(visits.discard)
            await asyncio.sleep(self.rng.expovariate(self.rate))
        await asyncio.gather(*visits)

    async def one(self, rng: random.Random) -> None:
        self.visited.append(seen := await visit(self.url, rng))
        if seen.outcome.startswith("wrong"):
            self.wrong.append(f"{seen.kind}: {seen.outcome}")

    async def look(self, since: int, hours: float) -> dict[str, Any]:
        """A line about the visits since a number, when all is quiet."""
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, verify=False) as client:
            until = time.monotonic() + PATIENCE
            while (busy := jobs_in((await client.get("/metrics")).text)) and time.monotonic() < until:
                await asyncio.sleep(0.05)
            if busy:
                self.wrong.append(f"{busy} jobs are still there that nobody waits for")
            version, picture = await filling(client, Ask.drawn(random.Random("the same in every line")))
            self.first.setdefault(version, picture)
            if (levels := int(np.abs(self.first[version].astype(int) - picture).max())) > 1:
                self.wrong.append(f"{version} makes another picture than before, by {levels} levels")
            if (health := await client.get("/healthz")).status_code != 200:
                self.wrong.append(f"unwell: {health.text}")
        new = self.visited[since:]
        seconds = [each.seconds for each in new if each.kind == "filled" and each.outcome == "well"]
        outcomes = Counter(each.outcome.partition(":")[0] for each in new)
        return {
            "hours": round(hours, 4),
            **standing(self.pid),
            **{f"p{q}": percentile(seconds, q) for q in (50, 95, 99)},
            "visits": dict(Counter(each.kind for each in new)),
            **{name: outcomes[name] for name in ("well", "left", "refused")},
            "version": version,
        }

    def verdict(self, warm: float) -> dict[str, Any]:
        """What all of it says; trends are of the lines after so many hours, and None of too few of them."""
        after = [line for line in self.lines if line["hours"] >= warm]
        hours = [line["hours"] for line in after]
        trends = {name: trend(hours, [line[name] for line in after]) for name in GROWTH if len(after) >= LEAST}
        seconds = [each.seconds for each in self.visited if each.kind == "filled" and each.outcome == "well"]
        third = max(len(seconds) // 3, 1)
        return {
            "visits": len(self.visited),
            **dict(Counter(each.outcome.partition(":")[0] for each in self.visited)),
            "wrong": self.wrong,
            "trends": {name: vars(each) for name, each in trends.items()} or None,
            "grows": [name for name, each in trends.items() if each.grows(tolerated(name, each))],
            "p99 of the first third": percentile(seconds[:third], 99),
            "p99 of the last third": percentile(seconds[-third:], 99),
        }


def tolerated(name: str, found: Trend) -> float:
    return GROWTH[name] * (found.level if name == "rss" else 1.0)


def percentile(seconds: Sequence[float], q: int) -> float | None:
    return round(float(np.percentile(seconds, q)), 4) if seconds else None


def jobs_in(metrics: str) -> int:
    """Jobs that wait or run."""
    found = re.findall(r"^diffusion_lab_(?:queue_depth|running) (\S+)", metrics, re.MULTILINE)
    return sum(int(float(value)) for value in found)


def standing(pid: int) -> dict[str, float]:
    """MiB of memory, handles, threads and CPU seconds of a process."""
    process = Path("/proc", str(pid))
    said = dict(re.findall(r"^(\w+):\s+(\d+)", (process / "status").read_text(), re.MULTILINE))
    ticks = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "rss": int(said["VmRSS"]) / 1024,
        "handles": len(list((process / "fd").iterdir())),
        "threads": int(said["Threads"]),
        "cpu": sum(map(int, ticks)) / TICK,
    }


@asynccontextmanager
async def served(faces: Faces, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """The address and the process of `serve.py`, which has to end well."""
    words = [f"registry={faces.registry.root}", "inpainter=faces@live", "port=0", "poll=1", "engine.device=cpu"]
    with (folder / "service.txt").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        service = subprocess.Popen([sys.executable, ROOT / "serve.py", *words], stdout=log, stderr=log, env=environment)
    try:
        until = time.monotonic() + PATIENCE
        while not (said := re.search(r"on (http://\S+)", (folder / "service.txt").read_text())):
            if service.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the service did not start: see {folder / 'service.txt'}")
            await asyncio.sleep(0.1)
        yield said[1], service.pid
    finally:
        service.terminate()
        if code := await asyncio.to_thread(service.wait, PATIENCE):
            print(f"the service ended with exit code {code}: see {folder / 'service.txt'}")


async def swaps(soak: Soak, faces: Faces, seconds: float) -> None:
    """Moves the alias now and then, and waits until the service has followed."""
    async with httpx.AsyncClient(base_url=soak.url, timeout=PATIENCE, verify=False) as client:
        while True:
            await asyncio.sleep(seconds)
            wanted, until = await asyncio.to_thread(faces.move), time.monotonic() + PATIENCE
            while (now := (await client.get("/version")).json()["model"]) != wanted:
                if time.monotonic() > until:
                    soak.wrong.append(f"{now} is in service, and not {wanted}")
                    break
                await asyncio.sleep(0.2)


async def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        faces = Faces(Path(place))
        async with served(faces, folder) as (url, pid):
            soak = Soak(url, pid, random.Random(asked.seed), asked.rate)
            swapping = asyncio.create_task(swaps(soak, faces, asked.swap * 60))
            begun, end = time.monotonic(), time.monotonic() + asked.minutes * 60
            while time.monotonic() < end:
                since, told = len(soak.visited), len(soak.wrong)
                await soak.load(min(time.monotonic() + asked.every, end))
                line = await soak.look(since, (time.monotonic() - begun) / 3600)
                line["wrong"] = soak.wrong[told:]
                soak.lines.append(line)
                with (folder / "lines.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
            swapping.cancel()
        return soak.verdict(min(asked.warm_up, asked.minutes / 3) / 60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--rate", type=float, default=1.0, help="visits a second")
    parser.add_argument("--swap", type=float, default=5.0, help="minutes between two models")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two lines")
    parser.add_argument("--warm-up", type=float, default=20.0, help="minutes before trends begin; a third at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("logs/soak"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    (asked.folder / "lines.jsonl").unlink(missing_ok=True)
    print(f"{platform.node()}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    verdict = asyncio.run(run(asked, asked.folder))
    (asked.folder / "verdict.json").write_text(json.dumps(verdict, indent=1))
    print(json.dumps(verdict, indent=1))
    return 1 if verdict["wrong"] or verdict["grows"] else 0


if __name__ == "__main__":
    sys.exit(main())
