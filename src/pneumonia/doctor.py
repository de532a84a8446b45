"""What is on this machine, what is wrong with it, and what helps: `pneumonia doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pneumonia import UserError, __version__, params, reason, workspace
from pneumonia.data import sources
from pneumonia.models import runtime

PACKAGES = ("dvc", "mlflow", "tensorflow", "keras", "scikit-learn", "optuna", "great-expectations", "pandas")
PYTHON = ((3, 11), (3, 13))
"""Oldest and newest version of Python that the project is tested with."""
DISK, DISK_AT_EASE = 1, 5
"""GB of free space: less than the first stops the default run; less than the second is soon used up by experiments."""
SECONDS = 5.0
"""Patience with a server."""


Level = Literal["ok", "note", "wrong"]


class Finding(NamedTuple):
    """One line of the answer.

    Attributes:
        what: was looked at.
        level: `ok`; `note`: `make repro` runs, but something else will not; `wrong`: `make repro` cannot run.
        text: what was found, and, unless it is ok, what helps.
    """

    what: str
    level: Level
    text: str


Answer = tuple[Level, str]


def examine() -> Iterator[Finding]:
    """The findings, one after the other; what a check cannot use is one too, in the words of its error."""
    for what, check in CHECKS.items():
        try:
            level, text = check()
        except (UserError, OSError) as error:
            level, text = "wrong", str(error)
        yield Finding(what, level, text)


def _python() -> Answer:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, pneumonia {__version__}"
    oldest, newest = (".".join(map(str, one)) for one in PYTHON)
    if not PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        return "wrong", f"{found}; install Python {oldest} to {newest}, then: make clean setup PYTHON=python{newest}"
    if platform.system() != "Linux":
        return "note", f"{found}; only Linux is tested: use a container or WSL 2"
    return "ok", found


def _packages() -> Answer:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return "wrong", f"{', '.join(missing)} not installed; run: make clean setup"
    return "ok", ", ".join(found)


def _project() -> Answer:
    root = workspace.project_root()
    if not shutil.which("git"):
        return "wrong", "git is not installed; install it"
    for name in ("dvc.yaml", ".dvc", ".git"):
        if not (root / name).exists():
            return "wrong", f"{root} has no {name}; run from a clone of the repository"
    return "ok", str(root)


def _settings() -> Answer:
    settings = params.load()
    return "ok", f"data {settings.data}, model {settings.model}, weights {settings.weights}, target {settings.target}"


def _disk() -> Answer:
    root = workspace.project_root()
    free = shutil.disk_usage(root).free / 1e9
    if not os.access(root, os.W_OK):
        return "wrong", f"{root} cannot be written; check its owner and its permissions"
    if free < DISK:
        return "wrong", f"{free:.1f} GB free; the default run needs {DISK} GB: free some space (dvc gc -w, make clean)"
    if free < DISK_AT_EASE:
        return "note", f"{free:.1f} GB free; experiments add some 0.1 GB each: dvc gc -w removes old ones"
    return "ok", f"{free:.0f} GB free"


def _devices() -> Answer:
    runtime.start_keras()  # also looks at the memory
    hardware = runtime.made_with()["hardware"]
    if shutil.which("nvidia-smi") and "no GPU" in hardware:
        return "note", f"{hardware} that TensorFlow can use; for a GPU of NVIDIA: pip install -e '.[gpu]'"
    return "ok", hardware


def _store() -> Answer:
    from pneumonia.tracking import runs  # MLflow is imported for seconds

    return "ok", runs.open_store()


def _network() -> Answer:
    settings = params.load()
    address = settings.fetch.url or sources.source(settings.data).url
    if not address or urlsplit(address).scheme not in ("http", "https"):
        return "ok", f"not needed for data {settings.data}"
    parts = urlsplit(address)
    try:
        socket.create_connection((str(parts.hostname), parts.port or 443), SECONDS).close()
    except OSError as error:
        return "note", (
            f"{parts.hostname} does not answer ({reason(error)}); behind a proxy that may be right. Without a network "
            "set fetch.url to a file"
        )
    return "ok", f"{parts.hostname} answers"


CHECKS: dict[str, Callable[[], Answer]] = {
    "python": _python,
    "packages": _packages,
    "project": _project,
    "settings": _settings,
    "disk": _disk,
    "devices": _devices,
    "MLflow": _store,
    "network": _network,
}
