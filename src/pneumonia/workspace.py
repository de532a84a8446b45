"""The project's folder, files that are written whole or not at all, and folders that survive a crash."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from pneumonia import UserError

_DVC_EXPERIMENT = re.compile(r"(.*?)[/\\]\.dvc[/\\]tmp[/\\]exps[/\\]")


def project_root(folder: Path | None = None) -> Path:
    """The project's folder, also from inside DVC's temporary experiment folders.

    `dvc exp run --temp` and the queue run a stage in `<root>/.dvc/tmp/exps/…`, a folder that is
    removed afterwards; files that must outlive the experiment belong under the root.
    """
    here = (folder or Path.cwd()).resolve()
    inside_experiment = _DVC_EXPERIMENT.match(f"{here}/")
    return Path(inside_experiment[1]) if inside_experiment else here


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` if the block succeeds and is removed if it fails.

    Works for files and folders. Remains of an earlier writer that was killed are removed first. A folder takes the
    place of a file or a folder, a file that of a file.

    Raises:
        UserError: a file was written, and there is a folder: it stays.
    """
    final = Path(path)
    partial = final.with_name(f".partial-{final.name}")
    final.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        if final.is_dir():
            if not partial.is_dir():
                raise UserError(f"{final} is a folder, where a file is to be written; move it or name another file")
            remove(final)
        partial.replace(final)
    finally:
        remove(partial)


@contextmanager
def resumable(stage: str, *key: object) -> Iterator[Path]:
    """A folder that survives a crash of `stage`: the same one for the same `key`, used by one process at a time.

    It is under the project's root, where DVC does not remove it before a stage runs. It stays if the block fails and is
    removed if the block succeeds.

    Args:
        stage: name of a stage.
        key: all that the results of the stage depend on: settings, digests of data and code.
    """
    name = sha256_bytes("\n".join(map(str, key)).encode())[:16]
    folder = project_root() / ".resume" / stage / name
    # Beside the folder and not in it: another process may wait for the lock when the folder is removed.
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        remove(folder)


def seal(path: Path) -> None:
    """Write the SHA-256 of a complete file beside it: `is_sealed` then says whether the file is still the same."""
    _seal_of(path).write_text(sha256_file(path), encoding="utf-8")


def is_sealed(path: Path) -> bool:
    """Whether a file is as it was when `seal` was called; false without a file or a seal."""
    seal_path = _seal_of(path)
    return path.is_file() and seal_path.is_file() and seal_path.read_text(encoding="utf-8") == sha256_file(path)


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Hex SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
