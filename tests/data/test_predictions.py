"""A table of predictions has what decisions are made on; each way in which it may be wrong is a row in tests/faults."""

from pathlib import Path

import pandas as pd
import pytest

from pneumonia import UserError
from pneumonia.data import tables
from pneumonia.data.predictions import COLUMNS, read_predictions

TABLE = pd.DataFrame(
    {
        "image_id": ["0012", "13"],
        "sha256": ["0e1", "ff"],
        "split": ["val", "test"],
        "label": [0, 1],
        "score": [0.0, 1.0],
    }
)


def test_a_table_comes_back_as_it_was_with_further_columns(tmp_path: Path) -> None:
    table = TABLE.assign(calibrated=[0.2, 0.8], subtype=["normal", "virus"])
    tables.write_table(table, tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "predictions.csv"), table, check_dtype=False)


def test_two_images_may_be_the_same_file(tmp_path: Path) -> None:
    tables.write_table(TABLE.assign(sha256="ff"), tmp_path / "predictions.csv")
    assert len(read_predictions(tmp_path / "predictions.csv")) == 2


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    tables.write_table(TABLE.drop(columns=column), tmp_path / "predictions.csv")
    with pytest.raises(UserError, match=rf"predictions\.csv has no column {column}; dvc repro evaluate makes it again"):
        read_predictions(tmp_path / "predictions.csv")


def test_the_number_of_wrong_rows_and_the_first_are_named(tmp_path: Path) -> None:
    tables.write_table(TABLE.assign(score=[0.5, -0.1]), tmp_path / "predictions.csv")
    with pytest.raises(UserError, match="has 1 rows with a score that is no number from 0 to 1, first: 13;"):
        read_predictions(tmp_path / "predictions.csv")
