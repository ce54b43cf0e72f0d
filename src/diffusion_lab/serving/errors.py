"""Errors, all of them in one shape: ``{"error": {"code": ..., "message": ..., "param": ...}}``.

The code is for programs, the message a sentence for people, the param the field that is to blame, or null. Under
``/v1/images/`` there is a ``type`` beside them, which clients of OpenAI's API look at.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from diffusion_lab.serving.engine import JobFailed, NotReady, QueueFull, Refused

CODES = {
    400: ("bad_request", "the request cannot be understood"),
    401: ("unauthorized", "the API key is missing or not known"),
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address does not know this method"),
    406: ("not_acceptable", "the answer does not come in the form asked for"),
    408: ("timeout", "the request took too long to arrive"),
    413: ("too_large", "the body or a picture is too large"),
    414: ("address_too_long", "the path and query are too long"),
    415: ("unsupported_media_type", "the body has a content type that is not read here"),
    422: ("invalid_request", "a field has a value that it cannot have"),
    429: ("queue_full", "as many jobs wait as may; Retry-After says for how many seconds to wait"),
    431: ("headers_too_large", "the headers are too many or too long"),
    500: ("internal_error", "the service has a fault"),
    503: ("not_ready", "the service starts, ends or is out of order; Retry-After says when to ask again"),
    504: ("deadline_exceeded", "the job took longer than it may"),
}
FAILED = {"non_finite_output": 500, "engine_error": 500, "deadline_exceeded": 504, "shutting_down": 503}


class Error(BaseModel):
    """What went wrong."""

    code: str
    message: str
    param: str | None = None


class Failure(BaseModel):
    """The body of every answer that is an error."""

    error: Error


class Mistake(Exception):
    """An answer with an error.

    Args:
        status: of the HTTP answer.
        code: for programs.
        message: for people.
        param: the field that is to blame.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = Error(code=code, message=message, param=param)
        self.retry_after = retry_after


def invalid(errors: Sequence[Any]) -> Mistake:
    """The sentence for values that do not validate, as pydantic lists them."""
    if any(error["type"] == "json_invalid" for error in errors):
        return Mistake(400, "invalid_json", f"the body is not JSON ({errors[0]['msg']})")
    places = [
        ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path", "header"))
        for error in errors
    ]
    sentences = [
        f"{place or 'the body'}: {error['msg'].removeprefix('Value error, ')}"
        for place, error in zip(places, errors, strict=True)
    ]
    return Mistake(422, "invalid_request", "; ".join(sentences[:5]), places[0] or None)


def understood(error: Exception) -> Mistake:
    """What an exception is to a client; one that nobody foresaw is a fault of ours and says nothing of itself."""
    match error:
        case Mistake():
            return error
        case QueueFull():
            return Mistake(429, "queue_full", str(error), retry_after=error.retry_after)
        case NotReady() | Refused():
            return Mistake(503, "not_ready", str(error), retry_after=error.retry_after)
        case JobFailed():
            retry = 5 if error.code == "shutting_down" else None
            return Mistake(FAILED[error.code], error.code, str(error), retry_after=retry)
        case RequestValidationError():
            return invalid(error.errors())
        case HTTPException():
            code, message = CODES.get(error.status_code, ("error", str(error.detail)))
            plain = error.detail == HTTPStatus(error.status_code).phrase
            return Mistake(error.status_code, code, message if plain else str(error.detail))
    return Mistake(500, *CODES[500])


def content(error: Exception, path: str) -> dict[str, Any]:
    """The body that says it."""
    mistake = understood(error)
    body = mistake.error.model_dump()
    if path.startswith("/v1/images/"):
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        body["type"] = kinds.get(mistake.status, "server_error" if mistake.status >= 500 else "invalid_request_error")
    return {"error": body}


async def answer(request: Request, error: Exception) -> Response:
    """The answer that says it."""
    mistake = understood(error)
    headers = dict(getattr(error, "headers", None) or {})  # such as Allow, of a 405
    if mistake.retry_after is not None:
        headers["Retry-After"] = str(mistake.retry_after)
    if mistake.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content(error, request.url.path), mistake.status, headers)


def install(app: FastAPI) -> None:
    """Makes every error of an app an `answer`; what nobody foresaw is caught by `security.Guard`."""
    for kind in (Mistake, Refused, JobFailed, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an endpoint, for OpenAPI."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        code, text = CODES[status]
        example = {"error": {"code": code, "message": text, "param": None}}
        found[status] = {
            "model": Failure,
            "description": text[0].upper() + text[1:],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}, "example": example}},
        }
        if status in (429, 503):
            found[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return found
