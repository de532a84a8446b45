"""The page that compares two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pneumonia import compare, workspace
from pneumonia.report import page, plots


def write(
    path: Path,
    compared: compare.Compared,
    models: Mapping[str, tuple[str, str]],
    settings: Mapping[str, Mapping[str, str]],
    pictures: Sequence[tuple[str, bytes]],
) -> None:
    """Write the page, complete or not at all.

    Args:
        path: of the HTML file.
        compared: the two models on their common images.
        models: `A` and `B` -> title and MLflow run id.
        settings: `A` and `B` -> name -> value; empty for a model whose train run is unknown.
        pictures: caption and PNG of images on which the models disagree.
    """
    disagreements = compare.disagreements(compared)
    rows = [(side, title, run_id, f"{compared.thresholds[side]:.4f}") for side, (title, run_id) in models.items()]
    examples = [_table(compare.rows(disagreements), compare.ORDER)] if len(disagreements) else []
    sections = [
        page.Section("The two models", [page.Table(("", "model", "MLflow run", "threshold"), rows)]),
        page.Section("What was set differently", _differences(settings)),
        page.Section(
            "Which is better",
            [compare.verdict(compared), compare.CHOOSE, _table(compare.table(compared), compare.notes(compared))],
        ),
        page.Section(
            "Curves", _figures(compared, "\n".join(f"{side}: {title}" for side, (title, _) in models.items()))
        ),
        page.Section(
            "Where they disagree",
            [
                compare.tally(compared, disagreements),
                *examples,
                *(page.Picture(caption, content) for caption, content in pictures),
            ],
        ),
    ]
    title = " and ".join(title for title, _ in models.values())
    with workspace.written_whole(path) as partial:
        lead = "Two models on the images that both have scored."
        partial.write_text(page.html(title, lead, sections), encoding="utf-8")


def _differences(settings: Mapping[str, Mapping[str, str]]) -> list[page.Block]:
    differing = compare.differing(settings)
    if differing.empty or not all(settings.values()):
        return [compare.difference(settings)]
    return [_table(differing, "All other settings that were logged are the same.")]


def _table(table: pd.DataFrame, note: str) -> page.Table:
    return page.Table(tuple(map(str, table)), list(table.itertuples(index=False, name=None)), note)


def _figures(compared: compare.Compared, names: str) -> list[page.Picture]:
    parts = {split: compare.curves(compared, split) for split in compare.SPLITS}
    roc, reliability = plots.overlaid_roc, plots.overlaid_reliability
    figures = [
        (f"{name}, {images}", draw(parts[split], f"{names}\n{images}", compared.target.classes))
        for name, draw in (("ROC curves", roc), ("Reliability of raw scores", reliability))
        for split, images in compare.SPLITS.items()
        if split in compared.p_values or draw is reliability  # with one class there is no ROC curve
    ]
    return [page.Picture(caption, plots.png(figure)) for caption, figure in figures]
