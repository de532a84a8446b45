"""Tables and reports: what is written comes back."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia import UserError
from pneumonia.data import tables

# No control characters: Python 3.11 writes a carriage return unquoted, and pandas reads it as the end of a row.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)


def test_text_of_a_table_stays_text(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "image_id": ["0012", "1e5", "12"],
            "patient_id": ["007", "08", "9"],
            "subtype": ["null", "nan", ""],
            "sha256": ["1" * 64, "0" * 64, "e" * 64],
            "dhash": ["0000000000000001", "1234567890123456", "00e1"],
            "source_split": ["", "test", ""],
            "label": [0, 1, 1],
            "mean": [1.5, 0.1, 254.999],
            "valid": [True, False, True],
            "reason": ["", "blank, or nearly\n\"so\"", ""],
        }
    )  # fmt: skip
    tables.write_table(table, tmp_path / "valid.csv")
    back = tables.read_table(tmp_path / "valid.csv")
    pd.testing.assert_frame_equal(back, table)
    assert back.dtypes.astype(str)[["label", "mean", "valid"]].to_list() == ["int64", "float64", "bool"]


def test_unknown_age_is_a_gap_and_unknown_sex_is_empty(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image_id,sex,age\n1,F,43\n2,,\n")
    table = tables.read_table(tmp_path / "manifest.csv")
    assert table["age"].isna().to_list() == [False, True]
    assert table["sex"].to_list() == ["F", ""]


@given(st.lists(st.tuples(TEXT, TEXT, st.integers(0, 1), st.booleans()), min_size=1, max_size=5))
def test_any_table_survives_the_file_with_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    table = pd.DataFrame(rows, columns=["image_id", "reason", "label", "valid"])
    tables.write_table(table, folder / "a.csv")
    back = tables.read_table(folder / "a.csv")
    tables.write_table(back, folder / "b.csv")
    assert list(back.itertuples(index=False, name=None)) == rows
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    tables.write_table(pd.DataFrame(columns=["image_id", "x"]), tmp_path / "boxes.csv")
    back = tables.read_table(tmp_path / "boxes.csv")
    assert (len(back), list(back)) == (0, ["image_id", "x"])


def test_reports_keep_eight_significant_digits(tmp_path: Path) -> None:
    report = {
        "auc": 0.975312468,
        "tiny": 1.23456789e-9,
        "large": 123456789.5,
        "n": 123456789,
        "passed": True,
        "rows": [{"share": np.float32(1 / 3)}, (0.1 + 0.2,)],
        7: "text",
    }
    tables.write_json(report, tmp_path / "report.json")
    assert tables.read_json(tmp_path / "report.json") == {
        "auc": 0.97531247,
        "tiny": 1.2345679e-9,
        "large": 123456790.0,
        "n": 123456789,
        "passed": True,
        "rows": [{"share": 0.33333334}, [0.3]],
        "7": "text",
    }
    assert (tmp_path / "report.json").read_text().endswith("}\n")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n1,2,3,4\n", b"\xff\xfe\x00"], ids=["empty", "ragged", "no text"])
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.csv is no table \(.*\): .*; dvc repro makes it again") as error:
        tables.read_table(tmp_path / "a.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is no JSON \(.*\): .*; dvc repro makes it again"):
        tables.read_json(tmp_path / "a.json")


SPLITS = pd.DataFrame(
    {"image_id": ["a", "b", "c"], "sha256": ["1", "2", "3"], "label": [0, 1, 1], "split": ["train", "val", "test"]}
)


def test_digest_does_not_depend_on_row_order_or_other_columns() -> None:
    assert tables.data_digest(SPLITS.iloc[::-1]) == tables.data_digest(SPLITS)
    assert tables.data_digest(SPLITS.assign(mean=1.5)) == tables.data_digest(SPLITS)


@pytest.mark.parametrize(
    ("column", "value"), [("label", [1, 1, 1]), ("split", ["train", "val", "val"]), ("sha256", ["1", "2", "4"])]
)
def test_digest_depends_on_labels_splits_and_content(column: str, value: list[Any]) -> None:
    assert tables.data_digest(SPLITS.assign(**{column: value})) != tables.data_digest(SPLITS)
    assert tables.data_digest(SPLITS.iloc[:2]) != tables.data_digest(SPLITS)
