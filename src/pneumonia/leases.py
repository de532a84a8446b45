"""Folders that belong to a process as long as it lives: what a killed process has left behind is found by them.

A process locks a file in its folder, and the kernel releases the lock when the process ends, however it ends. The
number of a process would say less: another process gets it later.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pneumonia import workspace

_STARTED = time.time_ns()


class Lease(NamedTuple):
    """A folder of this process.

    Attributes:
        folder: its name is unique.
        file: descriptor of the locked file.
    """

    folder: Path
    file: int


def take(parent: Path, kind: str) -> Lease:
    """A new folder `<parent>/<kind>-<8 random digits>` that belongs to this process, and that only this user can read.

    The name is short: sockets, whose paths may have 107 bytes, can lie in it.

    Raises:
        OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    name = f"{kind}-{secrets.token_hex(4)}"
    new, folder = parent / f".{name}", parent / name
    new.mkdir(mode=0o700)
    try:
        file = os.open(new / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        os.write(file, _owner())
        fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file, True)  # a program that takes the place of this one by `exec` keeps the lock
        new.rename(folder)  # `abandoned` sees it only now that it is locked
    except OSError:
        workspace.remove(new)
        raise
    return Lease(folder, file)


def release(lease: Lease) -> None:
    """Remove the folder and what is in it, also if a signal comes meanwhile."""
    try:
        shutil.rmtree(lease.folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(lease.folder, ignore_errors=True)
        raise
    finally:
        os.close(lease.file)


def abandoned(parent: Path, kind: str) -> Iterator[Path]:
    """The folders whose process is gone; each is removed after the caller is done with it.

    Only folders of this user that a process of this machine has made: of others it cannot be known. No other process
    gets the same folder meanwhile.
    """
    host, own = socket.gethostname().encode(), _owner()
    for folder in sorted(parent.glob(f"{kind}-*")):
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            owner = (folder / "lock").read_bytes()
            # Its own ones are locked, but a file system in the network may not lock against the same process.
            if owner == own or owner.split(b" ")[0] != host:
                continue
            file = os.open(folder / "lock", os.O_RDWR)
        except OSError:  # it has no lock, or another process has just removed it
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process lives
            os.close(file)
            continue
        try:
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(file)


def held(parent: Path) -> list[str]:
    """The names of the folders whose process lives on this machine; of another machine it cannot be known."""
    return [folder.name for folder in sorted(parent.glob("*-*")) if _is_held(folder)]


def _is_held(folder: Path) -> bool:
    try:
        with open(folder / "lock", "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it has no lock, or its process has just removed it
        pass
    return False


def _owner() -> bytes:
    # With the time: in a container the next process often has the same number.
    return f"{socket.gethostname()} {os.getpid()} {_STARTED}".encode()
