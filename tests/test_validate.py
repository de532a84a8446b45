"""Every defect is found and named, and what is found stands in the report."""

import io
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pneumonia import UserError, dataset, validate
from pneumonia.validate import dhash, measure, require_enough

Manifest = Callable[..., pd.DataFrame]
LIMITS = {"min_side": 64, "min_std": 4.0}


def xray(seed: int, height: int = 96, width: int = 80) -> np.ndarray:
    """Soft random shadows, as different from one seed to the next as two patients."""
    noise = np.random.default_rng(seed).normal(128, 60, (7, 6))
    return np.clip(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


# --- measuring ---


def test_a_good_image_is_measured(write_manifest: Manifest) -> None:
    manifest = write_manifest({"half": np.repeat([[0, 200]], 64, axis=0).repeat(50, axis=1).astype(np.uint8)})
    (row,) = measure(manifest, **LIMITS, workers=1).to_dict("records")
    expected = {"width": 100, "height": 64, "mean": 100.0, "std": 100.0, "valid": True, "reason": ""}
    assert {name: row[name] for name in expected} == expected


def test_each_defect_is_quarantined_with_its_reason(write_manifest: Manifest) -> None:
    whole = jpeg(xray(3, 200, 200))
    manifest = write_manifest(
        {
            "good": xray(1),
            "just-large-enough": xray(2, 64, 64),
            "cut": whole[: len(whole) // 2],
            "no-image": b"<html>not found</html>",
            "nothing": b"",
            "low": xray(4, 63, 400),
            "narrow": xray(5, 400, 63),
            "blank": np.full((80, 80), 12, np.uint8),
            "sick": xray(6),
            "same-but-healthy": xray(6),
        },
        labels={"good": 0, "same-but-healthy": 0},
    )
    table = measure(manifest, **LIMITS, workers=1).set_index("image_id")
    found = table["reason"].to_dict()
    assert "cut.png: cannot be read as an image (image file is truncated" in found.pop("cut")
    assert "no-image.png: cannot be read as an image" in found.pop("no-image")
    assert "nothing.png: cannot be read as an image" in found.pop("nothing")
    assert found == {
        "good": "",
        "just-large-enough": "",
        "low": "shorter side under 64 pixels",
        "narrow": "shorter side under 64 pixels",
        "blank": "blank: standard deviation under 4 gray levels",
        "sick": "the same file carries both labels",
        "same-but-healthy": "the same file carries both labels",
    }
    assert set(table.index[table["valid"]]) == {"good", "just-large-enough"}


def test_a_missing_file_is_a_row_and_no_crash(write_manifest: Manifest) -> None:
    manifest = write_manifest({"a": xray(1), "b": xray(2)})
    Path(manifest.loc[1, "uri"]).unlink()
    table = measure(manifest, **LIMITS, workers=1)
    assert table["valid"].to_list() == [True, False]
    assert table.loc[1, ["width", "height", "mean", "std", "dhash"]].to_list() == [0, 0, 0.0, 0.0, ""]


def test_identical_files_of_one_label_are_valid(write_manifest: Manifest) -> None:
    table = measure(write_manifest({"a": xray(1), "b": xray(1)}), **LIMITS, workers=1)
    assert table["valid"].all()


def test_no_row_is_lost_and_columns_follow_the_contract(write_manifest: Manifest, tmp_path: Path) -> None:
    manifest = write_manifest({f"{n:03}": xray(n) for n in (5, 3, 4)}).assign(age=[1.0, np.nan, 3.0])
    manifest.index = pd.Index([7, 7, 0])
    table = measure(manifest, **LIMITS, workers=1)
    assert table["image_id"].to_list() == ["005", "003", "004"]
    assert list(table) == [*manifest, "width", "height", "mean", "std", "dhash", "valid", "reason"]
    dataset.write_table(table, tmp_path / "valid.csv")
    pd.testing.assert_frame_equal(dataset.read_table(tmp_path / "valid.csv"), table)


def test_measures_do_not_depend_on_the_number_of_workers(write_manifest: Manifest) -> None:
    manifest = pd.concat([write_manifest({f"{n}": xray(n) for n in range(6)})] * 50, ignore_index=True)
    pd.testing.assert_frame_equal(measure(manifest, **LIMITS, workers=2), measure(manifest, **LIMITS, workers=1))


# --- the perceptual hash ---


def test_dhash_of_a_known_image() -> None:
    rising = np.tile(np.arange(9, dtype=np.uint8), (8, 1))
    assert dhash(rising) == "f" * 16
    assert dhash(rising[:, ::-1]) == "0" * 16
    one_step = np.zeros((8, 9), np.uint8)
    one_step[0, 1:] = 9  # the first pixel pair of the first row is the first bit
    assert dhash(one_step) == "8000000000000000"


def test_dhash_looks_at_all_pixels_and_not_at_samples() -> None:
    """Blocks that grow brighter to the right, with dark grains that grow darker where sampling would look."""
    image = np.tile(np.repeat(np.arange(100, 190, 10), 10), (80, 1)).astype(np.uint8)
    for place in (0, 4, 5):
        image[place::10, place::10] = np.arange(90, 0, -10)
    assert dhash(image) == "f" * 16


def bits_apart(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


@given(st.integers(0, 10_000), st.integers(60, 300), st.integers(60, 300))
def test_a_rescaled_copy_has_nearly_the_same_dhash_and_another_image_not(seed: int, height: int, width: int) -> None:
    image, other = xray(seed, 240, 200), xray(seed + 1, 240, 200)
    copy = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    assert bits_apart(dhash(image), dhash(copy)) <= 6
    assert bits_apart(dhash(image), dhash(other)) >= 10


# --- the report ---


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, validate.Report]:
    """A table of 40 images, three of them bad, four of them copies, and what the suite says of it."""
    n = 40
    table = pd.DataFrame(
        {
            "image_id": [f"i{k:02}" for k in range(n)],
            "uri": "x",
            "label": [k % 2 for k in range(n)],
            "patient_id": [f"p{k}" for k in range(n)],
            "subtype": "s",
            "source_split": "train",
            "bytes": 9,
            "sha256": [f"{k:064x}" for k in range(n)],
            "width": 300,
            "height": 200,
            "mean": 120.0,
            "std": 50.0,
            "dhash": "0" * 16,
            "valid": True,
            "reason": "",
        }
    )
    table.loc[:2, ["valid", "reason", "width"]] = [False, "shorter side under 64 pixels", 20]
    table.loc[[10, 11, 12], "sha256"] = "a" * 64
    table.loc[[20, 21], "sha256"] = "b" * 64
    folder = tmp_path_factory.mktemp("reports") / "data_docs"
    folder.mkdir()
    (folder / "stale.html").touch()
    return table, validate.report(table, **LIMITS, max_bad_fraction=0.05, docs=folder)


def test_summary_keeps_the_contract(reported: tuple[pd.DataFrame, validate.Report], tmp_path: Path) -> None:
    summary = reported[1].summary
    rows = summary["expectations"]
    assert {name: value for name, value in summary.items() if name != "expectations"} == {
        "n_images": 40,
        "n_valid": 37,
        "n_quarantined": 3,
        "duplicate_groups": 2,
        "duplicate_files": 5,
    }
    assert len(rows) >= 14
    assert all(set(row) == {"name", "success", "unexpected"} for row in rows)
    assert len({row["name"] for row in rows}) == len(rows)
    dataset.write_json(summary, tmp_path / "validation.json")
    assert dataset.read_json(tmp_path / "validation.json") == summary


def test_what_fails_shows_and_the_rest_passes(reported: tuple[pd.DataFrame, validate.Report]) -> None:
    failed = {row["name"]: row["unexpected"] for row in reported[1].summary["expectations"] if not row["success"]}
    assert failed == {
        "expect_column_values_to_be_between(width)": 3,
        "expect_column_values_to_be_in_set(valid)": 3,
        "expect_column_values_to_be_unique(sha256)": 5,
    }


class Words(HTMLParser):
    """What a page says without a script."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def handle_data(self, data: str) -> None:
        self.said += "" if self.cdata_elem else data


def test_the_page_for_people_stands_on_disk_and_leads_to_what_failed(
    reported: tuple[pd.DataFrame, validate.Report],
) -> None:
    page = reported[1].page
    docs = next(folder for folder in page.parents if folder.name == "data_docs")
    (results,) = (docs / "validations").rglob("*.html")
    assert results == page
    assert quote(results.relative_to(docs).as_posix()) in (docs / "index.html").read_text()
    words = Words()
    words.feed(results.read_text())
    said = " ".join(words.said.split())
    assert "Failed" in said
    assert "patient_id" in said
    assert "values must be unique, at least 95 % of the time. 5 unexpected values found." in said
    assert not (docs / "stale.html").exists()
    assert [path.name for path in docs.parent.iterdir()] == ["data_docs"]


def test_the_report_of_a_table_is_the_same_every_time(
    reported: tuple[pd.DataFrame, validate.Report], tmp_path: Path
) -> None:
    again = validate.report(reported[0], **LIMITS, max_bad_fraction=0.05, docs=tmp_path / "data_docs")
    assert again.summary == reported[1].summary


def test_the_report_takes_its_limits_from_the_settings(
    reported: tuple[pd.DataFrame, validate.Report], tmp_path: Path
) -> None:
    loose = validate.report(reported[0], min_side=10, min_std=60.0, max_bad_fraction=0.1, docs=tmp_path / "data_docs")
    failed = {row["name"] for row in loose.summary["expectations"] if not row["success"]}
    assert failed == {"expect_column_values_to_be_between(std)", "expect_column_values_to_be_unique(sha256)"}


def test_great_expectations_and_tensorflow_wait_until_they_are_needed(repo: Path) -> None:
    modules = "backbone, compute, dataset, fetch, models, params, preprocess, rebalance, validate"
    heavy = "{'great_expectations', 'tensorflow', 'keras', 'mlflow', 'matplotlib'}"
    code = f"import sys; from pneumonia import {modules}; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(repo / "src")}
    )
    assert done.stderr == "set()\n"


# --- enough ---


def measured(valid: list[bool], labels: list[int], reasons: dict[int, str] | None = None) -> pd.DataFrame:
    table = pd.DataFrame({"valid": valid, "label": labels})
    return table.assign(reason=[(reasons or {}).get(k, "" if ok else "blank") for k, ok in enumerate(valid)])


def test_a_share_of_bad_images_up_to_the_limit_passes() -> None:
    table = measured([False, *[True] * 19], [0, 1] * 10)
    require_enough(table, 0.05)
    with pytest.raises(UserError):
        require_enough(table, 0.049)
    require_enough(measured([True, True], [0, 1]), 0.0)


def test_too_many_bad_images_stop_with_share_limit_and_commonest_reason() -> None:
    reasons = {k: f"zip://{k}.jpeg::a.zip: cannot be read as an image (truncated)" for k in range(3)}
    table = measured([False] * 5 + [True] * 5, [0, 1] * 5, reasons)
    with pytest.raises(UserError) as caught:
        require_enough(table, 0.1)
    assert str(caught.value) == (
        "5 of 10 images are bad (50.0%), validate.max_bad_fraction allows 10.0%; commonest: cannot be read as an "
        "image (truncated) (3); mend the source or raise the limit"
    )


@pytest.mark.parametrize(("lost", "name"), [(0, "normal"), (1, "pneumonia")])
def test_a_class_without_a_valid_image_stops_whatever_the_limit(lost: int, name: str) -> None:
    labels = [0, 1] * 5
    with pytest.raises(UserError, match=rf"^no valid image of class {lost} \({name}\) is left"):
        require_enough(measured([label != lost for label in labels], labels), 1.0)


# --- the real archive ---


def test_every_image_of_the_real_archive_is_valid(real_manifest: pd.DataFrame) -> None:
    table: Any = measure(real_manifest, **LIMITS, workers=2)
    assert table["valid"].all()
    assert (table[["width", "height"]] == 224).all(axis=None)
