"""The service under clients that ask until they are answered; it is killed among them and started again."""

import io
import json
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from chaos import oracle
from chaos.keeping import models
from chaos.oracle import Violation
from chaos.processes import PATIENCE, Child, standstill
from chaos.round import SIGNALS, Outcome, ended
from chaos.training import free_port
from diffusion_lab.serving.run import local, serve

JOBS, CLIENTS, STEPS = 16, 4, 40
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
HOLE = np.zeros((20, 24), np.bool_)
HOLE[6:14, 8:18] = True
EXACT = 1
"""Levels by which kernels may round otherwise in other company."""


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


FILES = {"image": png(PICTURE), "mask": png(HOLE.astype(np.uint8) * 255)}


def host(model: Path, port: int) -> None:
    torch.set_num_threads(1)
    serve(model, "chaos", port=port, engine=partial(local, device="cpu", max_batch=4), drain=30.0)


class Client:
    """Asks for its jobs one after the other, each until it is answered, and notes all that it hears."""

    def __init__(self, url: str, numbers: list[int], heard: Path, until: float) -> None:
        self.url, self.numbers, self.heard, self.until = url, numbers, heard, until

    def note(self, job: int, what: str, **facts: object) -> None:
        line = json.dumps({"job": job, "what": what, "at": time.monotonic(), **facts}) + "\n"
        with self.heard.open("a") as file:
            file.write(line)

    def __call__(self) -> None:
        for job in self.numbers:
            while time.monotonic() < self.until and not self.asked(job):
                time.sleep(0.1)

    def asked(self, job: int) -> bool:
        """Whether a job was answered this time."""
        fields = {"seed": str(1000 + job), "steps": str(STEPS), "align": "off"}
        sent = time.monotonic()
        try:
            with httpx.Client(base_url=self.url, timeout=PATIENCE, verify=False) as client:
                if job % 2:
                    return self.followed(client, job, fields)
                answer = client.post("/v1/restore", files=FILES, data=fields)
                if answer.status_code == 200:
                    self.answered(job, answer.content)
                    return True
                self.note(job, "refused" if answer.status_code in (429, 503) else "failed", status=answer.status_code)
        except httpx.ConnectError:
            self.note(job, "away")
        except httpx.HTTPError as error:
            self.note(job, "broken", sent=sent, error=repr(error))
        return False

    def followed(self, client: httpx.Client, job: int, fields: dict[str, str]) -> bool:
        started = client.post("/v1/jobs", files=FILES, data=fields)
        if started.status_code != 202:
            self.note(job, "refused" if started.status_code in (429, 503) else "failed", status=started.status_code)
            return False
        place = started.headers["location"]
        while (state := client.get(place)).status_code == 200 and state.json()["status"] in ("starting", "processing"):
            time.sleep(0.03)
        if state.status_code == 404:
            self.note(job, "refused", status=404)  # of a service before: it says that there is no such job
            return False
        if state.json()["status"] != "succeeded":
            self.note(job, "refused", status=state.json()["error"]["code"])
            return False
        picture = client.get(state.json()["images"][0]["url"])
        told = [line for line in client.get(f"{place}/events").text.splitlines() if line.startswith("event: ")]
        self.answered(
            job, picture.content, ends=sum(line != "event: step" and line != "event: queued" for line in told)
        )
        return True

    def answered(self, job: int, content: bytes, ends: int = 1) -> None:
        (self.heard.parent / f"answer{job}.png").write_bytes(content)
        self.note(job, "answered", ends=ends)


class Service:
    """Sixteen jobs of four clients, half of them by `/v1/jobs`, to a service that is struck among them."""

    host = staticmethod(host)

    def prepare(self, folder: Path) -> None:
        (self.model,) = models(folder / "service", 1)
        self.undisturbed = folder / "service" / "undisturbed"
        if not (self.undisturbed / f"answer{JOBS - 1}.png").is_file():
            outcome = self.round(self.undisturbed, None)
            if outcome.violations:
                raise RuntimeError(f"the undisturbed service failed: {outcome.violations}")

    def round(self, folder: Path, rng: random.Random | None) -> Outcome:
        outcome, port = Outcome(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        heard = folder / "heard.jsonl"
        heard.touch()
        service = self.begun(folder, port)
        clients = Child(lambda: together(f"http://127.0.0.1:{port}", heard), folder / "clients.txt")
        struck = 0.0
        number = signal.SIGKILL
        if rng is not None:
            number, after = rng.choice(SIGNALS), rng.randrange(JOBS)
            while heard.read_text().count('"answered"') < after and clients.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.2))
            late = clients.poll() is not None
            struck = time.monotonic()
            outcome.blows.append(
                f"{signal.Signals(number).name} after {after} answers" + (", too late" if late else "")
            )
            service = self.hit(service, number, partial(self.begun, folder, port), rng, outcome)
        ended(outcome, clients.wait(), "the clients")
        if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE, verify=False).status_code != 200:
            outcome.violations.append(Violation("wrong", "the service is unwell afterwards"))
        service.signal(signal.SIGTERM)
        ended(outcome, service.wait(), "the service at its end")
        outcome.violations += self.judged(folder, heard, number, struck)
        return outcome

    def hit(
        self, service: Child, number: int, again: Callable[[], Child], rng: random.Random, outcome: Outcome
    ) -> Child:
        """Strikes it, and returns the one that serves then."""
        service.signal(number)
        if number == signal.SIGSTOP:
            time.sleep(standstill(rng))
            service.signal(signal.SIGCONT)
            return service
        code = service.wait()
        if number == signal.SIGTERM:
            ended(outcome, code, "the service that was told to stop")
        return again()

    def begun(self, folder: Path, port: int) -> Child:
        service = Child(lambda: self.host(self.model, port), folder / "service.txt")
        while service.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE, verify=False).status_code == 200:
                    return service
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"the service did not start: see {folder / 'service.txt'}")

    def judged(self, folder: Path, heard: Path, number: int, struck: float) -> list[Violation]:
        notes = [json.loads(line) for line in heard.read_text().splitlines()]
        jobs = [str(job) for job in range(JOBS)]
        said = oracle.once((str(note["job"]) for note in notes if note["what"] == "answered"), jobs)
        said += [
            Violation("doubled", f"job {n['job']} ended {n['ends']} times") for n in notes if n.get("ends", 1) != 1
        ]
        said += [Violation("wrong", f"job {n['job']}: {n['status']}") for n in notes if n["what"] == "failed"]
        if number in (signal.SIGTERM, signal.SIGSTOP):  # whoever had been let in is answered
            cut = [n for n in notes if n["what"] == "broken" and n["sent"] < struck - 0.2 and n["job"] % 2 == 0]
            said += [Violation("lost", f"job {n['job']} was in and cut off: {n['error']}") for n in cut]
        for job in jobs:
            path = folder / f"answer{job}.png"
            if not path.is_file():
                continue
            try:
                answer = np.asarray(Image.open(path).convert("RGB"))
            except OSError as error:
                said.append(Violation("wrong", f"the answer to job {job} is no picture: {error}"))
                continue
            said += oracle.known_pixels(answer, PICTURE, HOLE)
            if folder != self.undisturbed:
                other = np.asarray(Image.open(self.undisturbed / f"answer{job}.png").convert("RGB"))
                if (distance := int(np.abs(answer.astype(int) - other).max())) > EXACT:
                    said.append(Violation("wrong", f"job {job} differs by {distance} levels"))
        return said


def together(url: str, heard: Path) -> None:
    """All clients at once, in this process."""
    until = time.monotonic() + PATIENCE
    clients = [Client(url, list(range(i, JOBS, CLIENTS)), heard, until) for i in range(CLIENTS)]
    threads = [threading.Thread(target=client) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
