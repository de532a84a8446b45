"""Files wherever they lie: the members of an archive, a folder, a URL. One way to list them, one to read them."""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import fsspec

from pneumonia import UserError, reason

MAX_FILE_BYTES = 256 * 2**20
"""Files are read whole: a larger one is no X-ray, and a forged size a way to exhaust the memory."""
MAX_MEMBERS = 1_000_000
MAX_RATIO = 200
"""How many times larger than its packed form a member of more than 1 MiB may be; images hardly shrink."""

# Control characters, and what Python makes of bytes that are no UTF-8.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# `fetch` names the archive, others the members: a `::` more is theirs.
_ZIP_URI = re.compile(r"zip://(?P<member>.+)::(?P<archive>.+)")


class Files(NamedTuple):
    """The files of one place.

    Attributes:
        place: how messages name it.
        names: of the files below it, with `/` between folders, sorted.
        read: the bytes of one of them.
        uri: how a manifest names one of them, so that `read_bytes` finds it.
    """

    place: str
    names: list[str]
    read: Callable[[str], bytes]
    uri: Callable[[str], str]


@contextmanager
def in_archive(path: Path, *, stored: Path | None = None) -> Iterator[Files]:
    """The files of a zip archive, which is never unpacked.

    Reading a member whole verifies its CRC, so that a flipped bit ends here and not in a model.

    Args:
        path: of the archive.
        stored: where it will lie, as manifests and messages name it; None = `path`.

    Raises:
        UserError: no complete zip archive; a member that leaves the archive's folder, is a link, or is larger than
            an image can be; an unusual method of packing; too many members. Also from `read`: a damaged member; from
            `uri`: a name that no table can hold.
    """
    stored = stored or path
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # ValueError: a name that is no UTF-8
        raise UserError(
            f"{stored.name}: {path.stat().st_size:,} bytes arrived, but they are no complete zip archive ({error}); "
            "download it again"
        ) from error

    def read(member: str) -> bytes:
        try:
            return _unpack(archive, member)
        # RuntimeError: encrypted. ValueError: a name that is no UTF-8.
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
            raise UserError(f"{stored.name}: {member} is damaged ({error}); download the archive again") from error

    def uri(member: str) -> str:
        _require_writable(stored.name, member)
        return f"zip://{member}::{stored.as_posix()}"

    with archive:
        _require_harmless(archive, stored.name)
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        yield Files(stored.name, names, read, uri)


def in_folder(url: str) -> Files:
    """The files below a folder: a path, or a URL that fsspec can list.

    Raises:
        UserError: the folder cannot be listed. Also from `read`: a file cannot be read.
    """
    try:
        if "://" in url:
            system, root = fsspec.core.url_to_fs(url)
        else:  # fsspec would take a `::` in a path for a chain of file systems
            system, root = fsspec.filesystem("file"), Path(url).absolute().as_posix()
        found = system.find(root)
    # fsspec leaves the errors of its transports as they are, and each has a family of its own.
    except Exception as error:
        raise UserError(f"{url}: cannot be listed ({reason(error)}); correct fetch.url") from error
    prefix = str(root).rstrip("/") + "/"
    local = "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))

    def uri(name: str) -> str:
        _require_writable(url, name)
        if local:
            return prefix + name
        if "::" in name:
            raise UserError(f"{url}: {name}: `::` in a name means another file system in a URL; rename the file")
        return str(system.unstrip_protocol(prefix + name))

    names = sorted(path.removeprefix(prefix) for path in found)
    return Files(url, names, lambda name: read_bytes(uri(name)), uri)


def read_bytes(uri: str) -> bytes:
    """The bytes behind a `uri` of the manifest: a member of an archive, a path, or an fsspec URL.

    Raises:
        UserError: the file is missing, too large, or its archive is damaged there.
    """
    member = _ZIP_URI.fullmatch(uri)
    try:
        if member:
            return _unpack(_archive(member["archive"]), member["member"])
        with fsspec.open(uri, "rb") if "://" in uri else open(uri, "rb") as file:
            content = bytes(file.read(MAX_FILE_BYTES + 1))
    except FileNotFoundError as error:
        raise UserError(f"{uri}: no such file") from error
    except Exception as error:  # as in `in_folder`
        raise UserError(f"{uri}: cannot be read ({reason(error)})") from error
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{uri}: larger than {MAX_FILE_BYTES:,} bytes, which no X-ray is")
    return content


def absolute(uri: str) -> str:
    """The same file named from anywhere: workers of a cluster have another current folder.

    >>> absolute("s3://bucket/a.png")
    's3://bucket/a.png'
    """
    member = _ZIP_URI.fullmatch(uri)
    if member:
        return f"zip://{member['member']}::{Path(member['archive']).absolute().as_posix()}"
    return uri if "://" in uri else str(Path(uri).absolute())


def _require_harmless(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse what only an attack or an accident puts into an archive, although nothing here unpacks one."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{name}: {len(members):,} members, more than {MAX_MEMBERS:,}; this is not an X-ray archive")
    seen: set[str] = set()
    for member in members:
        # `orig_filename`: ZipInfo already turned the separators of this platform in `filename`.
        written = member.orig_filename
        parts = {*PurePosixPath(written).parts, *PureWindowsPath(written).parts}
        if written.startswith(("/", "\\")) or PureWindowsPath(written).drive or ".." in parts:
            raise UserError(f"{name}: member {written!r} leads out of the archive; do not use this file")
        mode = member.external_attr >> 16
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise UserError(f"{name}: member {written!r} is a link or a device; do not use this file")
        if member.file_size > MAX_FILE_BYTES:
            raise UserError(
                f"{name}: {written} unpacks to {member.file_size:,} bytes, more than {MAX_FILE_BYTES:,}; "
                "this is not an X-ray archive"
            )
        if member.file_size > 2**20 and member.file_size > MAX_RATIO * member.compress_size:
            raise UserError(
                f"{name}: {written} unpacks to more than {MAX_RATIO} times its size; this is not an X-ray archive"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile does not know the method, or unpacks it whole, however little the member says it holds.
            raise UserError(f"{name}: {written} is packed by method {member.compress_type}; pack it again with Deflate")
        if member.filename in seen:
            raise UserError(f"{name}: holds {written!r} twice; pack it again")
        seen.add(member.filename)


def _require_writable(place: str, name: str) -> None:
    if _UNWRITABLE.search(name):
        raise UserError(f"{place}: {name!r}: a name that no table can hold; rename the file")


def _unpack(archive: zipfile.ZipFile, member: str) -> bytes:
    """A member whole, with its CRC verified.

    Not `archive.read()`: without a size it unpacks what is there and then cuts off what the member does not claim.
    """
    with archive.open(member) as file:
        return bytes(file.read(archive.getinfo(member).file_size + 1))  # reading 0 bytes would verify nothing


def _archive(path: str) -> zipfile.ZipFile:
    """An open archive: opening reads the whole directory of members, so it is done once for each file."""
    status = Path(path).stat()
    return _open_archive(str(Path(path).resolve()), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _open_archive(path: str, mtime_ns: int, size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
