"""The classes of a target as labels of a table that has the labels of the data set."""

from __future__ import annotations

import pandas as pd

from pneumonia import UserError
from pneumonia.data import columns, tables
from pneumonia.data.targets import Target

OUTSIDE = "not of the target"
"""Reason of valid images that the target leaves out; they still show which images belong to one patient."""


def relabel(table: pd.DataFrame, target: Target) -> pd.DataFrame:
    """The table with the classes of the target as labels; images of no class are not valid, for the reason `OUTSIDE`.

    A file that occurs in both classes is not valid, for the reason `tables.BOTH_LABELS`.

    Args:
        table: as `validate` wrote it.
        target: with its own labels, the table stays as it is.
    """
    if not target.subtypes:
        return table
    classes = _classes(table, target)
    inside = table["valid"] & classes.notna()
    in_both = inside & classes.where(inside).groupby(table["sha256"]).transform("nunique").gt(1)
    reason = table["reason"].mask(table["valid"] & ~inside, OUTSIDE).mask(in_both, tables.BOTH_LABELS)
    label = classes.fillna(table["label"]).astype(table["label"].dtype)
    return table.assign(label=label, valid=inside & ~in_both, reason=reason)


def _classes(table: pd.DataFrame, target: Target) -> pd.Series:
    """0 and 1 as numbers; NaN for an image of no class."""
    label = table["subtype"].map(columns.subtype).map({name: label for label, name in enumerate(target.subtypes)})
    return label.where(table["label"].eq(1)).astype("float64")


def left_out(table: pd.DataFrame, target: Target) -> dict[str, int]:
    """How many valid images a target leaves out, by what they are; empty if it takes all of them.

    Args:
        table: as `validate` wrote it.
        target: as of `relabel`.
    """
    if not target.subtypes:
        return {}
    after = relabel(table, target)
    outside = table["valid"] & after["reason"].eq(OUTSIDE)
    kinds = {
        tables.LABELS[0]: outside & table["label"].eq(0),
        "pneumonia of another subtype or of none": outside & table["label"].eq(1),
        "the same file in both classes": table["valid"] & after["reason"].eq(tables.BOTH_LABELS),
    }
    return {name: int(rows.sum()) for name, rows in kinds.items() if rows.any()}


def require_both_classes(table: pd.DataFrame, target: Target, data: str) -> None:
    """Check that there are images of both classes.

    Args:
        table: as `relabel` returns it.
        target: of the labels.
        data: the data set, for the message.

    Raises:
        UserError: no image of a class; the message has the numbers, and the remedy.
    """
    if not target.subtypes:
        return  # `rebalance` and `external` say which split lacks a class
    labels = table.loc[table["valid"], "label"]
    counts = [int(labels.eq(label).sum()) for label in target.classes]
    if min(counts):
        return
    named = ", ".join(f"{n:,} {name}" for n, name in zip(counts, target.classes.values(), strict=True))
    raise UserError(
        f"target = {target.name} needs images of the subtypes {' and '.join(target.subtypes)}; data = {data} has "
        f"{named}; use data: chest_xray or phantom, give subtypes to images of your own (docs/own_images.md), or set "
        "target: pneumonia"
    )
