"""Tables and reports that stages exchange: CSV with a row for each image, JSON with figures.

Both are written under a temporary name and renamed when complete, so that an existing file is always complete.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError, reason, workspace

LABELS = {0: "normal", 1: "pneumonia"}
SPLITS = ("train", "val", "test")

BOTH_LABELS = "the same file carries both labels"
"""Reason of a quarantine; the rows still show which images belong to one patient."""

_TEXT = {
    "image_id": "str",
    "uri": "str",
    "patient_id": "str",
    "subtype": "str",
    "source_split": "str",
    "sha256": "str",
    "lung_mask_uri": "str",
    "sex": "str",
    "view": "str",
    "mode": "str",
    "dhash": "str",
    "look_alike": "str",
    "reason": "str",
    "note": "str",
    "split": "str",
}
_EMPTY = {"age": [""], "fold": [""]}
"""Columns of numbers -> texts that mean that there is none."""


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV: the same table gives the same bytes on every platform."""
    with workspace.written_whole(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)


def read_table(path: str | Path) -> pd.DataFrame:
    """A table from `write_table`; text columns stay text (an id such as `0012` keeps its zeros).

    Raises:
        UserError: the file is no such table.
    """
    try:
        types = _TEXT | {"fold": "Int64"}
        table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=_EMPTY)
    except ValueError as error:  # also those of pandas and of text that is no UTF-8
        raise _damaged(path, "table", error) from error
    if "valid" in table:
        table["valid"] = table["valid"].astype(str).eq("True")
    return table


def write_json(values: Mapping[str, Any], path: str | Path) -> None:
    """Write a report; floats have 8 significant digits, so that it is easy to read."""
    with workspace.written_whole(path) as partial:
        partial.write_text(json.dumps(rounded(values), indent=2) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """A value as `write_json` writes it: floats with 8 significant digits, also inside tables and lists.

    Decisions with a published threshold are then the same as in the reports: scores have 7 decimal places, and 8 digits
    are enough for a threshold between any two of them.
    """
    if isinstance(value, Mapping):
        return {str(name): rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, (float, np.floating)) else value


def unique_images(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of one split of a table with `split` and `sha256`; a file that occurs twice is one image."""
    return predictions[predictions["split"] == split].drop_duplicates("sha256")


def n_folds(splits: pd.DataFrame) -> int:
    """Number of folds of the table of `rebalance`; 1 = it has a validation split."""
    return int(splits["fold"].max()) + 1 if "fold" in splits else 1


def splits_of(splits: pd.DataFrame) -> tuple[str, ...]:
    """The names of the splits of the table of `rebalance`: with folds there is no validation split."""
    return ("train", "test") if "fold" in splits else SPLITS


def in_fold(splits: pd.DataFrame, fold: int) -> npt.NDArray[np.bool_]:
    """Which rows are in a fold: bool (n,), false in test."""
    return splits["fold"].eq(fold).to_numpy(bool, na_value=False)


def read_json(path: str | Path) -> Any:
    """A report from `write_json`.

    Raises:
        UserError: the file is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, "JSON", error) from error


def _damaged(path: str | Path, kind: str, error: ValueError) -> UserError:
    return UserError(f"{path} is no {kind} ({reason(error)}): it was changed or is damaged; dvc repro makes it again")


def data_digest(table: pd.DataFrame) -> str:
    """SHA-256 of the images, labels, splits and folds of a table; the order of the rows has no effect."""
    columns = [name for name in ("image_id", "sha256", "label", "split", "fold") if name in table]
    if "fold" in columns:  # empty in test, as in the file
        table = table.assign(fold=table["fold"].astype("string").fillna(""))
    lines = sorted("\t".join(map(str, row)) for row in table[columns].itertuples(index=False))
    return workspace.sha256_bytes("\n".join(lines).encode())
