"""The desk between HTTP and the engine: uploads are read, checked and cut; fillings are pasted back and encoded."""

import asyncio
import base64
import io
import logging
import secrets
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, TypeVarTuple

import torch
from PIL import Image
from pydantic import Field, create_model
from torch import Tensor

from diffusion_lab.credentials import Credentials
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.holes import Ambiguous, MaskMode, as_mask
from diffusion_lab.opening import TooLarge, as_rgb, opened
from diffusion_lab.photo import Photo, cut, eyes_of, finish, paste
from diffusion_lab.pictures import png, to_float
from diffusion_lab.serving import spans
from diffusion_lab.serving.engine import Engine, Event, Finished, Job, JobFailed, QueueFull, Refused
from diffusion_lab.serving.errors import Mistake
from diffusion_lab.serving.measures import Measures
from diffusion_lab.serving.settings import Limits, Offer, Settings

Asked = TypeVar("Asked", bound=Settings)
Made = TypeVar("Made")
Given = TypeVarTuple("Given")

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
"""What is read: each decoder that is open to the world is one more that may have a fault. HEIC's had, in 2026, one by
which a picture ran code."""
PREVIEW = 512
"""The longer side of a preview, at most."""
CODERS = 2
"""Threads that decode and encode: each may hold a whole picture several times over."""


@dataclass(frozen=True, eq=False)
class Order:
    """A request that was found good.

    Args:
        photo: its picture, cut for the model.
        job: for the engine.
        feather: of the paste.
        small: the same photo for previews.
    """

    photo: Photo = field(repr=False)
    job: Job
    feather: int
    small: Photo = field(repr=False)

    @property
    def pixels(self) -> int:
        return self.photo.size[0] * self.photo.size[1]


@dataclass(frozen=True)
class Filled:
    """What became of an order.

    Args:
        pictures: encoded, one per seed.
        seeds: theirs.
        finished: what the engine said.
    """

    pictures: list[bytes]
    seeds: tuple[int, ...]
    finished: Finished


class Desk:
    """Turns uploads into jobs of an engine, and what it says of them into pictures.

    Args:
        engine: fills the holes.
        offers: samplers by name.
        limits: of requests.
        measures: is told what comes in.
        credentials: sign finished pictures; None leaves them unsigned.
    """

    def __init__(
        self,
        engine: Engine,
        offers: Mapping[str, Offer],
        limits: Limits,
        measures: Measures,
        credentials: Credentials | None = None,
    ) -> None:
        self.engine = engine
        self.offers = offers
        self.limits = limits
        self.measures = measures
        self.credentials = credentials
        self._held = 0
        logging.getLogger("PIL").setLevel(logging.INFO)  # at DEBUG it writes down what the EXIF of a photo says
        # An executor lets go of what it has done; the framework's idle threads keep the last picture.
        self._coders = ThreadPoolExecutor(CODERS, thread_name_prefix="coder")

    def bounded(self, settings: type[Asked]) -> type[Asked]:
        """Settings within the bounds of this service, for validation and for OpenAPI."""
        most = vars(self.limits)
        fields: dict[str, Any] = {}
        for name, given in settings.model_fields.items():
            if name == "sampler":
                kind: Any = Literal[tuple(self.offers)] | None
                fields[name] = (kind, Field(None, description=given.description))
            elif name in most:
                least = 1 if name in ("num_samples", "steps") else 0
                bounds = Field(given.default, ge=least, le=most[name], description=given.description)
                fields[name] = (given.annotation, bounds)
        return create_model(settings.__name__, __base__=settings, **fields)

    async def take(
        self,
        image: bytes,
        mask: bytes | None,
        settings: Settings,
        *,
        previews: int = 0,
        transparent: bool = False,
        client: str = "",
    ) -> Order:
        """Reads the pictures of a request and makes a job of them.

        Args:
            image: encoded.
            mask: encoded, of the same size; None is the whole picture, or the image's transparency (see below).
            settings: already validated.
            previews: pictures on the way.
            transparent: whether the hole is where the mask is wholly transparent, instead of by its `mask_mode`; of the
                image, where the task needs a hole and there is no mask.
            client: whose it is, as `Keys` names it.

        Raises:
            Mistake: if a picture cannot be read, or is too large, or the mask does not fit, or is missing, or of no use
                for the model's task, or the eyes lie outside, or the hole is in too many faces for so many completions.
        """
        task = self.engine.task
        try:
            task.check(mask is not None or (transparent and bool(task.holes)))
        except ValueError as error:
            if mask is None:
                raise Mistake(422, "invalid_request", f"mask: is missing; {error}", "mask") from None
            raise Mistake(400, "invalid_mask", str(error), "mask") from None
        sampler = self._sampler(settings)
        seed = secrets.randbits(32) if settings.seed is None else settings.seed
        seeds = tuple(range(seed, seed + settings.num_samples))
        photo, small = await self._beside(self._read, image, mask, transparent, settings)
        job = Job(photo.images, photo.holes, seeds, sampler, previews, client=client)
        if job.rows > self.limits.squares:
            message = (
                f"num_samples: the hole lies in {len(photo.parts)} faces and places, each filled {len(seeds)} times, "
                f"and {self.limits.squares} squares may be filled at once: ask for less, or fill a part of it first"
            )
            raise Mistake(422, "invalid_request", message, "num_samples")
        if (windows := job.windows(self.engine.image_size)) > max(self.limits.windows, job.rows):
            message = (
                f"num_samples: at {job.image.shape[-1]} px the hole is seen through {windows // len(seeds)} windows, "
                f"each filled {len(seeds)} times, and {self.limits.windows} may be at once: ask for less, fill a part "
                "of it first, or send a smaller picture"
            )
            raise Mistake(422, "invalid_request", message, "num_samples")
        order = Order(photo, job, settings.feather, small)
        if self._held + order.pixels > self.limits.held:
            self.measures.rejected("memory")
            raise Mistake(429, "queue_full", "too many large pictures wait already", retry_after=5)
        self._held += order.pixels
        # They count for as long as they are in memory, whoever holds them and however that ends.
        weakref.finalize(order, self._let_go, order.pixels).atexit = False
        return order

    async def looked(self, image: bytes, look: Callable[[Image.Image], Made]) -> Made:
        """What is seen in an upload, upright and in RGB.

        Raises:
            Mistake: if it cannot be read, or is too large.
        """
        return await self._beside(lambda: look(as_rgb(self._opened(image, "image"))))

    async def hole(self, mask: bytes, mask_mode: MaskMode | None) -> bytes:
        """A mask as it is read: a PNG of black and white, white = hole.

        Raises:
            Mistake: if it cannot be read, or in more than one way, or is too large.
        """
        return await self._beside(self._plain, mask, mask_mode)

    async def events(self, order: Order) -> AsyncGenerator[Event, None]:
        """What the engine says of an order; closing it gives the job up.

        Raises:
            Refused: at the first event, if the engine does not take it.
            JobFailed: at any later one.
        """
        taken = False
        try:
            async with aclosing(self.engine.submit(order.job)) as events:
                async for event in events:
                    if not taken:
                        for image, mask in zip(order.job.image, order.job.mask, strict=True):
                            self.measures.seen(image, mask)
                        taken = True
                    yield event
        except Refused as refused:
            self.measures.rejected("queue_full" if isinstance(refused, QueueFull) else "not_ready")
            raise

    async def fill(self, order: Order, encode: Callable[[Image.Image], bytes] = png) -> Filled:
        """Sees an order through to its pictures."""
        async with aclosing(self.events(order)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return await self.finish(order, event, encode)
        raise JobFailed("engine_error", "the engine ended without a result")

    async def finish(self, order: Order, finished: Finished, encode: Callable[[Image.Image], bytes] = png) -> Filled:
        """Puts the fillings back into the picture, encodes and signs it."""

        def pasted(filled: Tensor) -> bytes:
            picture = encode(finish(order.photo, filled, order.feather))
            return picture if self.credentials is None else self.credentials.signed(picture, finished.version)

        with spans.span("encode", pictures=len(order.job.seeds)):
            pictures = [await self._beside(pasted, filled) for filled in finished.pictures.cpu()]
        return Filled(pictures, order.job.seeds, finished)

    async def preview(
        self, order: Order, preview: Tensor, encode: Callable[[Image.Image], bytes], small: bool = True
    ) -> list[bytes]:
        """Pastes what the model sees on the way, ``(n, P, 3, s, s)`` uint8, into the photo or its small copy."""
        photo = order.small if small else order.photo

        def pasted() -> list[bytes]:
            return [encode(paste(photo, to_float(seen.cpu()))) for seen in preview]

        return await self._beside(pasted)

    @property
    def files(self) -> tuple[str, ...]:
        """The pictures that a request may hold."""
        return ("image",) if self.engine.task.holes is False else ("image", "mask")

    @property
    def needed(self) -> tuple[str, ...]:
        """Those that it must hold."""
        return ("image", "mask") if self.engine.task.holes else ("image",)

    @property
    def held(self) -> int:
        """Pixels of the pictures that wait for their fillings."""
        return self._held

    async def _beside(self, work: Callable[[*Given], Made], *given: *Given) -> Made:
        """Some work on a thread that may be busy with pictures, while the loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._coders, work, *given)

    def _let_go(self, pixels: int) -> None:
        self._held -= pixels

    def _sampler(self, settings: Settings) -> Sampler | None:
        if settings.sampler is None and settings.steps is None:
            return None
        name = settings.sampler or next(iter(self.offers))
        offer = self.offers[name]
        steps = settings.steps or offer.steps
        if steps < offer.least:
            raise Mistake(422, "invalid_request", f"steps: {name} takes {offer.least} at least", "steps")
        return offer.make(steps)

    def _read(self, image: bytes, mask: bytes | None, transparent: bool, settings: Settings) -> tuple[Photo, Photo]:
        """The photo, cut for the model, and a small copy of it."""
        picture = self._opened(image, "image")
        hole = None
        if mask is None and self.engine.task.holes:
            hole = alpha_mask(picture, "image")
        elif mask is not None:
            shape = self._opened(mask, "mask")
            hole = alpha_mask(shape, "mask") if transparent else hole_of(shape, settings.mask_mode)
        try:
            eyes = eyes_of(settings.align, picture.size)
        except ValueError as error:
            raise Mistake(422, "invalid_request", f"align: {error}", "align") from None
        try:
            engine = self.engine
            photo = cut(as_rgb(picture), hole, engine.sides, engine.crop, engine.task, eyes, self.limits.detail)
        except ValueError as error:
            raise Mistake(400, "invalid_mask", str(error), "mask") from None
        return photo, photo.within(PREVIEW)

    def _plain(self, mask: bytes, mask_mode: MaskMode | None) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(hole_of(self._opened(mask, "mask"), mask_mode)[0].numpy()).save(stream, "PNG")
        return stream.getvalue()

    def _opened(self, content: bytes, what: str) -> Image.Image:
        try:
            return opened(content, what, self.limits.pixels, FORMATS)
        except TooLarge as error:
            raise Mistake(413, "too_large", str(error), what) from None
        except ValueError as error:
            raise Mistake(400, f"invalid_{what}", str(error), what) from None


def hole_of(picture: Image.Image, mask_mode: MaskMode | None) -> Tensor:
    """``(1, H, W)`` bool of a mask.

    Raises:
        Mistake: if it does not say what is the hole.
    """
    try:
        return as_mask(picture, mask_mode)
    except ValueError as error:
        code = "ambiguous_mask" if isinstance(error, Ambiguous) else "invalid_mask"
        raise Mistake(400, code, str(error), "mask") from None


def alpha_mask(picture: Image.Image, what: str) -> Tensor:
    """``(1, H, W)`` bool: wholly transparent is the hole.

    Raises:
        Mistake: if nothing says how transparent the picture is, or nothing is wholly transparent.
    """
    if not picture.has_transparency_data:
        advice = (
            "send a mask, or an image whose hole is transparent"
            if what == "image"
            else "save it as PNG with the hole transparent (alpha 0), or send mask_mode=white if white is the hole"
        )
        raise Mistake(400, "no_alpha", f"the {what} has no alpha channel: {advice}", what)
    alpha = picture.convert("RGBA").getchannel("A")
    hole = torch.frombuffer(bytearray(alpha.tobytes()), dtype=torch.uint8).view(1, alpha.height, alpha.width) == 0
    if not bool(hole.any()):
        raise Mistake(
            400, "invalid_mask", f"the {what} is transparent (alpha 0) nowhere: there is nothing to fill", what
        )
    return hole


def webp(picture: Image.Image) -> bytes:
    """A small WebP, for previews."""
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=80, method=0)
    return stream.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """A picture as a text."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
