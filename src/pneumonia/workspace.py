"""The project's folder, files that are written whole or not at all, and folders that survive a crash."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_DVC_EXPERIMENT = re.compile(r"(.*?)[/\\]\.dvc[/\\]tmp[/\\]exps[/\\]")


def project_root(folder: Path | None = None) -> Path:
    """The project's folder, also from inside DVC's temporary experiment folders.

    `dvc exp run --temp` and the queue run a stage in `<root>/.dvc/tmp/exps/…`, a folder that is
    thrown away; what must outlive the experiment belongs under the root.
    """
    here = (folder or Path.cwd()).resolve()
    inside_experiment = _DVC_EXPERIMENT.match(f"{here}/")
    return Path(inside_experiment[1]) if inside_experiment else here


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well and vanishes when it does not.

    Works for files and folders. What an earlier, killed writer left behind is removed first.
    """
    final = Path(path)
    partial = final.with_name(f".partial-{final.name}")
    final.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        if final.is_dir():
            remove(final)
        partial.replace(final)
    finally:
        remove(partial)


@contextmanager
def resumable(stage: str, *key: object) -> Iterator[Path]:
    """A folder for what must survive a crash of `stage`: the same one for the same `key`, for one process at a time.

    It lies under the project's root, outside of what DVC removes before a stage runs, stays when the block fails,
    and goes when the block ends well.

    Args:
        stage: name of a stage.
        key: all that decides what the stage makes: settings, digests of data and code.
    """
    name = sha256_bytes("\n".join(map(str, key)).encode())[:16]
    folder = project_root() / ".resume" / stage / name
    # Beside the folder, since it must not go with it: another process may wait for it.
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        remove(folder)


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Hex SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
