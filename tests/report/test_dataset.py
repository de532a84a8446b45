"""The page of the data: it names what was planted, shows it, and needs no network."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia.data import traces
from pneumonia.report import dataset
from pneumonia.validate import Check, ValidationReport
from tests.report.test_page import JPEG, Reader

N = 80


def check(column: str, rows: tuple[int, ...], *, unexpected: int = 0, allowed: float = 0.05) -> Check:
    unexpected = unexpected or len(rows)
    success = unexpected <= allowed * N
    return Check(f"expect({column})", f"images with a bad {column}", column, unexpected, allowed, success, rows)


def show(row: Mapping[str, Any]) -> bytes:
    return JPEG + row["image_id"].encode() if row["width"] else b""


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """80 images: one that cannot be read, two rotated, a file in both classes, and two patients that look the same."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "image_id": [f"i{row:02}" for row in range(N)],
            "label": [row % 2 for row in range(N)],
            "patient_id": [f"p{row}" for row in range(N)],
            "sha256": [f"{row:064x}" for row in range(N)],
            "width": rng.integers(300, 400, N),
            "height": 300,
            "mode": ["L", "RGB"] * (N // 2),
            "sex": "",
            "turned": 0,
            "look_alike": "",
            "valid": True,
            "reason": "",
            "note": "",
        }
    )
    table.loc[3, ["image_id", "width", "valid", "reason"]] = ["<b>broken</b>\u202e", 0, False, "cannot be read (cut)"]
    table.loc[[7, 9], "turned"] = 90
    table.loc[[20, 21], "sha256"] = "c" * 64
    table.loc[[30, 32], "look_alike"] = "i30"
    table.loc[40, "note"] = "a window that shows nothing"
    return table


@pytest.fixture(scope="module")
def source(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> str:
    names = ("n_patients_of_both_classes", "duplicate_groups", "duplicate_files", "label_conflicts")
    summary = dict.fromkeys((*names, "look_alike_groups", "n_turned"), 1)
    summary |= {"n_images": N, "n_valid": N - 1, "n_quarantined": 1, "n_patients": {"normal": 40, "pneumonia": 39}}
    checks = [
        check("width", (3,)),
        check("turned", (7, 9), allowed=0.01),
        check("mean", tuple(range(50, 70)), unexpected=30),
        check("sha256", (20, 21)),
        check("uri", ()),
    ]
    path = tmp_path_factory.mktemp("page") / "data.html"
    report = ValidationReport(summary, ["one", "two"], checks, Path("unused"))
    dataset.write(path, table.assign(mean=1.0), report, show, "my films")
    return path.read_text(encoding="utf-8")


def section(source: str, anchor: str) -> str:
    return re.search(rf'<section id="{anchor}">(.*?)</section>', source, re.DOTALL)[1]


def captions(part: str) -> list[str]:
    return re.findall("<figcaption>(.*?)</figcaption>", part)


def test_the_page_needs_no_network_and_no_other_file(source: str) -> None:
    reader = Reader(source)
    assert all(url.startswith("data:image/") for url in reader.sources)
    assert [url for url in reader.targets if not url.startswith("#")] == ["lungs.html", "data_docs/index.html"]
    assert not re.search(r"https?://|<script|@import|url\(", source)


def test_each_expectation_stands_in_words_those_not_met_first(source: str) -> None:
    rows = re.findall(r'<th scope="row">(images with .*?)</th><td class=short>(.*?)</td>', source)
    assert rows == [
        ("images with a bad turned", "not met"),
        ("images with a bad mean", "not met"),
        ("images with a bad width", "met"),
        ("images with a bad sha256", "met"),
        ("images with a bad uri", "met"),
    ]
    assert "30 (37.5%)" in source


def test_images_that_do_not_meet_an_expectation_are_shown_with_their_value(source: str) -> None:
    part = section(source, "images-that-do-not-meet-them")
    shown = captions(part)
    assert shown[:2] == ["i07, pneumonia: turned 90", "i09, pneumonia: turned 90"]
    assert len(shown) == 2 + dataset.N_SHOWN
    assert "And 18 more images: see data/valid.csv." in part
    assert "They are under Duplicates." in part


def test_an_image_that_cannot_be_read_is_named_without_a_picture_and_without_markup(source: str) -> None:
    part = section(source, "quarantine")
    assert "&lt;b&gt;broken&lt;/b&gt;\\u202e" in part
    assert "cannot be read (cut)" in part
    assert captions(part) == []
    assert "Cannot be read as an image: &lt;b&gt;" in section(source, "images-that-do-not-meet-them")
    assert "<b>" not in source


def test_duplicates_stand_side_by_side_with_class_and_patient(source: str) -> None:
    part = section(source, "duplicates")
    assert re.findall("<h3>(.*?)</h3>", part) == [
        "2 identical files, in both classes",
        "2 images that look the same, of different patients",
    ]
    assert captions(part) == [
        *("i20, normal, patient p20", "i21, pneumonia, patient p21"),
        *("i30, normal, patient p30", "i32, normal, patient p32"),
    ]


def test_classes_are_compared_by_measures_and_kinds(source: str) -> None:
    part = section(source, "distributions-by-class")
    assert captions(part) == ["Width (pixels)", "Height (pixels)", "Mean (gray levels)", "Width / height"]
    assert "<th>AUC alone</th>" in part.replace(' scope="col"', "")
    assert '<th scope="row">height (pixels)</th>' in part
    assert re.search(r">height \(pixels\)</th>.*?<td class=short>0.50</td></tr>", part), "all have one height"
    assert '<th scope="row">mode of the file: RGB</th><td class=short>0</td><td class=short>39</td>' in part
    assert 'scope="row">sex' not in part


def test_notes_of_the_reader_are_listed(source: str) -> None:
    assert "a window that shows nothing" in section(source, "notes")


def test_each_picture_names_its_image_so_that_a_patient_can_be_removed(source: str) -> None:
    contents = [base64.b64decode(url.partition(",")[2]) for url in Reader(source).sources]
    names = {content.removeprefix(JPEG).decode() for content in contents if content.startswith(JPEG)}
    assert len(names) == 2 + dataset.N_SHOWN + 4
    for name in [*names, "<b>broken</b>\u202e"]:
        assert traces.of_rows(["P"], [{"image_id": name, "patient_id": "P"}]).are_named_in(source), name
    assert not traces.of_rows(["P"], [{"image_id": "i01", "patient_id": "P"}]).are_named_in(source)


def test_data_without_a_defect_have_a_page_that_says_so(table: pd.DataFrame, tmp_path: Path) -> None:
    good = table.iloc[50:60].drop(columns=["note", "width"]).reset_index(drop=True)
    names = ("n_patients_of_both_classes", "duplicate_groups", "duplicate_files", "label_conflicts")
    summary = dict.fromkeys((*names, "look_alike_groups", "n_turned", "n_quarantined"), 0)
    summary |= {"n_images": 10, "n_valid": 10, "n_patients": {"normal": 5, "pneumonia": 5}}
    report = ValidationReport(summary, [], [check("mean", ())], Path("unused"))
    dataset.write(tmp_path / "data.html", good, report, show, "my films")
    source = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert "Expectations: 1; all are met." in source
    assert "There are none." in section(source, "images-that-do-not-meet-them")
    assert "No file occurs twice" in section(source, "duplicates")
    assert "No image is quarantined." in section(source, "quarantine")
    assert 'id="notes"' not in source
