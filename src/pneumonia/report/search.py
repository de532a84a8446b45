"""The page of a search: what it was worth, its trials, and figures that show how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia import workspace
from pneumonia.report import page, plots
from pneumonia.tuning.objectives import of_table

_FACTS = ("trial", "state", "value", "epochs")
"""Columns of `trials.csv` that are neither hyper-parameters nor have the name of an objective."""


def write(
    path: Path,
    best: Mapping[str, Any],
    trials: pd.DataFrame,
    curves: pd.DataFrame,
    importances: Mapping[str, float],
    title: str,
) -> list[tuple[str, Any]]:
    """Write the page, complete or not at all; returns its figures with their names.

    Args:
        path: of the HTML file.
        best: content of `best.json`.
        trials, curves: as in `trials.csv` and `curves.csv`.
        importances: share of each hyper-parameter in the differences between trials, 0-1; may be empty.
        title: model and data set.
    """
    drawn = figures(trials, curves, importances, title)
    figure = of_table(trials).title.removeprefix("validation ")
    lead = (
        f"Validation images choose the hyper-parameters. Their {figure} is too high for the trial that was chosen, "
        "since it is the best of several. The test images have no part in this."
    )
    with workspace.written_whole(path) as partial:
        partial.write_text(page.html(f"Search: {title}", lead, sections(best, trials, drawn)), encoding="utf-8")
    return [(name, figure) for name, _, figure in drawn]


def figures(
    trials: pd.DataFrame, curves: pd.DataFrame, importances: Mapping[str, float], title: str
) -> list[tuple[str, str, Any]]:
    """Names, captions and figures of a search; none where no trial has a figure of the objective."""
    objective = of_table(trials)
    if not trials[objective.key].notna().any():
        return []
    keys = [str(name) for name in trials if name not in (*_FACTS, objective.key, f"{objective.key}_mean")]
    figure, chance = (objective.key, objective.title), objective.chance
    heading = objective.title[0].upper() + objective.title[1:]
    drawn = [
        ("trials", "Each trial, in order", plots.trials(trials, title, figure)),
        ("curves", f"{heading} by epoch", plots.trial_curves(curves, trials, title, figure, chance)),
        ("slices", f"{heading} by hyper-parameter", plots.slices(trials, keys, title, figure)),
        (
            "parallel",
            f"Trials as lines through their hyper-parameters; the lighter, the higher the {objective.title}",
            plots.parallel(trials, keys, title, figure),
        ),
    ]
    if importances:
        caption = "What made the difference; with few trials this is uncertain"
        drawn.append(("importances", caption, plots.importances(importances, title)))
    return drawn


def sections(
    best: Mapping[str, Any], trials: pd.DataFrame, drawn: Sequence[tuple[str, str, Any]]
) -> list[page.Section]:
    """What a search chose, its figures, and all trials."""
    chosen = [(name, _text(value)) for name, value in best["values"].items()]
    objective = of_table(trials)
    if "trial" in best:
        chosen = [("trial", str(best["trial"])), (objective.title, f"{best[objective.key]:.4f}"), *chosen]
    values = trials.filter(like=objective.key)
    shown = trials.drop(columns="value", errors="ignore").assign(
        **values.map(lambda value: "" if pd.isna(value) else f"{value:.4f}")
    )
    rows = [tuple(_text(value) for value in row) for row in shown.itertuples(index=False)]
    note = (
        "A pruned trial was stopped early; its figure is the highest of its epochs. The loss of a failed one was not "
        "finite, or its process was lost."
    )
    return [
        page.Section("What was chosen", [page.Table(("", ""), chosen), f"{best['verdict']}."]),
        page.Section("Figures", [page.Picture(caption, plots.png(figure)) for _, caption, figure in drawn]),
        page.Section("Trials", [page.Table(tuple(str(name) for name in shown), rows, note)]),
    ]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)
