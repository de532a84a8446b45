"""List and read files in the same way, whether they are members of an archive, in a folder or at a URL."""

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
"""Files are read whole. A larger file is not an X-ray, and a forged size could exhaust the memory."""
MAX_MEMBERS = 1_000_000
MAX_RATIO = 200
"""Maximum ratio of unpacked to packed size, for members of more than 1 MiB; images hardly shrink."""

# Control characters, and the characters to which Python decodes bytes that are not UTF-8.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# The name of the archive comes from `fetch`, those of the members do not: they may contain another `::`.
_ZIP_URI = re.compile(r"zip://(?P<member>.+)::(?P<archive>.+)")


class Files(NamedTuple):
    """The files of one place.

    Attributes:
        place: its name in messages.
        names: of the files below it, with `/` between folders, sorted.
        read: returns the bytes of one of them.
        uri: returns the name of one of them in a manifest, for `read_bytes`.
    """

    place: str
    names: list[str]
    read: Callable[[str], bytes]
    uri: Callable[[str], str]


@contextmanager
def in_archive(path: Path, *, stored: Path | None = None) -> Iterator[Files]:
    """The files of a zip archive, which is never unpacked.

    Reading a whole member checks its CRC, so a flipped bit is an error here and does not reach a model.

    Args:
        path: of the archive.
        stored: its final path, used in manifests and messages; None = `path`.

    Raises:
        UserError: not a complete zip archive; a member that points outside the archive, is a link or is larger than
            an image can be; an unusual compression method; too many members. Also from `read`: a damaged member; from
            `uri`: a name that cannot be written to a table.
    """
    stored = stored or path
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # ValueError: a name is not UTF-8
        raise UserError(
            f"{stored.name}: {path.stat().st_size:,} bytes arrived, but they are not a complete zip archive ({error}); "
            "download it again"
        ) from error

    def read(member: str) -> bytes:
        try:
            return _unpack(archive, member)
        # RuntimeError: encrypted. ValueError: a name is not UTF-8.
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
        else:  # fsspec would read a `::` in a path as a chain of file systems
            system, root = fsspec.filesystem("file"), Path(url).absolute().as_posix()
        paths = system.find(root)
    # fsspec passes on the errors of its transports, and each transport has its own types.
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

    names = sorted(path.removeprefix(prefix) for path in paths)
    return Files(url, names, lambda name: read_bytes(uri(name)), uri)


def read_bytes(uri: str) -> bytes:
    """The bytes of the file at a `uri` of the manifest: a member of an archive, a path, or an fsspec URL.

    Raises:
        UserError: the file is missing, too large or damaged.
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
        raise UserError(f"{uri}: larger than {MAX_FILE_BYTES:,} bytes, too large for an X-ray")
    return content


def absolute(uri: str) -> str:
    """The same file with an absolute path: workers of a cluster have another current folder.

    >>> absolute("s3://bucket/a.png")
    's3://bucket/a.png'
    """
    member = _ZIP_URI.fullmatch(uri)
    if member:
        return f"zip://{member['member']}::{Path(member['archive']).absolute().as_posix()}"
    return uri if "://" in uri else str(Path(uri).absolute())


def _require_harmless(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse members that only an attack or an accident can explain, although no archive is unpacked here."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{name}: {len(members):,} members, more than {MAX_MEMBERS:,}; this is not an X-ray archive")
    seen: set[str] = set()
    for member in members:
        # `orig_filename`: in `filename` ZipInfo has already replaced the separators of this platform.
        stored_name = member.orig_filename
        parts = {*PurePosixPath(stored_name).parts, *PureWindowsPath(stored_name).parts}
        if stored_name.startswith(("/", "\\")) or PureWindowsPath(stored_name).drive or ".." in parts:
            raise UserError(f"{name}: member {stored_name!r} points outside the archive; do not use this file")
        mode = member.external_attr >> 16
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise UserError(f"{name}: member {stored_name!r} is a link or a device; do not use this file")
        if member.file_size > MAX_FILE_BYTES:
            raise UserError(
                f"{name}: {stored_name} unpacks to {member.file_size:,} bytes, more than {MAX_FILE_BYTES:,}; "
                "this is not an X-ray archive"
            )
        if member.file_size > 2**20 and member.file_size > MAX_RATIO * member.compress_size:
            raise UserError(
                f"{name}: {stored_name} unpacks to more than {MAX_RATIO} times its size; this is not an X-ray archive"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile does not know the method, or unpacks the whole member whatever size the archive states.
            raise UserError(
                f"{name}: {stored_name} is compressed by method {member.compress_type}; compress it again with Deflate"
            )
        if member.filename in seen:
            raise UserError(f"{name}: contains {stored_name!r} twice; create the archive again")
        seen.add(member.filename)


def _require_writable(place: str, name: str) -> None:
    if _UNWRITABLE.search(name):
        raise UserError(f"{place}: {name!r}: this name cannot be written to a table; rename the file")


def _unpack(archive: zipfile.ZipFile, member: str) -> bytes:
    """A whole member, with its CRC checked.

    Not `archive.read()`: without a size it unpacks all data and then cuts off what exceeds the stated size.
    """
    with archive.open(member) as file:
        return bytes(file.read(archive.getinfo(member).file_size + 1))  # reading 0 bytes would check nothing


def _archive(path: str) -> zipfile.ZipFile:
    """An open archive. Opening reads the list of all members, so it is done once for each file."""
    status = Path(path).stat()
    return _open_archive(str(Path(path).resolve()), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _open_archive(path: str, mtime_ns: int, size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
