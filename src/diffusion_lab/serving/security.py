"""What stands at the door: API keys, bounds on what arrives, and headers on what leaves."""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_lab.serving.errors import Mistake, answer
from diffusion_lab.serving.measures import Measures

log = logging.getLogger(__name__)

HEADERS = {
    # No inline scripts or styles, nothing from elsewhere; blob: and data: are pictures that the page made itself.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LEFT = 499
"""What the answer to a client that has left is counted as; nobody reads it."""
PROBES = ("/healthz", "/readyz", "/metrics")
"""What machines ask every few seconds: no traces, and in the log only what is wrong."""


def digest(key: str) -> str:
    """What the configuration keeps of a key: its SHA-256, in hexadecimal.

    Example:
        >>> digest("open sesame")[:8]
        '41ef4bb0'
    """
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A key that nobody guesses."""
    return f"dl-{secrets.token_urlsafe(32)}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_open(host: str, keys: Sequence[str], allow_open: bool) -> None:
    """Refuses to let everybody in by oversight.

    Raises:
        ValueError: if other machines could reach the service and it asks for no key.
    """
    if not keys and not allow_open and not is_loopback(host):
        raise ValueError(
            f"host={host} lets other machines in and no API key is set: set keys=[<SHA-256 of a key>] "
            "(python -m diffusion_lab.serving --new-key makes one), or allow_open=true if everybody may use it"
        )


class Keys:
    """The keys that open the service; without any it is open.

    Args:
        hashes: SHA-256 of each key in hexadecimal. The keys themselves are nowhere.

    Raises:
        ValueError: if one is no SHA-256.
    """

    def __init__(self, hashes: Sequence[str]) -> None:
        self.hashes = tuple(value.lower() for value in hashes)
        if wrong := [value for value in self.hashes if not re.fullmatch("[0-9a-f]{64}", value)]:
            raise ValueError(
                f"keys holds '{wrong[0][:8]}...', which is no SHA-256: keys are kept as hashes "
                "(python -m diffusion_lab.serving --new-key makes a key and its hash)"
            )

    def open(self, key: str) -> bool:
        """Whether a key is one of ours, in the same time for all that are not."""
        hashed = digest(key)
        return any([hmac.compare_digest(hashed, known) for known in self.hashes])  # noqa: C419  all are compared

    async def __call__(
        self,
        bearer: HTTPAuthorizationCredentials | None = Security(HTTPBearer(auto_error=False)),  # noqa: B008
        header: str | None = Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ) -> str:
        """Lets a request in, as a dependency of FastAPI's, and says whose it is: the SHA-256 of its key."""
        key = bearer.credentials if bearer else header
        if key is None:
            raise Mistake(401, "unauthorized", "send your API key as 'Authorization: Bearer <key>' or 'X-API-Key'")
        if not self.open(key):
            raise Mistake(401, "unauthorized", "this API key is not known here")
        return digest(key)


async def everybody() -> str:
    """Whose a request is where no key is asked for: all are the same to us."""
    return ""


class Guard:
    """The outermost ASGI layer: bounds what arrives, names and counts what leaves, and catches what nobody foresaw.

    It is plain ASGI on purpose: Starlette's BaseHTTPMiddleware hides from endpoints that their client has left. The
    bounds are its own as well, since the framework's answer to a large body is not in our shape.

    Args:
        app: what it guards.
        version: of the model in service, for answers that do not name one themselves.
        most_address: bytes of the path and query.
        most_head: bytes of all headers, names and values.
        most_headers: of them.
        most_bytes: of one body.
        most_arriving: of all bodies that are being worked on.
        seconds: within which a body has to arrive.
        measures: counts the answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        version: Callable[[], str],
        most_address: int,
        most_head: int,
        most_headers: int,
        most_bytes: int,
        most_arriving: int,
        seconds: float,
        measures: Measures,
    ) -> None:
        self.app = app
        self.version = version
        self.most_address = most_address
        self.most_head = most_head
        self.most_headers = most_headers
        self.most_bytes = most_bytes
        self.most_arriving = most_arriving
        self.seconds = seconds
        self.measures = measures
        self.arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, headers = time.monotonic(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        name = given if re.fullmatch(r"[\w.-]{1,128}", given) else secrets.token_hex(8)
        status, received, whole = 0, 0, False

        async def bounded() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()  # waits until the client leaves
            left = began + self.seconds - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                raise Mistake(408, "timeout", f"the body did not arrive within {self.seconds:g} s") from None
            if message["type"] == "http.request":
                length = len(message.get("body", b""))
                received += length
                self.arriving += length
                whole = not message.get("more_body", False)
                self.check(received)
            return message

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                outgoing = MutableHeaders(scope=message)
                outgoing["X-Request-ID"] = name
                outgoing.setdefault("X-Model-Version", self.version())
                for header, value in HEADERS.items():
                    outgoing.setdefault(header, value)
            await send(message)

        async def say(error: Exception) -> None:
            if not status:
                await (await answer(Request(scope), error))(scope, receive, named)

        try:
            self.check_head(scope)
            self.check(int(headers.get("content-length", 0)) if headers.get("content-length", "0").isdecimal() else 0)
            await self.app(scope, bounded, named)
        except ClientDisconnect:
            status = LEFT
        except Mistake as mistake:
            await say(mistake)
        except Exception as error:
            log.exception("request %s failed", name)
            await say(error)
        finally:
            self.arriving -= received
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.monotonic() - began
            self.measures.answered(route, status or LEFT, seconds)
            level = logging.DEBUG if route in PROBES and status == 200 else logging.INFO
            log.log(level, "%s %s %d %.0f ms %s", scope["method"], route, status or LEFT, seconds * 1000, name)

    def check_head(self, scope: Scope) -> None:
        """Refuses what is too long before the body."""
        if len(scope["raw_path"]) + len(scope["query_string"]) > self.most_address:
            raise Mistake(414, "address_too_long", f"the address is longer than {self.most_address} bytes")
        if len(scope["headers"]) > self.most_headers:
            raise Mistake(431, "headers_too_large", f"there are more than {self.most_headers} headers")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self.most_head:
            raise Mistake(431, "headers_too_large", f"the headers are longer than {self.most_head} bytes in all")

    def check(self, length: int) -> None:
        """Refuses a body that is too large, or one too many."""
        if length > self.most_bytes:
            raise Mistake(413, "too_large", f"the body is larger than {self.most_bytes / 2**20:.3g} MiB")
        if self.arriving > self.most_arriving:
            self.measures.rejected("memory")
            raise Mistake(429, "queue_full", "too many pictures arrive at once", retry_after=1)
