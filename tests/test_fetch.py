"""An archive arrives whole or not at all, and one manifest row stands for each of its images."""

import hashlib
import http.server
import io
import json
import re
import shutil
import struct
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from pneumonia import UserError, fetch, files, workspace
from pneumonia.credentials import NO_CREDENTIALS, Credentials
from pneumonia.data import download, forgotten, sources, tables
from pneumonia.images import decode
from pneumonia.metrics.arrays import sampling_units
from stages import fetch as stage
from tests.conftest import KERMANY, NORMALS, PNEUMONIAS, png, set_settings
from tests.images.test_decode import dicom as a_dicom_file


def content_of(name: str) -> bytes:
    """Not a picture: `fetch` looks at names and bytes alone."""
    return f"{name.rsplit('/', 1)[1]} ".encode() * 20


def zipped(path: Path, names: Iterable[str], method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else content_of(name))
    return path


def plain(path: Path, **how: Any) -> Path:
    return zipped(path, [f"chest_xray/{name}" for name in KERMANY], **how)


def bring(data: str, url: str | Path | None, folder: Path = Path("data/raw"), **settings: Any) -> Path:
    fetched(data, url, folder, **settings)
    return folder / f"{data}.zip"


def fetched(data: str, url: str | Path | None, folder: Path = Path("data/raw"), **settings: Any) -> fetch.Fetched:
    settings = {"sha256": None, "n_images": 40, "seed": 1, "workers": 1} | settings
    with workspace.resumable("fetch", data, url) as resume:
        return fetch.fetch(data, folder, url=None if url is None else str(url), resume=resume, **settings)


def manifest_of(path: Path) -> pd.DataFrame:
    return fetch.read_archive("chest_xray", path)[0]


# --- the manifest ---


def test_manifest_keeps_its_contract(tmp_path: Path) -> None:
    manifest, boxes = fetch.read_archive("chest_xray", plain(tmp_path / "a.zip"))
    assert list(manifest) == [
        "image_id",
        "uri",
        "label",
        "patient_id",
        "subtype",
        "source_split",
        "bytes",
        "sha256",
    ]
    assert list(boxes) == ["image_id", "x", "y", "width", "height"]
    assert len(boxes) == 0
    assert manifest["image_id"].is_unique
    assert manifest["image_id"].is_monotonic_increasing
    for row in manifest.itertuples():
        content = files.read_bytes(row.uri)
        assert (row.bytes, row.sha256) == (len(content), workspace.sha256_bytes(content))
    tables.write_table(manifest, tmp_path / "manifest.csv")
    pd.testing.assert_frame_equal(tables.read_table(tmp_path / "manifest.csv"), manifest)


# --- where an archive comes from ---


def test_an_archive_is_kept_as_it_came(in_project: Path) -> None:
    path = plain(in_project / "mine.zip")
    archive = bring("chest_xray", path, sha256=workspace.sha256_file(path))
    assert archive == Path("data/raw/chest_xray.zip")
    assert archive.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in archive.parent.iterdir()) == ["chest_xray.zip", "source.json"]


def test_a_forgotten_patient_is_left_out_of_the_archive_and_of_the_manifest(
    in_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plain(in_project / "mine.zip")
    whole = fetched("chest_xray", path).manifest
    theirs = whole[whole["patient_id"] == "bacteria-1"]
    forgotten.add(in_project, "bacteria-1", theirs["sha256"][:1])
    capsys.readouterr()
    result = fetched("chest_xray", path, removed=forgotten.read(in_project))
    assert "NOTE: 2 of 10 images are left out: pneumonia forget has removed their patients" in capsys.readouterr().out
    assert result.record["n_images"] == len(whole) - len(theirs) == 8
    pd.testing.assert_frame_equal(result.manifest, whole.drop(theirs.index).reset_index(drop=True))
    with zipfile.ZipFile("data/raw/chest_xray.zip") as archive:
        assert len(archive.namelist()) == 8
        assert not any("person1_bacteria" in name for name in archive.namelist())
    assert files.read_bytes(result.manifest["uri"].iloc[0])


def test_a_forgotten_patient_is_left_out_of_a_folder_that_is_used_in_place(in_project: Path) -> None:
    place = tree(in_project / "films", ["NORMAL/A/1.png", "NORMAL/B/1.png", "PNEUMONIA/C/1.png", "PNEUMONIA/D/1.png"])
    forgotten.add(in_project, "B", [])
    result = fetched("folder", place, removed=forgotten.read(in_project))
    assert list(result.manifest["patient_id"]) == ["A", "C", "D"]
    assert (place / "NORMAL/B/1.png").is_file(), "the user's own images are not touched"


@pytest.mark.parametrize("inside", ["", ".dvc/tmp/exps/standalone/tmpabc", ".dvc/tmp/exps/tmpabc"])
def test_a_relative_path_counts_from_the_root_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    plain(tmp_path / "project" / "archives" / "mine.zip")
    plain(tmp_path / "beside.zip")
    here = tmp_path / "project" / inside
    here.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(here)
    assert bring("chest_xray", "archives/mine.zip", Path("a")).resolve() == here / "a" / "chest_xray.zip"
    assert bring("chest_xray", "../beside.zip", Path("b")).resolve() == here / "b" / "chest_xray.zip"


def test_a_file_url_and_a_path_from_home_are_found(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plain(in_project / "elsewhere" / "mine.zip")
    monkeypatch.setenv("HOME", str(path.parent))
    for url in (f"file://{path}", "~/mine.zip"):
        assert bring("chest_xray", url).read_bytes() == path.read_bytes()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "www").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www")) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_an_archive_comes_over_http(in_project: Path, server: str) -> None:
    path = plain(in_project / "www" / "mine.zip")
    assert bring("chest_xray", f"{server}/mine.zip").read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match=rf"^{server}/other\.zip: no such file; correct fetch\.url$"):
        bring("chest_xray", f"{server}/other.zip")


def test_the_published_address_is_used_when_there_is_no_other(
    in_project: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(in_project / "www" / "published.zip")
    row = sources.DATASETS["chest_xray"]._replace(url=f"{server}/published.zip")
    monkeypatch.setitem(sources.DATASETS, "chest_xray", row)
    # A checksum in the settings is that of the archive at `fetch.url`, and there is none.
    assert bring("chest_xray", None, sha256="0" * 64).read_bytes() == path.read_bytes()


# --- what goes wrong ---


def cut(path: Path) -> None:
    plain(path)
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    plain(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"person23_virus_60.jpeg ", b"person24_virus_60.jpeg ", 1))


def undecodable(path: Path) -> None:
    """A compressed member that begins with a block of a type that does not exist."""
    plain(path, method=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    start = 30 + struct.unpack_from("<H", content, 26)[0]
    content[start] = 0b111
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    plain(path)
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)


def like_the_phantom(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("radiographs.csv", "image_id,member\nP0,images/P0.jpeg\n")
        archive.writestr("boxes.csv", "image_id,x,y,width,height\n")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, r"^/.*/bad\.zip: no such file; correct fetch\.url$"),
    "folder": (
        lambda path: path.mkdir(),
        r"^/.*/bad\.zip: no images in the layout of data = chest_xray \(train/NORMAL/.*\); (found: .*|it is empty)$",
    ),
    "empty": (lambda path: path.touch(), r"^/.*/bad\.zip: the file is empty; correct fetch\.url$"),
    "cut": (
        cut,
        r"^/.*/bad\.zip: [\d,]+ bytes that are not a complete zip archive .*; copy or download it again$",
    ),
    "no zip": (
        lambda path: path.write_text("<html>"),
        r"^/.*/bad\.zip: a text, not an archive; if it is a table, give it a name that ends in \.csv, else correct",
    ),
    "flipped": (flipped, r"^/.*/bad\.zip: \S+/person23_virus_60\.jpeg is damaged \(Bad CRC-32.*download .* again$"),
    "undecodable": (undecodable, r"^/.*/bad\.zip: \S+/IM-0115-0001\.jpeg is damaged .*download .* again$"),
    "encrypted": (
        encrypted,
        r"^/.*/bad\.zip: \S+/IM-0115-0001\.jpeg is encrypted; create the archive again without a password",
    ),
    "no normal": (partial(zipped, names=PNEUMONIAS), r"^/.*/bad\.zip: no image of class 0 \(normal\)"),
    "no pneumonia": (partial(zipped, names=NORMALS), r"^/.*/bad\.zip: no image of class 1 \(pneumonia\)"),
    "phantom": (like_the_phantom, r"layout of data = chest_xray \(.*\); found: .*; it looks like data = phantom$"),
    "other": (
        partial(zipped, names=["a/b.jpeg"]),
        r"^/.*/bad\.zip: no images in the layout of data = chest_xray \(train/NORMAL/.*\); (found: .*|it is empty)$",
    ),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("previous", [{}, {"chest_xray.zip": b"the archive of yesterday", "source.json": b"{}"}])
def test_a_bad_archive_is_one_line_and_leaves_what_was_there(
    in_project: Path, kind: str, previous: dict[str, bytes]
) -> None:
    make, expected = BAD[kind]
    make(in_project / "bad.zip")
    folder = Path("data/raw")
    folder.mkdir(parents=True)
    for name, content in previous.items():
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        bring("chest_xray", "bad.zip")
    assert "\n" not in str(caught.value)
    assert ".partial" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == previous


def refused(data: str, url: str | Path | None, **settings: Any) -> str:
    """The one line with which a source is refused; what was brought before stays, and nothing is left behind."""
    raw = Path("data/raw")
    raw.mkdir(parents=True, exist_ok=True)
    (raw / f"{data}.zip").write_bytes(b"the archive of yesterday")
    with pytest.raises(UserError) as caught:
        fetched(data, url, **settings)
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == {f"{data}.zip": b"the archive of yesterday"}
    assert "\n" not in str(caught.value)
    assert ".partial" not in str(caught.value)
    return str(caught.value)


def test_another_archive_than_the_checksum_names_is_refused(in_project: Path) -> None:
    path = plain(in_project / "mine.zip")
    line = refused("chest_xray", "mine.zip", sha256="0" * 64)
    assert f"mine.zip: SHA-256 is {workspace.sha256_file(path)}, {'0' * 64} was expected" in line
    assert "download it again or correct fetch.sha256" in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.zip", "carrier-pigeon://a.zip"])
def test_an_unreachable_address_is_one_line_with_the_remedy(
    in_project: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    line = refused("chest_xray", url)
    assert re.match(rf"{url}: the download failed \(.*(connect|not known).*by hand", line)


def test_a_member_that_would_fill_the_memory_is_not_unpacked(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    plain(in_project / "a.zip", method=zipfile.ZIP_DEFLATED)
    expected = r"/.*/a\.zip: \S+ unpacks to \d+ bytes, more than 100; this is not an X-ray archive"
    assert re.fullmatch(expected, refused("chest_xray", "a.zip"))


def test_a_harmful_archive_does_not_get_its_name(in_project: Path) -> None:
    zipped(in_project / "a.zip", ["chest_xray/train/NORMAL/a.jpeg", "../train/PNEUMONIA/b.jpeg"])
    assert refused("chest_xray", "a.zip").startswith(
        f"{in_project}/a.zip: member '../train/PNEUMONIA/b.jpeg' points outside"
    )


def test_a_disk_that_is_full_leaves_what_was_there(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(in_project / "a.zip")
    archive = bring("chest_xray", "a.zip")
    before = {path.name: path.read_bytes() for path in archive.parent.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "download_file", full)
    with pytest.raises(OSError, match="No space left"):
        bring("chest_xray", "a.zip")
    assert {path.name: path.read_bytes() for path in archive.parent.iterdir()} == before


def test_an_unknown_data_set_lists_the_known_ones(in_project: Path) -> None:
    known = ", ".join(sources.DATASETS)
    with pytest.raises(UserError, match=rf"^data = 'chest-xray' is unknown; known: {known}$"):
        fetch.fetch(
            "chest-xray", Path("data/raw"), url=None, sha256=None, n_images=9, seed=1, workers=1, resume=in_project
        )
    assert list(in_project.iterdir()) == []


@pytest.mark.parametrize("data", ["folder", "rsna"])
def test_a_source_without_a_published_address_needs_one(in_project: Path, data: str) -> None:
    line = refused(data, None)
    assert line == f"data = {data} needs fetch.url, the place of the images (folder, table or archive; path or URL)"


# --- published archives ---

MINE = Credentials("me", "mine", "token=1")


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Addresses and checksums that are asked for; nothing is brought. Only an own address gets the credentials."""
    calls = []

    def download_file(url: str, target: Path, *, resume: Path, checksum: str | None, credentials: Credentials) -> str:
        assert credentials == (MINE if url.startswith("https://example.org/") else NO_CREDENTIALS)
        calls.append((url, checksum))
        raise UserError("enough")

    monkeypatch.setattr(download, "download_file", download_file)
    return calls


@pytest.mark.parametrize("data", [name for name, row in sources.DATASETS.items() if row.url])
def test_the_published_checksum_is_of_the_published_address_and_the_own_of_the_own(
    in_project: Path, brought: list[tuple[str, str | None]], data: str
) -> None:
    row = sources.source(data)
    for url in (None, "https://example.org/a.zip"):
        for sha256 in (None, "0" * 64):
            assert refused(data, url, sha256=sha256, credentials=MINE) == "enough"
    assert brought == [
        (row.url, row.checksum or None),
        (row.url, row.checksum or None),
        ("https://example.org/a.zip", None),
        ("https://example.org/a.zip", f"sha256:{'0' * 64}"),
    ]


def test_an_archive_with_another_md5_than_the_published_one_is_refused(
    in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(in_project / "mine.zip")
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    for checksum in (md5, "0" * 32):
        row = sources.DATASETS["chest_xray"]._replace(url=path.as_uri(), checksum=f"md5:{checksum}")
        monkeypatch.setitem(sources.DATASETS, "chest_xray", row)
        if checksum == md5:
            assert fetched("chest_xray", None).record["sha256"] == workspace.sha256_file(path)
    Path("data/raw/source.json").unlink()
    assert f"MD5 is {md5}, the published one is {'0' * 32}" in refused("chest_xray", None)


def test_source_json_says_where_the_images_come_from(in_project: Path) -> None:
    path = plain(in_project / "mine.zip")
    brought = fetched("chest_xray", "mine.zip")
    row = sources.source("chest_xray")
    assert brought.record == {
        "data": "chest_xray",
        "title": row.title,
        "licence": row.licence,
        "citation": row.citation,
        "patients": row.patients,
        "url": "mine.zip",
        "sha256": workspace.sha256_file(path),
        "n_images": 10,
    }
    assert tables.read_json("data/raw/source.json") == brought.record


# --- folders and tables, used in place ---


def tree(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content_of(f"/{name}"))
    return root


def dicom(**header: str) -> bytes:
    return a_dicom_file(np.zeros((2, 2), np.uint8), **header)


def test_a_folder_is_used_where_it_lies(in_project: Path) -> None:
    tree(in_project / "my::images 1", ["NORMAL/p1/a.png", "PNEUMONIA/b.png", "PNEUMONIA/ä::c.png", "notes.txt"])
    manifest, boxes, record = fetched("folder", "my::images 1")
    assert manifest["image_id"].to_list() == ["NORMAL/p1/a.png", "PNEUMONIA/b.png", "PNEUMONIA/ä::c.png"]
    assert manifest["uri"].to_list() == [f"{in_project}/my::images 1/{name}" for name in manifest["image_id"]]
    assert manifest["patient_id"].to_list() == ["p1", "PNEUMONIA/b.png", "PNEUMONIA/ä::c.png"]
    for row in manifest.itertuples():
        content = files.read_bytes(row.uri)
        assert (row.bytes, row.sha256) == (len(content), workspace.sha256_bytes(content))
    assert len(boxes) == 0
    assert [path.name for path in Path("data/raw").iterdir()] == ["source.json"]  # all that DVC has to keep
    assert tables.read_json("data/raw/source.json") == record
    assert (record["url"], record["n_images"], "sha256" in record) == ("my::images 1", 3, False)


def test_a_folder_in_an_archive_is_brought_as_an_archive(in_project: Path) -> None:
    zipped(in_project / "mine.zip", ["top/train/NORMAL/a.png", "top/test/PNEUMONIA/p2/b.png"])
    manifest = fetched("folder", "mine.zip").manifest.set_index("image_id")
    assert manifest["uri"].to_list() == [f"zip://{name}::data/raw/folder.zip" for name in manifest.index]
    assert manifest["source_split"].to_list() == ["test", "train"]


def boxed(root: Path, table: str, coco: dict[str, Any] | None = None) -> Path:
    """Films of 40 x 30 pixels, one of them damaged, with a table of their boxes or a COCO file."""
    for name in ("NORMAL/p1/n.png", "PNEUMONIA/p2/a.png", "PNEUMONIA/p3/cut.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((30, 40), 90, np.uint8))[: 20 if "cut" in name else None])
    (root / "boxes.csv").write_text(f"image,x,y,width,height\n{table}")
    if coco:
        (root / "boxes.csv").unlink()
        (root / "annotations.json").write_text(json.dumps(coco))
    return root


def test_boxes_beside_own_images_come_into_the_table_of_boxes_in_a_folder_and_an_archive(
    in_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = boxed(in_project / "mine", "a.png,20.5,10,19,20.5\na.png,1,1,5,5\n")
    names = ("PNEUMONIA/p2/a.png", "NORMAL/p1/n.png", "PNEUMONIA/p3/cut.png")
    images = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)]
    drawn = [
        {"id": n, "image_id": 0, "category_id": 3, "bbox": box}
        for n, box in ((7, [1, 1, 5, 5]), (9, [20.5, 10, 19, 20.5]))
    ]
    coco = boxed(
        in_project / "coco",
        "",
        {"images": images, "annotations": drawn, "categories": [{"id": 3, "name": "pneumonia"}]},
    )
    shutil.make_archive("packed", "zip", mine)
    written = []
    for url in (mine, "packed.zip", coco):
        result = fetched("folder", url)
        assert list(result.boxes) == list(fetch.BOXES)
        assert "size" not in result.manifest
        tables.write_table(result.boxes, "boxes.csv")
        written.append(Path("boxes.csv").read_text())
        assert "companions" not in result.record
    assert set(written) == {
        "image_id,x,y,width,height\nPNEUMONIA/p2/a.png,1.0,1.0,5.0,5.0\nPNEUMONIA/p2/a.png,20.5,10.0,19.0,20.5\n"
    }
    assert "NOTE: boxes.csv: images with pneumonia whose boxes are not known: 1 of 2" in capsys.readouterr().out


def test_boxes_of_an_image_are_those_of_its_exact_copies(in_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = pictures(in_project / "mine", ["NORMAL/n.png", *(f"PNEUMONIA/{name}.png" for name in "bde")])
    for copy in ("PNEUMONIA/a.png", "PNEUMONIA/c.png", "NORMAL/x.png"):
        shutil.copy(mine / "PNEUMONIA" / "b.png", mine / copy)
    (mine / "boxes.csv").write_text(
        "image,x,y,width,height\nb.png,1,2,3,4\nb.png,2,2,3,4\nc.png,3,2,3,4\nd.png,4,2,3,4\n"
    )
    boxes = fetched("folder", mine).boxes
    assert list(zip(boxes["image_id"].str[-5], boxes["x"], strict=True)) == [
        *(("a", 1), ("a", 2)),
        *(("b", 1), ("b", 2)),
        *(("c", 3), ("d", 4)),
    ]
    said = capsys.readouterr().out
    assert "NOTE: boxes count for exact copies of their image, too: 1, such as PNEUMONIA/a.png\n" in said


def test_boxes_outside_their_images_are_refused_before_anything_is_written(in_project: Path) -> None:
    mine = boxed(in_project / "mine", "cut.png,0,0,999,999\na.png,20.5,10,30,20\na.png,1,1,5,5\n")
    shutil.make_archive("packed", "zip", mine)
    for url in ("mine", "packed.zip"):
        line = refused("folder", url)
        assert line == (
            "boxes.csv, line 3: from (20.5, 10) to (50.5, 30), but PNEUMONIA/p2/a.png has 40 x 30 pixels: outside the "
            "image, in 1 of 3 boxes; give boxes in pixels of the file, inside it; corners have the "
            "columns x_min, y_min, x_max, y_max"
        )


def test_a_folder_of_another_file_system_is_used_where_it_lies(in_project: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("NORMAL/a b.png", "PNEUMONIA/b.png"):
        memory.pipe(f"/box/{name}", content_of(f"/{name}"))
    try:
        for url in ("memory://box", "memory://box/mine.csv"):
            memory.pipe("/box/mine.csv", b"path,label,patient_id\nNORMAL/a b.png,0,p\nPNEUMONIA/b.png,1,q\n")
            manifest = fetched("folder", url).manifest
            assert manifest["uri"].to_list() == ["memory:///box/NORMAL/a b.png", "memory:///box/PNEUMONIA/b.png"]
            assert [files.read_bytes(uri) for uri in manifest["uri"]] == [b"a b.png " * 20, b"b.png " * 20]
    finally:
        memory.rm("/", recursive=True)


def test_the_header_of_a_dicom_file_says_who_the_patient_is_where_nothing_else_does(in_project: Path) -> None:
    (in_project / "mine" / "NORMAL" / "p1").mkdir(parents=True)
    tree(in_project / "mine", ["PNEUMONIA/c.png"])
    for name in ("NORMAL/a.dcm", "NORMAL/p1/b.dcm"):
        (in_project / "mine" / name).write_bytes(dicom(PatientID="007", PatientSex="F", PatientAge="043Y"))
    manifest = fetched("folder", "mine").manifest.set_index("image_id")
    assert manifest["patient_id"].to_dict() == {
        "NORMAL/a.dcm": "007",
        "NORMAL/p1/b.dcm": "p1",
        "PNEUMONIA/c.png": "PNEUMONIA/c.png",
    }
    assert manifest[["sex", "age"]].apply(tuple, axis=1).to_list() == [("F", "43"), ("F", "43"), ("", "")]
    assert "view" not in manifest


def test_a_table_goes_before_the_header_of_a_dicom_file_and_its_columns_reach_the_manifest(in_project: Path) -> None:
    (in_project / "mine").mkdir()
    for name in ("a.dcm", "b.dcm"):
        (in_project / "mine" / name).write_bytes(dicom(PatientID="007", PatientSex="F", ViewPosition="AP"))
    head = "path,label,patient_id,split,subtype,sex,age,view\n"
    (in_project / "mine" / "t.CSV").write_text(f"{head}a.dcm,1,p1,train,virus,M,5,\nb.dcm,0,,test,,,,PA\n")
    manifest = fetched("folder", in_project / "mine" / "t.CSV").manifest
    columns = ["patient_id", "source_split", "subtype", "sex", "age", "view"]
    assert manifest[columns].apply(tuple, axis=1).to_list() == [
        ("p1", "train", "virus", "M", "5", "AP"),
        ("007", "test", "normal", "F", "", "PA"),
    ]
    assert manifest["uri"].to_list() == [f"{in_project}/mine/a.dcm", f"{in_project}/mine/b.dcm"]
    assert [path.name for path in Path("data/raw").iterdir()] == ["source.json"]
    tables.write_table(manifest, "manifest.csv")
    back = tables.read_table("manifest.csv")
    assert back["patient_id"].to_list() == ["p1", "007"]
    assert back["age"].isna().to_list() == [False, True]


def test_the_challenge_of_rsna_is_used_where_it_lies(in_project: Path) -> None:
    (in_project / "rsna" / "stage_2_train_images").mkdir(parents=True)
    for name in ("aa", "bb"):
        content = dicom(PatientID=name, PatientSex="F", PatientAge="051Y", ViewPosition="PA")
        (in_project / "rsna" / "stage_2_train_images" / f"{name}.dcm").write_bytes(content)
    head = "patientId,x,y,width,height,Target\n"
    (in_project / "rsna" / "stage_2_train_labels.csv").write_text(f"{head}bb,9,2,3,4,1\nbb,1,2,3,4.5,1\naa,,,,,0\n")
    mapping = [{"subset_img_id": "aa", "img_id": "00000013_005.png"}]
    (in_project / "rsna" / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapping))
    manifest, boxes, _ = fetched("rsna", "rsna")
    columns = ["image_id", "label", "patient_id", "sex", "age", "view"]
    assert manifest[columns].apply(tuple, axis=1).to_list() == [
        ("aa", 0, "00000013", "F", "51", "PA"),
        ("bb", 1, "bb", "F", "51", "PA"),
    ]
    assert manifest["uri"].to_list() == [f"{in_project}/rsna/stage_2_train_images/{name}.dcm" for name in ("aa", "bb")]
    assert boxes.to_dict("list") == {
        "image_id": ["bb", "bb"],
        "x": [1.0, 9.0],
        "y": [2.0, 2.0],
        "width": [3.0, 3.0],
        "height": [4.5, 4.0],
    }
    assert [path.name for path in Path("data/raw").iterdir()] == ["source.json"]


def test_an_unpacked_kermany_tree_is_used_where_it_lies(in_project: Path) -> None:
    tree(in_project / "chest_xray", KERMANY)
    manifest = fetched("chest_xray", "chest_xray").manifest
    zipped_manifest = manifest_of(plain(in_project / "a.zip"))
    assert manifest.drop(columns="uri").equals(zipped_manifest.drop(columns="uri"))
    assert not Path("data/raw/chest_xray.zip").exists()


@pytest.mark.parametrize(
    ("data", "url", "expected"),
    [
        ("folder", "no/folder", r"/.*/no/folder: no such file; correct fetch\.url"),
        ("folder", "~nobody_here/mine", r"/.*/~nobody_here/mine: no such file; correct fetch\.url"),
        ("folder", "mine/no.csv", r"/.*/mine/no\.csv: no such file"),
        (
            "folder",
            "empty",
            r"/.*/empty: no images in the layout of data = folder \(images .*\); found: a\.png \(1 images .*\); "
            r"to name the classes of your folders: -S \"fetch\.classes={normal: \['NAME'\], pneumonia: \['NAME'\]}\"",
        ),
        ("folder", "half", r"/.*/half: no image of class 0 \(normal\); a classifier needs both classes"),
        (
            "rsna",
            "mine",
            r"/.*/mine: no images in the layout of data = rsna \(.*\); found: .*; it looks like data = folder",
        ),
        (
            "rsna",
            "kermany",
            r"/.*/kermany: no images in the layout of data = rsna \(.*\); found: .*; it looks like data = chest_xray",
        ),
        (
            "folder",
            "rsna",
            r"/.*/rsna: no images in the layout of data = folder \(.*\); found: .*; it looks like data = rsna",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(in_project: Path, data: str, url: str, expected: str) -> None:
    tree(in_project / "mine", ["NORMAL/a.png", "PNEUMONIA/b.png"])
    tree(in_project / "half", ["PNEUMONIA/b.png"])
    tree(in_project / "empty", ["a.png"])
    tree(in_project / "kermany", KERMANY)
    (in_project / "rsna").mkdir()  # the table without its images: what is missing is not what is wrong
    (in_project / "rsna" / "stage_2_train_labels.csv").write_text("patientId,x,y,width,height,Target\naa,,,,,0\n")
    assert re.fullmatch(expected, refused(data, url))


@pytest.mark.parametrize("url", ["mine", "mine/t.csv"])
def test_a_checksum_of_a_folder_is_refused(in_project: Path, url: str) -> None:
    tree(in_project / "mine", ["NORMAL/a.png", "PNEUMONIA/b.png"])
    line = refused("folder", url, sha256="0" * 64)
    assert line == f"fetch.sha256 is of an archive, but {url} is used in place; set it to null"


def test_a_file_that_cannot_be_read_ends_the_listing(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 200)
    tree(in_project / "mine", ["NORMAL/a.png", "PNEUMONIA/a_very_long_name.png"])
    line = refused("folder", "mine")
    assert line == f"{in_project}/mine/PNEUMONIA/a_very_long_name.png: larger than 200 bytes, too large for an X-ray"


# --- kaggle ---


@pytest.fixture
def kaggle(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A `kagglehub` that has two sets, and the names that it was asked for."""
    asked = []

    def download_of(kind: str, name: str) -> str:
        asked.append(f"{kind} {name}")
        if "paultimothymooney" in name:
            return str(tree(in_project / "cache" / name, [f"chest_xray/{one}" for one in KERMANY]))
        if "rsna" in name:
            return str(tree(in_project / "cache" / name, ["NORMAL/a.png", "PNEUMONIA/b.png"]))
        raise RuntimeError("403 Client Error.\n\nPermission denied")

    module = SimpleNamespace(
        dataset_download=partial(download_of, "dataset"), competition_download=partial(download_of, "competition")
    )
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return asked


def test_a_set_of_kaggle_is_used_where_kagglehub_puts_it(in_project: Path, kaggle: list[str]) -> None:
    manifest, _, record = fetched("chest_xray", "kaggle://paultimothymooney/chest-xray-pneumonia")
    folder = f"{in_project}/cache/paultimothymooney/chest-xray-pneumonia/chest_xray"
    assert manifest["uri"].to_list() == [f"{folder}/{name}.jpeg" for name in manifest["image_id"]]
    assert len(manifest) == len(KERMANY)
    assert record["url"] == "kaggle://paultimothymooney/chest-xray-pneumonia"
    assert set(kaggle) == {"dataset paultimothymooney/chest-xray-pneumonia"}


def test_a_competition_of_kaggle_is_asked_for_as_one(in_project: Path, kaggle: list[str]) -> None:
    assert len(fetched("folder", "kaggle://competitions/rsna-pneumonia-detection-challenge").manifest) == 2
    assert set(kaggle) == {"competition rsna-pneumonia-detection-challenge"}


def test_a_set_that_kaggle_refuses_is_one_line(in_project: Path, kaggle: list[str]) -> None:
    line = refused("folder", "kaggle://some/body")
    assert line == (
        "kaggle://some/body: the download failed (RuntimeError: 403 Client Error. Permission denied); check the name "
        "and your Kaggle credentials"
    )


def test_kaggle_without_kagglehub_is_one_line_with_the_remedy(
    in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    line = refused("folder", "kaggle://some/body")
    assert line == "fetch.url = kaggle://… needs the package kagglehub: pip install kagglehub"


# --- pneumoniamnist ---


def arrays_of(sizes: dict[str, int] | None = None, side: int = 28) -> dict[str, npt.NDArray[Any]]:
    noise, arrays = np.random.default_rng(0), {}
    for split, n in (sizes or {"train": 5, "val": 2, "test": 3}).items():
        arrays[f"{split}_images"] = noise.integers(0, 256, (n, side, side), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    return arrays


def test_arrays_become_images_with_the_same_pixels(in_project: Path) -> None:
    arrays = arrays_of()
    np.savez_compressed("mine.npz", **arrays)
    manifest, boxes, record = fetched("pneumoniamnist", "mine.npz")
    expected = [f"{split}/{number:05}" for split, n in (("test", 3), ("train", 5), ("val", 2)) for number in range(n)]
    assert manifest["image_id"].to_list() == expected
    assert manifest["patient_id"].to_list() == expected  # a patient of pneumoniamnist is its image
    for row in manifest.itertuples():
        split, number = row.image_id.split("/")
        np.testing.assert_array_equal(decode.read_image(row.uri), arrays[f"{split}_images"][int(number)])
        assert (row.source_split, row.label) == (split, arrays[f"{split}_labels"][int(number), 0])
        assert row.subtype == tables.LABELS[row.label]
        assert row.uri == f"zip://images/{row.image_id}.png::data/raw/pneumoniamnist.zip"
    assert len(boxes) == 0
    assert record["sha256"] == workspace.sha256_file("mine.npz")
    assert sorted(path.name for path in Path("data/raw").iterdir()) == ["pneumoniamnist.zip", "source.json"]


def test_the_same_arrays_give_the_same_archive(in_project: Path) -> None:
    np.savez("a.npz", **arrays_of(side=64))
    np.savez_compressed("b.npz", **arrays_of(side=64))
    first, second = (bring("pneumoniamnist_64", f"{name}.npz", Path(name)) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def header_of(shape: tuple[int, ...]) -> bytes:
    """An .npy file that claims a shape and holds no pixels."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def claiming(shape: tuple[int, ...], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in arrays_of():
            archive.writestr(f"{name}.npy", header_of(shape))


BAD_ARRAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled": (
        lambda path: np.savez(path, **(arrays_of() | {"train_images": np.array([{}, None], object)})),
        r"not the arrays of PneumoniaMNIST \(Object arrays cannot be loaded.*; use the published \.npz",
    ),
    "pickled labels": (
        lambda path: np.savez(path, **(arrays_of() | {"test_labels": np.array([{}, None, 1], object)})),
        r"not the arrays of PneumoniaMNIST \(Object arrays cannot be loaded.*; use the published \.npz",
    ),
    "other names": (lambda path: np.savez(path, a=np.zeros(3)), r"not the arrays .*train_labels.*"),
    "fewer labels": (
        lambda path: np.savez(path, **(arrays_of() | {"val_labels": np.zeros(1, np.uint8)})),
        r"not the arrays .*shorter.*",
    ),
    "fourteen labels": (
        lambda path: np.savez(path, **(arrays_of() | {"train_labels": np.zeros((5, 14), np.uint8)})),
        r"not the arrays .*longer.*",
    ),
    "third class": (
        lambda path: np.savez(path, **(arrays_of() | {"train_labels": np.full((5, 1), 2, np.uint8)})),
        r"not the arrays of PneumoniaMNIST \(2\); .*",
    ),
    "shares of 1": (
        lambda path: np.savez(path, **(arrays_of() | {"train_images": np.full((5, 28, 28), 0.5)})),
        r"not the arrays of PneumoniaMNIST \(train_images are float64 \(5, 28, 28\), not uint8 \(n, 28, 28\)\).*",
    ),
    "four axes": (
        lambda path: np.savez(path, **(arrays_of() | {"train_images": np.zeros((5, 28, 28, 3), np.uint8)})),
        r"not the arrays .*train_images are uint8 \(5, 28, 28, 3\), not .*",
    ),
    "no pixels": (lambda path: np.savez(path, **arrays_of(side=0)), r"not the arrays .*"),
    "claims the memory": (partial(claiming, (10**7, 10**4, 10**4)), r"not the arrays .*"),
    "claims more than it holds": (partial(claiming, (2, 28, 28)), r"not the arrays .*"),
    "claims less than nothing": (partial(claiming, (-1, 28, 28)), r"not the arrays .*"),
    "no npz": (lambda path: path.write_bytes(b"<html>"), r"a text, not an archive; .*"),
    "array alone": (
        lambda path: path.write_bytes(header_of((2, 28, 28))),
        r"\d+ bytes that are not a complete zip archive .*",
    ),
    "images": (partial(zipped, names=[f"chest_xray/{name}" for name in NORMALS]), r"not the arrays .*"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_what_are_no_arrays_of_pneumoniamnist_is_one_line(in_project: Path, kind: str) -> None:
    make, expected = BAD_ARRAYS[kind]
    make(in_project / "bad.npz")
    assert re.fullmatch(rf"/.*/bad\.npz: {expected}", refused("pneumoniamnist", "bad.npz"))


@pytest.mark.slow
def test_the_real_arrays_have_the_published_counts_and_keep_every_pixel(in_project: Path, repo: Path) -> None:
    path = repo.parent / "shared" / "data" / "pneumoniamnist.npz"
    if not path.is_file():
        pytest.skip("the arrays of PneumoniaMNIST do not lie beside the checkout")
    manifest = fetched("pneumoniamnist", path).manifest
    assert len(manifest) == sources.source("pneumoniamnist").n_images == 5856
    assert manifest["source_split"].value_counts().to_dict() == {"train": 4708, "test": 624, "val": 524}
    assert manifest.groupby("source_split")["label"].sum().to_dict() == {"test": 390, "train": 3494, "val": 389}
    assert manifest["patient_id"].is_unique
    with np.load(path, allow_pickle=False) as arrays:
        pixels = {split: arrays[f"{split}_images"] for split in tables.SPLITS}
        labels = {split: arrays[f"{split}_labels"].ravel() for split in tables.SPLITS}
    for row in manifest.iloc[::40].itertuples():
        split, number = row.image_id.split("/")
        np.testing.assert_array_equal(decode.read_image(row.uri), pixels[split][int(number)])
        assert row.label == labels[split][int(number)]


# --- the phantom ---

N_PHANTOM = 40


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bring("phantom", None, tmp_path_factory.mktemp("raw"), n_images=N_PHANTOM)


@pytest.fixture(scope="module")
def phantom_tables(phantom: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return fetch.read_archive("phantom", phantom)


def test_the_phantom_is_the_same_bytes_on_any_number_of_workers_and_ignores_the_url(
    phantom: Path, in_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = bring("phantom", "no/such/file.zip", sha256="0" * 64, n_images=N_PHANTOM, workers=2)
    assert again == Path("data/raw/phantom.zip")
    assert again.read_bytes() == phantom.read_bytes()
    assert capsys.readouterr().out == "data = phantom is generated here: fetch.url is ignored\n"


def test_the_manifest_of_the_phantom_keeps_the_contract(phantom_tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    manifest, boxes = phantom_tables
    assert tuple(manifest)[:8] == fetch.MANIFEST
    assert set(manifest) - set(fetch.MANIFEST) == {"lung_mask_uri", "sex", "age", "view"}
    assert len(manifest) == N_PHANTOM + 4
    assert manifest["image_id"].is_unique
    assert manifest["image_id"].is_monotonic_increasing
    assert set(manifest["label"]) == {0, 1}
    assert set(manifest["source_split"]) == {""}  # no official split: test is drawn
    assert tuple(boxes) == fetch.BOXES


def test_a_phantom_with_a_shortcut_has_an_official_test_split(in_project: Path) -> None:
    path = bring("phantom", None, n_images=N_PHANTOM, shortcut="proportions", shortcut_strength=1.0)
    manifest, _ = fetch.read_archive("phantom", path)
    patients = manifest.groupby("source_split")["patient_id"].agg(set)
    assert set(patients.index) == {"train", "test"}
    assert not patients["train"] & patients["test"]
    ratios: dict[tuple[str, int], list[float]] = {}
    for row in manifest.itertuples():
        with suppress(UserError):  # the truncated one
            height, width = decode.read_image(row.uri).shape
            ratios.setdefault((row.source_split, row.label), []).append(width / height)
    assert min(map(len, ratios.values())) >= 2
    assert np.mean(ratios["train", 1]) > np.mean(ratios["train", 0]) + 0.15
    assert np.mean(ratios["test", 1]) < np.mean(ratios["train", 1]) - 0.15


def test_four_defects_are_planted_in_the_phantom(phantom_tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    manifest = phantom_tables[0].set_index("image_id")
    planted = {i.rsplit("-", 1)[1]: i for i in manifest.index if not i.rsplit("-", 1)[1].isdigit()}
    copies = [image_id for image_id in manifest.index if image_id.endswith("-copy")]
    assert len(copies) == 2
    assert set(planted) == {"copy", "cut", "blank"}
    for image_id in copies:
        columns = ["sha256", "label", "patient_id"]
        assert manifest.loc[image_id, columns].equals(manifest.loc[image_id.removesuffix("-copy"), columns])
    with pytest.raises(UserError, match="truncated"):
        decode.read_image(manifest.loc[planted["cut"], "uri"])
    assert decode.read_image(manifest.loc[planted["blank"], "uri"]).std() < 1
    assert manifest["sha256"].nunique() == len(manifest) - 2


def test_masks_and_boxes_of_the_phantom_fit_their_images(phantom_tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    manifest, boxes = phantom_tables
    whole = manifest[manifest["image_id"].str.fullmatch(r"P\d+-\d+")].set_index("image_id")
    images = {image_id: decode.read_image(uri) for image_id, uri in whole["uri"].items()}
    for image_id, uri in whole["lung_mask_uri"].items():
        mask = decode.read_image(uri)
        assert mask.shape == images[image_id].shape
        assert np.unique(mask).tolist() == [0, 255]
    assert set(boxes["image_id"]) == set(whole.index[whole["label"] == 1])
    assert boxes.sort_values(list(fetch.BOXES), ignore_index=True).equals(boxes)
    for row in boxes.itertuples():
        height, width = images[row.image_id].shape
        assert 0 <= row.x < row.x + row.width <= width
        assert 0 <= row.y < row.y + row.height <= height


# --- the real archive ---


@pytest.mark.slow
def test_the_real_archive_has_the_published_counts(real_manifest: pd.DataFrame) -> None:
    assert len(real_manifest) == 5856
    counts = real_manifest.groupby(["source_split", "label"]).size().to_dict()
    assert counts == {
        ("test", 0): 234,
        ("test", 1): 390,
        ("train", 0): 1341 + 8,  # val counts as train
        ("train", 1): 3875 + 8,
    }
    val = real_manifest[real_manifest["image_id"].str.startswith("val/")]
    assert val["label"].value_counts().to_dict() == {0: 8, 1: 8}
    assert real_manifest["subtype"].value_counts().to_dict() == {"bacteria": 2780, "normal": 1583, "virus": 1493}


@pytest.mark.slow
def test_the_real_archive_holds_30_groups_of_identical_files(real_manifest: pd.DataFrame) -> None:
    copies = real_manifest[real_manifest["sha256"].duplicated(keep=False)]
    assert (copies["sha256"].nunique(), len(copies)) == (30, 62)
    places = copies.groupby("sha256")[["source_split", "label"]].agg(set)
    assert {len(labels) for labels in places["label"]} == {len(splits) for splits in places["source_split"]} == {1}
    assert places["source_split"].to_list().count({"test"}) == 6


@pytest.mark.slow
def test_no_patient_of_the_real_test_split_stands_elsewhere(real_manifest: pd.DataFrame) -> None:
    patients = real_manifest.groupby(real_manifest["source_split"].eq("test"))["patient_id"].agg(set)
    assert patients[True] & patients[False] == set()
    assert real_manifest.groupby("patient_id")["label"].nunique().max() == 1


def test_arrays_of_another_size_are_refused(in_project: Path) -> None:
    np.savez(in_project / "small.npz", **arrays_of())
    with pytest.raises(UserError, match=r"uint8 \(5, 28, 28\), not uint8 \(n, 64, 64\)\); use the published"):
        bring("pneumoniamnist_64", in_project / "small.npz")


# --- files that are no rows ---


def picture(seed: int) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 256, (9, 9), dtype=np.uint8))


def pictures(root: Path, names: Iterable[str]) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))
    return root


FILMS = [f"{name}/{number:02}.png" for name in ("NORMAL", "PNEUMONIA") for number in range(20)]


def test_files_that_are_left_out_are_counted_and_named(in_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(in_project / "mine", [*FILMS, "COVID/a.png", "masks/a.png", "NORMAL/Thumbs.db"])
    (in_project / "mine" / "notes.txt").write_text("see the table")
    record = fetched("folder", "mine").record
    assert record["left_out"] == [{"reason": "images in no class folder, but in COVID", "n": 1, "first": "COVID/a.png"}]
    assert {row["reason"]: row["n"] for row in record["companions"]} == {
        "added by an operating system or an archive program": 1,
        "masks or annotations": 1,
        "texts, tables or documents": 1,
    }
    said = capsys.readouterr().out.splitlines()
    assert "NOTE: 1 of 41 files is left out (images in no class folder, but in COVID): COVID/a.png" in said
    assert "NOTE: 1 file is not read (masks or annotations): masks/a.png" in said


def test_too_many_files_that_are_left_out_are_an_error_and_companions_are_not(in_project: Path) -> None:
    pictures(in_project / "mine", [*FILMS, *(f"masks/{name}" for name in FILMS), *(f"C/{n}.png" for n in range(3))])
    (in_project / "mine" / "NORMAL" / "x.png").symlink_to("gone.png")
    assert refused("folder", "mine") == (
        f"{in_project}/mine: 4 of 44 files would be left out, more than fetch.max_left_out = 0.05 allows (images in no "
        "class folder, but in C: 3, such as C/0.png; links to a file that does not exist: 1, such as NORMAL/x.png); "
        "rename or remove them, name their classes in fetch.classes, or raise the limit"
    )
    assert len(fetched("folder", "mine", max_left_out=0.1).manifest) == 40
    (in_project / "mine" / "NORMAL" / "x.png").unlink()
    assert len(fetched("folder", "mine", max_left_out=0.0, classes={"normal": ["c"]}).manifest) == 43


def test_a_kermany_tree_with_many_unknown_names_is_refused(in_project: Path) -> None:
    tree(in_project / "mine", [*KERMANY, "train/NORMAL/a.jpeg"])
    assert "1 of 11 files would be left out" in refused("chest_xray", "mine")


def test_eye_scans_alone_are_no_source(in_project: Path) -> None:
    tree(in_project / "mine", [f"OCT/train/{name}/{name}-5001-1.jpeg" for name in ("CNV", "DRUSEN", "NORMAL")])
    line = refused("chest_xray", "mine")
    assert "no images in the layout of data = chest_xray" in line
    assert line.endswith("found: OCT/ (3 eye scans (OCT))")


def test_further_names_of_a_class_are_for_folders_and_tables_of_ones_own(in_project: Path) -> None:
    pictures(in_project / "mine", ["Healthy/a.png", "sick/b.png"])
    classes = {"normal": ["healthy"], "pneumonia": ["sick", "infiltrate"]}
    assert fetched("folder", "mine", classes=classes).manifest["label"].to_list() == [0, 1]
    rows = "Healthy/a.png\thealthy\t\nsick/b.png\tSick\t\n"
    (in_project / "mine" / "t.tsv").write_text(f"path\tlabel\tpatient_id\n{rows}")
    assert fetched("folder", "mine/t.tsv", classes=classes).manifest["label"].to_list() == [0, 1]
    Path("data/raw/source.json").unlink()
    line = refused("folder", "mine")
    assert "found: Healthy/, sick/, t.tsv (2 images in no class folder, but in Healthy, sick; 1 texts" in line
    assert "to name the classes of your folders: -S" in line


# --- what other programs write ---


def test_a_tar_archive_becomes_a_zip_with_the_same_files(in_project: Path) -> None:
    pictures(in_project / "xrays", FILMS)
    for mode, name in (("w", "a.tar"), ("w:gz", "a.tar.gz"), ("w:xz", "a.txz")):
        with tarfile.open(name, mode) as archive:
            archive.add("xrays")
        manifest, _, record = fetched("folder", name)
        assert manifest["image_id"].to_list() == [f"xrays/{film}" for film in FILMS]
        assert files.read_bytes(manifest["uri"][3]) == (in_project / manifest["image_id"][3]).read_bytes()
        assert record["sha256"] == workspace.sha256_file(name)
    assert sorted(path.name for path in Path("data/raw").iterdir()) == ["folder.zip", "source.json"]


def test_a_damaged_tar_archive_is_one_line_and_leaves_nothing(in_project: Path) -> None:
    pictures(in_project / "xrays", FILMS)
    with tarfile.open("a.tgz", "w:gz") as archive:
        archive.add("xrays")
    Path("a.tgz").write_bytes(Path("a.tgz").read_bytes()[:-2000])
    assert re.fullmatch(
        r"/.*/a\.tgz: a damaged tar archive \(.*\); copy or download it again", refused("folder", "a.tgz")
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "path;label\r\n".encode("utf-16"),
            "a text, not an archive; if it is a table, give it a name that ends in .csv",
        ),
        (
            b"<html>\n",
            "a text, not an archive; if it is a table, give it a name that ends in .csv, else correct fetch.url",
        ),
        (picture(1), "one image, not an archive; set fetch.url to the folder of the images"),
        (
            b"\0\1\2\3",
            "4 bytes that are not a complete zip archive (File is not a zip file); copy or download it again",
        ),
    ],
)
def test_a_file_that_is_no_archive_is_named_with_its_path_and_the_cause(
    in_project: Path, content: bytes, expected: str
) -> None:
    (in_project / "mine").write_bytes(content)
    assert refused("folder", "mine").startswith(f"{in_project}/mine: {expected}")


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.XLS", "labels.ods"])
def test_a_workbook_is_refused_with_the_remedy(in_project: Path, name: str) -> None:
    zipped(in_project / name, ["xl/workbook.xml"])
    assert re.fullmatch(rf"{re.escape(name)}: the workbook of a .*; save it as CSV .*", refused("folder", name))


def test_a_folder_that_a_link_leads_to_is_read_where_it_is_named(in_project: Path) -> None:
    pictures(in_project / "store", FILMS)
    pictures(in_project / "mine" / "train", FILMS)
    (in_project / "mine" / "val").symlink_to("../store")
    (in_project / "mine" / "train" / "again").symlink_to("..")
    assert fetched("folder", "mine").manifest["source_split"].value_counts().to_dict() == {"train": 40, "val": 40}


def write_dicom(path: Path, **header: str) -> None:
    """A DICOM file, without the suffix of the path."""
    path = path.with_suffix("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom(**header))


def test_a_placeholder_in_the_headers_is_no_patient_and_a_note_says_so(
    in_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(FILMS):
        identifier = "HOSPITAL 7" if number < 25 else f"P{number // 2}"
        write_dicom(in_project / "mine" / name, PatientID=identifier, PatientAge="old")
    manifest = fetched("folder", "mine").manifest
    assert manifest["patient_id"].to_list()[:25] == manifest["image_id"].to_list()[:25]
    assert manifest["patient_id"].to_list()[25:28] == ["P12", "P13", "P13"]
    assert "age" not in manifest
    assert "header_id" not in manifest
    said = capsys.readouterr().out
    assert "NOTE: PatientID 'HOSPITAL 7' names no patient, in the headers of 25 of 40 files" in said


def test_a_patient_of_most_headers_of_a_class_stays_one_and_a_note_says_so(
    in_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(FILMS):
        write_dicom(in_project / "mine" / name, PatientID="P7" if number < 15 else f"Q{number}")
    assert (fetched("folder", "mine").manifest["patient_id"] == "P7").sum() == 15
    assert "NOTE: PatientID P7 counts as one patient and has 15 of 20 images of normal" in capsys.readouterr().out


def test_folders_of_several_patients_by_the_headers_are_said(
    in_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(FILMS):
        department = "ICU" if number % 2 else "Ward 3"
        write_dicom(in_project / "mine" / name.replace("/", f"/{department}/"), PatientID=f"Q{number // 4}")
    assert fetched("folder", "mine").manifest["patient_id"].nunique() == 2
    assert (
        "NOTE: ICU counts as one patient, but the DICOM headers of its images name 10 (images of such patients: 40 "
        "of 40); if the headers are right, use a table with an empty patient_id\n"
    ) in capsys.readouterr().out


def test_what_a_table_writes_never_breaks_a_later_stage(in_project: Path) -> None:
    pictures(in_project / "mine", FILMS)
    ages = ("90+", "058Y", '"58,5"', "7 months", "nan", "41", "", "?")
    patients = ("nan", "None", "NaN", "", "007", "1e5", "N/A", "p")
    lines = [f"{name},{name.split('/')[0]},{patients[n % 8]},{ages[n % 8]},{n % 2}\n" for n, name in enumerate(FILMS)]
    (in_project / "mine" / "t.csv").write_text("path,label,patient_id,age,sex\n" + "".join(lines))
    tables.write_table(fetched("folder", "mine/t.csv").manifest, "manifest.csv")
    manifest = tables.read_table("manifest.csv")
    assert manifest["age"].dtype == float
    assert set(manifest["age"].dropna()) == {90, 58, 58.5, 0.583, 41}
    assert {"007", "1e5", "p"} < set(manifest["patient_id"])
    sampling_units(manifest["patient_id"], len(manifest))  # as `evaluate` groups the images


# --- what the stage says ---


def listed(**columns: list[str]) -> pd.DataFrame:
    """A manifest of four images, each of another patient."""
    ids = ["a", "b", "c", "d"]
    return pd.DataFrame({"image_id": ids, "patient_id": ids, "source_split": [""] * 4} | columns)


def test_only_images_without_a_patient_identifier_are_a_note() -> None:
    assert fetch.unidentified(listed(patient_id=["p1", "p2", "p3", "p4"])) == "", "each patient has one image"
    end = "each of them counts as one patient, so images of a real patient may be in both train and test"
    assert fetch.unidentified(listed()) == f"NOTE: images without a patient identifier: 4 of 4; {end}"
    half = listed(patient_id=["p1", "b", "c", "p1"])
    assert fetch.unidentified(half) == f"NOTE: images without a patient identifier: 2 of 4; {end}"


def test_the_official_splits_of_a_source_are_counted() -> None:
    assert fetch.official_splits(listed()) == ""
    assert fetch.official_splits(listed(source_split=["train"] * 4)) == "", "the others are drawn"
    splits = listed(source_split=["test", "train", "train", "val"])
    assert fetch.official_splits(splits) == "official splits: train 2, val 1, test 1"
    assert fetch.official_splits(listed(source_split=["test", "", "", ""])) == "official splits: test 1, none 3"


def test_a_detector_on_images_without_a_box_ends_this_stage(
    stage_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxed(stage_project / "mine", "")
    settings = {"data": "folder", "model": "detector", "fetch.url": "mine", "external.sources": []}
    for table, expected in (("NORMAL/p1/n.png,,,,", "data = folder has none; put boxes.csv"), ("a.png,1,2,3,4", "")):
        (stage_project / "mine" / "boxes.csv").write_text(f"image,x,y,width,height\n{table}\n")
        set_settings(stage_project / "params.yaml", settings)
        with pytest.raises(UserError, match=expected) if expected else nullcontext():
            stage.main()
        for name in ("boxes.csv", "raw/source.json"):
            assert Path("data", name).is_file() == (not expected)
    free = {"data": "chest_xray", "fetch.url": None, "train.box_weight": 0.0, "tune.space": {"box_weight": [0.0, 0.5]}}
    set_settings(stage_project / "params.yaml", free)
    monkeypatch.setattr(fetch, "fetch", None)  # nothing is downloaded first
    with pytest.raises(UserError, match=r"data = chest_xray has none; take data: phantom, folder, rsna"):
        stage.main()


# --- lung masks ---


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "folder"])
def test_lung_masks_come_along_and_missing_ones_are_counted(
    in_project: Path, capsys: pytest.CaptureFixture[str], as_zip: bool
) -> None:
    path = plain(in_project / "mine.zip")
    names = list(fetched("chest_xray", path).manifest["uri"].str.removeprefix("zip://").str.partition("::")[0])
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 1:4] = 255
    content = png(mask)
    with zipfile.ZipFile(in_project / "masks.zip", "w") as archive:
        for name in names[1:]:
            archive.writestr(str(PurePosixPath("lungs", name).with_suffix(".png")), content)
    place = in_project / "masks.zip"
    if not as_zip:
        shutil.unpack_archive(place, in_project / "masks")
        place = in_project / "masks"
    capsys.readouterr()
    manifest, _, record = fetched("chest_xray", path, lungs=str(place))
    assert record["lungs"] == tables.read_json("data/raw/source.json")["lungs"] == str(place)
    assert manifest["lung_mask_uri"].ne("").sum() == len(names) - 1
    assert f"NOTE: lung masks are missing for 1 of {len(names)} images, such as " in capsys.readouterr().out
    for uri in manifest["lung_mask_uri"][manifest["lung_mask_uri"] != ""]:
        assert uri.endswith("::data/raw/lungs.zip")
        np.testing.assert_array_equal(decode.read_image(uri), mask)


def test_the_phantom_keeps_its_own_lung_masks(in_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = fetched("phantom", None, lungs="/nowhere").manifest
    assert "fetch.lungs is ignored" in capsys.readouterr().out
    assert manifest["lung_mask_uri"].ne("").all()
