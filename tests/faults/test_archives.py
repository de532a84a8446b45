"""Archives that only an attack, an accident or a strange program makes: each is read whole or refused in one line."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pneumonia import UserError, files

pytestmark = pytest.mark.fault(kind="archives", where="fetch")

PIXELS = b"\x89PNG\r\n\x1a\n and pixels"
Make = Callable[[Path], object]


def zipped(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, mode: int = 0) -> Path:
    """An archive of these members; unlike `writestr`, also of one without a name."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = method, mode << 16
            with archive.open(info, "w") as file:
                file.write(content)
    return path


def member(name: str) -> Make:
    return lambda path: zipped(path, {"a/ok.png": PIXELS, name: PIXELS})


def of_mode(mode: int) -> Make:
    return lambda path: zipped(path, {"a.png": b"/etc/passwd"}, mode=mode)


def patched(change: Callable[[bytearray], object], method: int = zipfile.ZIP_STORED, content: bytes = PIXELS) -> Make:
    """An archive of one member whose bytes are changed."""

    def make(path: Path) -> None:
        archive = bytearray(zipped(path, {"a.png": content}, method).read_bytes())
        change(archive)
        path.write_bytes(archive)

    return make


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def put(form: str, value: int, *places: tuple[bytes, int]) -> Callable[[bytearray], object]:
    """Writes a number at these places: signature of a header, and bytes after its start."""

    def change(archive: bytearray) -> None:
        for signature, place in places:
            struct.pack_into(form, archive, archive.index(signature) + place, value)

    return change


def flip(signature: bytes, place: int) -> Callable[[bytearray], object]:
    def change(archive: bytearray) -> None:
        archive[archive.index(signature) + place] ^= 0xFF

    return change


def overlapping(path: Path) -> None:
    """1,000 names of the same packed bytes: 0.2 MB that unpack to 190 MB, each of them by less than the limit."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(190_000))
        first = archive.infolist()[0]
        for number in range(1, 1000):
            other = zipfile.ZipInfo(f"{number}.png")
            other.compress_type, other.CRC = first.compress_type, first.CRC
            other.compress_size, other.file_size, other.header_offset = first.compress_size, first.file_size, 0
            archive.filelist.append(other)


REFUSED: dict[str, tuple[Make, str, str]] = {
    # what is injected: (maker, how it ended before, what the line says now)
    "a member without a name": (member(""), "listed as an image without a name", "has a member without a name"),
    "a 0 in a name": (
        patched(lambda archive: archive.__init__(bytes(archive).replace(b"a.png", b"a\0png"))),
        "listed under the beginning of its name",
        "one that a 0 ends",
    ),
    "a name of 5,000 bytes": (member("é" * 2500), "listed", "has a name of more than 4,096 bytes"),
    "a name with ..": (member("a/../../b.png"), "as now", "points outside the archive"),
    "a name with ..\\": (member("a\\..\\..\\b.png"), "as now", "points outside the archive"),
    "an absolute name": (member("/etc/b.png"), "as now", "points outside the archive"),
    "a name on a drive": (member("C:\\b.png"), "as now", "points outside the archive"),
    "a name relative to a drive": (member("C:b.png"), "as now", "points outside the archive"),
    "a name on a server": (member("\\\\host\\share\\b.png"), "as now", "points outside the archive"),
    "the separators of another system": (member("a\\ok.png"), "as now", "contains 'a\\\\\\\\ok.png' twice"),
    "a symbolic link": (of_mode(stat.S_IFLNK | 0o777), "as now", "is a link or a device"),
    "a device": (of_mode(stat.S_IFCHR | 0o666), "as now", "is a link or a device"),
    "a pipe": (of_mode(stat.S_IFIFO | 0o666), "as now", "is a link or a device"),
    "an encrypted member": (
        patched(put("<H", 1, (LOCAL, 6), (CENTRAL, 8))),
        "called damaged, with the remedy to download it again",
        "is encrypted; create the archive again without a password",
    ),
    "LZMA": (patched(lambda _: None, zipfile.ZIP_LZMA), "as now", "compressed by method 14"),
    "an unknown compression": (patched(put("<H", 99, (LOCAL, 8), (CENTRAL, 10))), "as now", "by method 99"),
    "a wrong CRC": (patched(put("<L", 7, (LOCAL, 14), (CENTRAL, 16))), "as now", "is damaged (Bad CRC-32"),
    "a header with another name": (patched(flip(LOCAL, 30)), "as now", "is damaged"),
    "a list of members without its signature": (patched(flip(CENTRAL, 0)), "as now", "not a complete zip archive"),
    "a list of members beyond the file": (
        patched(put("<L", 2**31, (END, 12))),
        "as now",
        "not a complete zip archive",
    ),
    "a cut archive": (patched(lambda archive: archive.__delitem__(slice(-30, None))), "as now", "not a complete zip"),
    "a name that is not UTF-8 and says it is": (
        patched(lambda archive: [put("<H", 0x800, (LOCAL, 6), (CENTRAL, 8))(archive), flip(CENTRAL, 46)(archive)]),
        "as now",
        "not a complete zip archive",
    ),
    "a member of 3 GB, as stated": (
        patched(put("<L", 3 * 2**30, (LOCAL, 22), (CENTRAL, 24))),
        "as now",
        "unpacks to 3,221,225,472 bytes, more than",
    ),
    "a member that unpacks to more than stated": (
        patched(put("<L", 9, (LOCAL, 22), (CENTRAL, 24)), zipfile.ZIP_DEFLATED, bytes(10**6)),
        "as now",
        "is damaged (Bad CRC-32",
    ),
    "a bomb: a member that shrank to 1/1000": (
        lambda path: zipped(path, {"a.png": bytes(2 * 2**20)}, zipfile.ZIP_DEFLATED),
        "as now",
        "unpacks to more than 200 times its size",
    ),
    "a bomb: many small members that shrank to 1/1000": (
        lambda path: zipped(path, {f"{n}.png": bytes(2**20) for n in range(4)}, zipfile.ZIP_DEFLATED),
        "read, whatever their total",
        "unpacks to 4,194,304 bytes, more than 200 times its size",
    ),
    "a bomb: members that share their bytes": (
        overlapping,
        "listed; the first read failed with 'File name in directory and header differ'",
        "shares bytes with another member",
    ),
}


def read_all(path: Path) -> dict[str, bytes]:
    """Name -> content of each member, read by its name and by its URI."""
    with files.in_archive(path) as place:
        content = {name: place.read(name) for name in place.names}
        assert {name: files.read_bytes(place.uri(name)) for name in place.names} == content
    return content


@pytest.mark.parametrize(
    ("make", "line"),
    [
        pytest.param(make, line, id=what, marks=pytest.mark.fault(injected=what, before=before))
        for what, (make, before, line) in REFUSED.items()
    ],
)
@pytest.mark.fault(now="refused in one line that names the member and the cause")
def test_a_harmful_archive_is_refused_in_one_line(tmp_path: Path, make: Make, line: str) -> None:
    path = tmp_path / "a.zip"
    make(path)
    with pytest.raises(UserError) as refusal:
        read_all(path)
    assert line.replace("\\\\", "\\") in str(refusal.value)
    assert str(refusal.value).startswith("a.zip: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.fault(injected="20 times as many members as allowed, and a number that says 1")
@pytest.mark.fault(before="refused after a list of all of them", now="refused before the list is made")
def test_too_many_members_are_counted_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", {f"{number}.png": b"" for number in range(5_000)})
    archive = bytearray(path.read_bytes())
    for place in (8, 10):
        struct.pack_into("<H", archive, archive.rindex(END) + place, 1)
    path.write_bytes(archive)
    monkeypatch.setattr(files, "MAX_MEMBERS", 250)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"^a\.zip: more than 250 members; this is not an X-ray archive$"):
        read_all(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.fault(injected="a zip archive inside the archive", before="as now", now="a file of no known image format")
def test_a_nested_archive_is_not_opened(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"../x.png": PIXELS}).read_bytes()
    assert read_all(zipped(tmp_path / "a.zip", {"NORMAL/inner.zip": inner})) == {"NORMAL/inner.zip": inner}


@pytest.mark.fault(injected="a program before the archive", before="as now", now="read like the archive alone")
def test_bytes_before_an_archive_have_no_effect(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": PIXELS})
    path.write_bytes(b"MZ" * 500 + path.read_bytes())
    assert read_all(path) == {"a.png": PIXELS}


@pytest.mark.fault(injected="250 archives with changed bytes", before="as now")
@pytest.mark.fault(now="each gives the same files or one line")
def test_a_changed_archive_gives_its_files_or_one_line(tmp_path: Path) -> None:
    members = {"a/b.png": PIXELS, "c.png": bytes(range(256)), "d/": b""}
    original = zipped(tmp_path / "a.zip", members, zipfile.ZIP_DEFLATED).read_bytes()
    rng = random.Random(0)
    refusals = []
    for number in range(250):
        changed = bytearray(original)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path = tmp_path / f"{number}.zip"
        path.write_bytes(changed)
        try:
            content = read_all(path)
        except UserError as refusal:
            refusals.append(str(refusal))
        else:
            assert set(content.values()) <= {*members.values(), b""}
    assert len(refusals) > 60
    assert not any("\n" in refusal for refusal in refusals)


# Tar archives are packed again: `fetch` unpacks them, file by file, into a zip archive.


def tarred(path: Path, *members: tuple[str, bytes], packed: str = "", **fields: object) -> Path:
    with tarfile.open(path, f"w{packed}", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def of_type(kind: bytes) -> Make:
    return lambda path: tarred(path, ("a.png", b""), type=kind, linkname="/etc/passwd")


def long_header(path: Path) -> None:
    """A file whose first member has a header that states 1 GB, and as much would follow."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2**20))


TARS: dict[str, tuple[Make, str, str]] = {
    "a hard link": (of_type(tarfile.LNKTYPE), "as now", "is a link or a device"),
    "a symbolic link": (of_type(tarfile.SYMTYPE), "as now", "is a link or a device"),
    "a device": (of_type(tarfile.BLKTYPE), "as now", "is a link or a device"),
    "a pipe": (of_type(tarfile.FIFOTYPE), "as now", "is a link or a device"),
    "a name with ..": (lambda path: tarred(path, ("../a.png", PIXELS)), "as now", "points outside the archive"),
    "an absolute name": (lambda path: tarred(path, ("/a.png", PIXELS)), "as now", "points outside the archive"),
    "a name of 5,000 bytes": (lambda path: tarred(path, ("a" * 5000, PIXELS)), "packed", "of more than 4,096 bytes"),
    "a name that is not UTF-8": (
        lambda path: tarred(path, ("a\udcff.png", PIXELS)),
        "as now",
        "is not in UTF-8",
    ),
    "a file twice": (
        lambda path: tarred(path, ("a.png", PIXELS), ("./a.png", PIXELS)),
        "as now",
        "contains 'a.png' twice",
    ),
    "a bomb: a file that shrank to 1/1000": (
        lambda path: tarred(path, ("a.png", bytes(2**21)), packed=":gz"),
        "as now",
        "unpacks to more than 200 times its size",
    ),
    "a header of 1 GB": (long_header, "read into memory whole", "a damaged tar archive (ReadError: a header of"),
    "a cut archive": (
        lambda path: path.write_bytes(tarred(path, ("a.png", bytes(9000))).read_bytes()[:5000]),
        "as now",
        "a damaged tar archive",
    ),
}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        pytest.param(make, line, id=what, marks=pytest.mark.fault(injected=f"tar: {what}", before=before))
        for what, (make, before, line) in TARS.items()
    ],
)
@pytest.mark.fault(now="refused in one line")
def test_a_harmful_tar_archive_is_refused_in_one_line(tmp_path: Path, make: Make, line: str) -> None:
    path, target = tmp_path / "a.tar", tmp_path / "a.zip"
    make(path)
    with pytest.raises(UserError) as refusal:
        files.pack_again(path, target, place="a.tar")
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.fault(injected="tar: more files than the disk has space for", before="the disk was filled")
@pytest.mark.fault(now="refused in one line")
def test_a_tar_archive_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tarred(tmp_path / "a.tar", *((f"{number}.png", bytes(1000)) for number in range(9)))
    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: disk(10**6, 10**6 - 5000, 5000))
    with pytest.raises(UserError, match=r"need more than the 5,000 bytes that are free .*; free some space"):
        files.pack_again(path, tmp_path / "a.zip", place="a.tar")
    assert (tmp_path / "a.zip").stat().st_size < 7000


@pytest.mark.fault(injected="a first header of 1 GB, in a file that may be a tar archive", before="read into memory")
@pytest.mark.fault(now="no tar archive")
def test_a_long_header_is_not_read_to_find_out_what_a_file_is(tmp_path: Path) -> None:
    long_header(tmp_path / "a.tgz")
    assert not files.is_tar(tmp_path / "a.tgz")
