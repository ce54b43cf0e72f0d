"""What people do at the service: whole requests, jobs that are followed, uploads that are broken, leaving midway."""

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from broken import corpus
from chaos.oracle import known_pixels
from numpy.typing import NDArray
from PIL import Image

from patience import PATIENCE
from portraits import portraits, two_on_a_wall

Pixels = NDArray[np.uint8]

SIZES = ((48, 64), (178, 178), (330, 250), (560, 300), (900, 700))
REFUSED = (429, 503)


class Left(Exception):
    """The visitor went, as it meant to."""


class Refused(Exception):
    """The service had no room, and said so."""


@dataclass(frozen=True)
class Ask:
    """A picture with a hole in it, as it is sent.

    Args:
        pixels: the picture, ``(h, w, 3)``.
        hole: ``(h, w)``.
        seed: of the filling.
    """

    pixels: Pixels
    hole: NDArray[np.bool_]
    seed: int

    @classmethod
    def drawn(cls, rng: random.Random) -> "Ask":
        width, height = rng.choice(SIZES)
        picture = rng.choice(PICTURES).resize((width, height))
        hole = np.zeros((height, width), np.bool_)
        top, left = rng.randrange(height - 8), rng.randrange(width - 8)
        hole[top : top + rng.randrange(4, height // 2), left : left + rng.randrange(4, width // 2)] = True
        return cls(np.asarray(picture), hole, rng.randrange(2**31))

    @property
    def files(self) -> dict[str, bytes]:
        return {"image": png(self.pixels), "mask": png(self.hole.astype(np.uint8) * 255)}

    def judged(self, content: bytes) -> None:
        """Raises AssertionError unless an answer is the picture that was sent, outside of the hole."""
        answer = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        said = known_pixels(answer, self.pixels, self.hole)
        assert not said, said[0].what


def png(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PICTURES = [two_on_a_wall(), *portraits(3)]
BROKEN = sorted(corpus(0).items())

Visit = Callable[[httpx.AsyncClient, random.Random], Awaitable[None]]


def well(answer: httpx.Response, code: int = 200) -> httpx.Response:
    """An answer that has the status that it should have.

    Raises:
        Refused: if there was no room.
        AssertionError: for any other.
    """
    if answer.status_code in REFUSED:
        raise Refused
    assert answer.status_code == code, f"{answer.status_code} {answer.text[:200]}"
    return answer


async def filled(client: httpx.AsyncClient, rng: random.Random) -> None:
    """One picture, from one of both addresses."""
    ask = Ask.drawn(rng)
    fields = {"seed": str(ask.seed), "steps": str(rng.randrange(3, 30)), "align": rng.choice(("auto", "off"))}
    answer = well(await client.post(rng.choice(("/v1/inpaint", "/v1/restore")), files=ask.files, data=fields))
    ask.judged(answer.content)
    assert answer.headers["X-Seed"] == str(ask.seed)


async def filling(client: httpx.AsyncClient, ask: Ask) -> tuple[str, Pixels]:
    """The version that made a picture, and the picture."""
    fields = {"seed": str(ask.seed), "steps": "10"}
    answer = well(await client.post("/v1/inpaint", files=ask.files, data=fields))
    ask.judged(answer.content)
    return answer.headers["X-Model-Version"], np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


async def several(client: httpx.AsyncClient, rng: random.Random) -> None:
    ask = Ask.drawn(rng)
    fields = {"seed": str(ask.seed), "num_samples": "3", "feather": "4"}
    told = well(await client.post("/v1/restore", files=ask.files, data=fields)).json()
    assert [each["seed"] for each in told["images"]] == [ask.seed, ask.seed + 1, ask.seed + 2]
    for each in told["images"]:
        ask.judged(base64.b64decode(each["b64_png"]))


async def edited(client: httpx.AsyncClient, rng: random.Random) -> None:
    """As clients of OpenAI's ask: what is transparent is the hole."""
    ask = Ask.drawn(rng)
    alpha = np.where(ask.hole, 0, 255).astype(np.uint8)[..., None]
    files = {"image": png(np.concatenate([ask.pixels, alpha], -1))}
    told = well(await client.post("/v1/images/edits", files=files, data={"seed": str(ask.seed)})).json()
    ask.judged(base64.b64decode(told["data"][0]["b64_json"]))


async def followed(client: httpx.AsyncClient, rng: random.Random) -> None:
    """A job with previews, by its stream of events, to its end."""
    ask, previews = Ask.drawn(rng), rng.randrange(4)
    place, events = await job(client, ask, previews, steps=30)
    assert [number for number, *_ in events] == list(range(len(events)))
    assert [name for _, name, _ in events].count("completed") == 1
    assert events[-1][1] == "completed"
    assert sum(len(data.get("previews", ())) for _, _, data in events) == previews
    ask.judged(well(await client.get(f"{place}/images/0")).content)


async def job(
    client: httpx.AsyncClient, ask: Ask, previews: int, steps: int, most: float = float("inf")
) -> tuple[str, list[tuple[int, str, dict[str, Any]]]]:
    """Starts a job and reads its events: (number, name, data), no more than so many."""
    fields = {"seed": str(ask.seed), "steps": str(steps), "previews": str(previews)}
    place = well(await client.post("/v1/jobs", files=ask.files, data=fields), 202).headers["location"]
    found: list[tuple[int, str, dict[str, Any]]] = []
    async with client.stream("GET", f"{place}/events") as stream, aclosing(stream.aiter_lines()) as lines:
        event: dict[str, str] = {}
        async for line in lines:
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif event.get("data"):
                found.append((int(event["id"]), event["event"], json.loads(event["data"])))
                event = {}
                if len(found) >= most:
                    break
    return place, found


async def cancelled(client: httpx.AsyncClient, rng: random.Random) -> None:
    """A long job, given up among its events."""
    place, _ = await job(client, Ask.drawn(rng), 2, 400, most=rng.randrange(1, 12))
    state = well(await client.delete(place)).json()
    assert state["status"] in ("canceled", "succeeded"), state["status"]  # a slow visitor comes too late


async def looked(client: httpx.AsyncClient, rng: random.Random) -> None:
    """The faces of the picture that has two."""
    answer = well(await client.post("/v1/faces", files={"image": png(np.asarray(PICTURES[0]))})).json()
    assert len(answer["faces"]) == 2, f"{len(answer['faces'])} faces of 2"


async def broken(client: httpx.AsyncClient, rng: random.Random) -> None:
    """Any upload is a picture or a mistake, never a failure."""
    name, content = rng.choice(BROKEN)
    ask = Ask.drawn(rng)
    files = {**ask.files, rng.choice(("image", "mask")): content}
    answer = await client.post("/v1/inpaint", files=files, data={"steps": "3"})
    if answer.status_code in REFUSED:
        raise Refused
    assert answer.status_code < 500, f"'{name}' was answered {answer.status_code}"


async def left(client: httpx.AsyncClient, rng: random.Random) -> None:
    """Goes in the middle: of its upload, of the work, or of the events of a job that nobody asks for again."""
    ask, how = Ask.drawn(rng), rng.randrange(3)
    if how == 2:
        await job(client, ask, 3, 200, most=rng.randrange(1, 20))
        raise Left
    request = client.build_request("POST", "/v1/inpaint", files=ask.files, data={"steps": "400"})
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    body = request.read()
    _, writer = await asyncio.open_connection(request.url.host, request.url.port)
    try:
        writer.write(f"POST /v1/inpaint HTTP/1.1\r\n{head}\r\n".encode())
        writer.write(body[: rng.randrange(len(body))] if how else body)
        await writer.drain()
        await asyncio.sleep(rng.uniform(0, 0.5))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    raise Left


KINDS: Mapping[Visit, int] = {
    filled: 10,
    several: 2,
    edited: 2,
    followed: 3,
    cancelled: 2,
    looked: 1,
    broken: 4,
    left: 4,
}
"""How often each comes, in parts of all."""


@dataclass(frozen=True)
class Visited:
    """How a visit went.

    Args:
        kind: the name of what was done.
        outcome: well, refused, left, or what was wrong.
        seconds: that it took.
    """

    kind: str
    outcome: str
    seconds: float


async def visit(url: str, rng: random.Random) -> Visited:
    """One visit, as somebody does who comes anew."""
    (kind,) = rng.choices([*KINDS], [*KINDS.values()])
    begun, outcome = time.monotonic(), "well"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, verify=False) as client:
            await kind(client, rng)
    except Left:
        outcome = "left"
    except Refused:
        outcome = "refused"
    except Exception as error:
        outcome = f"wrong: {error!r}"
    return Visited(kind.__name__, outcome, time.monotonic() - begun)
