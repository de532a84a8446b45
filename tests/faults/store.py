"""Faults of the MLflow store: its database fails or is held by another program, its disk is full, files are gone.

Those of the database are met by every statement that MLflow sends, below its own code; `held` is a real lock, and
`full_disk` a real disk.
"""

import errno
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from sqlalchemy import event
from sqlalchemy.engine import Engine

FULL = "database or disk is full"
FAULTS = (FULL, "disk I/O error", "attempt to write a readonly database", "database is locked")
"""Errors of sqlite in the middle of a program."""

_WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")


class Writes:
    """Counts the writes to databases; those from number `at` on fail, `times` of them."""

    def __init__(self, error: str, at: int, times: float) -> None:
        self.error, self.at, self.times = error, at, times
        self.count = self.failed = 0

    def __call__(self, cursor: Any, statement: str, *others: Any) -> None:
        if statement.lstrip().upper().startswith(_WRITES):
            self.count += 1
            if self.at <= self.count and self.failed < self.times:
                self.failed += 1
                raise sqlite3.OperationalError(self.error)


@contextmanager
def fails(error: str, *, at: int = 1, times: float = 1) -> Iterator[Writes]:
    """From its write number `at` on, the database of the store fails: `times` times, or always (infinity)."""
    writes = Writes(error, at, times)
    calls = ("do_execute", "do_executemany", "do_execute_no_params")
    for call in calls:
        event.listen(Engine, call, writes)
    try:
        yield writes
    finally:
        for call in calls:
            event.remove(Engine, call, writes)


@contextmanager
def file_fails(name: str) -> Iterator[list[str]]:
    """The disk is full when a file, or a folder with a file, of this name is logged; the value lists those hit."""
    hit: list[str] = []

    def full(real: Any) -> Any:
        def log(self: LocalArtifactRepository, local: str, *place: Any) -> None:
            if Path(local).name == name or (Path(local).is_dir() and any(Path(local).rglob(name))):
                hit.append(local)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), local)
            real(self, local, *place)

        return log

    with pytest.MonkeyPatch.context() as patch:
        for call in ("log_artifact", "log_artifacts"):
            patch.setattr(LocalArtifactRepository, call, full(getattr(LocalArtifactRepository, call)))
        yield hit


@contextmanager
def held(database: Path, seconds: float | None = None) -> Iterator[None]:
    """Another program writes to the database: nothing else can be read or written, for so long or until the end."""
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        if seconds is None:
            yield
            return
        release = threading.Timer(seconds, other.execute, ["ROLLBACK"])
        release.start()
        try:
            yield
        finally:
            release.join()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """An empty disk of this size, mounted in a folder; needs the right to mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all space on the disk of a folder."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return path
