"""Requests as they come: multipart with files, or JSON with base64 in their place, from clients that may leave."""

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from diffusion_lab.serving.errors import Mistake, invalid

T = TypeVar("T")
Validated = TypeVar("Validated", bound=BaseModel)


@dataclass(frozen=True)
class Form:
    """A request's body, however it came.

    Args:
        files: name to content.
        values: the other fields, as they came.
        text: whether those are all text, as in multipart.
    """

    files: Mapping[str, bytes]
    values: Mapping[str, Any]
    text: bool

    def validated(self, model: type[Validated]) -> Validated:
        """The other fields as a model has them.

        Raises:
            Mistake: if one is none of the model's, or beyond its bounds.
        """
        try:
            return model.model_validate(dict(self.values), context={"text": self.text})
        except ValidationError as error:
            raise invalid(error.errors()) from None

    def needed(self, name: str) -> bytes:
        """A file that must be there."""
        if name not in self.files:
            raise Mistake(422, "invalid_request", f"{name}: is missing", name)
        return self.files[name]


async def read_form(request: Request, files: Sequence[str], *, json: bool = True) -> Form:
    """The body of a request: multipart with files, or JSON with base64 in their place.

    Args:
        request: whose body is read.
        files: the fields that are files; where one name is given several times, that is an error.
        json: whether JSON is taken as well.

    Raises:
        Mistake: for another content type, a damaged body, or a file that is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _multipart(request, files)
    if json and (kind == "application/json" or kind.endswith("+json")):
        return await to_thread.run_sync(_json, await request.body(), files)
    known = "multipart/form-data" + (" or application/json" if json else "")
    raise Mistake(415, "unsupported_media_type", f"send the body as {known}, not as '{kind}'")


async def _multipart(request: Request, files: Sequence[str]) -> Form:
    found: dict[str, bytes] = {}
    values: dict[str, Any] = {}
    async with request.form(max_files=len(files), max_fields=64, max_part_size=64 * 1024) as form:
        for name, value in form.multi_items():
            if name in found or name in values:
                raise Mistake(422, "invalid_request", f"{name}: is given more than once", name)
            if isinstance(value, UploadFile) and not value.filename and not value.size:
                continue  # an HTML form's input of a file that nobody chose
            if name in files and not isinstance(value, UploadFile):
                raise Mistake(422, "invalid_request", f"{name}: must be a file, as in curl -F {name}=@{name}.png", name)
            if name not in files and isinstance(value, UploadFile):
                raise Mistake(422, "invalid_request", f"{name}: no such file is read here", name)
            if isinstance(value, UploadFile):
                found[name] = await value.read()
            elif value != "":  # an empty field of an HTML form
                values[name] = value
    return Form(found, values, text=True)


class _Body(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="allow")


def _json(body: bytes, files: Sequence[str]) -> Form:
    try:
        values = dict(_Body.model_validate_json(body).model_extra or {})
    except ValidationError as error:
        raise invalid(error.errors()) from None
    found = {name: decoded(values.pop(name), name) for name in files if values.get(name) is not None}
    return Form(found, {name: value for name, value in values.items() if name not in files}, text=False)


def decoded(value: object, name: str) -> bytes:
    """Base64, with or without ``data:image/png;base64,`` in front.

    Example:
        >>> decoded("data:image/png;base64,aGk=", "image")
        b'hi'
    """
    if not isinstance(value, str):
        raise Mistake(422, "invalid_request", f"{name}: must be a picture in base64", name)
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Mistake(400, "invalid_base64", f"the {name} is not base64 ({error})", name) from None


def in_a_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a JSON schema as a form has them: nothing is null, and what is of several kinds is text.

    Example:
        >>> in_a_form({"seed": {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "Seed"}})
        {'seed': {'title': 'Seed', 'type': 'integer'}}
    """
    found = {}
    for name, field in fields.items():
        kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
        rest = {key: value for key, value in field.items() if key != "anyOf" and (key, value) != ("default", None)}
        found[name] = {**rest, **(kinds[0] if len(kinds) == 1 else {"type": "string"} if kinds else {})}
    return found


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is given up when the client leaves: nobody else would notice.

    Raises:
        ClientDisconnect: if it has left.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
