"""The web service: films in, answers out, on this machine unless told otherwise."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import uvicorn

from pneumonia import UserError, credentials, predict, reason
from pneumonia.service import app, guard
from pneumonia.service.current import Current
from pneumonia.service.limits import Limits
from pneumonia.service.protocol import Protocol

GRACE_SECONDS = 30
"""For running requests, after Ctrl+C."""

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""A `--host` that stands for all addresses of the machine, and the one that a user of this machine opens."""

_M_MMAP_THRESHOLD = -3
"""A name of `malloc.h`: blocks of this size have their own pages, which are returned."""

LOG = logging.getLogger("pneumonia.service")


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    operating_point: str = "youden",
    allow_hosts: Iterable[str] = (),
) -> None:
    """Serve a model until Ctrl+C or SIGTERM; then running requests are finished.

    Args:
        model: a folder, `pretrained:NAME`, `models:/NAME@ALIAS` or `models:/NAME/VERSION`; an alias is followed.
        host: address to listen on.
        port: 0 = any free one.
        operating_point: of the answers, if a request names none.
        allow_hosts: further names by which the service may be addressed.

    Raises:
        UserError: no such model, no such name, or the port cannot be used.
    """
    names = {name: guard.host_name(name) for name in allow_hosts}
    if wrong := [name for name, known in names.items() if not known]:
        raise UserError(f"{wrong[0]!r} is no host name; give a name or an address, without http:// and port")
    _return_memory()
    with _log_on_terminal():
        service = Current(str(model), operating_point)
        with _listening(host, port) as listener:
            shown = f"[{host}]" if ":" in host else host
            address = next(iter(names.values()), _EVERY_ADDRESS[host]) if host in _EVERY_ADDRESS else shown
            names[host] = guard.host_name(address)
            LOG.warning("in service: %s", service.model.title)
            for line in predict.notes(service.model.predictor):
                LOG.warning("%s", line)
            LOG.warning("http://%s:%d (Ctrl+C ends it)", address, listener.getsockname()[1])
            if not (shown in guard.LOCAL_HOSTS or host.startswith("127.")):
                LOG.warning(
                    "other machines can reach %s, without login and encryption; names that are allowed: %s",
                    shown,
                    ", ".join(sorted({*guard.LOCAL_HOSTS, *names.values()})),
                )
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)  # uvicorn sends it again after the end, when all is done
            with _only_own_lines():
                server(service, hosts=names.values()).run([listener])
        LOG.warning("ended")


def server(service: Current, *, hosts: Iterable[str] = (), limits: Limits | None = None) -> uvicorn.Server:
    """The server of a model; its method `run` takes the sockets on which it listens.

    Args:
        service: the model.
        hosts: further names by which the service may be addressed, as `guard.host_name` gives them.
        limits: None = the defaults.
    """
    limits = limits or Limits()
    cv2.setNumThreads(1)  # each worker has one core
    config = uvicorn.Config(
        app.create(service, hosts=hosts, limits=limits),
        http=type("LimitedProtocol", (Protocol,), {"limits": limits}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=limits.connections,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    for name in ("uvicorn.error", "uvicorn.access", "asyncio", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they may contain parts of requests
    return uvicorn.Server(config)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=Limits().connections)
    except OSError as error:
        is_address = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = "address of this machine: --host 127.0.0.1" if is_address else "one: --port 8001"
        raise UserError(f"cannot listen on {host}, port {port} ({reason(error)}); choose another {remedy}") from error


def _return_memory() -> None:
    """Return the memory of uploads and films to the system when they are freed.

    By default the C library keeps blocks of up to 32 MB for itself after it has seen larger ones: after 100 large
    uploads the process had 80 % more memory than before, with this setting 6 %. Only glibc has this call.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


@contextmanager
def _only_own_lines() -> Iterator[None]:
    """Keep what libraries in C print about a damaged file off the terminal, which is that of the log."""
    sys.stderr.flush()
    terminal = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def _log_on_terminal() -> Iterator[None]:
    """One line for each request and each change of the model, on stderr."""
    logging.raiseExceptions = False  # a full disk behind stderr is no reason to print more to it
    terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    handler = logging.StreamHandler(terminal)
    handler.addFilter(_mask)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.handlers, LOG.propagate = [], True
        with suppress(OSError):
            terminal.close()


def _mask(record: logging.LogRecord) -> bool:
    """Mask secrets in a line of the log: an error of the store may name its address."""
    record.msg, record.args = credentials.masked(record.getMessage()), ()
    return True
