"""Texts name a patient or do not; reports and archives lose a patient and nothing else."""

import json
import zipfile
from pathlib import Path

import pytest

from pneumonia.data import traces
from pneumonia.names import file_name
from pneumonia.workspace import sha256_bytes

FILM = b"a film of P1"
ROW = {
    "image_id": "NORMAL/P1/a.png",
    "uri": "zip://NORMAL/P1/a.png::data/raw/folder.zip",
    "lung_mask_uri": "zip://masks/0815.png::data/raw/folder.zip",
    "patient_id": "P1",
    "bytes": str(len(FILM)),
    "sha256": sha256_bytes(FILM),
}
P1 = traces.of_rows(["P1"], [ROW])
LONG = traces.of_rows(["P1-2"], [{"image_id": "P1-2/x", "patient_id": "P1-2"}])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see NORMAL/P1/a.png: score 0.9", True),
        (f"saliency/{file_name('NORMAL/P1/a.png', '.png')}", True),
        (f"<td>{ROW['sha256']}</td>", True),
        ("masks/0815.png", True),
        ("NORMAL%2FP1%2Fa.png", True),
        ("P1 is too short an identifier for a text", False),
        ("NORMAL/P1/a.png-copy", False),
        ("xNORMAL/P1/a.png", False),
    ],
)
def test_a_text_names_a_patient_by_the_names_of_images(text: str, named: bool) -> None:
    assert P1.are_named_in(text) == named


@pytest.mark.parametrize(("text", "named"), [("P1-2,", True), ("P1-21", False), ("P1-2-copy", False), ("aP1-2", False)])
def test_a_longer_identifier_names_nobody_else(text: str, named: bool) -> None:
    assert LONG.are_named_in(text) == named


def test_html_may_escape_a_name() -> None:
    assert traces.of_rows(["x"], [{"image_id": "a&b's.png"}]).are_named_in("<td>a&amp;b&#39;s.png</td>")


def test_nobody_is_named_nowhere() -> None:
    assert not traces.of_rows([], []).are_named_in("anything")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"columns": ["id"], "data": [["NORMAL/P1/a.png", 1], ["b", 2]]}, {"columns": ["id"], "data": [["b", 2]]}),
        ({"wrong": [{"of": "NORMAL/P1/a.png", "n": 1}, {"of": "b"}], "n": 2}, {"wrong": [{"of": "b"}], "n": 2}),
        ({"of": {"NORMAL/P1/a.png": {"auc": 1}, "b": {}}, "first": "NORMAL/P1/a.png"}, {"of": {"b": {}}}),
        ({"names": ["NORMAL/P1/a.png", "b"]}, {"names": ["b"]}),
    ],
)
def test_a_report_loses_the_entries_that_name_the_patient(value: object, kept: object) -> None:
    assert traces.without_entries(json.dumps(value, separators=(",", ":")), P1) == json.dumps(
        kept, separators=(",", ":")
    )
    assert traces.without_entries(json.dumps(value, indent=2) + "\n", P1) == json.dumps(kept, indent=2) + "\n"


def test_a_report_that_does_not_name_the_patient_stays_byte_for_byte() -> None:
    text = '{"a":  [1.50, "b"]}'
    assert traces.without_entries(text, P1) == text


def test_json_lines_lose_their_lines() -> None:
    assert traces.without_entries('{"a": "NORMAL/P1/a.png"}\n{"a": "b"}\n', P1) == '{"a": "b"}\n'


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return path


def test_an_archive_loses_images_masks_companions_and_lines(tmp_path: Path) -> None:
    others = {"NORMAL/P2/a.png": b"a film of P2", "NORMAL/a-1.png": b"flat, of P3", "masks/4711.png": b"of P2"}
    flat = traces.of_rows(["P1"], [ROW, {"image_id": "NORMAL/a.png", "uri": "zip://NORMAL/a.png::x"}])
    path = packed(
        tmp_path / "a.zip",
        others
        | {
            "NORMAL/P1/a.png": FILM,
            "NORMAL/P1/report.txt": b"of the same folder",
            "renamed.png": FILM,
            "masks/0815.png": b"mask",
            "NORMAL/a.png": b"flat, of P1",
            "NORMAL/a_mask.png": b"beside it",
            "labels.csv": b"path,label\r\nNORMAL/P1/a.png,0\r\nNORMAL/P2/a.png,0\r\n",
            "boxes.json": b'[{"image": "NORMAL/P1/a.png"}, {"image": "NORMAL/P2/a.png"}]',
            "binary.bin": b"\xff\xfe\x00",
        },
    )
    uris = [f"zip://{name}::{path}" for name in others]
    assert len(traces.in_archive(path, flat, uris)) == 6
    traces.rewrite_archive(path, flat, uris)
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == others | {
            "labels.csv": b"path,label\r\nNORMAL/P2/a.png,0\r\n",
            "boxes.json": b'[{"image":"NORMAL/P2/a.png"}]',
            "binary.bin": b"\xff\xfe\x00",
        }
        assert archive.testzip() is None
    assert traces.in_archive(path, flat, uris) == []


def test_an_archive_that_cannot_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.zip", {"NORMAL/P1/a.png": FILM, "b.png": b"b"})
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="no space"):
        traces.rewrite_archive(path, P1, [])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]
