"""The service as an ASGI app: `create_app` makes one of an engine."""

import base64
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from diffusion_lab.credentials import Credentials
from diffusion_lab.photo.parts import expected
from diffusion_lab.serving import errors, faces, jobs, openai
from diffusion_lab.serving.described import described
from diffusion_lab.serving.desk import Desk, Filled, Order
from diffusion_lab.serving.engine import Engine
from diffusion_lab.serving.errors import Mistake, declared
from diffusion_lab.serving.faces import Alignment, Eyes
from diffusion_lab.serving.measures import Measures
from diffusion_lab.serving.requests import read_form, unless_gone
from diffusion_lab.serving.security import PROBES, Guard, Keys, everybody
from diffusion_lab.serving.settings import JobSettings, Limits, Offer, Reading, Settings

PAGE = Path(__file__).with_name("page")
MASKS: Mapping[bool | None, Literal["needed", "none", "optional"]] = {True: "needed", False: "none", None: "optional"}
"""What a model wants of a mask, in words, by `Task.holes`."""
STALE = 60.0
"""Seconds without a sign of the model's thread after which the service is unwell: no network call takes as long."""

DESCRIPTION = """
White is the hole in masks; only there does a picture change, at its full size. The OpenAI-style endpoint is the
exception: transparent is the hole there.

Every error is `{"error": {"code", "message", "param"}}`. A 429 or 503 has a Retry-After header, in seconds. Every
answer carries an X-Request-ID, one's own if one was sent, and an X-Model-Version: of the model that made the pictures
in it, or else of the one in service. An address or headers that are too long are answered 414 or 431 everywhere.
"""


class FilledImage(BaseModel):
    """A completion."""

    seed: int
    b64_png: str


class Completions(Alignment):
    """What `/v1/inpaint` answers as JSON."""

    images: list[FilledImage]
    model_version: str
    network_calls: int
    seconds: float


class SamplerInfo(BaseModel):
    """A sampler: its steps unless asked otherwise, and how many it takes at least and at most."""

    steps: int
    least: int
    most: int


class LimitsInfo(BaseModel):
    """What a request may ask for."""

    pixels: int
    bytes: int
    num_samples: int
    steps: int
    feather: int
    previews: int


class TaskInfo(BaseModel):
    """What the model is for, and whether it wants to be told where."""

    name: str
    mask: Literal["needed", "none", "optional"]


class Info(BaseModel):
    """What the service is.

    `eyes` are where the model expects those of a face, in parts of its square; null if it does not say. `backend` is
    the form of its networks.
    """

    version: str
    task: TaskInfo
    image_size: int
    eyes: Eyes | None
    trained_on: str
    backend: str
    samplers: dict[str, SamplerInfo]
    default_sampler: str
    limits: LimitsInfo


class Version(BaseModel):
    """What runs here."""

    model: str
    diffusion_lab: str


class Health(BaseModel):
    """How the service is."""

    status: Literal["ok"] = "ok"


def create_app(
    engine: Engine,
    offers: Mapping[str, Offer],
    *,
    limits: Limits | None = None,
    keys: Keys | None = None,
    measures: Measures | None = None,
    credentials: Credentials | None = None,
    trained_on: str = "",
) -> FastAPI:
    """The service in front of an engine.

    Args:
        engine: fills the holes, or restores the pictures.
        offers: samplers that may be asked for, the model's own first.
        limits: of requests; None are the usual ones.
        keys: that open it; None lets everybody in.
        measures: the same that the engine tells; None makes some.
        credentials: sign finished pictures; None leaves them unsigned.
        trained_on: name of the data, for people.
    """
    limits, measures = limits or Limits(), measures or Measures()
    measures.watch(engine)
    desk = Desk(engine, offers, limits, measures, credentials)
    store = jobs.Jobs(desk)
    shut = keys is not None and bool(keys.hashes)
    holder = Depends(keys if shut else everybody)
    locks = [holder] if shut else []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await store.close()

    app = FastAPI(
        title="diffusion_lab",
        version=version("diffusion_lab"),
        summary="Fills holes in pictures of faces, or restores the pictures, by a diffusion model.",
        description=DESCRIPTION,
        docs_url=None,  # the framework's page loads scripts from elsewhere; ours is page/docs.html
        redoc_url=None,
        lifespan=lifespan,
        # Spans and metrics go wherever an OpenTelemetry SDK in this process sends them; without one they cost nothing.
        telemetry={"exclude": lambda scope: scope["path"] in PROBES},
    )
    app.add_middleware(
        Guard,
        version=lambda: engine.version,
        most_address=limits.address,
        most_head=limits.head,
        most_headers=limits.headers,
        most_bytes=limits.bytes,
        most_arriving=limits.arriving,
        seconds=limits.seconds,
        measures=measures,
    )
    errors.install(app)
    app.include_router(restoring(desk, trained_on, locks, holder))
    app.include_router(faces.router(desk, locks))
    app.include_router(openai.router(desk, locks, holder))
    app.include_router(
        jobs.router(desk, store, described(desk.bounded(JobSettings), desk.files, desk.needed), locks, holder)
    )
    app.include_router(operations(engine, measures))
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    return app


def restoring(desk: Desk, trained_on: str, locks: list[Any], holder: Any) -> APIRouter:
    """`/v1/restore`, `/v1/inpaint`, `/v1/masks` and `/v1/info`."""
    Holder = Annotated[str, holder]
    routes = APIRouter(prefix="/v1", tags=["inpainting"], dependencies=locks)
    settings = desk.bounded(Settings)
    closed = [401] if locks else []
    headers = {
        "X-Seed": {"schema": {"type": "integer"}},
        "X-Model-Version": {"schema": {"type": "string"}},
        "X-Network-Calls": {"schema": {"type": "integer"}},
        "X-Face": {"schema": {"type": "string"}},
    }
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "model": Completions,
            "description": "The filled picture as PNG, or all completions as JSON",
            "content": {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}},
            "headers": {name: {**header, "description": "of a PNG"} for name, header in headers.items()},
        },
        **declared(400, *closed, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    }

    async def restored(request: Request, holder: Holder) -> Response:
        """Does what the model is for; `task` of `/v1/info` says what, and whether a mask is needed: white is the hole.

        One completion comes as PNG unless `Accept` asks for JSON; several come as JSON. `X-Face`, or `face` and `faces`
        in JSON, say which faces were set upright. A client that leaves gives its place up.
        """
        form = await read_form(request, ("image", "mask"))
        asked = form.validated(settings)
        as_json = wants_json(request.headers.get("accept", "*/*"), asked.num_samples)
        order = await desk.take(form.needed("image"), form.files.get("mask"), asked, client=holder)
        filled = await unless_gone(request, desk.fill(order))
        return as_completions(order, filled) if as_json else as_png(order, filled)

    # The second is its name from when all models filled holes.
    for path, summary in (("/restore", "Restore a picture"), ("/inpaint", "Fill the hole of a picture")):
        routes.post(
            path,
            response_class=Response,
            responses=answers,
            openapi_extra=described(settings, desk.files, desk.needed),
            summary=summary,
        )(restored)

    @routes.post(
        "/masks",
        response_class=Response,
        responses={
            200: {
                "description": "The mask in black and white",
                "content": {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}},
            },
            **declared(400, *closed, 408, 413, 415, 422, 429),
        },
        openapi_extra=described(Reading, files=("mask",)),
        summary="Read a mask",
    )
    async def masks(request: Request) -> Response:
        """The mask as `/v1/inpaint` would read it, as a PNG in which white is the hole."""
        form = await read_form(request, ("mask",))
        asked = form.validated(Reading)
        return Response(await desk.hole(form.needed("mask"), asked.mask_mode), media_type="image/png")

    @routes.get("/info", responses=declared(*closed), summary="What the service offers")
    async def info() -> Info:
        """The model, the samplers, and the limits of a request."""
        most = desk.limits.steps
        task, eyes = desk.engine.task, expected(desk.engine.crop)
        return Info(
            version=desk.engine.version,
            task=TaskInfo(name=task.name, mask=MASKS[task.holes]),
            image_size=desk.engine.image_size,
            eyes=None if eyes is None else Eyes.of(eyes),
            trained_on=trained_on,
            backend=desk.engine.form,
            samplers={
                name: SamplerInfo(steps=offer.steps, least=offer.least, most=most)
                for name, offer in desk.offers.items()
            },
            default_sampler=next(iter(desk.offers)),
            limits=LimitsInfo(**{name: getattr(desk.limits, name) for name in LimitsInfo.model_fields}),
        )

    return routes


def operations(engine: Engine, measures: Measures) -> APIRouter:
    """Health, version, measures and the page; open to all."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", responses=declared(503), summary="Is it alive?")
    async def healthz() -> Health:
        """Whether the process answers and the model's thread comes round."""
        silent = engine.stats().heartbeat
        if silent > STALE:
            how = f"been silent for {silent:.0f} s" if math.isfinite(silent) else "died"
            raise Mistake(503, "not_ready", f"the model's thread has {how}", retry_after=30)
        return Health()

    @routes.get("/readyz", responses=declared(503), summary="Does it take jobs?")
    async def readyz() -> Health:
        """Whether a job would be taken now; a load balancer asks this."""
        stats = engine.stats()
        if not stats.ready:
            doing = "ends" if stats.draining else "warms up"
            raise Mistake(503, "not_ready", f"the service {doing}", retry_after=5)
        return Health()

    @routes.get("/version", summary="What runs here?")
    async def what() -> Version:
        """The model's version and the software's."""
        return Version(model=engine.version, diffusion_lab=version("diffusion_lab"))

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        summary="For Prometheus",
    )
    def metrics() -> Response:
        """What the service measures of itself; `diffusion_lab.serving.measures` says what each is."""
        return Response(measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    return routes


def wants_json(accept: str, count: int) -> bool:
    """Whether completions are to come as JSON.

    Args:
        accept: the header.
        count: of completions.

    Raises:
        Mistake: if they can come neither as JSON nor as PNG.

    Example:
        >>> wants_json("*/*", 1), wants_json("*/*", 2), wants_json("image/png;q=.5, application/json", 1)
        (False, True, True)
    """
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *options = (piece.strip().lower() for piece in part.split(";"))
        weight = next((option[2:] for option in options if option.startswith("q=")), "1")
        try:
            weights[kind] = float(weight)
        except ValueError:
            weights[kind] = 0.0

    def weight_of(kind: str) -> float:
        named = (kind, kind.partition("/")[0] + "/*", "*/*")
        return next((weights[name] for name in named if name in weights), 0.0)

    json, png = weight_of("application/json"), weight_of("image/png") if count == 1 else 0.0
    if json == png == 0:
        message = "answers come as application/json" + (" or image/png" if count == 1 else ": several fit in no PNG")
        raise Mistake(406, "not_acceptable", message, "Accept")
    return json > png


def as_png(order: Order, filled: Filled) -> Response:
    """The only picture, as a PNG."""
    headers = {
        "X-Seed": str(filled.seeds[0]),
        "X-Model-Version": filled.finished.version,
        "X-Network-Calls": str(filled.finished.network_calls),
        "X-Face": Alignment.of(order.photo).header(),
    }
    return Response(filled.pictures[0], media_type="image/png", headers=headers)


def as_completions(order: Order, filled: Filled) -> Response:
    """All pictures, as JSON."""
    images = [
        FilledImage(seed=seed, b64_png=base64.b64encode(content).decode())
        for seed, content in zip(filled.seeds, filled.pictures, strict=True)
    ]
    done = Completions(
        images=images,
        model_version=filled.finished.version,
        network_calls=filled.finished.network_calls,
        seconds=round(filled.finished.seconds, 3),
        **vars(Alignment.of(order.photo)),
    )
    return JSONResponse(done.model_dump(), headers={"X-Model-Version": filled.finished.version})
