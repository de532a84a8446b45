"""What stands between the network and the routes: who may ask, how much and how slowly, and what is said and logged.

The service has no login. On 127.0.0.1 only this machine reaches it, but the pages of any site can send requests to it
from the user's browser. So a request is answered only if its `Host` is a known name (a foreign name may be pointed at
127.0.0.1), and if its `Origin` is, where a browser sends one. For a picture or a script of a page it sends none, but
`Sec-Fetch-Site`: another site may only link to a page of the service.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumonia.service.limits import Limits, RefusedError
from pneumonia.service.waiting import call_in, calls_of_request

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}

FAILED = RefusedError(500, "the service has failed; its log says where")
MAX_HEADER_BYTES = 32 * 2**10

LOG = logging.getLogger("pneumonia.service")

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_NAME = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9._-]+")
_PAGES = {"/", "/docs"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def host_name(text: str) -> str:
    """A name for `--allow-host` as it is compared: small letters, IPv6 in brackets; empty if it is none.

    >>> host_name("Films.Example"), host_name("::1"), host_name("http://films.example")
    ('films.example', '[::1]', '')
    """
    name = text.strip().lower().rstrip(".")
    name = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    return name if _NAME.fullmatch(name) else ""


class Guard:
    """The outermost layer of the service, an ASGI application around another one.

    Args:
        app: the routes.
        hosts: names by which the service may be addressed, besides those of this machine; as `host_name` gives them.
        limits: of the service.
        routes: known paths; a log names no other, since a path may contain anything.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], limits: Limits, routes: Collection[str]) -> None:
        self._app, self._limits, self._routes = app, limits, frozenset(routes)
        self._hosts = LOCAL_HOSTS | set(hosts)
        self._n_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        loop = asyncio.get_running_loop()
        start, n_held = time.monotonic(), 0
        calls: list[Future[Any]] = []
        calls_of_request.set(calls)

        async def limited() -> Message:
            nonlocal n_held
            message = await exchange.receive()
            n_bytes = len(message.get("body", b""))
            if self._n_held + n_bytes > self._limits.held_bytes:
                raise RefusedError(429, "busy: other requests fill the memory for uploads; try again", retry=2)
            self._n_held, n_held = self._n_held + n_bytes, n_held + n_bytes
            return message

        def release() -> None:
            nonlocal n_held
            n_bytes, n_held = n_held, 0
            running = [call for call in calls if not call.done()]
            if running and n_bytes:  # no answer in time, but the call still has the files
                running[-1].add_done_callback(lambda _: call_in(loop, partial(self._release, n_bytes)))
            else:
                self._release(n_bytes)

        async def answering(message: Message) -> None:
            release()  # now, and not when a client with a refused body has sent the rest
            await exchange.send(message)

        try:
            self._check(scope)
            await self._app(scope, limited, answering)
        except RefusedError as error:
            release()
            await exchange.refuse(error)
        except Exception as error:
            LOG.error("failed: %s", _place(error))  # not its message: it may contain what was uploaded
            await exchange.refuse(FAILED)
        finally:
            release()
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            route = scope["path"] if scope["path"] in self._routes else "-"
            milliseconds = 1000 * (time.monotonic() - start)
            LOG.info("%s %s %d %.0f ms %d bytes", method, route, exchange.status, milliseconds, exchange.n_received)

    def _release(self, n_bytes: int) -> None:
        self._n_held -= n_bytes

    def _check(self, scope: Scope) -> None:
        """Refuse a request of a foreign page, by a foreign name, or that is too large by its own word."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            raise RefusedError(400, f"a header of more than {MAX_HEADER_BYTES:,} bytes")
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_known(hosts[0]):
            raise RefusedError(403, "this host name is not allowed; start the service with --allow-host NAME")
        fetch = {name: value for name, value in headers if name.startswith(b"sec-fetch-")}
        is_link = fetch.get(b"sec-fetch-mode") == b"navigate" and scope["path"] in _PAGES
        if fetch.get(b"sec-fetch-site") == b"cross-site" and not is_link:
            raise RefusedError(403, "pages of other sites may not use the service")
        for name, value in headers:
            if name == b"origin" and not self._is_known(_authority(value.decode("latin-1"))):
                raise RefusedError(403, "pages of this origin may not use the service")
            if name == b"content-length" and int(value) > self._limits.request_bytes:
                raise RefusedError(413, f"a request of more than {self._limits.request_bytes:,} bytes")

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        return match is not None and host_name(match[1]) in self._hosts


class _Exchange:
    """A request and its response, as the server gives and takes them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.status, self.n_received = 0, 0
        self._scope, self._receive, self._send, self._limits = scope, receive, send, limits
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds
        self._is_read = False

    async def receive(self) -> Message:
        """The next part of the body.

        Raises:
            RefusedError: 400 if it is too slow (408 would make browsers send the request again) or ends early, 413 if
                the body is too large.
        """
        if self._is_read:
            return await self._receive()  # waits until the client has gone
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(now + self._limits.pause_seconds, self._deadline)):
                message = await self._take()
        except TimeoutError as error:
            raise RefusedError(400, "the request arrives too slowly") from error
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the request ended early")
        if self.n_received > self._limits.request_bytes:
            raise RefusedError(413, f"a request of more than {self._limits.request_bytes:,} bytes")
        return message

    async def _take(self) -> Message:
        message = await self._receive()
        self.n_received += len(message.get("body", b""))
        self._is_read = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response. Its end waits for the rest of the request, which is thrown away.

        If the server closed the connection before, a client that is still sending would see that, not the response.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name for name, _ in message["headers"]}
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in names]
            message = {**message, "headers": [*message["headers"], *added]}
        elif not message.get("more_body", False) and not self._is_read:
            await self._send({**message, "more_body": True})
            await self._throw_rest_away()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _throw_rest_away(self) -> None:
        limit = self.n_received + 8 * self._limits.request_bytes
        try:
            async with asyncio.timeout(self._limits.linger_seconds):
                while not self._is_read and self.n_received < limit:
                    await self._take()
        except TimeoutError:
            pass  # the server closes the connection

    async def refuse(self, error: RefusedError) -> None:
        """Answer with an error, if no answer has begun."""
        if not self.status:
            await answer(error)(self._scope, self._receive, self.send)


def answer(error: RefusedError) -> JSONResponse:
    """The response to a refused request."""
    headers = {"retry-after": str(error.retry)} if error.retry else {}
    return JSONResponse({"error": error.message}, error.status, headers)


def of_framework(error: Exception) -> RefusedError:
    """An error of the framework as a refusal in one line, without what the client sent."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    messages = {404: "no such page", 405: "this method is not allowed here"}
    return RefusedError(status, messages.get(status, "the request cannot be understood"))


def _authority(origin: str) -> str:
    """Host and port of an origin; empty for `null` and others without them."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _place(error: Exception) -> str:
    """Type of an error, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "?"
