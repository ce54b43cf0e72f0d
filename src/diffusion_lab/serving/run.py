"""Starts the service, keeps it on the model that a name points at, and ends it without dropping a job."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI

from diffusion_lab import inpainting, recipe
from diffusion_lab.credentials import Credentials
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.backends import BACKENDS, Backend
from diffusion_lab.serving.backends import bfloat16 as low
from diffusion_lab.serving.engine import Engine, SwapRefused
from diffusion_lab.serving.fastest import Fastest, candidates
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.measures import Measures
from diffusion_lab.serving.quantised import kept
from diffusion_lab.serving.security import Keys, check_open
from diffusion_lab.serving.settings import Limits, offered
from diffusion_lab.serving.swapping import checked

log = logging.getLogger(__name__)

LINGER = 5
"""Seconds that answers have to be read once all jobs have ended."""
IDLE = 75
"""Seconds that a connection is kept for its next request: longer than the 60 for which proxies and balancers keep
theirs, since who closes first must be the one that asks; the other way round a request meets a closed door."""
MOST_UNREAD = 256 * 2**10
"""Bytes of a head that may have come before it is whole; of whole ones `security.Guard` takes less, and says so."""


def local(
    folder: Path,
    measures: Measures,
    device: str = "auto",
    max_batch: int = 16,
    max_queue: int = 64,
    seconds: float = 600.0,
    backend: str = "eager",
    bfloat16: bool = False,
    int8: bool = False,
) -> LocalEngine:
    """An engine in this process.

    Args:
        folder: of the inpainter.
        measures: is told what the engine does.
        device: as `inpainting.device` reads it.
        max_batch: pictures in a network call.
        max_queue: jobs that may wait.
        seconds: until a job is given up.
        backend: the form of the network, a name of `backends.BACKENDS`; auto measures which is the fastest here.
        bfloat16: whether it is called under autocast; with auto, whether it may be.
        int8: whether auto may choose int8, of which pictures come out otherwise by more than rounding.

    Raises:
        ValueError: if the model is damaged or does not do what it is known to do, or there is no such backend here.
    """
    if backend not in (*BACKENDS, "auto"):
        raise ValueError(f"engine.backend={backend} is none of {', '.join(BACKENDS)}, auto")
    if bfloat16 and backend in ("onnxruntime", "int8"):
        raise ValueError(f"engine.backend={backend} calls no network in bfloat16: leave engine.bfloat16 out")
    if int8 and backend not in ("auto", "int8"):
        raise ValueError(f"engine.int8 lets auto choose it, and engine.backend is {backend}: set engine.backend=int8")
    if backend == "auto":
        form: Backend = Fastest(candidates(bfloat16, int8 and _at_hand(folder)))
    else:
        form = BACKENDS[backend]
    autocast = torch.bfloat16 if bfloat16 and backend == "compiled" else None
    if bfloat16 and backend == "eager":
        form = low
    try:
        model = checked(folder, inpainting.device(device), autocast=autocast, backend=form)
    except SwapRefused as refused:
        raise ValueError(str(refused)) from None
    called = (form.name or backend) if isinstance(form, Fastest) else backend
    return LocalEngine(
        model.inpainter,
        model.version,
        max_batch=max_batch,
        max_queue=max_queue,
        seconds=seconds,
        autocast=autocast,
        measures=measures,
        backend=form,
        form=f"{called}, bfloat16" if bfloat16 and backend != "auto" else called,
    )


def _at_hand(folder: Path) -> bool:
    """Whether the 8-bit files of a model are there; that they are not, or why, is logged."""
    try:
        if kept(folder) is not None:
            return True
        log.info("engine.backend=auto: no int8 yet: start the service with engine.backend=int8 once, which makes it")
    except (ValueError, OSError) as error:
        log.info("engine.backend=auto: no int8 here: %s", error)
    return False


def serve(
    folder: Path,
    named: str,
    *,
    engine: Callable[[Path, Measures], Engine] = local,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Sequence[str] = (),
    allow_open: bool = False,
    limits: Limits | None = None,
    credentials: Credentials | None = None,
    drain: float = 30.0,
    follow: Callable[[], Path] | None = None,
    poll: float = 5.0,
) -> None:
    """Serves an inpainter until SIGTERM or SIGINT, then lets running jobs end.

    Args:
        folder: of the inpainter.
        named: what people call it, for the first line.
        engine: makes the engine of it.
        host: to listen at.
        port: likewise; 0 is any free one.
        keys: SHA-256 of the API keys; none lets everybody in.
        allow_open: whether it may do without keys where other machines can reach it.
        limits: of requests; None are the usual ones.
        credentials: sign finished pictures; None leaves them unsigned.
        drain: seconds that running jobs have to end.
        follow: the folder that is to be in service now, asked every `poll` seconds; None stays with the first.
        poll: see `follow`.

    Raises:
        ValueError: if the settings or the model are not fit, or the port is taken.
    """
    check_open(host, keys, allow_open)
    known, measures = Keys(keys), Measures()
    with listening(host, port) as ear:  # before the model is loaded: a mistake shows at once
        made = recipe.read(folder)
        worker = engine(folder, measures)
        app = create_app(
            worker,
            offered(made),
            limits=limits,
            keys=known,
            measures=measures,
            credentials=credentials,
            trained_on=str(made.get("data", {}).get("name", "")),
        )
        address, number = ear.getsockname()[:2]
        url = f"http://[{address}]:{number}" if ":" in address else f"http://{address}:{number}"
        following = _follow(worker, folder, follow, poll)
        asyncio.run(_serve(app, worker, ear, f"Serving {named} on {url}", drain, following))


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound.

    Raises:
        ValueError: if it cannot be.
    """
    with ExitStack() as held:
        try:
            if not 0 <= port < 2**16:  # getaddrinfo takes it modulo 2^16
                raise OverflowError("a port is a number from 0 to 65535")
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            ear = held.enter_context(socket.socket(family, kind, protocol))
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ear.bind(address)
        except (OSError, OverflowError) as error:
            raise ValueError(f"cannot listen at host={host} port={port} ({error}): choose another port=") from None
        yield ear


def configured(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves an app: the reader of requests is the one that bounds what it keeps of a head."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        h11_max_incomplete_event_size=MOST_UNREAD,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=LINGER,
    )


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: they would stop listening at once, and end with the signal's exit code."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    app: FastAPI,
    engine: Engine,
    ear: socket.socket,
    greeting: str,
    drain: float,
    following: Coroutine[None, None, None],
) -> None:
    server = _Server(configured(app))
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def stopping() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # a second one ends the process as usual

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping)

    async def greet() -> None:
        while not engine.stats().ready or not server.started:
            await asyncio.sleep(0.02)
        print(greeting, flush=True)

    serving = asyncio.create_task(server.serve(sockets=[ear]))
    beside = [asyncio.create_task(greet()), asyncio.create_task(following)]
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *beside):
        task.cancel()
    if not serving.done():
        stats = engine.stats()
        print(f"Stopping: {stats.running + stats.queued} jobs have {drain:g} s to end", flush=True)
        await engine.drain(drain)  # meanwhile the door is open, and says 503
        server.should_exit = True
    await serving


async def _follow(engine: Engine, folder: Path, wanted: Callable[[], Path] | None, poll: float) -> None:
    """Puts the model in service that is wanted, whenever that is another one than before."""
    while wanted is not None:
        await asyncio.sleep(poll)
        try:
            found = await asyncio.to_thread(wanted)
            if found == folder:
                continue
            folder = found  # one that is refused is not tried again until the name moves on
            log.info("now serving %s", await engine.swap(found))
        except SwapRefused as refused:
            log.error("still serving %s: %s", engine.version, refused)
        except (ValueError, OSError) as error:
            log.warning("cannot tell which model is wanted: %s", error)
