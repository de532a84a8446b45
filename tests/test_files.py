"""Files of an archive, a folder or a URL are read as they are, and an archive that could do harm is refused."""

import io
import os
import re
import socket
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pneumonia import UserError, files
from tests.faults.hostile import serving

NAMES = (
    "a.png",
    "deep/er/a b.png",
    "deep/ä–日.png",
    "xy::z.png",
    "deep/zip://z::q.zip/w.png",
    "[1]*?.png",
    "a#b%20c.png",
)


def content_of(name: str) -> bytes:
    return f"{name} ".encode() * 20


CONTENT = {name: content_of(name) for name in ("a.png", "b/c.png")}


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(path: Path, *, stored: Path | None = None) -> str:
    """The one line with which an archive, or the first of its members that is read, is refused."""
    with pytest.raises(UserError) as caught, files.in_archive(path, stored=stored) as listed:  # noqa: PT012
        for name in listed.names:
            listed.read(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


# --- a file is found again by its uri ---


def test_the_files_of_an_archive_are_found_again_by_their_uri(tmp_path: Path) -> None:
    path = zipped(tmp_path / "my own.zip", {name: content_of(name) for name in (*NAMES, "deep/")})
    with files.in_archive(path) as listed:
        assert listed.names == sorted(NAMES)
        assert listed.place == "my own.zip"
        assert listed.uri("a.png") == f"zip://a.png::{path}"
        for name in listed.names:
            assert files.read_bytes(listed.uri(name)) == listed.read(name) == content_of(name)


def test_an_archive_is_named_by_where_it_will_lie(tmp_path: Path) -> None:
    path = zipped(tmp_path / ".partial-a.zip", CONTENT)
    with files.in_archive(path, stored=Path("data/raw/a.zip")) as listed:
        assert (listed.place, listed.uri("a.png")) == ("a.zip", "zip://a.png::data/raw/a.zip")
    path.write_bytes(b"no archive")
    assert refused(path, stored=Path("data/raw/a.zip")).startswith("a.zip: 10 bytes that are not")
    with pytest.raises(UserError, match=r"^/mine/a\.zip: 10 bytes"), files.in_archive(path, place="/mine/a.zip"):
        pass


@pytest.mark.parametrize("folder", ["plain", "with space", "ünï", "two::colons"])
@pytest.mark.parametrize("ending", ["", "/"])
def test_the_files_of_a_folder_are_found_again_by_their_uri(tmp_path: Path, folder: str, ending: str) -> None:
    names = sorted({name.replace("://", ":") for name in NAMES})
    for name in names:
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_bytes(content_of(name))
    listed = files.in_folder(f"{tmp_path}/{folder}{ending}")
    assert listed.names == names
    assert listed.uri("a.png") == f"{tmp_path}/{folder}/a.png"
    for name in names:
        assert files.read_bytes(listed.uri(name)) == listed.read(name) == content_of(name)


def test_a_file_url_of_a_folder_gives_paths(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"1")
    listed = files.in_folder(f"file://{tmp_path}")
    assert listed.uri("a b.png") == f"{tmp_path}/a b.png"
    assert listed.read("a b.png") == files.read_bytes(f"file://{tmp_path}/a b.png") == b"1"


def test_a_folder_may_be_named_from_the_current_one(in_project: Path) -> None:
    (in_project / "mine").mkdir()
    (in_project / "mine" / "a.png").write_bytes(b"1")
    listed = files.in_folder("mine")
    assert (listed.names, listed.uri("a.png")) == (["a.png"], f"{in_project}/mine/a.png")


def test_the_files_of_another_file_system_are_found_again_by_their_uri(memory: fsspec.AbstractFileSystem) -> None:
    names = sorted(name for name in NAMES if "::" not in name)
    for name in names:
        memory.pipe(f"/box/{name}", content_of(name))
    listed = files.in_folder("memory://box")
    assert listed.names == names
    for name in names:
        assert listed.uri(name).startswith("memory://")
        assert files.read_bytes(listed.uri(name)) == listed.read(name) == content_of(name)


def test_two_colons_in_a_name_are_refused_where_they_would_name_another_file_system(
    memory: fsspec.AbstractFileSystem,
) -> None:
    memory.pipe("/box/xy::z.png", b"1")
    listed = files.in_folder("memory://box")
    with pytest.raises(UserError, match=r"^memory://box: xy::z\.png: `::` in a name .*rename the file$"):
        listed.read("xy::z.png")


@pytest.mark.parametrize("name", [b"\xff.png", b"a\nb.png", b"Icon\r"])
def test_a_name_that_no_table_can_hold_is_refused_and_hinders_no_other(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / "good.png").write_bytes(b"1")
    listed = files.in_folder(str(tmp_path))
    assert listed.read("good.png") == b"1"
    with pytest.raises(UserError) as caught:
        listed.read(os.fsdecode(name))
    assert (
        str(caught.value)
        == f"{tmp_path}: {os.fsdecode(name)!r}: this name cannot be written to a table; rename the file"
    )


def test_a_member_that_no_table_can_hold_has_no_uri_and_hinders_no_other(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"Icon\r": b"", "a.png": b"1"})
    with files.in_archive(path) as listed:
        assert files.read_bytes(listed.uri("a.png")) == b"1"
        with pytest.raises(
            UserError, match=r"^a\.zip: 'Icon\\r': this name cannot be written to a table; rename the file$"
        ):
            listed.uri("Icon\r")


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert files.in_folder(f"{tmp_path}/no").names == []


def test_a_folder_that_cannot_be_listed_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^carrier-pigeon://a: cannot be listed \(ValueError.*correct fetch\.url$"):
        files.in_folder("carrier-pigeon://a")


def test_what_a_file_system_says_in_several_lines_is_said_in_one(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("403 Client Error.\n\nAccess denied")

    monkeypatch.setattr(type(memory), "find", refuse)
    monkeypatch.setattr(type(memory), "_open", refuse)
    reason = r"\(RuntimeError: 403 Client Error\. Access denied\)"
    with pytest.raises(UserError, match=rf"^memory://box: cannot be listed {reason}; correct fetch\.url$"):
        files.in_folder("memory://box")
    with pytest.raises(UserError, match=rf"^memory://box/a\.png: cannot be read {reason}$"):
        files.read_bytes("memory://box/a.png")


def test_a_uri_is_made_absolute_from_the_current_folder(in_project: Path) -> None:
    assert files.absolute("a b.png") == f"{in_project}/a b.png"
    assert files.absolute("zip://xy::z.png::data/raw/a.zip") == f"zip://xy::z.png::{in_project}/data/raw/a.zip"
    zipped(in_project / "a.zip", CONTENT)
    assert files.read_bytes("zip://b/c.png::a.zip") == CONTENT["b/c.png"]


@pytest.mark.parametrize("uri", ["/a/b.png", "zip://x.png::/a/b.zip", "s3://bucket/a.png", "memory:///a.png"])
def test_what_is_absolute_stays_as_it_is(uri: str) -> None:
    assert files.absolute(uri) == uri


# --- first bytes ---


def test_the_first_bytes_of_a_file_are_read_without_the_rest(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    path = zipped(tmp_path / "a.zip", {"x/a.png": b"x" * 9000}, zipfile.ZIP_DEFLATED)
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a.png").write_bytes(b"x" * 9000)
    memory.pipe("/box/a.png", b"x" * 9000)
    with files.in_archive(path) as listed:
        assert listed.head("x/a.png", 10) == b"x" * 10
    for url in (f"{tmp_path}/box", f"file://{tmp_path}/box", "memory://box"):
        assert files.in_folder(url).head("a.png", 10) == b"x" * 10
        assert files.in_folder(url).head("a.png", 9999) == b"x" * 9000
        with pytest.raises(UserError, match=r"box: no\.png is a link to nothing, or was removed; restore it, .*"):
            files.in_folder(url).head("no.png", 10)


# --- links ---


def test_links_to_folders_and_files_are_followed_and_their_other_names_are_known(tmp_path: Path) -> None:
    (tmp_path / "store" / "val").mkdir(parents=True)
    (tmp_path / "store" / "val" / "a.png").write_bytes(b"1")
    root = tmp_path / "xrays"
    (root / "real").mkdir(parents=True)
    (root / "real" / "b.png").write_bytes(b"2")
    (root / "val").symlink_to("../store/val")
    (root / "again").symlink_to("real")
    (root / "c.png").symlink_to("real/b.png")
    listed = files.in_folder(str(root))
    assert listed.names == ["again/b.png", "c.png", "real/b.png", "val/a.png"]
    assert listed.aliases == {"again/b.png": "real/b.png", "c.png": "real/b.png"}
    assert listed.read("val/a.png") == b"1"


def test_two_links_to_one_place_outside_are_names_of_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").write_bytes(b"1")
    (tmp_path / "xrays").mkdir()
    for link in ("x", "y"):
        (tmp_path / "xrays" / link).symlink_to("../store")
    assert files.in_folder(f"{tmp_path}/xrays").aliases == {"y/a.png": "x/a.png"}


@pytest.mark.parametrize("target", [".", "..", "../..", "loop", "other"])
def test_a_cycle_of_links_ends(tmp_path: Path, target: str) -> None:
    (tmp_path / "xrays" / "deep").mkdir(parents=True)
    (tmp_path / "xrays" / "deep" / "a.png").write_bytes(b"1")
    (tmp_path / "xrays" / "deep" / "loop").symlink_to(target)
    (tmp_path / "xrays" / "deep" / "other").symlink_to("loop")
    listed = files.in_folder(f"{tmp_path}/xrays")
    assert "deep/a.png" in listed.names
    assert {listed.aliases.get(name, name) for name in listed.names} == {"deep/a.png"}


def test_a_link_to_nothing_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("gone.png")
    listed = files.in_folder(str(tmp_path))
    with pytest.raises(UserError, match=r"/a\.png: no such file$"):
        listed.read("a.png")
    assert listed.broken == {"a.png"}


def test_pipes_are_not_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert files.in_folder(str(tmp_path)).names == []


# --- what cannot be read ---


@pytest.mark.parametrize("uri", ["zip://x.png::no.zip", "no.png", "file:///no/such.png", "memory:///no.png"])
def test_a_missing_file_is_one_line(in_project: Path, uri: str) -> None:
    with pytest.raises(UserError, match=f"^{uri}: no such file$"):
        files.read_bytes(uri)


@pytest.mark.parametrize("name", ["a.png", "a.png?x=1", "a[1].png"])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "no such file$"),
        (410, "no such file$"),
        (403, r"cannot be read \(.*403"),
        (500, r"cannot be read \(.*500"),
    ],
)
def test_a_missing_file_on_a_server_is_told_from_one_that_it_refuses(status: int, said: str, name: str) -> None:
    with serving(lambda request: request.say(status)) as server:
        uri = f"{server.url}/{name}"
        with pytest.raises(UserError, match=rf"^{re.escape(uri)}: {said}"):
            files.read_bytes(uri)


@pytest.mark.parametrize("name", ["a.png", "a.png?x=1", "a[1].png"])
def test_a_server_that_does_not_answer_is_no_missing_file(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        uri = f"http://127.0.0.1:{free.getsockname()[1]}/{name}"
    with pytest.raises(UserError, match=rf"^{re.escape(uri)}: cannot be read \(.*Connect"):
        files.read_bytes(uri)


@pytest.mark.parametrize("uri", ["zip://y.png::a.zip", "zip://a.png::text.zip", "carrier-pigeon://a.png", "folder"])
def test_what_cannot_be_read_is_one_line(in_project: Path, uri: str) -> None:
    zipped(in_project / "a.zip", CONTENT)
    (in_project / "text.zip").write_text("no archive")
    (in_project / "folder").mkdir()
    with pytest.raises(UserError, match=rf"^{uri}: cannot be read \(.+\)$") as caught:
        files.read_bytes(uri)
    assert "\n" not in str(caught.value)


def test_a_file_larger_than_any_x_ray_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: fsspec.AbstractFileSystem
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    memory.pipe("/a.png", b"x" * 101)
    (tmp_path / "a.png").write_bytes(b"x" * 101)
    (tmp_path / "b.png").write_bytes(b"x" * 100)
    for uri in (f"{tmp_path}/a.png", "memory:///a.png"):
        with pytest.raises(UserError, match=rf"^{uri}: larger than 100 bytes, too large for an X-ray$"):
            files.read_bytes(uri)
    assert len(files.read_bytes(f"{tmp_path}/b.png")) == 100
    expected = "a.zip: a.png unpacks to 101 bytes, more than 100; this is not an X-ray archive"
    assert refused(zipped(tmp_path / "a.zip", {"a.png": b"x" * 101})) == expected


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2**20)
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(50 * 2**30)  # sparse: no bytes on the disk
    tracemalloc.start()
    with pytest.raises(UserError, match="larger than 1,048,576 bytes"):
        files.read_bytes(f"{tmp_path}/a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_an_archive_replaced_under_its_name_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for content in (b"old", b"new"):
        zipped(tmp_path / "b.zip", {"a.png": content}).replace(path)
        os.utime(path, ns=(content[0], content[0]))
        assert files.read_bytes(f"zip://a.png::{path}") == content


# --- archives that are not whole ---


def cut(path: Path) -> None:
    content = zipped(path, CONTENT).read_bytes()
    path.write_bytes(content[: len(content) // 2])


NOT_WHOLE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "no zip": lambda path: path.write_text("<html>Please sign in</html>"),
    "cut": cut,
    "end only": lambda path: path.write_bytes(b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 3, 3, 150, 0, 0)),
}


@pytest.mark.parametrize("kind", NOT_WHOLE)
def test_what_is_no_whole_archive_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.zip"
    NOT_WHOLE[kind](path)
    expected = rf"a\.zip: {path.stat().st_size} bytes that are not a complete zip .*; copy or download it again"
    assert re.fullmatch(expected, refused(path))


def flipped(path: Path) -> None:
    content = zipped(path, CONTENT).read_bytes()
    path.write_bytes(content.replace(CONTENT["b/c.png"], CONTENT["b/c.png"].replace(b"c", b"b", 1)))


def undecodable(path: Path) -> None:
    """A block of a kind that Deflate does not have."""
    content = bytearray(zipped(path, {"b/c.png": content_of("b/c.png")}, zipfile.ZIP_DEFLATED).read_bytes())
    content[30 + struct.unpack_from("<H", content, 26)[0]] = 0b111
    path.write_bytes(content)


def with_two_names(path: Path) -> None:
    content = zipped(path, {"b/c.png": content_of("b/c.png")}).read_bytes()
    path.write_bytes(content.replace(b"b/c.png", b"b/d.png", 1))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flipped, "CRC-32"),
    "undecodable": (undecodable, "invalid block type"),
    "with two names": (with_two_names, "differ"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_member_that_cannot_be_unpacked_is_named(tmp_path: Path, kind: str) -> None:
    make, reason = DAMAGED[kind]
    make(tmp_path / "a.zip")
    line = refused(tmp_path / "a.zip")
    assert re.fullmatch(r"a\.zip: b/c\.png is damaged \(.+\); copy or download the archive again", line)
    assert reason in line


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_flipped_byte_leaves_the_content_or_is_one_line(tmp_path: Path, method: int) -> None:
    members = {"ä.png": bytes(range(64)) * 2, "b.png": b"b" * 99}
    path = zipped(tmp_path / "a.zip", members, method)
    whole = path.read_bytes()
    read, lines = 0, []
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            try:
                with files.in_archive(path) as listed:
                    contents = [listed.read(name) for name in listed.names]
            except UserError as error:
                lines.append(str(error))
            else:  # only names and dates, and how many members there are, have no checksum
                assert set(contents) <= set(members.values())
                read += 1
    assert read
    assert len(lines) > 200
    assert not any("\n" in line for line in lines)


# --- archives of other programs ---


def test_backslashes_of_windows_programs_are_folders(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x\\NORMAL\\a.png": b"1", "x\\NORMAL\\": b"", "b.png": b"2"})
    with files.in_archive(path) as listed:
        assert listed.names == ["b.png", "x/NORMAL/a.png"]
        assert listed.read("x/NORMAL/a.png") == listed.head("x/NORMAL/a.png", 9) == b"1"
        assert files.read_bytes(listed.uri("x/NORMAL/a.png")) == b"1"
    zipped(path, {"x\\a.png": b"1", "x/a.png": b"2"})
    assert refused(path) == "a.zip: contains 'x/a.png' twice; create the archive again"


def tarred(path: Path, members: dict[str, bytes | str], mode: str = "w:gz") -> Path:
    """A tar archive; a member with text is a link to it."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_archive_is_packed_again_as_a_zip(tmp_path: Path, mode: str) -> None:
    members = {f"./x/{name}": content for name, content in CONTENT.items()}
    path = tarred(tmp_path / "a", members, mode)
    assert files.is_tar(path)
    for target in ("a.zip", "b.zip"):
        files.pack_again(path, tmp_path / target, place="a.tgz")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with files.in_archive(tmp_path / "a.zip") as listed:
        assert {name: listed.read(name) for name in listed.names} == {f"x/{name}": CONTENT[name] for name in CONTENT}


@pytest.mark.parametrize("kind", [*NOT_WHOLE, "a zip that ends with a tar"])
def test_other_files_are_no_tar_archives(tmp_path: Path, kind: str) -> None:
    if kind in NOT_WHOLE:
        NOT_WHOLE[kind](tmp_path / "a")
    else:
        content = tarred(tmp_path / "t.tar", dict(CONTENT), "w").read_bytes()
        zipped(tmp_path / "a", {"t.tar": content})
    assert not files.is_tar(tmp_path / "a")


BAD_TARS: dict[str, tuple[dict[str, bytes | str], str]] = {
    "above": ({"../a.png": b"1"}, r"a\.tgz: member '\.\./a\.png' points outside the archive; do not use this file"),
    "absolute": ({"/etc/a.png": b"1"}, r"a\.tgz: member '/etc/a\.png' points outside the archive; .*"),
    "windows": ({"C:\\a.png": b"1"}, r"a\.tgz: member .* points outside the archive; .*"),
    "link": ({"a.png": "/etc/passwd"}, r"a\.tgz: member 'a\.png' is a link or a device; pack the files themselves .*"),
    "twice": ({"a.png": b"1", "./a.png": b"2"}, r"a\.tgz: contains 'a\.png' twice; create the archive again"),
    "bomb": ({"a.png": bytes(3 * 2**20)}, r"a\.tgz: a\.png has more than .* 200 times its size .*"),
}


def test_a_tar_archive_with_names_that_are_not_utf_8_is_refused_with_the_cause(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\u00fc.png"))
    with pytest.raises(
        UserError, match=r"^a\.tar: the name of member .* is not in UTF-8; rename the file and create the"
    ):
        files.pack_again(tmp_path / "a.tar", tmp_path / "a.zip", place="a.tar")


@pytest.mark.parametrize("kind", BAD_TARS)
def test_a_tar_archive_that_could_do_harm_is_refused(tmp_path: Path, kind: str) -> None:
    members, expected = BAD_TARS[kind]
    tarred(tmp_path / "a.tgz", members)
    with pytest.raises(UserError, match=f"^{expected}$"):
        files.pack_again(tmp_path / "a.tgz", tmp_path / "a.zip", place="a.tgz")


def test_a_tar_archive_cut_at_any_place_is_one_line(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "a.tgz", {f"{n}.png": os.urandom(700) for n in range(9)}).read_bytes()
    for length in range(600, len(whole) - 8, 97):
        (tmp_path / "a.tgz").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"^a\.tgz: a damaged tar archive \(.+\); copy or download it again$"):
            files.pack_again(tmp_path / "a.tgz", tmp_path / "a.zip", place="a.tgz")


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7-Zip archive"),
        (b"\x1f\x8b\x08\0", "a gzip file without a tar archive"),
    ],
)
def test_an_archive_of_another_kind_is_named(tmp_path: Path, magic: bytes, name: str) -> None:
    (tmp_path / "a.rar").write_bytes(magic + bytes(99))
    assert refused(tmp_path / "a.rar").startswith(f"a.rar: {name}, which is not supported; unpack it and ")


# --- archives that could do harm ---


@pytest.mark.parametrize(
    "name",
    [
        *("../x.png", "a/../../x.png", "a/..", "/x.png", "//server/share/x.png", "/"),
        *("..\\x.png", "a\\..\\..\\x.png", "\\x.png", "\\\\server\\share\\x.png", "C:\\x.png", "C:x.png"),
    ],
)
def test_a_member_that_leads_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "a.zip", {"good.png": b"1", "N" * len(name): b"2"})
    path.write_bytes(path.read_bytes().replace(b"N" * len(name), name.encode()))  # zipfile would tame some of them
    assert refused(path) == f"a.zip: member {name!r} points outside the archive; do not use this file"


@pytest.mark.parametrize("name", ["a..b.png", "...", "..a/b.png", "a/.../b.png", "ab:c.png", "C/x.png"])
def test_dots_and_colons_within_a_name_do_no_harm(tmp_path: Path, name: str) -> None:
    with files.in_archive(zipped(tmp_path / "a.zip", {name: b"1"})) as listed:
        assert listed.names == [name]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK], ids=oct)
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert refused(tmp_path / "a.zip") == "a.zip: member 'link.png' is a link or a device; do not use this file"


@pytest.mark.parametrize("mode", [0, 0o644, stat.S_IFREG | 0o644], ids=oct)
def test_files_and_folders_of_every_packer_are_read(tmp_path: Path, mode: int) -> None:
    member, folder = zipfile.ZipInfo("deep/a.png"), zipfile.ZipInfo("deep/")
    member.external_attr, folder.external_attr = mode << 16, (stat.S_IFDIR | 0o755) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(folder, b"")
        archive.writestr(member, b"1")
    with files.in_archive(tmp_path / "a.zip") as listed:
        assert listed.names == ["deep/a.png"]
        assert listed.read("deep/a.png") == b"1"


def test_a_member_that_claims_ten_gigabytes_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": b"x" * 50})
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    extra = struct.pack("<2HQ", 1, 8, 10 * 10**9)  # zip64: the size that does not fit into 32 bits
    struct.pack_into("<L", content, place + 24, 0xFFFFFFFF)
    struct.pack_into("<H", content, place + 30, len(extra))
    content[place + 46 + len("a.png") : place + 46 + len("a.png")] = extra
    end = content.index(b"PK\x05\x06")
    struct.pack_into("<L", content, end + 12, end - place)
    path.write_bytes(content)
    expected = "a.zip: a.png unpacks to 10,000,000,000 bytes, more than 268,435,456; this is not an X-ray archive"
    assert refused(path) == expected


def test_a_member_that_hides_its_size_is_not_unpacked_further_than_it_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": bytes(20 * 2**20)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", content, content.index(signature) + place, 1000)
    path.write_bytes(content)
    tracemalloc.start()
    assert refused(path).startswith("a.zip: a.png is damaged (Bad CRC-32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20


def test_a_bomb_is_refused_and_small_files_may_shrink(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": bytes(2**20 + 1)}, zipfile.ZIP_DEFLATED)
    assert refused(path) == "a.zip: a.png unpacks to more than 200 times its size; this is not an X-ray archive"
    zipped(path, {"blank.png": bytes(2**20)}, zipfile.ZIP_DEFLATED)
    with files.in_archive(path) as listed:
        assert listed.read("blank.png") == bytes(2**20)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_MEMBERS", 3)
    members = {f"{number}.png": b"1" for number in range(4)}
    expected = "a.zip: more than 3 members; this is not an X-ray archive"
    assert refused(zipped(tmp_path / "a.zip", members)) == expected
    with files.in_archive(zipped(tmp_path / "a.zip", dict(list(members.items())[:3]))) as listed:
        assert len(listed.names) == 3


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 97])
def test_a_method_of_packing_that_hides_its_size_or_is_unknown_is_refused(tmp_path: Path, method: int) -> None:
    content = bytearray(zipped(tmp_path / "a.zip", CONTENT).read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + place] = method
    (tmp_path / "a.zip").write_bytes(content)
    expected = f"a.zip: a.png is compressed by method {method}; compress it again with Deflate"
    assert refused(tmp_path / "a.zip") == expected


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")
    assert refused(tmp_path / "a.zip") == "a.zip: contains 'a.png' twice; create the archive again"


def test_a_refused_archive_leaves_no_open_file_and_writes_nothing(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x" * 9: b"1"})
    path.write_bytes(path.read_bytes().replace(b"x" * 9, b"../../x/y"))
    before = len(os.listdir("/proc/self/fd"))
    refused(path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_members_are_read_by_several_threads_at_once(tmp_path: Path) -> None:
    members = {f"{number:03}.png": bytes([number]) * 5000 for number in range(200)}
    path = zipped(tmp_path / "a.zip", members, zipfile.ZIP_DEFLATED)
    with files.in_archive(path) as listed, ThreadPoolExecutor(8) as pool:
        assert dict(zip(listed.names, pool.map(listed.read, listed.names), strict=True)) == members
        found = pool.map(files.read_bytes, map(listed.uri, listed.names))
        assert dict(zip(listed.names, found, strict=True)) == members
