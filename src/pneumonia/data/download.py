"""Download one file from any address that fsspec supports, complete or not at all; an interrupted one is resumed.

The bytes are collected in a folder that survives a crash, beside a record of the version of the file. The file gets its
name when its last byte has arrived and its checksum is correct.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import fsspec
from tqdm import tqdm

from pneumonia import UserError, reason

if TYPE_CHECKING:
    from hashlib import _Hash

# Bytes of a range request. A larger one loses more when the connection breaks; smaller ones need more round trips.
BLOCK = 2 * 2**20

# Bytes of a read from a whole response. aiohttp reads one step ahead, and loses it when the connection breaks.
STEP = 2**18

# Keys of `fs.info` that differ between versions of a file: HTTP, local and SFTP, S3, Google, Azure, FTP.
_VERSION = ("ETag", "Last-Modified", "mtime", "LastModified", "etag", "last_modified", "modify")

# aiohttp's limit is five minutes for a whole response, too short for an archive. Here only a silent connection ends.
_WEB = {
    "client_kwargs": {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60),
        # A compressed response has another length and other ranges than the file.
        "headers": {"Accept-Encoding": "identity"},
        "trust_env": True,  # the proxies of http_proxy, https_proxy and no_proxy
    }
}

_BY_HAND = "download the archive by hand and set fetch.url to its path"


class DownloadError(UserError):
    """A file that could not be downloaded: address, reason and remedy.

    Attributes:
        reason: what happened, for a caller whose remedy is not about `fetch.url`.
    """

    def __init__(self, url: str, reason: str, remedy: str) -> None:
        super().__init__(url, reason, remedy)
        self.reason = reason

    def __str__(self) -> str:
        url, reason, remedy = self.args
        return f"{url}: {reason}; {remedy}"


class _IncompleteError(Exception):
    """An attempt ended early; another one may succeed."""


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
    seconds: float | None = None,
    label: str = "fetch",
) -> str:
    """Download a file to `target` and return its hex SHA-256; only a complete file replaces an existing one.

    Args:
        url: absolute path or fsspec URL.
        target: name of the finished file.
        resume: an existing folder, for this `url` only, that keeps the received bytes for the next call. It continues
            after the last byte if the file at `url` is still the same version, and starts over if not.
        checksum: `md5:<hex>` or `sha256:<hex>` of the whole file; None = not checked.
        pauses: seconds to wait before each retry. The list starts again after an attempt that got further than all
            before: a connection may break any number of times as long as there is progress.
        seconds: time limit for all attempts together; None = no limit. Over HTTP it includes the time in which nothing
            arrives; elsewhere the time is checked after each block.
        label: text of the progress bar and of the lines about retries.

    Raises:
        DownloadError: the file is missing, unreachable, too slow, incomplete, empty, a folder, or fails its `checksum`.
        OSError: the disk of `resume` or `target` is full or not writable.
    """
    algorithm, _, expected = (checksum or "").partition(":")
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    remote = _open_remote(url, deadline)
    part = resume / "part"
    digests: dict[str, _Hash] = {}
    most_bytes, waits, attempt = 0, iter(pauses), 1
    while True:
        try:
            _attempt(remote, resume, {"sha256", algorithm or "sha256"}, digests, label)
            break
        except _IncompleteError as error:
            n_bytes = part.stat().st_size if part.exists() else 0
            if n_bytes > most_bytes:
                most_bytes, waits = n_bytes, iter(pauses)
            pause = next(waits, None)
            timed_out = time.monotonic() + (pause or 0) >= deadline
            if pause is None or timed_out:
                why = f"not complete after {seconds:.3g} s" if timed_out else str(error)
                raise _incomplete_download(url, n_bytes, _recorded_version(resume).get("size"), why) from error
            attempt += 1
            print(f"{label}: attempt {attempt} in {pause:g} s, {n_bytes:,} bytes so far ({error})", flush=True)
            time.sleep(pause)
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


def _open_remote(url: str, deadline: float) -> _Remote:
    options: dict[str, Any] = {}
    if _is_http(url):
        options = _WEB if deadline == float("inf") else {**_WEB, "get_client": _limited_client(deadline)}
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


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


class _LimitedSession:
    """An HTTP session whose requests end at a deadline, in every phase: name, connection, headers or body."""

    def __init__(self, session: aiohttp.ClientSession, deadline: float) -> None:
        self._session, self._deadline = session, deadline
        self.close = session.close
        self._connector = session.connector  # fsspec closes it when closing the session takes too long

    def head(self, url: Any, **options: Any) -> Any:
        return self._session.head(url, timeout=self._timeout(), **options)

    def get(self, url: Any, **options: Any) -> Any:
        return self._session.get(url, timeout=self._timeout(), **options)

    def _timeout(self) -> aiohttp.ClientTimeout:
        # In aiohttp, 0 means "no limit", and a time above `ceil_threshold` is rounded up to a second.
        return aiohttp.ClientTimeout(total=max(self._deadline - time.monotonic(), 0.001), ceil_threshold=float("inf"))


def _limited_client(deadline: float) -> Callable[..., Awaitable[_LimitedSession]]:
    async def client(**options: Any) -> _LimitedSession:
        return _LimitedSession(aiohttp.ClientSession(**options), deadline)

    return client


def _attempt(remote: _Remote, resume: Path, algorithms: set[str], digests: dict[str, _Hash], label: str) -> None:
    """Complete `part`, from its last byte if it belongs to the present version of `remote`.

    Args:
        algorithms: of the digests of the whole file.
        digests: of the bytes in `part`, updated here; empty if these bytes were not read yet.

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
            _append(remote, part, start, size, digests, label)
        except _NoRangeError:
            start = _start_over(resume, version, algorithms, digests)
            _append(remote, part, start, size, digests, label)
    n_bytes = part.stat().st_size
    if n_bytes == 0:
        raise DownloadError(remote.url, "the file is empty", "correct fetch.url")
    if size is not None and n_bytes < size:
        raise _IncompleteError("the response ended early")
    # From the beginning, HTTP sends the file in one response, which is one version. In all other cases there were
    # several reads, and the file may have been replaced between them.
    several_reads = start > 0 or not _is_http(remote.url)
    if n_bytes != (size or n_bytes) or (several_reads and _version(remote) != version):
        (resume / "state.json").unlink()
        raise _IncompleteError("the file changed during the download")


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


def _append(remote: _Remote, part: Path, start: int, size: int | None, digests: dict[str, _Hash], label: str) -> None:
    # The generator that reads from the server handles its own errors: errors of the disk are not mistaken for errors
    # of the server.
    with (
        closing(_blocks(remote, start)) as blocks,
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
            if time.monotonic() > remote.deadline:
                raise _IncompleteError("too slow")


def _blocks(remote: _Remote, start: int) -> Generator[bytes, None, None]:
    """The bytes of a remote file from `start` on.

    From its beginning, HTTP sends a file as one response (`block_size` 0): there are no round trips between blocks, and
    the server need not support ranges.
    """
    web = _is_http(remote.url)
    step = STEP if web and not start else BLOCK
    options = {"block_size": start and BLOCK, "cache_type": "none"} if web else {}
    try:
        with remote.fs.open(remote.path, "rb", **options) as file:
            if start:
                file.seek(start)
            while block := file.read(step):
                yield block
    # fsspec passes on the errors of its transports, and each transport has its own error classes.
    except Exception as error:
        if start and isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
            raise _NoRangeError from error
        raise _translated(remote.url, error) from error


def _translated(url: str, error: Exception) -> Exception:
    """An error of the file system: an `_IncompleteError` if another attempt may succeed, else a `DownloadError`."""
    cause = error.__cause__
    if isinstance(error, (FileNotFoundError, TimeoutError)) and isinstance(cause, (aiohttp.ClientError, OSError)):
        error = cause  # fsspec's HTTP calls every first failure "not found", and its timeouts have no text
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or status in (404, 410):
        return DownloadError(url, "no such file", "correct fetch.url")
    if isinstance(error, IsADirectoryError):
        return DownloadError(url, "a folder, not a file", "set fetch.url to the archive itself")
    refused = isinstance(error, PermissionError) or status in (401, 403)
    permanent = (
        refused
        or isinstance(error, (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError))
        or (status is not None and status < 500 and status not in (408, 429))
    )
    if isinstance(error, (OSError, aiohttp.ClientError)) and not permanent:
        return _IncompleteError(_reason(error))
    remedy = f"check {'the access rights' if refused else 'fetch.url'}, or {_BY_HAND}"
    return DownloadError(url, _failure_text(_reason(error)), remedy)


def _failure_text(why: str) -> str:
    return f"the download failed ({why})"


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # its text would repeat the address
        return f"{type(error).__name__}: {error.status} {' '.join(error.message.split())}"
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
