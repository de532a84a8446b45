"""The classes of a target in the place of the labels of the data set."""

from typing import Any

import pandas as pd
import pytest

from pneumonia import UserError
from pneumonia.data import relabel, tables
from pneumonia.data.targets import PNEUMONIA, TARGETS

BACTERIAL = TARGETS["bacterial"]


def table_of(*rows: tuple[int, str], **columns: list[Any]) -> pd.DataFrame:
    """A table of `validate`, from the label and the subtype of each row."""
    labels, subtypes = zip(*rows, strict=True)
    facts = {"label": labels, "subtype": subtypes, "sha256": [f"file {n}" for n in range(len(rows))]}
    return pd.DataFrame({**facts, "valid": True, "reason": "", **columns})


ROWS = ((0, "normal"), (1, "bacteria"), (1, "Viral "), (1, "pneumonia"), (1, "BACTERIAL"), (0, "virus"))


def test_the_labels_of_the_data_set_stay_as_they_are() -> None:
    table = table_of(*ROWS)
    assert relabel.relabel(table, PNEUMONIA) is table
    assert relabel.left_out(table, PNEUMONIA) == {}


def test_viral_is_0_and_bacterial_is_1_among_pneumonias() -> None:
    table = relabel.relabel(table_of(*ROWS), BACTERIAL)
    assert table["valid"].tolist() == [False, True, True, False, True, False]  # a normal film has no subtype
    assert table.loc[table["valid"], "label"].tolist() == [1, 0, 1]
    assert table["label"].dtype == table_of(*ROWS)["label"].dtype
    assert set(table.loc[~table["valid"], "reason"]) == {relabel.OUTSIDE}


def test_a_row_that_was_not_valid_stays_out_for_its_own_reason() -> None:
    bad = table_of((1, "virus"), (1, "bacteria"), valid=[False, True], reason=["blank", ""])
    assert relabel.relabel(bad, BACTERIAL)["reason"].tolist() == ["blank", ""]
    assert relabel.left_out(bad, BACTERIAL) == {}


def test_a_file_in_both_classes_is_left_out_of_both() -> None:
    rows = ((1, "virus"), (1, "bacteria"), (1, "bacteria"), (0, "normal"))
    table = table_of(*rows, sha256=["same", "same", "other", "same"])
    after = relabel.relabel(table, BACTERIAL)
    assert after["valid"].tolist() == [False, False, True, False]
    assert after["reason"].tolist() == [tables.BOTH_LABELS, tables.BOTH_LABELS, "", relabel.OUTSIDE]


def test_what_is_left_out_is_counted_by_what_it_is() -> None:
    rows = (*ROWS, (1, "virus"), (1, "bacteria"))
    table = table_of(*rows, sha256=[*(f"file {n}" for n in range(len(ROWS))), "same", "same"])
    assert relabel.left_out(table, BACTERIAL) == {
        "normal": 2,
        "pneumonia of another subtype or of none": 1,
        "the same file in both classes": 2,
    }


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (((0, "normal"), (1, "pneumonia")), "0 viral, 0 bacterial"),
        (((1, "virus"), (1, "viral")), "2 viral, 0 bacterial"),
    ],
)
def test_without_images_of_a_class_one_line_has_the_counts_and_the_remedy(rows: Any, named: str) -> None:
    table = relabel.relabel(table_of(*rows), BACTERIAL)
    with pytest.raises(UserError) as refused:
        relabel.require_both_classes(table, BACTERIAL, "rsna")
    line = str(refused.value)
    assert "\n" not in line
    assert f"data = rsna has {named};" in line
    assert "subtypes virus and bacteria" in line
    assert line.endswith("or set target: pneumonia")
