"""Download one file from any address that fsspec supports, complete or not at all; an interrupted one is resumed.

The bytes are collected in a folder that survives a crash, beside a record of the version of the file. The file gets its
name when its last byte has arrived and its checksum is correct.

A server may be slow, silent, wrong or hostile: silence, speed, time, size and disk have limits, and each ends in one
line.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import fsspec
from tqdm import tqdm

from pneumonia import UserError, reason
from pneumonia.credentials import NO_CREDENTIALS, Credentials, masked
from pneumonia.data import web

if TYPE_CHECKING:
    from hashlib import _Hash

# Bytes of a range request. A larger one loses more when the connection breaks; smaller ones need more round trips.
BLOCK = 2 * 2**20

# Bytes of a read from a whole response. aiohttp reads one step ahead, and loses it when the connection breaks.
STEP = 2**18

MAX_BYTES = 200 * 2**30
"""Largest file: the million images that an archive may have, at the 200 kB of an image of `chest_xray`."""
MIN_FREE = 256 * 2**20
"""Bytes that stay free on the disk, for other programs."""
MIN_SPEED = 2_000
"""Bytes a second, on average over `WINDOW` seconds. A slower connection needs a week for the 1.2 GB of `chest_xray`."""
WINDOW = 60.0
"""Seconds between two looks at the speed; where there is no terminal for a progress bar, each prints a line."""
MAX_SECONDS = 24 * 3600.0
"""Time of one call. What has arrived is kept: the next call continues."""
PATIENCE = 120.0
"""Seconds without progress, over all attempts, after which there is no other one."""
PROGRESS = 2**16
"""Bytes of an attempt that count as progress. With one byte in each attempt, a file would never be complete."""
MAX_WAIT = 300.0
"""Longest time, in seconds, for which a server is waited for that says when to ask again (`Retry-After`)."""

# Keys of `fs.info` that differ between versions of a file: HTTP, local and SFTP, S3, Google, Azure, FTP.
_VERSION = ("ETag", "Last-Modified", "mtime", "LastModified", "etag", "last_modified", "modify")

_BY_HAND = "download the archive by hand and set fetch.url to its path"


class DownloadError(UserError):
    """A file that could not be downloaded: address, reason and remedy.

    Attributes:
        reason: what happened, for a caller whose remedy is not about `fetch.url`.
    """

    def __init__(self, url: str, reason: str, remedy: str) -> None:
        url, reason = masked(url), masked(reason)
        super().__init__(url, reason, remedy)
        self.reason = reason

    def __str__(self) -> str:
        url, reason, remedy = self.args
        return f"{url}: {reason}; {remedy}"


class _IncompleteError(Exception):
    """An attempt ended early; another one may succeed.

    Attributes:
        wait: seconds after which the server wants to be asked again.
        progress: whether the attempt may count as progress.
    """

    def __init__(self, text: str, *, wait: float = 0.0, progress: bool = True) -> None:
        super().__init__(masked(text))
        self.wait, self.progress = wait, progress


class _TooLargeError(DownloadError):
    """More bytes than are allowed, or than the disk has room for."""


class _NoRangeError(Exception):
    """The server does not support range requests for this file."""


class _Remote(NamedTuple):
    """A file of an fsspec file system, and the time (`time.monotonic`) when reading must end."""

    fs: Any
    path: str
    url: str
    deadline: float


def download_file(
    url: str,
    target: Path,
    *,
    resume: Path,
    checksum: str | None = None,
    pauses: Sequence[float] = (1, 2, 4, 8),
    seconds: float = MAX_SECONDS,
    max_bytes: int = MAX_BYTES,
    credentials: Credentials = NO_CREDENTIALS,
    label: str = "fetch",
) -> str:
    """Download a file to `target` and return its hex SHA-256; only a complete file replaces an existing one.

    Args:
        url: absolute path or fsspec URL.
        target: name of the finished file.
        resume: an existing folder, for this `url` only, that keeps the received bytes for the next call. It continues
            after the last byte if the file at `url` is still the same version, and starts over if not.
        checksum: `md5:<hex>` or `sha256:<hex>` of the whole file; None = not checked.
        pauses: seconds to wait before each retry; a server may ask for more, up to `MAX_WAIT`. The list starts again
            after an attempt that got further than all before: a connection may break any number of times as long as
            there is progress. After `PATIENCE` seconds without it there is no retry.
        seconds: time limit for all attempts together. Over HTTP it includes the time in which nothing arrives;
            elsewhere the time is checked after each block.
        max_bytes: limit of the size.
        credentials: sent over HTTP to the host of `url` only, also after a redirect.
        label: text of the progress bar and of the lines about retries and progress.

    Raises:
        DownloadError: the file is missing, unreachable, too slow, too large for `max_bytes` or the disk, incomplete,
            empty, a folder, a web page, or fails its `checksum`.
        OSError: the disk of `resume` or `target` is full or not writable.
    """
    algorithm, _, expected = (checksum or "").partition(":")
    start = last_progress = time.monotonic()
    remote = _open_remote(url, start + seconds, credentials)
    part = resume / "part"
    digests: dict[str, _Hash] = {}
    most_bytes, waits, attempt = 0, iter(pauses), 1
    while True:
        try:
            _attempt(remote, resume, {"sha256", algorithm or "sha256"}, digests, max_bytes, label)
            break
        except _IncompleteError as error:
            n_bytes = part.stat().st_size if part.exists() else 0
            if error.progress and n_bytes >= most_bytes + PROGRESS:
                most_bytes, waits, last_progress = n_bytes, iter(pauses), time.monotonic()
            pause = next(waits, None)
            wait = max(pause or 0, error.wait)
            why = ""
            if time.monotonic() + wait >= start + seconds:
                limit = f"{seconds:.3g} s" if seconds < 3600 else f"{seconds / 3600:.3g} h"
                why = f"not complete after {limit}"
            elif error.wait > MAX_WAIT:
                why = f"{error}; the server wants to be asked again in {error.wait:,.0f} s"
            elif pause is None or time.monotonic() > last_progress + PATIENCE:
                why = str(error)
            if why:
                raise _incomplete_download(url, n_bytes, _recorded_version(resume).get("size"), why) from error
            attempt += 1
            print(f"{label}: attempt {attempt} in {wait:g} s, {n_bytes:,} bytes so far ({error})", flush=True)
            time.sleep(wait)
            last_progress += error.wait  # as the server wants
    if web.is_http(url) and web.is_page(part):
        _delete_part(resume)
        page = "a web page instead of the file: a login, a page about the file, or a message of this network"
        raise DownloadError(url, page, f"set fetch.url to the file itself, log in ({web.LOGIN}), or {_BY_HAND}")
    if expected and (actual := digests[algorithm].hexdigest()) != expected.lower():
        _delete_part(resume)
        if algorithm == "md5":
            mismatch = f"MD5 is {actual}, the published one is {expected}: the file is damaged or was replaced"
            raise DownloadError(url, mismatch, "download it again")
        mismatch = f"SHA-256 is {actual}, {expected} was expected"
        raise DownloadError(url, mismatch, "download it again or correct fetch.sha256")
    _move(part, target)
    _delete_part(resume)
    return digests["sha256"].hexdigest()


def _open_remote(url: str, deadline: float, credentials: Credentials) -> _Remote:
    options: dict[str, Any] = {}
    if web.is_http(url):
        options = {"client_kwargs": web.OPTIONS, "get_client": web.client(url, deadline, credentials)}
    try:
        # A cached file system could return information about an earlier version of the file.
        fs, path = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)
        return _Remote(fs, path, url, deadline)
    except ImportError as error:
        package = (getattr(error.__cause__ or error, "name", None) or "").partition(".")[0]
        if not package:
            raise DownloadError(url, _reason(error), _BY_HAND) from error
        remedy = f"pip install {package}, or {_BY_HAND}"
        raise DownloadError(url, f"the package {package} is missing", remedy) from error
    # An unknown protocol or a malformed address; each file system raises its own error.
    except Exception as error:
        raise DownloadError(url, _failure_text(_reason(error)), f"correct fetch.url, or {_BY_HAND}") from error


def _attempt(
    remote: _Remote, resume: Path, algorithms: set[str], digests: dict[str, _Hash], max_bytes: int, label: str
) -> None:
    """Complete `part`, from its last byte if it belongs to the present version of `remote`.

    Args:
        algorithms: of the digests of the whole file.
        digests: of the bytes in `part`, updated here; empty if these bytes were not read yet.
        max_bytes, label: as `download_file` says.

    Raises:
        _IncompleteError: it ended early; the received bytes are in `part`.
        DownloadError: another attempt would fail in the same way.
    """
    version = _version(remote)
    part, size = resume / "part", version["size"]
    start = part.stat().st_size if part.exists() and _recorded_version(resume) == version else 0
    if start == 0 or (size is not None and start > size):
        start = _start_over(resume, version, algorithms, digests)
    elif not digests:
        digests.update({name: _digest(part, name) for name in algorithms})
    if start != size:
        try:
            _require_room(remote.url, resume, (size or 0), (size or 0) - start, max_bytes)
            try:
                _append(remote, part, start, size, digests, max_bytes, label)
            except _NoRangeError:
                start = _start_over(resume, version, algorithms, digests)
                _append(remote, part, start, size, digests, max_bytes, label)
        except _TooLargeError:
            if size is None:  # it could go on for ever
                _delete_part(resume)
            raise
    n_bytes = part.stat().st_size
    if n_bytes == 0:
        raise DownloadError(remote.url, "the file is empty", "correct fetch.url")
    if size is not None and n_bytes < size:
        raise _IncompleteError("the response ended early")
    # From the beginning, HTTP sends the file in one response, which is one version. In all other cases there were
    # several reads, and the file may have been replaced between them.
    several_reads = start > 0 or not web.is_http(remote.url)
    if n_bytes != (size or n_bytes) or (several_reads and _version(remote) != version):
        (resume / "state.json").unlink()
        raise _IncompleteError("the file changed during the download")


def _require_room(url: str, folder: Path, size: int, n_missing: int, max_bytes: int) -> None:
    """Check that a file of `size` bytes, of which `n_missing` are to come, is allowed and has room on the disk."""
    if size > max_bytes:
        remedy = "correct fetch.url, or unpack the archive and set fetch.url to the folder"
        raise _TooLargeError(url, f"the file has {size:,} bytes or more, allowed are {max_bytes:,}", remedy)
    free = shutil.disk_usage(folder).free
    if n_missing > free - MIN_FREE:
        more = f"{n_missing:,} more bytes are needed" if n_missing else "more bytes are to come"
        room = f"no room on the disk: {more}, {free:,} are free in {folder}, and {MIN_FREE:,} must stay free"
        raise _TooLargeError(url, room, "free some space, or correct fetch.url")


def _version(remote: _Remote) -> dict[str, Any]:
    """What distinguishes this version of a remote file from other versions, as JSON values."""
    try:
        remote.fs.invalidate_cache()
        info = remote.fs.info(remote.path)
    except Exception as error:
        raise _translated(remote.url, error) from error
    if info.get("type") in ("directory", "other"):
        kind = "a folder" if info["type"] == "directory" else "a device or a pipe"
        raise DownloadError(remote.url, f"{kind}, not a file", "set fetch.url to the archive itself")
    if info.get("size") == 0:
        raise DownloadError(remote.url, "the file is empty", "correct fetch.url")
    marks = {name: str(info[name]) for name in _VERSION if info.get(name) is not None}
    return {"url": remote.url, "size": info.get("size"), **marks}


def _recorded_version(resume: Path) -> dict[str, Any]:
    try:
        version = json.loads((resume / "state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # no file, or a crash while it was written
        return {}
    return version if isinstance(version, dict) else {}


def _start_over(resume: Path, version: dict[str, Any], algorithms: set[str], digests: dict[str, _Hash]) -> int:
    """Make an empty `part` for `version`; returns 0, its length."""
    # In this order no crash leaves old bytes beside the record of another version.
    _delete_part(resume)
    (resume / "state.json").write_text(json.dumps(version), encoding="utf-8")
    (resume / "part").touch()
    digests.clear()
    digests.update({name: hashlib.new(name, usedforsecurity=False) for name in algorithms})
    return 0


def _delete_part(resume: Path) -> None:
    for name in ("part", "state.json"):
        (resume / name).unlink(missing_ok=True)


def _digest(path: Path, algorithm: str) -> _Hash:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))


def _append(
    remote: _Remote, part: Path, start: int, size: int | None, digests: dict[str, _Hash], max_bytes: int, label: str
) -> None:
    # The generator that reads from the server handles its own errors: errors of the disk are not mistaken for errors
    # of the server.
    with (
        closing(_blocks(remote, start, size)) as blocks,
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
        n_bytes, mark, n_marked = start, time.monotonic(), start
        for block in blocks:
            file.write(block)
            for digest in digests.values():
                digest.update(block)
            bar.update(len(block))
            n_bytes, now = n_bytes + len(block), time.monotonic()
            if size is not None and n_bytes > size:
                return  # it has changed, or its length was wrong
            _require_room(remote.url, part.parent, n_bytes, 0, max_bytes)
            if now > remote.deadline:
                raise _IncompleteError("too slow")
            if now - mark >= WINDOW:
                n_new = n_bytes - n_marked
                if n_new < MIN_SPEED * WINDOW:
                    slow = f"{n_new:,} bytes in {now - mark:,.3g} s, expected are {MIN_SPEED:,} a second"
                    raise _IncompleteError(f"too slow: {slow}", progress=False)
                if bar.disable:  # no terminal
                    of = f" of {size:,}" if size else ""
                    print(f"{label}: {n_bytes:,}{of} bytes, {n_new / (now - mark):,.0f} a second", flush=True)
                mark, n_marked = now, n_bytes


def _blocks(remote: _Remote, start: int, size: int | None) -> Generator[bytes, None, None]:
    """The bytes of a remote file from `start` on.

    From its beginning, HTTP sends a file as one response: there are no round trips between blocks, and the server need
    not support ranges. From elsewhere it sends ranges: of a response that breaks off, bytes may be lost that have
    arrived. All are read as streams, because a response may be longer than announced.
    """
    try:
        if not web.is_http(remote.url):
            with remote.fs.open(remote.path, "rb") as file:
                file.seek(start)
                while block := file.read(BLOCK):
                    yield block
        elif start == 0:
            yield from _response(remote, None, {})
        else:
            while start < (size or 0):
                end = min(start + BLOCK, size or 0)
                n_bytes = 0
                for block in _response(remote, end - start, {"Range": f"bytes={start}-{end - 1}"}):
                    n_bytes += len(block)
                    yield block
                if not n_bytes:
                    return
                start += n_bytes
    # fsspec passes on the errors of its transports, and each transport has its own error classes.
    except Exception as error:
        # 416: another version of the file is shorter.
        if isinstance(error, _NoRangeError) or (start and web.status(error) == 416):
            raise _NoRangeError from error
        raise _translated(remote.url, error) from error


def _response(remote: _Remote, limit: int | None, headers: dict[str, str]) -> Iterator[bytes]:
    """The bytes of one HTTP response, at most `limit`."""
    # A block size of 0 is a stream; with a size fsspec does not ask for it again.
    with remote.fs.open(remote.path, "rb", block_size=0, size=1, headers=headers) as file:
        if headers and not _is_range(file.r, headers["Range"]):
            raise _NoRangeError
        while limit != 0 and (block := file.read(min(STEP, limit or STEP))):
            limit = None if limit is None else limit - len(block)
            yield block


def _is_range(response: aiohttp.ClientResponse, wanted: str) -> bool:
    """Whether a response begins where the range `bytes=START-END` does."""
    start = wanted.removeprefix("bytes=").partition("-")[0]
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _translated(url: str, error: Exception) -> Exception:
    """An error of the file system: an `_IncompleteError` if another attempt may succeed, else a `DownloadError`."""
    cause = error.__cause__
    if isinstance(error, (FileNotFoundError, TimeoutError)) and isinstance(cause, Exception) and web.is_http(url):
        error = cause  # fsspec's HTTP calls every first failure "not found", and its timeouts have no text
    status = web.status(error)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or status in (404, 410):
        return DownloadError(url, "no such file", "correct fetch.url")
    if isinstance(error, IsADirectoryError):
        return DownloadError(url, "a folder, not a file", "set fetch.url to the archive itself")
    advice = "check the access rights" if isinstance(error, PermissionError) else web.advice(error)
    if isinstance(error, (OSError, aiohttp.ClientError)) and not advice:
        return _IncompleteError(_reason(error), wait=web.retry_after(error))
    return DownloadError(url, _failure_text(_reason(error)), f"{advice or 'check fetch.url'}, or {_BY_HAND}")


def _failure_text(why: str) -> str:
    return f"the download failed ({why})"


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # its text would repeat the address
        response = f": {error.status} {' '.join(error.message.split())}" if error.status else ""
        return f"{type(error).__name__}{response}"
    return reason(error)


def _incomplete_download(url: str, n_bytes: int, size: int | None, why: str) -> DownloadError:
    if n_bytes == 0:
        return DownloadError(url, _failure_text(why), f"check the network, or {_BY_HAND}")
    remedy = f"run again to continue from there, or {_BY_HAND}"
    return DownloadError(url, f"{n_bytes:,}{f' of {size:,}' if size else ''} bytes arrived ({why})", remedy)


def _move(part: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(part, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A rename cannot cross file systems: the bytes are copied under a temporary name first.
        partial = target.with_name(f".partial-{target.name}")
        try:
            shutil.copyfile(part, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
