"""A signal that ends a program leaves time to close what is open: one line, and the exit status that shells give."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
"""Signals that ask a program to end: by the user, by a scheduler or a container, by a terminal that closes."""

REPEATED_SECONDS = 5
"""A signal so soon after another is the same request: terminals, `make` and `timeout` send it more than once."""


def end_at_once() -> None:
    """From now on a signal ends the process with its line, where there is nothing to close."""
    for number in _not_ignored():
        signal.signal(number, _end)


@contextmanager
def in_order() -> Iterator[list[int]]:
    """Inside the block a signal raises `SystemExit` in the main thread; yields the list of the signals that came.

    Not `KeyboardInterrupt`, which some libraries catch. An ignored signal stays ignored (`nohup`).
    """
    received: list[int] = []
    last = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > REPEATED_SECONDS:
            last = time.monotonic()
            received.append(number)
            raise SystemExit(status(number))

    handlers = {number: signal.signal(number, stop) for number in _not_ignored()}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def status(number: int) -> int:
    """The exit status after a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + number


def line(number: int) -> str:
    """What the user reads after a signal."""
    return f"stopped by {NAMES[signal.Signals(number)]}; run again to continue: finished work is kept"


def _not_ignored() -> list[signal.Signals]:
    return [number for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN]


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # An exception could be caught by what is just being imported, and at the end of a process it is only printed.
    try:
        os.write(2, f"{line(number)}\n".encode())
    finally:
        os._exit(status(number))
