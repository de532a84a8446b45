"""Connections that send no request, or one too slowly, end; what is not HTTP is an error in JSON."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from pneumonia.service.guard import HEADERS
from tests.service.conftest import Served

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def read_answer(client: Any) -> bytes:
    """The answer to `HEALTH`, whose end is known."""
    content = b""
    while part := client.recv(65536):
        content += part
        if content.endswith(b"}"):
            break
    return content


def read_all(client: Any) -> bytes:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + 200_000 * b"x" + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + 20_000 * b"X: y\r\n" + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 6000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"G" * 100_000,
    ],
)
def test_what_is_not_http_is_refused_in_json(served: Served, request_bytes: bytes) -> None:
    with served.connect() as client:
        client.sendall(request_bytes)
        head, _, body = read_answer(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert "header" in json.loads(body)["error"]
    assert all(f"{name}: {value}".encode() in head for name, value in HEADERS.items())
    assert served.ask("GET", "/health").status == 200


def test_a_connection_without_a_request_ends(limited: Callable[..., Any]) -> None:
    with limited(header_seconds=0.3) as served:
        for begin in (b"", b"GET / HTTP/1.1\r\nHo"):
            with served.connect() as client:
                start = time.monotonic()
                client.sendall(begin)
                with suppress(ConnectionResetError):
                    assert client.recv(10) == b""
                assert time.monotonic() - start < 5
        with served.connect() as client:  # the second request of a connection, too
            client.sendall(HEALTH + b"GET /hea")
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")
            with suppress(ConnectionResetError):
                assert client.recv(10) == b""


def test_two_requests_share_a_connection(limited: Callable[..., Any]) -> None:
    with limited(header_seconds=0.5) as served, served.connect() as client:
        for _ in range(4):
            client.sendall(HEALTH)
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.2)


def test_a_connection_too_many_is_refused(limited: Callable[..., Any]) -> None:
    with limited(connections=2) as served, served.connect() as first, served.connect() as second:
        for client in (first, second):  # until the server has seen both
            client.sendall(HEALTH)
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")
        with served.connect() as third:
            assert read_all(third).startswith(b"HTTP/1.1 503 ")
        second.sendall(HEALTH)
        assert read_answer(second).startswith(b"HTTP/1.1 200 ")
