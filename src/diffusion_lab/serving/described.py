"""What OpenAPI says of a request with pictures, which FastAPI cannot know: it is read by hand, after the limits."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

from diffusion_lab.serving.requests import in_a_form

EXAMPLE = {"num_samples": 1, "steps": 2, "seed": 7}
"""Settings of the documentation's example."""


def example(kind: str) -> str:
    """A picture of 16x16 pixels, or its mask, as a data URI: small enough for the documentation."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    if kind == "mask":
        pixels[5:11, 4:12] = 255
    else:
        pixels[...] = np.linspace(60, 220, 16)[:, None, None]
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("L" if kind == "mask" else "RGB").save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def described(settings: type[BaseModel], files: Sequence[str], needed: Sequence[str] | None = None) -> dict[str, Any]:
    """OpenAPI's description of a request with pictures, as multipart or JSON.

    Args:
        settings: the other fields.
        files: the pictures.
        needed: those that have to be there; None are all.
    """
    fields: dict[str, Any] = settings.model_json_schema().get("properties", {})
    meant = {
        "image": "PNG, JPEG, WebP or AVIF of any size",
        "mask": "of the same size; white on black, labels, strokes of one colour, or transparency: see mask_mode",
    }

    def body(file: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": list(files if needed is None else needed),
            "properties": {**{name: {**file, "description": meant[name]} for name in files}, **properties},
            "additionalProperties": False,
        }

    form = body({"type": "string", "contentMediaType": "application/octet-stream"}, in_a_form(fields))
    json = body({"type": "string", "contentEncoding": "base64"}, fields)
    picture = {"contentType": "image/png, image/jpeg, image/webp, image/avif"}
    value = {name: example(name) for name in files} | {k: v for k, v in EXAMPLE.items() if k in fields}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form, "encoding": dict.fromkeys(files, picture)},
                "application/json": {
                    "schema": json,
                    "examples": {"small": {"summary": "A grey ramp", "value": value}},
                },
            },
        }
    }
