"""What a request may ask for: samplers, steps, seeds, how a mask is read, and how much of it all."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator

from diffusion_lab import recipe
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.holes import MaskMode
from diffusion_lab.photo import eyes_of

MOST_SEED = 2**53 - 1024
"""Seeds and their successors are exact in JSON, whose readers often keep numbers as doubles."""


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for, and all of them together.

    Args:
        bytes: of a body.
        pixels: of a picture, looked at before it is decoded.
        num_samples: completions.
        squares: of all completions together: several, where the hole lies in several faces.
        windows: likewise, where a square that is larger than the model's counts once for each that it is seen through.
        detail: pixels of the side of the largest square that a face is filled in.
        steps: of a sampler.
        feather: pixels.
        previews: of a job.
        arriving: bytes of the bodies that are being worked on.
        held: pixels of the pictures that wait for their fillings.
        seconds: within which a body has to arrive.
        address: bytes of path and query.
        head: bytes of all headers together.
        headers: how many there may be.
    """

    bytes: int = 32 * 2**20
    pixels: int = 25_000_000
    num_samples: int = 8
    squares: int = 64
    windows: int = 128
    detail: int = 512
    steps: int = 1000
    feather: int = 64
    previews: int = 50
    arriving: int = 256 * 2**20
    held: int = 200_000_000
    seconds: float = 60.0
    address: int = 8 * 2**10
    head: int = 16 * 2**10
    headers: int = 100


@dataclass(frozen=True)
class Offer:
    """A sampler that may be asked for.

    Args:
        make: of a number of steps.
        steps: unless asked otherwise.
        least: steps.
    """

    make: Callable[[int], Sampler]
    steps: int
    least: int = 1


OFFERS: Mapping[str, Offer] = {
    "ddpm": Offer(samplers.ddpm, 10),
    "ddim": Offer(samplers.ddim, 50),
    "dpm_solver": Offer(samplers.dpm_solver, 20, least=2),
    "heun": Offer(samplers.heun, 18, least=2),
}
"""Samplers that know the model as it was trained; those that hide the known pixels from it are for comparisons."""


def offered(model_recipe: Mapping[str, Any]) -> dict[str, Offer]:
    """The samplers of a service, the model's own first, with the steps and settings of its recipe.

    Args:
        model_recipe: of the model, as its folder holds it; a cascade's samplers are those of its first stage.
    """
    own = recipe.first(model_recipe).get("sampler", {})
    name = str(own.get("_target_", "")).rpartition(".")[2]
    if "steps" not in own:
        return dict(OFFERS)
    least = OFFERS[name].least if name in OFFERS else 2
    mine = Offer(lambda steps: recipe.build({**own, "steps": steps}), int(own["steps"]), least)
    return {name: mine, **{other: offer for other, offer in OFFERS.items() if other != name}}


class Reading(BaseModel):
    """How a mask is to be read."""

    model_config = ConfigDict(extra="forbid")

    mask_mode: MaskMode | None = Field(
        None,
        description="the hole is what is light, what is transparent, or all that is not 0; null: seen from what varies",
    )


def _align(value: object, info: ValidationInfo) -> object:
    """As `eyes_of` reads it; in a form, where all is text, points are JSON."""
    if (info.context or {}).get("text", False) and isinstance(value, str) and value[:200].startswith("["):
        with suppress(ValueError):  # what is cut off is none
            value = json.loads(value[:200])
    eyes_of(value)
    return value


PAIR = {"type": "array", "minItems": 2, "maxItems": 2}
Align = Annotated[
    Any,
    PlainValidator(_align),
    WithJsonSchema({"anyOf": [{"enum": ["auto", "off"]}, {**PAIR, "items": {**PAIR, "items": {"type": "number"}}}]}),
]
"""Which faces are set upright: see `diffusion_lab.photo.eyes_of`, which reads it."""
ALIGN = (
    "auto: all faces are looked for, and set upright for the model; off: none; or both eyes of one as one looks at the "
    "picture, in its pixels: [[x, y], [x, y]]"
)


class Settings(Reading):
    """How a picture is to be restored."""

    num_samples: int = Field(1, ge=1, description="completions, with the seeds seed, seed + 1, ...")
    steps: int | None = Field(None, ge=1, description="of the sampler; null: as many as it has of itself")
    sampler: str | None = Field(None, description="null: the model's own")
    seed: int | None = Field(
        None, ge=0, le=MOST_SEED, description="the same one makes the same pictures; null: a random one"
    )
    feather: int = Field(0, ge=0, description="pixels inside the hole over which the filling fades in from its border")
    align: Align = Field("auto", description=ALIGN)

    @field_validator("num_samples", "steps", "seed", "feather", "previews", mode="before", check_fields=False)
    @classmethod
    def whole(cls, value: object, info: ValidationInfo) -> object:
        """Numbers are numbers in JSON; in a form, where all is text, they are digits."""
        text = (info.context or {}).get("text", False)
        if isinstance(value, bool) or (isinstance(value, str) and not (text and value.isdecimal())):
            raise ValueError("must be a whole number")
        return value


class JobSettings(Settings):
    """The same for a job, which can be watched."""

    previews: int = Field(0, ge=0, description="pictures on the way, evenly spread")
