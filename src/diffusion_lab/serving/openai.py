"""The images API of OpenAI, so that their clients work here: ``POST /v1/images/edits``.

Transparent (alpha 0) is the hole there, the opposite of white elsewhere; it is converted in this module alone.
"""

import base64
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from PIL import Image
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from diffusion_lab.holes import MaskMode
from diffusion_lab.pictures import XMP, png
from diffusion_lab.serving.desk import Desk, Order
from diffusion_lab.serving.engine import Event, Finished, Stepped
from diffusion_lab.serving.errors import Mistake, content, declared, invalid
from diffusion_lab.serving.faces import Alignment
from diffusion_lab.serving.requests import Form, in_a_form, read_form, unless_gone
from diffusion_lab.serving.settings import ALIGN, Align, Settings

FILES = {"image": "image", "image[]": "image", "mask": "mask", "mask_image": "mask"}
"""What clients call the two files."""
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
UNUSED = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Their clients want to know the use of tokens, of which there are none here."""
EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
"""What a stream consists of, for OpenAPI; `data` is JSON."""
NAMES = {"num_samples": "n", "steps": "num_inference_steps"}
"""What settings are called here and there."""


class Edit(BaseModel):
    """The fields of an edit. Those of OpenAI's that mean nothing here, such as `model`, are let through unread."""

    model_config = ConfigDict(extra="ignore")

    prompt: str | None = Field(
        None, description="is not followed: the model only knows faces; a Warning header says so"
    )
    n: int = Field(1, ge=1, description="completions")
    size: str | None = Field(None, description="`auto`, or the size of the image; results have the image's")
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png", "webp", "jpeg"] = Field("png", description="JPEG is lossy outside the hole as well")
    output_compression: int | None = Field(None, ge=0, le=100, description="quality of JPEG and WebP; null: the best")
    stream: bool = Field(False, description="server-sent events, with previews and then the results")
    partial_images: int = Field(0, ge=0, le=3, description="previews on the way, when streaming")
    mask_mode: MaskMode = Field(
        "transparent", description="what is the hole in the mask; wholly transparent, if that is"
    )
    steps: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("num_inference_steps", "steps"), description="of the sampler"
    )
    sampler: str | None = Field(None, description="null: the model's own")
    seed: int | None = Field(None, ge=0, description="the same one makes the same pictures")
    feather: int = Field(0, ge=0, description="pixels inside the hole over which the filling fades in")
    align: Align = Field("auto", description=ALIGN)

    @field_validator("output_format", "partial_images", "n", "stream", "mask_mode", mode="before")
    @classmethod
    def given(cls, value: object, info: ValidationInfo) -> object:
        """Null is OpenAI's word for "as usual", and alpha was ours for transparent."""
        if info.field_name == "mask_mode" and value == "alpha":
            return "transparent"
        return cls.model_fields[info.field_name or ""].default if value is None else value

    def settings(self, model: type[Settings]) -> Settings:
        """The same in this service's words.

        Raises:
            Mistake: if a value is beyond its bounds.
        """
        try:
            return model(
                num_samples=self.n,
                steps=self.steps,
                sampler=self.sampler,
                seed=self.seed,
                feather=self.feather,
                align=self.align,
                mask_mode=self.mask_mode,
            )
        except ValidationError as error:
            named = [
                {**wrong, "loc": tuple(NAMES.get(str(part), part) for part in wrong["loc"])} for wrong in error.errors()
            ]
            raise invalid(named) from None


class EditImage(BaseModel):
    """A completion."""

    b64_json: str


class Edits(BaseModel):
    """What an edit answers."""

    created: int
    data: list[EditImage]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "webp", "jpeg"]
    size: str


def router(desk: Desk, dependencies: Sequence[Any], holder: Any) -> APIRouter:
    """The endpoint.

    Args:
        desk: works on the requests.
        dependencies: who may come in.
        holder: whose a request is, as a dependency.
    """
    Holder = Annotated[str, holder]
    routes = APIRouter(prefix="/v1/images", tags=["OpenAI"], dependencies=list(dependencies))
    settings = desk.bounded(Settings)
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "model": Edits,
            "description": "The completions, or a stream of `image_edit.partial_image` and `image_edit.completed`",
            "content": {"text/event-stream": {"itemSchema": EVENT}},
        },
        **declared(400, *([401] if dependencies else []), 408, 413, 415, 422, 429, 500, 503, 504),
    }

    @routes.post(
        "/edits", response_class=Response, responses=answers, openapi_extra=described(settings), summary="Edit (OpenAI)"
    )
    async def edit(request: Request, holder: Holder) -> Response:
        """Fills what is transparent in `mask`, or in `image` if there is no mask; or restores the whole picture.

        `task` of `/v1/info` says which of it the model does, and whether it takes a mask.

        Works with OpenAI's own clients: `OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=...).images.edit(...)`.
        """
        form = await read_form(request, tuple(FILES), json=False)
        asked = form.validated(Edit)
        image, mask = picked(form)
        order = await desk.take(
            image,
            mask,
            asked.settings(settings),
            previews=asked.partial_images if asked.stream else 0,
            transparent=mask is None or asked.mask_mode == "transparent",
            client=holder,
        )
        size = size_of(order, asked.size)
        encode = partial(encoded, kind=asked.output_format, quality=asked.output_compression)
        headers = {
            "X-Seed": str(order.job.seeds[0]),
            "X-Model-Version": desk.engine.version,
            "X-Face": Alignment.of(order.photo).header(),
        }
        if asked.prompt:
            headers["Warning"] = '299 diffusion_lab "the prompt is not followed: this model only completes faces"'
        if not asked.stream:
            filled = await unless_gone(request, desk.fill(order, encode))
            headers["X-Model-Version"] = filled.finished.version
            images = [EditImage(b64_json=base64.b64encode(picture).decode()) for picture in filled.pictures]
            body = Edits(created=int(time.time()), data=images, output_format=asked.output_format, size=size)
            return Response(body.model_dump_json(), media_type="application/json", headers=headers)
        events = desk.events(order)
        await anext(events)  # it waits, or is refused, which is still an answer of its own
        told = stream(desk, order, events, encode, {"output_format": asked.output_format, "size": size})
        return StreamingResponse(told, media_type="text/event-stream", headers={**headers, **UNBUFFERED})

    return routes


async def stream(
    desk: Desk,
    order: Order,
    events: AsyncGenerator[Event, None],
    encode: Callable[[Image.Image], bytes],
    facts: Mapping[str, str],
) -> AsyncIterator[bytes]:
    """The events of an edit as OpenAI's clients read them.

    Args:
        desk: pastes and encodes.
        order: whose events they are.
        events: of the engine.
        encode: a picture.
        facts: that every event repeats.
    """

    def event(kind: str, picture: bytes, more: Mapping[str, Any]) -> bytes:
        told = {
            "type": f"image_edit.{kind}",
            "b64_json": base64.b64encode(picture).decode(),
            "created_at": int(time.time()),
            "background": "opaque",
            "quality": "auto",
            **facts,
            **more,
        }
        return format_sse_event(event=told["type"], data_str=json.dumps(told))

    shown = 0
    try:
        async with aclosing(events):
            async for step in events:
                if isinstance(step, Stepped) and step.preview is not None:
                    for picture in await desk.preview(order, step.preview, encode, small=False):
                        yield event("partial_image", picture, {"partial_image_index": shown})
                    shown += 1
                if isinstance(step, Finished):
                    ends = {"usage": UNUSED, "model_version": step.version}
                    for picture in (await desk.finish(order, step, encode)).pictures:
                        yield event("completed", picture, ends)
    except Exception as error:
        told = {"type": "error", **content(error, "/v1/images/edits")}
        yield format_sse_event(event="error", data_str=json.dumps(told))


def picked(form: Form) -> tuple[bytes, bytes | None]:
    """The image and the mask, whatever the client calls them.

    Raises:
        Mistake: if there is no image, or more than one of either.
    """
    found: dict[str, bytes] = {}
    for name, meant in FILES.items():
        if name in form.files:
            if meant in found:
                raise Mistake(
                    400, "invalid_request", f"send one {meant}: this model fills one picture at a time", meant
                )
            found[meant] = form.files[name]
    if "image" not in found:
        raise Mistake(422, "invalid_request", "image: is missing", "image")
    return found["image"], found.get("mask")


def size_of(order: Order, asked: str | None) -> str:
    """The size of the results, which is the image's.

    Raises:
        Mistake: if another one is asked for.
    """
    width, height = order.photo.size
    size = f"{width}x{height}"
    if asked not in (None, "auto", size):
        raise Mistake(400, "invalid_size", f"size must be auto or {size}, which the result has", "size")
    return size


def encoded(picture: Image.Image, kind: str, quality: int | None) -> bytes:
    """A picture as PNG, JPEG or WebP that says of itself how it was made; WebP without a quality keeps every value."""
    if kind == "png":
        return png(picture)
    stream, said = io.BytesIO(), XMP.encode()
    if kind == "webp":
        picture.save(stream, "WEBP", xmp=said, lossless=quality is None, quality=100 if quality is None else quality)
    else:
        picture.save(stream, "JPEG", xmp=said, quality=95 if quality is None else max(quality, 1))
    return stream.getvalue()


def described(settings: type[Settings]) -> dict[str, Any]:
    """OpenAPI's description of the request, with the bounds that the settings have."""
    fields = in_a_form(Edit.model_json_schema()["properties"])
    for name, bounded in in_a_form(settings.model_json_schema()["properties"]).items():
        bounds = {key: bounded[key] for key in ("minimum", "maximum", "enum") if key in bounded}
        fields[NAMES.get(name, name)] |= bounds
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    files = {
        "image": {**file, "description": "PNG, JPEG, WebP or AVIF of any size"},
        "mask": {
            **file,
            "description": "of the same size, transparent (alpha 0) in the hole; none: the image's own alpha, if "
            "the model fills holes",
        },
    }
    form = {"type": "object", "required": ["image"], "properties": {**files, **fields}}
    encoding = {name: {"contentType": "image/png, image/jpeg, image/webp, image/avif"} for name in files}
    body = {"multipart/form-data": {"schema": form, "encoding": encoding}}
    return {"requestBody": {"required": True, "content": body}}
