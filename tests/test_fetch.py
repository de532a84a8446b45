"""An archive arrives whole or not at all, and one manifest row stands for each of its images."""

import http.server
import re
import struct
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia import UserError, dataset, fetch

NORMALS = (
    "train/NORMAL/IM-0115-0001.jpeg",
    "train/NORMAL/IM-0666-0001-0002.jpeg",
    "train/NORMAL/NORMAL2-IM-0115-0001.jpeg",
    "test/NORMAL/NORMAL2-IM-0666-0001.jpeg",
)
PNEUMONIAS = (
    "train/PNEUMONIA/person1_bacteria_1.jpeg",
    "train/PNEUMONIA/person1_bacteria_2.jpeg",
    "train/PNEUMONIA/person23_virus_60.jpeg",
    "test/PNEUMONIA/person1_virus_6.jpeg",
)
VAL = ("val/NORMAL/NORMAL2-IM-1427-0001.jpeg", "val/PNEUMONIA/person1946_bacteria_4874.jpeg")


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
    return zipped(path, [f"chest_xray/{name}" for name in (*NORMALS, *PNEUMONIAS, *VAL)], **how)


def as_on_kaggle(path: Path) -> Path:
    """The tree twice, and what a Mac leaves behind."""
    images = (*NORMALS, *PNEUMONIAS, *VAL)
    junk = [f"__MACOSX/chest_xray/{Path(name).parent}/._{Path(name).name}" for name in images]
    return zipped(
        path,
        [
            *(f"chest_xray/chest_xray/{name}" for name in images),
            "chest_xray/chest_xray/train/.DS_Store",
            *(f"chest_xray/{name}" for name in junk),
            f"chest_xray/{Path(NORMALS[0]).parent}/._IM-0115-0001.jpeg",
            "chest_xray/train/NORMAL/.DS_Store",
            "chest_xray/__MACOSX/train/NORMAL/IM-9999-0001.jpeg",
            "chest_xray/",
            "chest_xray/train/",
            *(f"chest_xray/{name}" for name in images),
        ],
    )


def as_on_mendeley(path: Path) -> Path:
    images = (*NORMALS, *PNEUMONIAS)
    junk = [f"__MACOSX/chest_xray/{Path(name).parent}/._{Path(name).name}" for name in images]
    return zipped(path, ["chest_xray/", *(f"chest_xray/{name}" for name in images), "chest_xray/.DS_Store", *junk])


def bring(data: str, url: str | Path | None, folder: Path = Path("data/raw"), **settings: Any) -> Path:
    settings = {"sha256": None, "n_images": 40, "seed": 1, "workers": 1} | settings
    fetch.fetch(data, folder, url=None if url is None else str(url), **settings)
    return folder / f"{data}.zip"


def manifest_of(path: Path) -> pd.DataFrame:
    return fetch.read_archive("chest_xray", path)[0]


# --- the layouts of the Kermany set ---


def test_every_layout_gives_the_same_images(tmp_path: Path) -> None:
    ids = sorted(name.removesuffix(".jpeg") for name in (*NORMALS, *PNEUMONIAS, *VAL))
    as_unpacked = zipped(tmp_path / "d.zip", (*NORMALS, *PNEUMONIAS, *VAL))
    for path in (plain(tmp_path / "a.zip"), as_on_kaggle(tmp_path / "b.zip"), as_unpacked):
        assert manifest_of(path)["image_id"].to_list() == ids
    without_val = [image_id for image_id in ids if not image_id.startswith("val/")]
    assert manifest_of(as_on_mendeley(tmp_path / "c.zip"))["image_id"].to_list() == without_val


def test_a_doubled_tree_is_read_once_from_its_outer_copy(tmp_path: Path) -> None:
    path = as_on_kaggle(tmp_path / "b.zip")
    manifest = manifest_of(path)
    assert manifest["uri"].to_list() == [f"zip://chest_xray/{i}.jpeg::{path}" for i in manifest["image_id"]]
    assert all(dataset.read_bytes(row.uri) == content_of(row.uri.split("::")[0]) for row in manifest.itertuples())


def test_rows_say_what_the_names_say(tmp_path: Path) -> None:
    manifest = manifest_of(plain(tmp_path / "a.zip")).set_index("image_id")
    facts = manifest[["label", "patient_id", "subtype", "source_split"]].apply(tuple, axis=1).to_dict()
    assert facts == {
        "train/NORMAL/IM-0115-0001": (0, "IM-0115", "normal", "train"),
        "train/NORMAL/IM-0666-0001-0002": (0, "IM-0666", "normal", "train"),
        "train/NORMAL/NORMAL2-IM-0115-0001": (0, "NORMAL2-IM-0115", "normal", "train"),
        "test/NORMAL/NORMAL2-IM-0666-0001": (0, "NORMAL2-IM-0666", "normal", "test"),
        "train/PNEUMONIA/person1_bacteria_1": (1, "bacteria-1", "bacteria", "train"),
        "train/PNEUMONIA/person1_bacteria_2": (1, "bacteria-1", "bacteria", "train"),
        "train/PNEUMONIA/person23_virus_60": (1, "virus-23", "virus", "train"),
        "test/PNEUMONIA/person1_virus_6": (1, "virus-1", "virus", "test"),
        "val/NORMAL/NORMAL2-IM-1427-0001": (0, "NORMAL2-IM-1427", "normal", "val"),
        "val/PNEUMONIA/person1946_bacteria_4874": (1, "bacteria-1946", "bacteria", "val"),
    }


def test_a_number_with_both_subtypes_or_prefixes_is_two_patients(tmp_path: Path) -> None:
    patients = manifest_of(plain(tmp_path / "a.zip")).set_index("image_id")["patient_id"]
    assert patients["train/PNEUMONIA/person1_bacteria_1"] == patients["train/PNEUMONIA/person1_bacteria_2"]
    assert patients["train/PNEUMONIA/person1_bacteria_1"] != patients["test/PNEUMONIA/person1_virus_6"]
    assert patients["train/NORMAL/IM-0115-0001"] != patients["train/NORMAL/NORMAL2-IM-0115-0001"]


def test_a_name_of_no_known_form_is_a_patient_of_its_own(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ["train/NORMAL/a.jpeg", "train/PNEUMONIA/a.JPG", "train/PNEUMONIA/b.jpeg"])
    manifest = manifest_of(path)
    assert manifest["patient_id"].is_unique
    assert manifest["subtype"].to_list() == ["normal", "pneumonia", "pneumonia"]


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
        content = dataset.read_bytes(row.uri)
        assert (row.bytes, row.sha256) == (len(content), dataset.sha256_bytes(content))
    dataset.write_table(manifest, tmp_path / "manifest.csv")
    pd.testing.assert_frame_equal(dataset.read_table(tmp_path / "manifest.csv"), manifest)


# --- where an archive comes from ---


def test_an_archive_is_kept_as_it_came(in_project: Path) -> None:
    path = plain(in_project / "mine.zip")
    archive = bring("chest_xray", path, sha256=dataset.sha256_file(path))
    assert archive == Path("data/raw/chest_xray.zip")
    assert archive.read_bytes() == path.read_bytes()
    assert [p.name for p in archive.parent.iterdir()] == ["chest_xray.zip"]


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
def server(tmp_path: Path) -> Iterator[str]:
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
    with pytest.raises(UserError, match=rf"^{server}/other.zip: the download failed \(.*404.*by hand"):
        bring("chest_xray", f"{server}/other.zip")


def test_the_published_address_is_used_when_there_is_no_other(
    in_project: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(in_project / "www" / "published.zip")
    row = fetch.DATASETS["chest_xray"]._replace(url=f"{server}/published.zip")
    monkeypatch.setitem(fetch.DATASETS, "chest_xray", row)
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
    "missing": (lambda path: None, r"^fetch\.url = bad\.zip: no such file \(.*/bad\.zip\); correct the path$"),
    "folder": (lambda path: path.mkdir(), r"^bad\.zip: the download failed \(IsADirectoryError.*set fetch\.url to its"),
    "empty": (lambda path: path.touch(), r"^bad\.zip: 0 bytes arrived, but they are no complete zip archive"),
    "cut": (cut, r"^bad\.zip: [\d,]+ bytes arrived, but they are no complete zip archive .*; download it again$"),
    "no zip": (lambda path: path.write_text("<html>"), r"^bad\.zip: 6 bytes arrived, but they are no complete zip"),
    "flipped": (flipped, r"^chest_xray\.zip: \S+/person23_virus_60\.jpeg is damaged \(Bad CRC-32.*download .* again$"),
    "undecodable": (undecodable, r"^chest_xray\.zip: \S+/IM-0115-0001\.jpeg is damaged .*download .* again$"),
    "encrypted": (encrypted, r"^chest_xray\.zip: \S+/IM-0115-0001\.jpeg is damaged .*encrypted"),
    "no normal": (partial(zipped, names=PNEUMONIAS), r"^chest_xray\.zip: no image of class 0 \(normal\)"),
    "no pneumonia": (partial(zipped, names=NORMALS), r"^chest_xray\.zip: no image of class 1 \(pneumonia\)"),
    "phantom": (like_the_phantom, r"layout of data = chest_xray; it looks like data = phantom$"),
    "other": (partial(zipped, names=["a/b.jpeg"]), r"^chest_xray\.zip: no images in the layout of data = chest_xray$"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("previous", [{}, {"chest_xray.zip": b"the archive of yesterday"}])
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


def test_another_archive_than_the_checksum_names_is_refused(in_project: Path) -> None:
    path = plain(in_project / "mine.zip")
    with pytest.raises(UserError) as caught:
        bring("chest_xray", "mine.zip", sha256="0" * 64)
    assert f"mine.zip: SHA-256 is {dataset.sha256_file(path)}, fetch.sha256 expects {'0' * 64}" in str(caught.value)
    assert "download the archive again or correct fetch.sha256" in str(caught.value)
    assert list(Path("data/raw").iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.zip", "carrier-pigeon://a.zip"])
def test_an_unreachable_address_is_one_line_with_the_remedy(in_project: Path, url: str) -> None:
    with pytest.raises(UserError, match=rf"^{url}: the download failed \(.*(connect|not known).*by hand") as caught:
        bring("chest_xray", url)
    assert "\n" not in str(caught.value)
    assert list(Path("data/raw").iterdir()) == []


def test_a_member_that_would_fill_the_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(UserError, match=r"unpacks to \d+ bytes, more than 100; this is not an X-ray archive"):
        manifest_of(plain(tmp_path / "a.zip", method=zipfile.ZIP_DEFLATED))


def test_an_unknown_data_set_lists_the_known_ones(in_project: Path) -> None:
    with pytest.raises(UserError, match=r"^data = 'chest-xray' is unknown; known: phantom, chest_xray"):
        bring("chest-xray", None)
    assert list(in_project.iterdir()) == []


@pytest.mark.parametrize("name", fetch.DATASETS)
def test_every_source_states_its_licence_and_where_it_comes_from(name: str) -> None:
    row = fetch.source(name)
    assert all((row.title, row.licence, row.citation))
    assert row.synthetic or row.url.startswith("https://")
    assert re.fullmatch("[a-z_]+", name)


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
    assert capsys.readouterr().out == "data = phantom is made here: fetch.url is ignored\n"


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
        dataset.read_image(manifest.loc[planted["cut"], "uri"])
    assert dataset.read_image(manifest.loc[planted["blank"], "uri"]).std() < 1
    assert manifest["sha256"].nunique() == len(manifest) - 2


def test_masks_and_boxes_of_the_phantom_fit_their_images(phantom_tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    manifest, boxes = phantom_tables
    whole = manifest[manifest["image_id"].str.fullmatch(r"P\d+-\d+")].set_index("image_id")
    images = {image_id: dataset.read_image(uri) for image_id, uri in whole["uri"].items()}
    for image_id, uri in whole["lung_mask_uri"].items():
        mask = dataset.read_image(uri)
        assert mask.shape == images[image_id].shape
        assert np.unique(mask).tolist() == [0, 255]
    assert set(boxes["image_id"]) == set(whole.index[whole["label"] == 1])
    assert boxes.sort_values(list(fetch.BOXES), ignore_index=True).equals(boxes)
    for row in boxes.itertuples():
        height, width = images[row.image_id].shape
        assert 0 <= row.x < row.x + row.width <= width
        assert 0 <= row.y < row.y + row.height <= height


# --- the real archive ---


def test_the_real_archive_has_the_published_counts(real_manifest: pd.DataFrame) -> None:
    assert len(real_manifest) == 5856
    counts = real_manifest.groupby(["source_split", "label"]).size().to_dict()
    assert counts == {
        ("test", 0): 234,
        ("test", 1): 390,
        ("train", 0): 1341,
        ("train", 1): 3875,
        ("val", 0): 8,
        ("val", 1): 8,
    }
    assert real_manifest["subtype"].value_counts().to_dict() == {"bacteria": 2780, "normal": 1583, "virus": 1493}


def test_the_real_archive_holds_30_groups_of_identical_files(real_manifest: pd.DataFrame) -> None:
    copies = real_manifest[real_manifest["sha256"].duplicated(keep=False)]
    assert (copies["sha256"].nunique(), len(copies)) == (30, 62)
    places = copies.groupby("sha256")[["source_split", "label"]].agg(set)
    assert {len(labels) for labels in places["label"]} == {len(splits) for splits in places["source_split"]} == {1}
    assert places["source_split"].to_list().count({"test"}) == 6


def test_no_patient_of_the_real_test_split_stands_elsewhere(real_manifest: pd.DataFrame) -> None:
    patients = real_manifest.groupby(real_manifest["source_split"].eq("test"))["patient_id"].agg(set)
    assert patients[True] & patients[False] == set()
    assert real_manifest.groupby("patient_id")["label"].nunique().max() == 1
