"""A client of the service, for programs: pictures in, pictures out, with progress.

It needs httpx and Pillow, and nothing else of this package.
"""

import asyncio
import base64
import io
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from PIL import Image

Picture = Image.Image | PathLike[str] | str | bytes
"""A picture, the path of its file, or the file's content."""
Eyes = tuple[tuple[float, float], tuple[float, float]]
"""(x, y) of the left and the right eye of a face, as one looks at it upright, in pixels of the upright picture."""

RESUMES = 5
"""How often a broken stream of events is taken up again."""


class ServiceError(Exception):
    """The service said no.

    Args:
        message: its own sentence.
        code: for programs, such as "queue_full".
        status: of the HTTP answer; 0 if there was none.
        param: the field that is to blame, if one is.
        retry_after: seconds after which the same call may succeed, if it may.
    """

    def __init__(
        self, message: str, code: str, status: int = 0, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.param = param
        self.retry_after = retry_after


@dataclass(frozen=True)
class Completion:
    """A filled picture.

    Args:
        picture: RGB, of the size of the one that was sent.
        seed: makes it again.
        version: of the model.
        network_calls: that it took.
        face: "found" if `faces` were set upright for the model, "none" if no face was seen where the hole is, "off" if
            none was looked for.
        faces: see there.
    """

    picture: Image.Image
    seed: int
    version: str
    network_calls: int
    face: str
    faces: tuple[Eyes, ...]


@dataclass(frozen=True)
class Progress:
    """How far the service is.

    Args:
        step: network calls so far; 0 while the job waits.
        steps: in all; None while the job waits.
        position: how many jobs wait in front; None once it has started.
        previews: what it looks like now, one per completion, if this step has a preview.
    """

    step: int
    steps: int | None
    position: int | None = None
    previews: list[Image.Image] = field(default_factory=list)


OnStep = Callable[[Progress], None]


@dataclass(frozen=True)
class _Send:
    """A request whose answer is wanted."""

    method: str
    url: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Follow:
    """A stream whose lines are wanted, until one of them is enough; what broke it is wanted too."""

    url: str
    headers: Mapping[str, str]
    enough: Callable[[str], bool]


@dataclass(frozen=True)
class _Wait:
    """Some seconds are wanted."""

    seconds: float


_Wanted = _Send | _Follow | _Wait
_Flow = Generator[_Wanted, Any, list[Completion]]
"""What a call wants, one thing after the other. The two clients only differ in how they come by it."""


class _Events:
    """Server-sent events of a job, over as many connections as it takes."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step
        self.last: str | None = None
        self.job: dict[str, Any] | None = None
        self.broken = 0
        self._block: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.last is None else {"Last-Event-ID": self.last}

    def enough(self, line: str) -> bool:
        """Takes a line in; whether it ends the job."""
        name, _, value = line.partition(":")
        if line:
            self._block[name] = value.removeprefix(" ")
            return False
        block, self._block = self._block, {}
        if "data" not in block:
            return False
        data = json.loads(block["data"])
        self.last, self.broken = block["id"], 0
        if block["event"] == "queued":
            self.on_step(Progress(0, None, data["position"]))
        elif block["event"] == "step":
            previews = [_decoded(preview.partition(",")[2]) for preview in data["previews"]]
            self.on_step(Progress(data["step"], data["steps"], None, previews))
        else:
            self.job = data
        return self.job is not None

    def pause(self, error: object) -> float:
        """Seconds to wait before the stream is taken up again.

        Raises:
            ServiceError: if it broke too often without an event in between.
        """
        self.broken += 1
        self._block = {}
        if self.broken > RESUMES:
            raise ServiceError(f"the connection to the service was lost ({error})", "unreachable")
        return 0.1 * 2.0**self.broken


def _restoring(
    image: Picture, mask: Picture | None, fields: Mapping[str, object], previews: int, on_step: OnStep | None
) -> _Flow:
    """A call of `restore`: at once, or as a job that is followed."""
    given = {name: str(value) for name, value in fields.items() if value is not None}
    pictures = {"image": image} if mask is None else {"image": image, "mask": mask}
    form: dict[str, Any] = {"files": {name: (name, _encoded(picture)) for name, picture in pictures.items()}}
    if on_step is None:
        accept = {"Accept": "application/json"}
        said = (yield _Send("POST", "/v1/restore", {**form, "data": given, "headers": accept})).json()
        return [_completion(_decoded(made["b64_png"]), made["seed"], said) for made in said["images"]]
    job = (yield _Send("POST", "/v1/jobs", {**form, "data": {**given, "previews": str(previews)}})).json()
    events = _Events(on_step)
    try:
        while events.job is None:
            broken = yield _Follow(f"/v1/jobs/{job['id']}/events", events.headers, events.enough)
            if events.job is None:
                yield _Wait(events.pause(broken))
    except BaseException:
        with suppress(Exception):
            yield _Send("DELETE", f"/v1/jobs/{job['id']}")
        raise
    job = events.job
    if job["status"] != "succeeded":
        error = job["error"] or {"code": "canceled", "message": "the job was cancelled"}
        raise ServiceError(error["message"], error["code"], param=error.get("param"))
    completions = []
    for made in job["images"]:
        picture = _picture((yield _Send("GET", made["url"])).content)
        completions.append(_completion(picture, made["seed"], job))
    return completions


def _completion(picture: Image.Image, seed: int, said: Mapping[str, Any]) -> Completion:
    """One of those that an answer tells of."""
    left, right = ([(face[side]["x"], face[side]["y"]) for face in said["faces"]] for side in ("left", "right"))
    faces = tuple(zip(left, right, strict=True))
    return Completion(picture, seed, said["model_version"], said["network_calls"], said["face"], faces)


class Client:
    """The service, for programs that wait.

    Args:
        url: such as http://127.0.0.1:8000.
        key: an API key, if the service asks for one.
        timeout: seconds that an answer may take.
        transport: of httpx, for proxies and tests; None is the usual one.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     first, second = client.inpaint("me.jpg", "hole.png", num_samples=2, seed=7)
        ...     first.picture.save(f"me-{first.seed}.png")
    """

    def __init__(
        self, url: str, key: str | None = None, timeout: float = 600.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=_authorization(key), timeout=timeout, transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections."""
        self._http.close()

    def info(self) -> dict[str, Any]:
        """What the service offers: version, task, image size, samplers, limits.

        Raises:
            ServiceError: with the service's own sentence.
        """
        found: dict[str, Any] = self._do(_Send("GET", "/v1/info")).json()
        return found

    def restore(
        self,
        image: Picture,
        mask: Picture | None = None,
        *,
        num_samples: int = 1,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int | None = None,
        feather: int = 0,
        mask_mode: str | None = None,
        align: str | Sequence[Sequence[float]] = "auto",
        previews: int = 0,
        on_step: OnStep | None = None,
    ) -> list[Completion]:
        """Does with a picture what the model in service is for: fills its hole, or restores it whole.

        Args:
            image: of any size.
            mask: of the same size: white on black, labels, strokes of one colour, or transparency. None where the
                model's task is the whole picture, as `task` of `info` says.
            num_samples: completions, with seeds seed, seed + 1, ...
            steps: of the sampler; None is as the sampler has it.
            sampler: None is the model's own.
            seed: None is a random one.
            feather: pixels inside the hole over which the filling fades in.
            mask_mode: what of the mask is the hole: "white", "transparent" or "nonzero"; None is seen from what varies.
            align: "auto", all faces are looked for and set upright for the model; "off", none; or both eyes of one, as
                one looks at the picture, in its pixels: [[x, y], [x, y]].
            previews: on the way, for `on_step`.
            on_step: told of every step; whatever it raises gives the job up.

        Raises:
            ServiceError: with the service's own sentence.
            ValueError: for a picture of floats.
        """
        fields = {"num_samples": num_samples, "steps": steps, "sampler": sampler, "seed": seed, "feather": feather}
        fields |= {"mask_mode": mask_mode, "align": align if isinstance(align, str) else json.dumps(align)}
        flow = _restoring(image, mask, fields, previews, on_step)
        try:
            wanted = next(flow)
            while True:
                try:
                    found = self._do(wanted)
                except BaseException as error:
                    wanted = flow.throw(error)
                else:
                    wanted = flow.send(found)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    inpaint = restore
    """Its name while all models filled holes."""

    def _do(self, wanted: _Wanted) -> Any:
        try:
            match wanted:
                case _Send(method, url, options):
                    return _checked(self._http.request(method, url, **options))
                case _Follow(url, headers, enough):
                    with self._http.stream("GET", url, headers=headers) as answer:
                        if answer.is_error:
                            answer.read()
                        for line in _checked(answer).iter_lines():
                            if enough(line):
                                break
                    return None
                case _Wait(seconds):
                    return time.sleep(seconds)
        except httpx.TransportError as error:
            return _broken(wanted, error, self._http.base_url)


class AsyncClient:
    """The service, for programs on asyncio.

    Args:
        url: such as http://127.0.0.1:8000.
        key: an API key, if the service asks for one.
        timeout: seconds that an answer may take.
        transport: of httpx, for proxies and tests; None is the usual one.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_authorization(key), timeout=timeout, transport=transport)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections."""
        await self._http.aclose()

    async def info(self) -> dict[str, Any]:
        """What the service offers: version, task, image size, samplers, limits.

        Raises:
            ServiceError: with the service's own sentence.
        """
        found: dict[str, Any] = (await self._do(_Send("GET", "/v1/info"))).json()
        return found

    async def restore(
        self,
        image: Picture,
        mask: Picture | None = None,
        *,
        num_samples: int = 1,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int | None = None,
        feather: int = 0,
        mask_mode: str | None = None,
        align: str | Sequence[Sequence[float]] = "auto",
        previews: int = 0,
        on_step: OnStep | None = None,
    ) -> list[Completion]:
        """Does with a picture what the model is for; the arguments are those of `Client.restore`.

        Raises:
            ServiceError: with the service's own sentence.
            ValueError: for a picture of floats.
        """
        fields = {"num_samples": num_samples, "steps": steps, "sampler": sampler, "seed": seed, "feather": feather}
        fields |= {"mask_mode": mask_mode, "align": align if isinstance(align, str) else json.dumps(align)}
        flow = _restoring(image, mask, fields, previews, on_step)
        try:
            wanted = next(flow)
            while True:
                try:
                    found = await self._do(wanted)
                except BaseException as error:
                    wanted = flow.throw(error)
                else:
                    wanted = flow.send(found)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    inpaint = restore
    """Its name while all models filled holes."""

    async def _do(self, wanted: _Wanted) -> Any:
        try:
            match wanted:
                case _Send(method, url, options):
                    return _checked(await self._http.request(method, url, **options))
                case _Follow(url, headers, enough):
                    async with self._http.stream("GET", url, headers=headers) as answer:
                        if answer.is_error:
                            await answer.aread()
                        async for line in _checked(answer).aiter_lines():
                            if enough(line):
                                break
                    return None
                case _Wait(seconds):
                    return await asyncio.sleep(seconds)
        except httpx.TransportError as error:
            return _broken(wanted, error, self._http.base_url)


def _broken(wanted: _Wanted, error: httpx.TransportError, url: httpx.URL) -> object:
    """A stream that breaks can be taken up again; a request that does is an error."""
    if isinstance(wanted, _Follow):
        return error
    raise ServiceError(f"no answer from {url} ({error or type(error).__name__})", "unreachable") from error


def _checked(answer: httpx.Response) -> httpx.Response:
    """An answer that is none of the service's errors."""
    if answer.is_success:
        return answer
    try:
        said = answer.json()["error"]
    except (ValueError, KeyError, TypeError):  # something between us and the service
        said = {"message": f"{answer.url} answered {answer.status_code} {answer.reason_phrase}", "code": "unknown"}
    wait = answer.headers.get("Retry-After", "")
    raise ServiceError(
        said["message"],
        said["code"],
        answer.status_code,
        said.get("param"),
        int(wait) if wait.isdecimal() else None,
    )


def _authorization(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _encoded(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if not isinstance(picture, Image.Image):
        return Path(picture).read_bytes()
    if picture.mode == "F":
        raise ValueError("a picture of floats (F) cannot be sent: scale it to 0..255 and make it L or RGB")
    as_it_is = picture.mode in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")  # what PNG knows
    stream = io.BytesIO()
    (picture if as_it_is else picture.convert("RGB")).save(stream, "PNG")
    return stream.getvalue()


def _decoded(base64_text: str) -> Image.Image:
    return _picture(base64.b64decode(base64_text))


def _picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")
