"""Faults of files: they fail, end early, change a byte or wait, once or always, where a path matches a pattern.

Each is a context manager. Inside it `open`, `io.open` (so also `pathlib`), `os.replace` and `os.rename` are those of a
bad disk for the paths that match; C libraries that open files themselves, such as sqlite and HDF5, see nothing of it:

    with inject.fails("*/valid.csv", on="write", error=errno.ENOSPC):
        ...
    with inject.changes("*/images/c/0/0/0", at=100, times=None) as hits:
        ...

The value is the list of the paths that were hit. A block that ends well without a hit is an AssertionError: a fault
that nothing met has tested nothing. Only the standard library is used, so that a process can load this file at its
start.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal
from unittest import mock

Operation = Literal["open", "read", "write", "replace"]
"""`open` for reading or writing; `replace` is a rename, whose new path must match."""

Act = Callable[[int, bytes], bytes]
"""What happens to bytes of a file: their offset and their content; returns what is read or written instead."""


def fails(
    pattern: str, *, on: Operation, error: int = errno.EIO, at: int = 0, times: int | None = 1
) -> AbstractContextManager[list[str]]:
    """An operation ends in an `OSError`.

    Args:
        pattern: of the absolute path, as in `fnmatch`; `*` matches also `/`.
        on: which operation.
        error: its `errno`.
        at: bytes that are still read or written, as on a disk that becomes full.
        times: number of files, in the order of their opening; None = all.
    """

    def act(start: int, content: bytes) -> bytes:
        if start + len(content) > at or not content:
            raise OSError(error, os.strerror(error))
        return content

    return _injected(pattern, on, act, times)


def ends_early(
    pattern: str, *, at: int, on: Literal["read", "write"] = "read", times: int | None = 1
) -> AbstractContextManager[list[str]]:
    """A file is read as if it had only `at` bytes; or of what is written only these bytes remain, without an error."""
    return _injected(pattern, on, lambda start, content: content[: max(0, at - start)], times)


def changes(
    pattern: str, *, at: int, on: Literal["read", "write"] = "read", times: int | None = 1
) -> AbstractContextManager[list[str]]:
    """All bits of the byte at this offset are inverted, in what is read or in what is written."""

    def act(start: int, content: bytes) -> bytes:
        place = at - start
        if not 0 <= place < len(content):
            return content
        return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]

    return _injected(pattern, on, act, times)


def waits(pattern: str, *, on: Operation, seconds: float, times: int | None = 1) -> AbstractContextManager[list[str]]:
    """Each operation takes so much longer."""

    def act(start: int, content: bytes) -> bytes:
        time.sleep(seconds)
        return content

    return _injected(pattern, on, act, times, changes_nothing=True)


@contextmanager
def _injected(
    pattern: str, on: Operation, act: Act, times: int | None, changes_nothing: bool = False
) -> Iterator[list[str]]:
    hits: list[str] = []
    concerned = 0
    real_open = io.open

    def is_concerned(path: Any) -> bool:
        nonlocal concerned
        if isinstance(path, int) or (times is not None and concerned >= times):
            return False
        if not fnmatchcase(os.path.abspath(os.fsdecode(path)), pattern):
            return False
        concerned += 1
        return True

    def noted(path: Any) -> Act:
        name = os.path.abspath(os.fsdecode(path))

        def note(start: int, content: bytes) -> bytes:
            try:
                result = act(start, content)
            except OSError as error:
                hits.append(name)
                error.filename = name
                raise
            if changes_nothing or result != content:
                hits.append(name)
            return result

        return note

    def open_file(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        for_writing = bool(set(mode) & set("wax+"))
        matters = {"open": True, "read": "r" in mode or "+" in mode, "write": for_writing, "replace": False}[on]
        if not matters or not is_concerned(file):
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if on == "open":
            noted(file)(0, b"")
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener, on, noted(file))
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter if for_writing else io.BufferedReader
        buffered = kind(raw)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        return text

    def renames(real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **options: Any) -> None:
            if on == "replace" and is_concerned(target):
                noted(target)(0, b"")
            real(source, target, **options)

        return rename

    with (
        mock.patch.object(builtins, "open", open_file),
        mock.patch.object(io, "open", open_file),
        mock.patch.object(os, "replace", renames(os.replace)),
        mock.patch.object(os, "rename", renames(os.rename)),
    ):
        yield hits
    assert hits, f"nothing met the fault: no {on} of {pattern}"


class _File(io.FileIO):
    """A file without buffer whose bytes go through `act` when they are read or written."""

    def __init__(self, path: Any, mode: str, closefd: bool, opener: Any, on: Operation, act: Act) -> None:
        super().__init__(path, mode, closefd, opener)
        self._on, self._act = on, act

    def fileno(self) -> int:
        # Else the kernel would copy between two files, and the bytes would not come through here.
        raise io.UnsupportedOperation("a file with an injected fault has no number")

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start = self.tell()
        content = super().read(len(view)) or b""
        if self._on == "read":
            content = self._act(start, content)
        view[: len(content)] = content
        return len(content)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(1 << 20), b""))

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        if self._on == "write":
            super().write(self._act(self.tell(), bytes(view)))
        else:
            super().write(view)
        return len(view)
