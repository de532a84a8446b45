"""One file from anywhere fsspec reaches, whole or not at all; a cut download goes on where it stopped.

The bytes gather in a folder that outlives a crash, beside a note of which version of the file they belong to.
The file gets its name when its last byte has arrived and its checksum is right.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import fsspec
from tqdm import tqdm

from pneumonia import UserError, reason

if TYPE_CHECKING:
    from hashlib import _Hash

# What is lost when a line drops in the middle of a range, against one round trip for each.
BLOCK = 2 * 2**20

# Of an answer that is read as it comes, aiohttp collects a step in advance, and loses that when the line drops.
STEP = 2**18

# By these names `fs.info` tells versions of a file apart: HTTP, local and SFTP, S3, Google, Azure, FTP.
_VERSION = ("ETag", "Last-Modified", "mtime", "LastModified", "etag", "last_modified", "modify")

# aiohttp allows five minutes for a whole answer, which is too short for an archive; a silent line is what ends it.
_WEB = {
    "client_kwargs": {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60),
        # A compressed answer has another length and other ranges than the file.
        "headers": {"Accept-Encoding": "identity"},
    }
}

_BY_HAND = "bring the archive by hand and set fetch.url to its path"


class _CutError(Exception):
    """An attempt that ended early, where another one may help."""


class _NoRangeError(Exception):
    """The other side gives this file from its beginning only."""


def bring(
    url: str,
    target: Path,
    *,
    resume: Path,
    checksum: str | None = None,
    pauses: Sequence[float] = (1, 2, 4, 8),
    label: str = "fetch",
) -> str:
    """Bring a file to `target`, replacing what is there only when all of it has arrived; returns its hex SHA-256.

    Args:
        url: absolute path or fsspec URL.
        target: name of the finished file.
        resume: an existing folder, of this `url` alone, that keeps what has arrived for the next call. A later call
            goes on after the last byte if the file at `url` is still the same version, and starts over if not.
        checksum: `md5:<hex>` or `sha256:<hex>` of the whole file; None = not checked.
        pauses: seconds to wait before each further attempt. An attempt that gets further than all before it starts
            the row again: a bad line may drop any number of times as long as it moves on.
        label: names the progress bar and the lines about further attempts.

    Raises:
        UserError: missing, unreachable, cut short, empty, no file, or not what `checksum` names.
        OSError: the disk of `resume` or `target` is full or not writable.
    """
    algorithm, _, expected = (checksum or "").partition(":")
    fs, path = _reach(url)
    part = resume / "part"
    digests: dict[str, _Hash] = {}
    most, waits, attempt = 0, iter(pauses), 1
    while True:
        try:
            _attempt(fs, path, url, resume, {"sha256", algorithm or "sha256"}, digests, label)
            break
        except _CutError as cut:
            have = part.stat().st_size if part.exists() else 0
            if have > most:
                most, waits = have, iter(pauses)
            pause = next(waits, None)
            if pause is None:
                raise _given_up(url, have, _noted(resume).get("size"), cut) from cut
            attempt += 1
            print(f"{label}: attempt {attempt} in {pause:g} s, {have:,} bytes so far ({cut})", flush=True)
            time.sleep(pause)
    if expected and (arrived := digests[algorithm].hexdigest()) != expected.lower():
        _forget(resume)
        if algorithm == "md5":
            raise UserError(
                f"{url}: MD5 is {arrived}, the published one is {expected}: the file is damaged or another one"
            )
        raise UserError(
            f"{url}: SHA-256 is {arrived}, {expected} was expected; download it again or correct fetch.sha256"
        )
    _move(part, target)
    _forget(resume)
    return digests["sha256"].hexdigest()


def _reach(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path there."""
    try:
        # A file system that is kept from an earlier call may remember what the file was then.
        fs, path = fsspec.core.url_to_fs(url, skip_instance_cache=True, **(_WEB if _on_the_web(url) else {}))
        return fs, path
    except ImportError as error:
        package = (getattr(error.__cause__ or error, "name", None) or "").partition(".")[0]
        remedy = f"the package {package} is missing; pip install {package}" if package else _reason(error)
        raise UserError(f"{url}: {remedy}, or {_BY_HAND}") from error
    # An unknown protocol; what a file system says to a malformed address is its own affair.
    except Exception as error:
        raise UserError(f"{url}: the download failed ({_reason(error)}); correct fetch.url, or {_BY_HAND}") from error


def _on_the_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _attempt(
    fs: Any, path: str, url: str, resume: Path, algorithms: set[str], digests: dict[str, _Hash], label: str
) -> None:
    """Complete `part`, from its last byte where it belongs to what `url` holds now.

    Args:
        algorithms: what to compute over the whole file.
        digests: of the bytes in `part`, kept up to date; empty where they are still to be read.

    Raises:
        _CutError: it ended early; what has arrived is in `part`.
        UserError: another attempt would end the same way.
    """
    version = _version(fs, path, url)
    part, size = resume / "part", version["size"]
    start = part.stat().st_size if part.exists() and _noted(resume) == version else 0
    if start == 0 or (size is not None and start > size):
        start = _start_over(resume, version, algorithms, digests)
    elif not digests:
        digests.update({name: _digest(part, name) for name in algorithms})
    if start != size:
        try:
            _append(fs, path, url, part, start, size, digests, label)
        except _NoRangeError:
            start = _start_over(resume, version, algorithms, digests)
            _append(fs, path, url, part, start, size, digests, label)
    have = part.stat().st_size
    if have == 0:
        raise UserError(f"{url}: the file is empty; correct fetch.url")
    if size is not None and have < size:
        raise _CutError("the answer ended early")
    # From the beginning, the web gives the file in one answer, which is one version. Anything else was put
    # together from several reads, and the file may have been replaced between them.
    together = start > 0 or not _on_the_web(url)
    if have != (size or have) or (together and _version(fs, path, url) != version):
        (resume / "state.json").unlink()
        raise _CutError("the file changed meanwhile")


def _version(fs: Any, path: str, url: str) -> dict[str, Any]:
    """What tells this version of a remote file from another one, as JSON keeps it."""
    try:
        fs.invalidate_cache()
        info = fs.info(path)
    except Exception as error:
        raise _verdict(url, error) from error
    if info.get("type") in ("directory", "other"):
        what = "a folder" if info["type"] == "directory" else "a device or a pipe"
        raise UserError(f"{url}: {what}, not a file; set fetch.url to the archive itself")
    if info.get("size") == 0:
        raise UserError(f"{url}: the file is empty; correct fetch.url")
    marks = {name: str(info[name]) for name in _VERSION if info.get(name) is not None}
    return {"url": url, "size": info.get("size"), **marks}


def _noted(resume: Path) -> dict[str, Any]:
    try:
        noted = json.loads((resume / "state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or a crash while it was written
        return {}
    return noted if isinstance(noted, dict) else {}


def _start_over(resume: Path, version: dict[str, Any], algorithms: set[str], digests: dict[str, _Hash]) -> int:
    """An empty `part` of `version`; returns 0, its length."""
    # In this order, so that no crash leaves old bytes beside the note of another version.
    _forget(resume)
    (resume / "state.json").write_text(json.dumps(version), encoding="utf-8")
    (resume / "part").touch()
    digests.clear()
    digests.update({name: hashlib.new(name, usedforsecurity=False) for name in algorithms})
    return 0


def _forget(resume: Path) -> None:
    for name in ("part", "state.json"):
        (resume / name).unlink(missing_ok=True)


def _digest(path: Path, algorithm: str) -> _Hash:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))


def _append(
    fs: Any, path: str, url: str, part: Path, start: int, size: int | None, digests: dict[str, _Hash], label: str
) -> None:
    # The part of the other side is a generator that passes judgement on its own errors, so that those of the disk
    # here stay what they are.
    with (
        closing(_blocks(fs, path, url, start)) as blocks,
        open(part, "ab") as file,
        tqdm(
            total=size,
            initial=start,
            desc=label,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=None,
            leave=False,
        ) as bar,
    ):
        for block in blocks:
            file.write(block)
            for digest in digests.values():
                digest.update(block)
            bar.update(len(block))


def _blocks(fs: Any, path: str, url: str, start: int) -> Generator[bytes, None, None]:
    """The bytes of a remote file from `start` on.

    From its beginning, HTTP gives a file as one answer (`block_size` 0): there are no round trips between blocks, and
    the server need not know ranges.
    """
    web = _on_the_web(url)
    step = STEP if web and not start else BLOCK
    try:
        with fs.open(path, "rb", **({"block_size": start and BLOCK, "cache_type": "none"} if web else {})) as file:
            if start:
                file.seek(start)
            while block := file.read(step):
                yield block
    # fsspec leaves the errors of its transports as they are, and each has a family of its own.
    except Exception as error:
        if start and isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
            raise _NoRangeError from error
        raise _verdict(url, error) from error


def _verdict(url: str, error: Exception) -> Exception:
    """What an error of the other side means: a `_CutError` where another attempt may help, or a `UserError`."""
    hidden = error.__cause__
    if isinstance(error, (FileNotFoundError, TimeoutError)) and isinstance(hidden, (aiohttp.ClientError, OSError)):
        error = hidden  # fsspec's HTTP says "not found" to whatever fails at first, and its timeouts say nothing
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or status in (404, 410):
        return UserError(f"{url}: no such file; correct fetch.url")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{url}: a folder, not a file; set fetch.url to the archive itself")
    refused = isinstance(error, PermissionError) or status in (401, 403)
    lasting = (
        refused
        or isinstance(error, (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError))
        or (status is not None and status < 500 and status not in (408, 429))
    )
    if isinstance(error, (OSError, aiohttp.ClientError)) and not lasting:
        return _CutError(_reason(error))
    return UserError(
        f"{url}: the download failed ({_reason(error)}); check {'the access rights' if refused else 'fetch.url'}, "
        f"or {_BY_HAND}"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # whose words repeat the address
        return f"{type(error).__name__}: {error.status} {error.message}"
    return reason(error)


def _given_up(url: str, have: int, size: int | None, cut: _CutError) -> UserError:
    if have == 0:
        return UserError(f"{url}: the download failed ({cut}); check the network, or {_BY_HAND}")
    return UserError(
        f"{url}: {have:,}{f' of {size:,}' if size else ''} bytes arrived ({cut}); run again to go on from there, or "
        "bring the file by hand and set fetch.url to its path"
    )


def _move(part: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(part, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A name cannot move to another file system; there, the bytes get a name of their own first.
        partial = target.with_name(f".partial-{target.name}")
        try:
            shutil.copyfile(part, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
