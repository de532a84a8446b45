"""The page of a whole run: data, search, curves, evaluation, saliency maps and card, from the files in `reports/`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia import UserError, reason, workspace
from pneumonia.data import tables
from pneumonia.data.targets import PNEUMONIA, Target
from pneumonia.metrics.text import format_with_interval
from pneumonia.names import file_name, printable
from pneumonia.report import card, page, plots, search
from pneumonia.report.page import Block, Heading, Link, Picture, Section, Table

PAGES = {
    "data.html": "The data: distributions by class, duplicates and quarantine, with pictures",
    "lungs.html": "The lungs: whose masks the images have, and films without lungs",
    "tune/study.html": "The search, with its figures",
    "model_card.html": "The model card, with its pictures",
    "compare.html": "The last comparison of two models",
}
"""Other pages of a run: file below `reports/` -> what it shows."""

_FILES = {
    "validate": ("validation.json",),
    "rebalance": ("rebalance.json",),
    "tune": ("tune/best.json", "tune/trials.csv", "tune/curves.csv"),
    "train": ("history.csv",),
    "evaluate": ("evaluation.json", "predictions.csv", "plots/operating_points.csv"),
    "explain": ("explain.json", "saliency"),
    "promote": ("promotion.json", "model_card.md"),
}
"""What each stage leaves in `reports/` for this page."""

_FIGURES = {
    "roc": "ROC curve",
    "confusion": "Decisions at the Youden threshold",
    "calibration": "Reliability, with intervals",
    "decision_curve": "Decision curve",
    "precision_recall": "Precision and recall",
    "stress": "AUC of changed test images",
}
_FIGURES_OF_MERIT = {
    "n": "images",
    "n_positive": "of them {positive}",
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def write(path: Path, folder: Path, title: str, target: Target = PNEUMONIA) -> list[str]:
    """Write the page from the reports of the stages that have run, complete or not at all.

    Args:
        path: of the HTML file.
        folder: `reports/`.
        title: model and data set.
        target: of the model.

    Returns:
        The stages whose reports are missing.

    Raises:
        UserError: no stage has left a report, or one of them is damaged or of another version.
    """
    missing = [stage for stage, names in _FILES.items() if not all((folder / name).exists() for name in names)]
    if len(missing) == len(_FILES):
        raise UserError(f"{folder}: no stage has left a report there; make repro runs the stages")
    sections = [_summary(folder, missing, target)]
    for stage in _FILES:
        if stage not in missing:
            with _reports_of(stage, folder):
                sections += _PARTS[stage](folder, title, target)
    lead = "One page for the whole run. It needs no other file and no network."
    with workspace.written_whole(path) as partial:
        partial.write_text(page.html(f"Run: {title}", lead, sections), encoding="utf-8")
    return missing


@contextmanager
def _reports_of(stage: str, folder: Path) -> Iterator[None]:
    """Say in one line which stage has to run again if its reports lack an entry or cannot be read."""
    again = f"dvc repro -f -s {stage} writes them again"
    try:
        yield
    except KeyError as error:
        message = f"{folder}: the reports of {stage} have no {error}, another version wrote them; {again}"
        raise UserError(message) from error
    except (ValueError, OSError) as error:  # also those of pandas and of Pillow
        raise UserError(f"{folder}: the reports of {stage} are damaged ({reason(error)}); {again}") from error


def missing_in_words(missing: Sequence[str]) -> str:
    """The missing stages in a sentence; "" if none is missing."""
    return f"Without {', '.join(missing)}: no reports of these stages." if missing else ""


def _summary(folder: Path, missing: Sequence[str], target: Target) -> Section:
    blocks: list[Block] = [missing_in_words(missing)] if missing else []
    if "evaluate" not in missing:
        with _reports_of("evaluate", folder):
            youden = tables.read_json(folder / "evaluation.json")["youden"]
            rows = [
                (words.format(positive=target.positive), *(_cell(youden[split], name) for split in ("val", "test")))
                for name, words in _FIGURES_OF_MERIT.items()
            ]
        note = "At the Youden threshold, chosen on validation. Validation chooses; test only reports."
        blocks.append(Table(("", "validation", "test"), rows, note))
    if "promote" not in missing:
        with _reports_of("promote", folder):
            decision = tables.read_json(folder / "promotion.json")
            state = "became champion" if decision["promoted"] else "did not become champion"
            why = printable(str(decision["reason"]))
            blocks.append(f"Registered as version {decision['version']}; it {state}: {why}.")
    links = [Link(words, name) for name, words in PAGES.items() if (folder / name).is_file()]
    return Section("Summary", [*blocks, *links])


def _cell(report: Mapping[str, Any], name: str) -> str:
    return f"{report[name]:,}" if isinstance(report.get(name), int) else format_with_interval(report, name)


def _data(folder: Path, title: str, target: Target) -> list[Section]:
    summary = tables.read_json(folder / "validation.json")
    rows = [
        (row.get("words", row["name"]), "met" if row["success"] else "not met", f"{row['unexpected']:,}")
        for row in sorted(summary["expectations"], key=lambda row: (row["success"], not row["unexpected"]))
        if row["unexpected"] or not row["success"]
    ]
    n_more = len(summary["expectations"]) - len(rows)
    reasons = [(str(row["reason"]), f"{row['n']:,}") for row in summary["quarantined"]]
    return [
        Section(
            "Data",
            [
                f"{summary['n_images']:,} images, {summary['n_valid']:,} of them valid. "
                f"{summary['duplicate_files']:,} files are copies, in {summary['duplicate_groups']:,} groups; "
                f"{summary['look_alike_files']:,} images look like one of another patient.",
                *([Table(("quarantined because", "images"), reasons)] if reasons else []),
                *([Table(("what should not occur", "expectation", "occurs"), rows)] if rows else []),
                f"Expectations that are met without exception: {n_more}.",
            ],
        )
    ]


def _splits(folder: Path, title: str, target: Target) -> list[Section]:
    rebalance = tables.read_json(folder / "rebalance.json")
    splits = rebalance["splits"]
    names = tuple(target.classes.values())
    keys = ("n_images", "n_patients", *(f"n_{name}" for name in names))
    rows = [(name, *(f"{part[key]:,}" for key in keys)) for name, part in splits.items()]
    figure = plots.png(plots.classes(splits, title, target.classes))
    return [
        Section(
            "Splits",
            [
                "No patient is in two splits.",
                Table(("split", "images", "patients", *names), rows),
                *card.folds_in_words(rebalance),
                Picture("Images of each split, and their weight in an epoch", figure),
            ],
        )
    ]


def _search(folder: Path, title: str, target: Target) -> list[Section]:
    """What `tune` chose and tried; its own page has one figure more."""
    best = tables.read_json(folder / "tune" / "best.json")
    trials, curves = (pd.read_csv(folder / "tune" / f"{name}.csv") for name in ("trials", "curves"))
    chosen, figures, tried = search.sections(best, trials, search.figures(trials, curves, {}, title))
    return [Section("Search", [*chosen.blocks, *figures.blocks, *tried.blocks])]


def _curves(folder: Path, title: str, target: Target) -> list[Section]:
    history = pd.read_csv(folder / "history.csv")
    kept = history.loc[history["kept"], ["epoch", "val_auc"]]
    epochs = ", ".join(f"{epoch} (validation AUC {auc:.4f})" for epoch, auc in kept.itertuples(index=False))
    return [
        Section(
            "Training",
            [
                f"{len(history)} epochs; kept: {epochs}.",
                Picture("Loss and validation AUC by epoch", plots.png(plots.history(history, title))),
            ],
        )
    ]


def _evaluation(folder: Path, title: str, target: Target) -> list[Section]:
    points = pd.read_csv(folder / "plots" / "operating_points.csv", dtype=str, keep_default_na=False)
    names = [name for name in _FIGURES if (folder / "plots" / f"{name}.png").is_file()]
    return [
        Section(
            "Evaluation",
            [
                Table(tuple(map(str, points)), list(points.itertuples(index=False, name=None)), "On test."),
                *(Picture(_FIGURES[name], card.thumbnail(folder / "plots" / f"{name}.png")) for name in names),
            ],
        )
    ]


def _saliency(folder: Path, title: str, target: Target) -> list[Section]:
    captions: dict[str, str] = {}
    if (folder / "predictions.csv").is_file():
        predictions = tables.read_table(folder / "predictions.csv")
        test = predictions.loc[predictions["split"] == "test", ["image_id", "label", "score"]]
        captions = {
            file_name(image_id, ".png"): f"{printable(image_id)}: {target.classes[label]}, score {score:.3f}"
            for image_id, label, score in test.itertuples(index=False, name=None)
        }
    paths = sorted((folder / "saliency").glob("*.png"))
    blocks: list[Block] = [card.saliency_table(tables.read_json(folder / "explain.json"))]
    for path in paths:
        blocks.append(Picture(captions.get(path.name, printable(path.stem)), card.thumbnail(path)))
    return [Section("Saliency", blocks if paths else [*blocks, "There are no pictures."])]


def _card(folder: Path, title: str, target: Target) -> list[Section]:
    """The text of the model card; its pictures are above."""
    text = (folder / "model_card.md").read_text(encoding="utf-8")
    blocks: list[Block] = []
    for section in page.read_markdown(text):
        blocks += [Heading(section.title), *section.blocks]
    return [Section("Model card", blocks)]


_PARTS: dict[str, Callable[[Path, str, Target], list[Section]]] = {
    "validate": _data,
    "rebalance": _splits,
    "tune": _search,
    "train": _curves,
    "evaluate": _evaluation,
    "explain": _saliency,
    "promote": _card,
}
