"""A real HTTP server on this machine whose answers a test chooses, and a record of what it was asked."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

HERE = "127.0.0.1"
LONGEST = 10.0
"""Seconds after which a server that says nothing gives up, so that a test ends by itself."""


class Asked(NamedTuple):
    """What a request asked for."""

    command: str
    path: str
    headers: Mapping[str, str]


class Server(http.server.ThreadingHTTPServer):
    """`answer` is called for each request; it reads and writes as it likes."""

    daemon_threads = True

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        super().__init__((HERE, 0), Request)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.answer = answer
        self.url = f"{'https' if tls else 'http'}://{HERE}:{self.server_port}"
        self.requests: list[Asked] = []
        self.closing = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


class Request(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = LONGEST

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(Asked(self.command, self.path, self.headers))
        self.server.answer(self)

    def do_HEAD(self) -> None:
        self.do_GET()

    def say(self, status: int, body: bytes = b"", **headers: object) -> None:
        """A response; `Some_Header=None` leaves out `Content-Length`, which is that of the body by default."""
        self.send_response(status)
        length = {} if status == 304 else {"Content_Length": len(body)}
        for name, value in (length | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def pause(self, seconds: float) -> bool:
        """Wait; whether the test goes on."""
        return not self.server.closing.wait(seconds)

    def cut(self) -> None:
        """End the connection, after the client has had time to read what was sent."""
        self.pause(0.03)
        self.close_connection = True


Answer = Callable[[Request], None]


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A running server."""
    with Server(answer, tls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
