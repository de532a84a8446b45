"""The table of predictions, checked when it is read: decisions are made on it, also by later runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pneumonia import UserError
from pneumonia.data import tables

COLUMNS = ("image_id", "sha256", "split", "label", "score")


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A table that the stage `evaluate` wrote: a row for each image, with its label and its score.

    Raises:
        UserError: it lacks a column or all rows, an image occurs twice, or a value is none that `evaluate` writes.
    """
    table = tables.read_table(path)
    if missing := [name for name in COLUMNS if name not in table]:
        raise _refused(path, f"has no column {', '.join(missing)}")
    if table.empty:
        raise _refused(path, "has no rows")
    score = pd.to_numeric(table["score"], errors="coerce")
    problems = {
        "an image_id that another row has": table["image_id"].duplicated(),
        "a score that is no number from 0 to 1": ~score.between(0, 1),
        "a label other than 0 and 1": ~table["label"].isin((0, 1)),
        f"a split other than {', '.join(tables.SPLITS)}": ~table["split"].isin(tables.SPLITS),
    }
    for problem, rows in problems.items():
        if rows.any():
            raise _refused(path, f"has {int(rows.sum())} rows with {problem}, first: {table['image_id'][rows].iloc[0]}")
    return table


def _refused(path: str | Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}; dvc repro evaluate makes it again")
