"""A service on this machine for the tests of this folder, and what they send to it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pneumonia import serve
from pneumonia.service.current import Current
from pneumonia.service.limits import Limits
from tests import predictors
from tests.conftest import png

BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        (message,) = self.json.values()
        return str(message)


class Served(NamedTuple):
    """A running service.

    Attributes:
        port: on 127.0.0.1.
        model: in service.
    """

    port: int
    model: Current

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to a request; a body in pieces is sent without its length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def send(self, *files: tuple[str, bytes], path: str = "/v1/predict") -> Answer:
        """The answer to a form with these files."""
        return self.ask("POST", path, form(*files), {"Content-Type": FORM})

    def connect(self) -> socket.socket:
        """A connection, for what is no request."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def form(*files: tuple[str, bytes], field: str = "file") -> bytes:
    """The body of a form with files."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + content
        for name, content in files
    ]
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def film(level: int = 90) -> bytes:
    return png(np.full((40, 40), level, np.uint8))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something is true: the log of a request is written after its answer."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def serving(
    model: str | Path, *, hosts: tuple[str, ...] = (), limits: Limits | None = None, poll_seconds: float = 5
) -> Iterator[Served]:
    """A service in a thread of this process, on a free port."""
    current = Current(str(model), "youden", poll_seconds=poll_seconds)
    server = serve.server(current, hosts=hosts, limits=limits)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield Served(listener.getsockname()[1], current)
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predictors.write(tmp_path_factory.mktemp("served") / "predictor", unusual=predictors.usual_gray(20.0))


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """A service with the default limits."""
    with serving(folder, hosts=("films.example",)) as one:
        yield one


@pytest.fixture
def limited(folder: Path) -> Callable[..., Any]:
    """Starts a service with other limits: `with limited(waiting=1) as served`."""
    return lambda **changes: serving(folder, limits=Limits()._replace(**changes))
