"""List and read files in the same way, whether they are members of an archive, in a folder or at a URL."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

import fsspec

from pneumonia import UserError, reason

MAX_FILE_BYTES = 256 * 2**20
"""Files are read whole. A larger file is not an X-ray, and a forged size could exhaust the memory."""
_GONE = (404, 410)
"""Answers of a web server that has no such file."""
MAX_MEMBERS = 1_000_000
"""A list of them takes 1 GB of memory."""
MAX_RATIO = 200
"""Maximum ratio of unpacked to packed size, for an archive and for members of more than 1 MiB; images hardly shrink."""
MAX_NAME_BYTES = 4096
"""A longer path is possible on no disk; a zip archive may have names of 65,535 bytes."""

# Control characters, and the characters to which Python decodes bytes that are not UTF-8.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
# Members may contain another `::`, and folders above the archive too: `:` and `%` of its path are percent-encoded.
_ZIP_URI = re.compile(r"zip://(?P<member>.+)::(?P<archive>.+)")
_OTHER_ARCHIVES = {
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\x1f\x8b": "a gzip file without a tar archive",
}
_PACKED_TARS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_TAR_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
_ENCRYPTED, _HEADER_BYTES, _TAIL_BYTES = 1, 30, 65_557  # of zip archives: a flag, a header at least, the end at most


class Files(NamedTuple):
    """The files of one place.

    Attributes:
        place: its name in messages.
        names: of the files below it, with `/` between folders, sorted.
        read: returns the bytes of one of them.
        uri: returns the name of one of them in a manifest, for `read_bytes`.
        head: returns the first bytes of one of them, without the rest; arguments are name and number of bytes.
        aliases: name that symbolic links give to a file -> the first name of this file among `names`.
        broken: those of `names` that are links to nothing.
    """

    place: str
    names: list[str]
    read: Callable[[str], bytes]
    uri: Callable[[str], str]
    head: Callable[[str, int], bytes]
    aliases: Mapping[str, str] = MappingProxyType({})
    broken: Collection[str] = ()


@contextmanager
def in_archive(path: Path, *, stored: Path | None = None, place: str = "") -> Iterator[Files]:
    """The files of a zip archive, which is never unpacked.

    Reading a whole member checks its CRC, so a flipped bit is an error here and does not reach a model. Some programs
    for Windows write `\\` between folders: it counts as `/`.

    Args:
        path: of the archive.
        stored: its final path, used in manifests; None = `path`.
        place: its name in messages; empty = the name of `stored`.

    Raises:
        UserError: not a complete zip archive; a member that points outside the archive, has no name, is a link, is
            encrypted or is larger than an image can be; members that share their bytes; an unusual compression method;
            too many members. Also from `read`: a damaged member; from `uri`: a name that cannot be written to a table.
    """
    stored = stored or path
    place = place or stored.name
    if _has_too_many_members(path):
        raise UserError(f"{place}: more than {MAX_MEMBERS:,} members; this is not an X-ray archive")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # ValueError: a name is not UTF-8
        with open(path, "rb") as file:
            start = file.read(8)
        if kind := next((kind for magic, kind in _OTHER_ARCHIVES.items() if start.startswith(magic)), ""):
            raise UserError(
                f"{place}: {kind}, which is not supported; unpack it and set fetch.url to the folder, or pack it as zip"
            ) from error
        raise UserError(
            f"{place}: {path.stat().st_size:,} bytes that are not a complete zip archive ({error}); copy or download "
            "it again"
        ) from error

    def read(name: str, n_bytes: int | None = None) -> bytes:
        try:
            if n_bytes is None:
                return _unpack(archive, members[name])
            with archive.open(members[name]) as file:
                return bytes(file.read(n_bytes))
        # RuntimeError: encrypted. ValueError: a name is not UTF-8.
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
            raise UserError(f"{place}: {name} is damaged ({error}); copy or download the archive again") from error

    def uri(name: str) -> str:
        _require_writable(place, name)
        return f"zip://{members[name]}::{_encoded(stored)}"

    with archive:
        _require_harmless(archive, place, _most_bytes(path))
        members = {_with_slashes(info.filename): info.filename for info in archive.infolist()}
        names = sorted(name for name in members if not name.endswith("/"))
        yield Files(place, names, read, uri, read)


def in_folder(url: str) -> Files:
    """The files below a folder: a path, or a URL that fsspec can list.

    Symbolic links are followed, except those that lead back into a folder above them.

    Raises:
        UserError: the folder cannot be listed. Also from `read` and `head`: a file cannot be read.
    """
    aliases: Mapping[str, str] = {}
    broken: Collection[str] = ()
    try:
        if "://" in url:
            system, root = fsspec.core.url_to_fs(url)
        else:  # fsspec would read a `::` in a path as a chain of file systems
            system, root = fsspec.filesystem("file"), Path(url).absolute().as_posix()
        prefix = str(root).rstrip("/") + "/"
        local = "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))
        if local:
            names, aliases, broken = _below(prefix)
        else:
            names = sorted(path.removeprefix(prefix) for path in system.find(root))
    # fsspec passes on the errors of its transports, and each transport has its own types.
    except Exception as error:
        raise UserError(f"{url}: cannot be listed ({reason(error)}); correct fetch.url") from error

    def uri(name: str) -> str:
        _require_writable(url, name)
        if local:
            return prefix + name
        if "::" in name:
            raise UserError(f"{url}: {name}: `::` in a name means another file system in a URL; rename the file")
        return str(system.unstrip_protocol(prefix + name))

    def head(name: str, n_bytes: int) -> bytes:
        try:
            if not local:
                return bytes(system.cat_file(prefix + name, start=0, end=n_bytes))
            with open(prefix + name, "rb") as file:
                return file.read(n_bytes)
        except FileNotFoundError as error:
            raise UserError(
                f"{url}: {name} is a link to nothing, or was removed; restore it, or remove the link"
            ) from error
        except Exception as error:  # as above
            raise UserError(f"{url}: {name}: cannot be read ({reason(error)})") from error

    return Files(url, names, lambda name: read_bytes(uri(name)), uri, head, aliases, broken)


def is_folder(address: str) -> bool:
    """Whether a path, or a URL that fsspec can list, is a folder; False if that cannot be found out."""
    # Over HTTP every page with links would count as a folder.
    if address.startswith(("http://", "https://")):
        return False
    if "://" not in address:
        return Path(address).is_dir()
    try:
        system, path = fsspec.core.url_to_fs(address)
        return bool(system.isdir(path))
    except Exception:  # reading the address reports the error
        return False


def _below(root: str) -> tuple[list[str], dict[str, str], set[str]]:
    """The names of the files below a local folder, the other names of those that several names lead to, and the links
    to nothing.

    Links to a folder above are not followed. Sockets and pipes are left out, because reading one would wait for ever.
    A link to nothing is listed, so that the files behind it are not missed silently.
    """
    names: list[str] = []
    links: dict[str, str] = {}  # name -> real path
    broken: set[str] = set()
    top = os.path.realpath(root)
    waiting: list[tuple[str, tuple[str, ...], bool]] = [("", (top,), False)] if os.path.isdir(root) else []
    while waiting:
        folder, path, linked = waiting.pop()  # path: the real folders from the top to this one
        with os.scandir(root + folder) as entries:
            for entry in entries:
                name, by_link = folder + entry.name, linked or entry.is_symlink()
                target = os.path.realpath(entry.path) if entry.is_symlink() else f"{path[-1]}/{entry.name}"
                try:
                    mode = os.stat(target).st_mode
                except OSError as error:
                    if error.errno != errno.ELOOP:  # links that lead to each other end here
                        names.append(name)
                        broken.add(name)
                    continue
                if stat.S_ISDIR(mode) and target not in path and not top.startswith(f"{target.rstrip('/')}/"):
                    waiting.append((f"{name}/", (*path, target), by_link))
                elif stat.S_ISREG(mode):
                    names.append(name)
                    if by_link:
                        links[name] = target
        if links and len(names) > MAX_MEMBERS:
            raise UserError(f"links lead to more than {MAX_MEMBERS:,} files")
    aliases: dict[str, str] = {}
    outside: dict[str, str] = {}
    for name, target in sorted(links.items()):
        if target.startswith(f"{top}/"):
            aliases[name] = target.removeprefix(f"{top}/")
        elif outside.setdefault(target, name) != name:
            aliases[name] = outside[target]
    return sorted(names), aliases, broken


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive, packed with gzip, bzip2, xz or not at all."""
    with open(path, "rb") as file:
        start = file.read(512)
    # Not every file: tarfile would search a damaged zip archive for a header.
    if not (start.startswith(tuple(_PACKED_TARS)) or start[257:262] == b"ustar"):
        return False
    try:
        with _open_tar(path):
            return True
    except _TAR_ERRORS:
        return False


def pack_again(path: Path, target: Path, *, place: str) -> None:
    """Write the files of a tar archive into a zip archive, in which each can be read alone.

    The same tar archive gives the same zip archive, byte for byte.

    Args:
        path: of the tar archive.
        target: of the new zip archive.
        place: name of the archive in messages.

    Raises:
        UserError: the archive is damaged, or could do harm, as in `in_archive`, or the disk has no space for its files.
    """
    seen: set[str] = set()
    n_bytes, limit, free = 0, _most_bytes(path), shutil.disk_usage(target.parent).free
    try:
        with _open_tar(path) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
            for member in archive:
                if member.isdir():
                    continue
                _require_name(place, member.name)
                if _NOT_UTF8.search(member.name):
                    raise UserError(
                        f"{place}: the name of member {member.name!r} is not in UTF-8; rename the file and create the "
                        "archive again"
                    )
                if not member.isreg():
                    raise UserError(
                        f"{place}: member {member.name!r} is a link or a device; pack the files themselves "
                        "(tar --dereference --hard-dereference)"
                    )
                n_bytes += member.size
                if member.size > MAX_FILE_BYTES or n_bytes > limit or len(seen) >= MAX_MEMBERS:
                    raise UserError(
                        f"{place}: {member.name} has more than {MAX_FILE_BYTES:,} bytes, or the archive unpacks to "
                        f"more than {MAX_RATIO} times its size or {MAX_MEMBERS:,} files; this is not an X-ray archive"
                    )
                if n_bytes > free:
                    raise UserError(
                        f"{place}: its files need more than the {free:,} bytes that are free on the disk of "
                        f"{target.parent}; free some space"
                    )
                name = posixpath.normpath(_with_slashes(member.name))
                if name in seen:
                    raise UserError(f"{place}: contains {name!r} twice; create the archive again")
                seen.add(name)
                file = archive.extractfile(member)
                content = file.read() if file else b""
                if len(content) < member.size:
                    raise EOFError(f"{name} ends early")
                packed.writestr(zipfile.ZipInfo(name), content)
    except _TAR_ERRORS as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the content
            raise
        raise UserError(f"{place}: a damaged tar archive ({reason(error)}); copy or download it again") from error


def read_bytes(uri: str) -> bytes:
    """The bytes of the file at a `uri` of the manifest: a member of an archive, a path, or an fsspec URL.

    Raises:
        UserError: the file is missing, too large or damaged.
    """
    member = _ZIP_URI.fullmatch(uri)
    try:
        if member:
            return _unpack(_archive(unquote(member["archive"])), member["member"])
        with fsspec.open(uri, "rb") if "://" in uri else open(uri, "rb") as file:
            content = bytes(file.read(MAX_FILE_BYTES + 1))
    except FileNotFoundError as error:
        root: BaseException = error
        while root.__cause__:
            root = root.__cause__
        # fsspec also raises it where a server refuses, or does not answer.
        is_gone = isinstance(root, FileNotFoundError) or getattr(root, "status", None) in _GONE
        if uri.lower().startswith(("http://", "https://")) and not is_gone:
            raise UserError(f"{uri}: cannot be read ({reason(root)})") from error
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
        return f"zip://{member['member']}::{_encoded(Path(unquote(member['archive'])).absolute())}"
    return uri if "://" in uri else str(Path(uri).absolute())


def _require_harmless(archive: zipfile.ZipFile, name: str, most_bytes: int) -> None:
    """Refuse members that only an attack or an accident can explain, although no archive is unpacked here."""
    members = archive.infolist()
    seen: set[str] = set()
    for member in members:
        # `orig_filename`: in `filename` ZipInfo has already replaced the separators of this platform.
        stored_name = member.orig_filename
        _require_name(name, stored_name)
        if member.flag_bits & _ENCRYPTED:
            raise UserError(f"{name}: {stored_name} is encrypted; create the archive again without a password")
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
        if _with_slashes(member.filename) in seen:
            raise UserError(f"{name}: contains {stored_name!r} twice; create the archive again")
        seen.add(_with_slashes(member.filename))
    ends = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < ends:
            raise UserError(f"{name}: {member.filename} shares bytes with another member; this is not an X-ray archive")
        ends = member.header_offset + _HEADER_BYTES + member.compress_size
    total = sum(member.file_size for member in members)
    if total > most_bytes:
        raise UserError(
            f"{name}: unpacks to {total:,} bytes, more than {MAX_RATIO} times its size; this is not an X-ray archive"
        )


def _require_name(place: str, member: str) -> None:
    if not member or "\0" in member:
        raise UserError(f"{place}: has a member without a name, or with one that a 0 ends; create the archive again")
    if len(member.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise UserError(
            f"{place}: member {member[:40]!r}… has a name of more than {MAX_NAME_BYTES:,} bytes; shorten it and create "
            "the archive again"
        )
    parts = {*PurePosixPath(member).parts, *PureWindowsPath(member).parts}
    if member.startswith(("/", "\\")) or PureWindowsPath(member).drive or ".." in parts:
        raise UserError(f"{place}: member {member!r} points outside the archive; do not use this file")


def _most_bytes(path: Path) -> int:
    """Limit of the unpacked size of an archive."""
    return max(2**20, MAX_RATIO * path.stat().st_size)


def _has_too_many_members(path: Path) -> bool:
    """Whether a zip archive lists more members than allowed, before `zipfile` makes an object of 1 kB for each.

    Their number in the archive itself may be wrong: the entries of its list are counted, without the few that begin in
    one block and end in the next.
    """
    n_bytes = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, n_bytes - _TAIL_BYTES))
        tail = file.read()
        end = tail.rfind(b"PK\5\6")
        size, last = int.from_bytes(tail[end + 12 : end + 16], "little"), n_bytes - len(tail) + end
        if end >= 76 and tail.startswith(b"PK\6\6", end - 76):  # ZIP64
            size, last = int.from_bytes(tail[end - 36 : end - 28], "little"), last - 76
        if end < 0 or size > last:
            return False  # no zip archive
        file.seek(last - size)
        n_members = 0
        while n_members <= MAX_MEMBERS and (block := file.read(min(2**20, last - file.tell()))):
            n_members += block.count(b"PK\1\2")
    return n_members > MAX_MEMBERS


class _InPieces:
    """A file that is read in pieces of at most `MAX_FILE_BYTES`.

    `tarfile` reads the header of a member in one piece, whatever length it states.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > MAX_FILE_BYTES:
            raise tarfile.ReadError(f"a header of {n_bytes:,} bytes")
        return self._file.read(n_bytes)


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with open(path, "rb") as file:
        start = file.read(6)
    unpack = next((unpack for magic, unpack in _PACKED_TARS.items() if start.startswith(magic)), Path.open)
    with unpack(path, "rb") as file:
        in_pieces: Any = _InPieces(file)
        with tarfile.open(fileobj=in_pieces, mode="r:") as archive:
            yield archive


def _encoded(archive: Path) -> str:
    return archive.as_posix().replace("%", "%25").replace(":", "%3A")


def _with_slashes(member: str) -> str:
    return member.replace("\\", "/")


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
