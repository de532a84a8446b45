"""One file from anywhere fsspec reaches, complete or not at all; a cut download goes on where it stopped.

The bytes are collected in a folder that may outlive a crash, beside a note of which version of the file they belong to.
The file gets its name when its last byte has arrived and its checksum is right.
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
        "trust_env": True,  # the proxies of http_proxy, https_proxy and no_proxy
    }
}

_BY_HAND = "download the archive by hand and set fetch.url to its path"


class DownloadError(UserError):
    """A file that could not be downloaded: address, reason and remedy.

    Attributes:
        reason: what happened, for a caller who has another remedy than those of `fetch.url`.
    """

    def __init__(self, url: str, reason: str, remedy: str) -> None:
        super().__init__(url, reason, remedy)
        self.reason = reason

    def __str__(self) -> str:
        url, reason, remedy = self.args
        return f"{url}: {reason}; {remedy}"


class _CutError(Exception):
    """An attempt that ended early, where another one may help."""


class _NoRangeError(Exception):
    """The server sends this file from its beginning only."""


class _Remote(NamedTuple):
    """A file of an fsspec file system, and until when (`time.monotonic`) it may be read."""

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
    """Download a file to `target`, replacing what is there only when all of it has arrived; returns its hex SHA-256.

    Args:
        url: absolute path or fsspec URL.
        target: name of the finished file.
        resume: an existing folder, of this `url` alone, that keeps what has arrived for the next call. A later call
            goes on after the last byte if the file at `url` is still the same version, and starts over if not.
        checksum: `md5:<hex>` or `sha256:<hex>` of the whole file; None = not checked.
        pauses: seconds to wait before each further attempt. An attempt that gets further than all before it starts
            the row again: a bad line may drop any number of times as long as it moves on.
        seconds: give up when everything together takes longer; None = no limit. On the web this includes the time in
            which nothing arrives; elsewhere the time is checked after each block.
        label: names the progress bar and the lines about further attempts.

    Raises:
        DownloadError: missing, unreachable, too slow, cut short, empty, no file, or not what `checksum` names.
        OSError: the disk of `resume` or `target` is full or not writable.
    """
    algorithm, _, expected = (checksum or "").partition(":")
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    remote = _reach(url, deadline)
    part = resume / "part"
    digests: dict[str, _Hash] = {}
    most, waits, attempt = 0, iter(pauses), 1
    while True:
        try:
            _attempt(remote, resume, {"sha256", algorithm or "sha256"}, digests, label)
            break
        except _CutError as cut:
            have = part.stat().st_size if part.exists() else 0
            if have > most:
                most, waits = have, iter(pauses)
            pause = next(waits, None)
            late = time.monotonic() + (pause or 0) >= deadline
            if pause is None or late:
                why = f"not complete after {seconds:.3g} s" if late else str(cut)
                raise _given_up(url, have, _noted(resume).get("size"), why) from cut
            attempt += 1
            print(f"{label}: attempt {attempt} in {pause:g} s, {have:,} bytes so far ({cut})", flush=True)
            time.sleep(pause)
    if expected and (arrived := digests[algorithm].hexdigest()) != expected.lower():
        _forget(resume)
        if algorithm == "md5":
            mismatch = f"MD5 is {arrived}, the published one is {expected}: the file is damaged or another one"
            raise DownloadError(url, mismatch, "download it again")
        mismatch = f"SHA-256 is {arrived}, {expected} was expected"
        raise DownloadError(url, mismatch, "download it again or correct fetch.sha256")
    _move(part, target)
    _forget(resume)
    return digests["sha256"].hexdigest()


def _reach(url: str, deadline: float) -> _Remote:
    options: dict[str, Any] = {}
    if _on_the_web(url):
        options = _WEB if deadline == float("inf") else {**_WEB, "get_client": _limited_client(deadline)}
    try:
        # A file system that is kept from an earlier call may remember what the file was then.
        fs, path = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)
        return _Remote(fs, path, url, deadline)
    except ImportError as error:
        package = (getattr(error.__cause__ or error, "name", None) or "").partition(".")[0]
        if not package:
            raise DownloadError(url, _reason(error), _BY_HAND) from error
        remedy = f"pip install {package}, or {_BY_HAND}"
        raise DownloadError(url, f"the package {package} is missing", remedy) from error
    # An unknown protocol, or a malformed address, for which each file system has an error of its own.
    except Exception as error:
        raise DownloadError(url, _failed(_reason(error)), f"correct fetch.url, or {_BY_HAND}") from error


def _on_the_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


class _LimitedSession:
    """An HTTP session whose requests end at a deadline, whatever they wait for: name, connection, headers or body."""

    def __init__(self, session: aiohttp.ClientSession, deadline: float) -> None:
        self._session, self._deadline = session, deadline
        self.close = session.close
        self._connector = session.connector  # fsspec closes this one where the session takes too long to close

    def head(self, url: Any, **options: Any) -> Any:
        return self._session.head(url, timeout=self._timeout(), **options)

    def get(self, url: Any, **options: Any) -> Any:
        return self._session.get(url, timeout=self._timeout(), **options)

    def _timeout(self) -> aiohttp.ClientTimeout:
        # aiohttp takes 0 for "no limit", and rounds up to a second what is longer than `ceil_threshold`.
        return aiohttp.ClientTimeout(total=max(self._deadline - time.monotonic(), 0.001), ceil_threshold=float("inf"))


def _limited_client(deadline: float) -> Callable[..., Awaitable[_LimitedSession]]:
    async def client(**options: Any) -> _LimitedSession:
        return _LimitedSession(aiohttp.ClientSession(**options), deadline)

    return client


def _attempt(remote: _Remote, resume: Path, algorithms: set[str], digests: dict[str, _Hash], label: str) -> None:
    """Complete `part`, from its last byte where it belongs to what `remote` contains now.

    Args:
        algorithms: what to compute over the whole file.
        digests: of the bytes in `part`, kept up to date; empty where they are still to be read.

    Raises:
        _CutError: it ended early; what has arrived is in `part`.
        DownloadError: another attempt would end the same way.
    """
    version = _version(remote)
    part, size = resume / "part", version["size"]
    start = part.stat().st_size if part.exists() and _noted(resume) == version else 0
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
    have = part.stat().st_size
    if have == 0:
        raise DownloadError(remote.url, "the file is empty", "correct fetch.url")
    if size is not None and have < size:
        raise _CutError("the answer ended early")
    # From the beginning, the web gives the file in one answer, which is one version. Anything else was put
    # together from several reads, and the file may have been replaced between them.
    together = start > 0 or not _on_the_web(remote.url)
    if have != (size or have) or (together and _version(remote) != version):
        (resume / "state.json").unlink()
        raise _CutError("the file changed meanwhile")


def _version(remote: _Remote) -> dict[str, Any]:
    """What tells this version of a remote file from another one, as JSON keeps it."""
    try:
        remote.fs.invalidate_cache()
        info = remote.fs.info(remote.path)
    except Exception as error:
        raise _verdict(remote.url, error) from error
    if info.get("type") in ("directory", "other"):
        kind = "a folder" if info["type"] == "directory" else "a device or a pipe"
        raise DownloadError(remote.url, f"{kind}, not a file", "set fetch.url to the archive itself")
    if info.get("size") == 0:
        raise DownloadError(remote.url, "the file is empty", "correct fetch.url")
    marks = {name: str(info[name]) for name in _VERSION if info.get(name) is not None}
    return {"url": remote.url, "size": info.get("size"), **marks}


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


def _append(remote: _Remote, part: Path, start: int, size: int | None, digests: dict[str, _Hash], label: str) -> None:
    # What reads from the server is a generator with an error handling of its own: errors of the disk here are not
    # taken for errors of the server.
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
                raise _CutError("too slow")


def _blocks(remote: _Remote, start: int) -> Generator[bytes, None, None]:
    """The bytes of a remote file from `start` on.

    From its beginning, HTTP gives a file as one answer (`block_size` 0): there are no round trips between blocks, and
    the server need not know ranges.
    """
    web = _on_the_web(remote.url)
    step = STEP if web and not start else BLOCK
    options = {"block_size": start and BLOCK, "cache_type": "none"} if web else {}
    try:
        with remote.fs.open(remote.path, "rb", **options) as file:
            if start:
                file.seek(start)
            while block := file.read(step):
                yield block
    # fsspec leaves the errors of its transports as they are, and each has a family of its own.
    except Exception as error:
        if start and isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
            raise _NoRangeError from error
        raise _verdict(remote.url, error) from error


def _verdict(url: str, error: Exception) -> Exception:
    """What an error of the file system means: a `_CutError` where another attempt may help, or a `DownloadError`."""
    hidden = error.__cause__
    if isinstance(error, (FileNotFoundError, TimeoutError)) and isinstance(hidden, (aiohttp.ClientError, OSError)):
        error = hidden  # fsspec's HTTP says "not found" to whatever fails at first, and its timeouts say nothing
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or status in (404, 410):
        return DownloadError(url, "no such file", "correct fetch.url")
    if isinstance(error, IsADirectoryError):
        return DownloadError(url, "a folder, not a file", "set fetch.url to the archive itself")
    refused = isinstance(error, PermissionError) or status in (401, 403)
    lasting = (
        refused
        or isinstance(error, (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError))
        or (status is not None and status < 500 and status not in (408, 429))
    )
    if isinstance(error, (OSError, aiohttp.ClientError)) and not lasting:
        return _CutError(_reason(error))
    remedy = f"check {'the access rights' if refused else 'fetch.url'}, or {_BY_HAND}"
    return DownloadError(url, _failed(_reason(error)), remedy)


def _failed(why: str) -> str:
    return f"the download failed ({why})"


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # whose words repeat the address
        return f"{type(error).__name__}: {error.status} {' '.join(error.message.split())}"
    return reason(error)


def _given_up(url: str, have: int, size: int | None, why: str) -> DownloadError:
    if have == 0:
        return DownloadError(url, _failed(why), f"check the network, or {_BY_HAND}")
    remedy = f"run again to go on from there, or {_BY_HAND}"
    return DownloadError(url, f"{have:,}{f' of {size:,}' if size else ''} bytes arrived ({why})", remedy)


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
