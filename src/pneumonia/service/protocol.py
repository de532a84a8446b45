"""Connections: a client that is slow with its header, or one too many, cannot hold a connection for ever.

uvicorn ends a connection that is idle between two requests, but waits without limit for the first one.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from pneumonia.service.guard import HEADERS
from pneumonia.service.limits import Limits


class Protocol(H11Protocol):
    """HTTP/1.1 of one connection, with the limits of the service."""

    limits = Limits()
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._write_error(503, "Service Unavailable", "too many connections; try again")
            transport.close()
            return
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        super().data_received(data)
        if self._is_in_request():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request of this connection."""
        self._wait_for_request()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, also if the client does not read what was sent."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, as the routes refuse a request."""
        self._write_error(400, "Bad Request", "not a request of HTTP/1.1, or one with a header that is too long")
        self.transport.close()

    def _is_in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self.limits.header_seconds, self._end_waiting)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end_waiting(self) -> None:
        if not self._is_in_request():
            self.transport.abort()

    def _write_error(self, status: int, phrase: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        headers: dict[str, Any] = {
            "content-type": "application/json",
            "content-length": len(body),
            "connection": "close",
        }
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in (headers | HEADERS).items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
