"""The page of the data: expectations in words, images that do not meet them, classes, duplicates, quarantine.

It needs no network and no other file, unlike the pages of Great Expectations on the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia import workspace
from pneumonia.data import tables
from pneumonia.metrics import ranking
from pneumonia.names import printable
from pneumonia.report import page, plots
from pneumonia.report.page import Block, Heading, Link, Picture, Section, Table, Thumbnails
from pneumonia.validate import Check, ValidationReport

N_SHOWN, N_GROUPS, N_OF_GROUP, N_ROWS = 12, 12, 6, 50
"""Images of an expectation and of the quarantine, groups of duplicates, images of a group, rows of a table. With more
the page would be too large for a browser; `data/valid.csv` has all."""

_ELSEWHERE = {
    "sha256": "Duplicates",
    "look_alike": "Duplicates",
    "valid": "Quarantine",
    "reason": "Quarantine",
}
"""Columns of expectations whose images have their own section."""

_KINDS = {"mode": "mode of the file", "view": "view", "sex": "sex", "subtype": "subtype", "source_split": "split"}

Show = Callable[[Mapping[str, Any]], bytes]
"""The JPEG of an image from its row, as `validate.picture` returns it."""


def write(path: Path, table: pd.DataFrame, report: ValidationReport, show: Show, title: str) -> None:
    """Write the page, complete or not at all.

    Args:
        path: of the HTML file.
        table: as `validate.measure` returns it.
        report: of the table.
        show: makes the picture of an image.
        title: of the data set.
    """
    sections = [
        _summary(table, report),
        _expectations(report.checks, len(table)),
        _unexpected(table, report.checks, show),
        _distributions(table, title),
        _duplicates(table, show),
        _quarantine(table, show),
        *_notes(table),
        Section(
            "More",
            [
                "One row for each image with all measures: data/valid.csv.",
                Link("Films without lungs, after the stage evaluate", "lungs.html"),
                Link("The same checks as Great Expectations reports them", "data_docs/index.html"),
                "That report loads its style from other servers, so it looks bare without a network.",
            ],
        ),
    ]
    lead = "What the workflow found in the images before it learns from them."
    with workspace.written_whole(path) as partial:
        partial.write_text(page.html(f"Data: {title}", lead, sections), encoding="utf-8")


def _summary(table: pd.DataFrame, report: ValidationReport) -> Section:
    summary = report.summary
    n_failed = len(report.failed)
    outcome = f"{n_failed} are not met" if n_failed else "all are met"
    rows = [
        (name, *(f"{n:,}" for n in (len(part), int(part["valid"].sum()), summary["n_patients"][name])))
        for name, part in ((name, table[table["label"] == label]) for label, name in tables.LABELS.items())
    ]
    facts = [
        ("patients with images of both classes", "n_patients_of_both_classes"),
        ("groups of identical files", "duplicate_groups"),
        ("files in these groups", "duplicate_files"),
        ("files that are in both classes", "label_conflicts"),
        ("groups of images of different patients that look the same", "look_alike_groups"),
        ("images that look rotated", "n_turned"),
    ]
    return Section(
        "Summary",
        [
            f"{summary['n_images']:,} images: {summary['n_valid']:,} are valid, {summary['n_quarantined']:,} are "
            f"quarantined and not used. Expectations: {len(report.checks)}; {outcome}.",
            Table(("class", "images", "valid", "patients"), rows),
            Table(("to look at", "number"), [(words, f"{summary[name]:,}") for words, name in facts]),
        ],
    )


def _expectations(checks: Sequence[Check], n_images: int) -> Section:
    rows = []
    for check in sorted(checks, key=lambda check: (check.success, not check.unexpected)):
        share = f" ({check.unexpected / n_images:.1%})" if check.rows else ""
        allowed = f"up to {check.allowed:.1%}" if check.allowed > 0 else "none"
        rows.append((check.words, "met" if check.success else "not met", f"{check.unexpected:,}{share}", allowed))
    return Section(
        "Expectations",
        [
            "Each row names what should not occur. An expectation that is not met is only reported: a run stops if too "
            "many images are quarantined or a class has no valid image.",
            Table(("what should not occur", "expectation", "occurs", "allowed"), rows),
        ],
    )


def _unexpected(table: pd.DataFrame, checks: Sequence[Check], show: Show) -> Section:
    blocks: list[Block] = []
    for check in checks:
        if not check.rows:
            continue
        blocks.append(Heading(f"{_capital(check.words)}: {check.unexpected:,}"))
        if check.column in _ELSEWHERE:
            blocks.append(f"They are under {_ELSEWHERE[check.column]}.")
            continue
        rows = _rows(table.iloc[list(check.rows[:N_SHOWN])])
        captions = [f"{row['image_id']}, {_class(row)}: {check.column} {row[check.column]}" for row in rows]
        blocks += [*_pictures(rows, captions, show), *_more(check.unexpected, len(rows), "image")]
    return Section("Images that do not meet them", blocks or ["There are none."])


def _distributions(table: pd.DataFrame, title: str) -> Section:
    valid = plots.with_ratio(table[table["valid"]])
    measured = [name for name in plots.MEASURES if name in valid]
    if "age" in valid and valid["age"].notna().any():
        measured.append("age")
    rows = [
        (
            plots.MEASURES.get(name, "age (years)"),
            *(_quartiles(valid.loc[valid["label"] == label, name]) for label in tables.LABELS),
            _auc(valid["label"], valid[name]),
        )
        for name in measured
    ]
    kinds = []
    for column, words in _KINDS.items():
        if column in valid and valid[column].ne("").any():
            counts = pd.crosstab(valid[column], valid["label"]).reindex(columns=list(tables.LABELS), fill_value=0)
            largest = counts.assign(n=counts.sum(axis=1)).sort_values("n", ascending=False, kind="stable").head(N_SHOWN)
            kinds += [
                (f"{words}: {printable(str(value)) or 'not known'}", *(f"{row[label]:,}" for label in tables.LABELS))
                for value, row in largest.iterrows()
            ]
    classes = tuple(tables.LABELS.values())
    return Section(
        "Distributions by class",
        [
            "Of the valid images. A measure that differs between the classes without a medical reason may be a "
            "shortcut: a model can learn it instead of the findings. The AUC says how well the measure alone tells the "
            "classes: 0.5 says nothing, 1 all.",
            Table(("median [quartiles]", *classes, "AUC alone"), rows),
            *([Table(("images", *classes), kinds)] if kinds else []),
            *(
                Picture(_capital(plots.MEASURES[name]), plots.png(plots.measure(table, name, title)))
                for name in measured
                if name in plots.MEASURES and len(valid)
            ),
        ],
    )


def _auc(labels: pd.Series, values: pd.Series) -> str:
    """How well one measure tells the classes, in either direction."""
    known = values.astype(float).dropna()
    if labels[known.index].nunique() < 2:
        return ""
    auc = ranking.roc_auc(labels[known.index], known)
    return f"{max(auc, 1 - auc):.2f}"


def _quartiles(values: pd.Series) -> str:
    known = values.astype(float).dropna()
    if known.empty:
        return "none"
    low, median, high = known.quantile([0.25, 0.5, 0.75])
    return f"{median:,.5g} [{low:,.5g}, {high:,.5g}]"


def _duplicates(table: pd.DataFrame, show: Show) -> Section:
    copies = table[table["sha256"].duplicated(keep=False)]
    alike = table[table["look_alike"] != ""]
    blocks: list[Block] = [
        *_groups(copies.groupby("sha256", sort=False), "identical files", show),
        *_groups(alike.groupby("look_alike", sort=False), "images that look the same, of different patients", show),
    ]
    return Section(
        "Duplicates", blocks or ["No file occurs twice, and no two patients have images that look the same."]
    )


def _groups(groups: Iterable[tuple[Any, pd.DataFrame]], what: str, show: Show) -> list[Block]:
    """The groups of images that are the same; those with images of both classes first."""
    parts = sorted((part for _, part in groups), key=lambda part: len(set(part["label"])) == 1)
    blocks: list[Block] = []
    for part in parts[:N_GROUPS]:
        both = ", in both classes" if len(set(part["label"])) > 1 else ""
        rows = _rows(part.head(N_OF_GROUP))
        captions = [f"{row['image_id']}, {_class(row)}, patient {row['patient_id'] or 'not known'}" for row in rows]
        blocks += [
            Heading(f"{len(part)} {what}{both}"),
            *_pictures(rows, captions, show),
            *_more(len(part), len(rows), "image"),
        ]
    return [*blocks, *_more(len(parts), min(len(parts), N_GROUPS), "group")]


def _quarantine(table: pd.DataFrame, show: Show) -> Section:
    bad = table[~table["valid"]]
    if bad.empty:
        return Section("Quarantine", ["No image is quarantined."])
    rows = _rows(bad.head(N_ROWS))
    listed = [(printable(str(row["image_id"])), _class(row), printable(str(row["reason"]))) for row in rows]
    readable = [row for row in rows if row["width"]][:N_SHOWN]
    return Section(
        "Quarantine",
        [
            "These images are not used. Each one is named with its reason.",
            Table(("image", "class", "reason"), listed),
            *_more(len(bad), len(rows), "image"),
            *_pictures(readable, [f"{row['image_id']}: {row['reason']}" for row in readable], show),
        ],
    )


def _notes(table: pd.DataFrame) -> list[Section]:
    noted = table[table["note"] != ""] if "note" in table else table.head(0)
    if noted.empty:
        return []
    rows = [(printable(str(row.image_id)), printable(str(row.note))) for row in noted.head(N_ROWS).itertuples()]
    return [Section("Notes", [Table(("image", "note of the reader"), rows), *_more(len(noted), len(rows), "image")])]


def _pictures(rows: Sequence[Mapping[str, Any]], captions: Sequence[str], show: Show) -> list[Block]:
    """The images that can be read side by side; the others by name."""
    shown = [(row, printable(caption), show(row)) for row, caption in zip(rows, captions, strict=True)]
    pictures = [Picture(caption, content) for _, caption, content in shown if content]
    unreadable = [printable(str(row["image_id"])) for row, _, content in shown if not content]
    blocks: list[Block] = [Thumbnails(pictures)] if pictures else []
    return [*blocks, f"Cannot be read as an image: {', '.join(unreadable)}."] if unreadable else blocks


def _more(n: int, n_shown: int, noun: str) -> list[Block]:
    n_more = n - n_shown
    return [f"And {n_more:,} more {noun}{'s' * (n_more > 1)}: see data/valid.csv."] if n_more > 0 else []


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _class(row: Mapping[str, Any]) -> str:
    return tables.LABELS[int(row["label"])]


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
