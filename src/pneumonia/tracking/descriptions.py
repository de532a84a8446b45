"""Texts for people in the MLflow UI: names and descriptions of runs, models and experiments, in Markdown.

The UI shows tables, links and pictures of a description; it takes nothing of a picture but its address, so that the
file must have the size to be shown. The first line is the one that is seen before a click.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from pneumonia.data import targets
from pneumonia.data.sources import SYNTHETIC
from pneumonia.data.targets import PNEUMONIA, Target
from pneumonia.metrics.text import format_with_interval
from pneumonia.names import printable

VIEW = "workflowType=machine_learning"
"""Part of an address: the UI opens its view for training, and not the one for language models."""

REMOVED = "Removed together with the data of a patient. A new training writes such a text again."
"""What `pneumonia forget` leaves of a text that named a patient."""
OWN_TEXT = "_The workflow writes this text again at each promotion; without this line it keeps yours._"
"""Last line of texts that change with the champion."""

_OF_DATA = ("fetch", "validate", "rebalance", "preprocess", "external")
"""Stages before the choice of a model."""
_FIGURES = {"auc": "AUC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}


class Evidence(NamedTuple):
    """What a store has of a trained model.

    Attributes:
        experiment_id, run_id: of its train run.
        figures: `youden` of its `evaluation.json`, and `level`; empty if the run has none.
        synthetic: whether its images are.
        pictures: path of an artifact -> what it shows.
        card: path of the artifact with the model card; empty if there is none.
        target: of its labels.
    """

    experiment_id: str
    run_id: str
    figures: Mapping[str, Any]
    synthetic: bool
    pictures: Mapping[str, str]
    card: str
    target: Target = PNEUMONIA


class Holder(NamedTuple):
    """The champion of a registered model: number of its version, its tags, and its train run."""

    version: int
    tags: Mapping[str, str]
    evidence: Evidence


def stage_run(stage: str, subject: str, model: str) -> str:
    """The name of the run of a stage, before anything is known of its result.

    >>> stage_run("rebalance", "phantom", "compact"), stage_run("evaluate", "phantom", "compact")
    ('rebalance · phantom', 'evaluate · compact · phantom')
    """
    return " · ".join((stage, subject) if stage in _OF_DATA else (stage, model, subject))


def train_run(subject: str, model: str, val_auc: float) -> str:
    """The name of an evaluated train run: with its validation figure, so that nobody chooses on test.

    >>> train_run("phantom", "compact", 0.9114)
    'compact · phantom · val AUC 0.911'
    """
    return f"{model} · {subject} · val AUC {val_auc:.3f}"


def trial_run(model: str, trial: str, values: Mapping[str, object]) -> str:
    """The name of the run of a trial, or of the network of a fold.

    >>> trial_run("compact", "trial 3", {"learning_rate": 0.00112, "dropout": 0.2})
    'compact · trial 3 · lr 1.1e-3'
    """
    rate = values.get("learning_rate")
    parts = (model, trial, f"lr {rate:.1e}".replace("e-0", "e-")) if isinstance(rate, float) else (model, trial)
    return " · ".join(parts)


def of_model(evidence: Evidence) -> str:
    """The description of a train run: figures, model card, pictures; empty before it is evaluated."""
    if not evidence.figures:
        return ""
    blocks = [
        _table(evidence.figures, evidence.target),
        f"Intervals: {evidence.figures['level']:.0%}. Validation chooses; test only reports.{_synthetic(evidence)}",
        *([f"[Model card]({_in_ui(evidence, evidence.card)})"] if evidence.card else []),
        *(f"![{shows}]({_file(evidence.run_id, path)})" for path, shows in evidence.pictures.items()),
    ]
    return "\n\n".join(blocks)


def of_version(reason: str, evidence: Evidence) -> str:
    """The description of a registered version: first the reason of its decision."""
    return "\n\n".join(part for part in (printable(reason), of_model(evidence)) if part)


def of_registered(subject: str, name: str, holder: Holder) -> str:
    """The description of a registered model.

    Args:
        subject: data set and target, as `targets.subject` returns them.
        name: of the registered model.
        holder: its champion.
    """
    return "\n\n".join(
        [_champion(name, holder), f"Models trained on {_in_words(subject)}.", of_model(holder.evidence), OWN_TEXT]
    )


def of_experiment(subject: str, name: str, holder: Holder | None) -> str:
    """The note of an experiment: the champion, what the experiment is, and how to read it.

    Args:
        subject: data set and target, as `targets.subject` returns them.
        name: of the registered model.
        holder: its champion; None = there is none yet.
    """
    first = _champion(name, holder) if holder else "No champion yet: `make repro` trains a model and registers it."
    about = f"Runs of the pneumonia workflow on {_in_words(subject)}."
    if holder:
        run = f"#/experiments/{holder.evidence.experiment_id}/runs/{holder.evidence.run_id}?{VIEW}"
        versions = f"#/models/{quote(name)}?{VIEW}"
        about += f"{_synthetic(holder.evidence)} [Train run of the champion]({run}), [registered versions]({versions})."
    return "\n\n".join(
        [
            first,
            about,
            "How to read the table of runs:",
            "- A trained model is one row, such as `compact · phantom · val AUC 0.911`. The plus sign shows what later "
            "stages found out about it.\n"
            "- Choose by `val/auc`. `test/auc` only reports: a model that was chosen by it looks better than it is.\n"
            "- `tune` has one row for each trial, a model of several folds one for each fold. Curves by epoch are in "
            "`epoch/`.",
            OWN_TEXT,
        ]
    )


def _in_words(subject: str) -> str:
    data, target = targets.parts(subject)
    return targets.titled(f"`{data}`", targets.target(target))


def is_own(text: str) -> bool:
    """Whether a text is of this module, or there is none: another one is the user's and stays."""
    return text in ("", REMOVED) or OWN_TEXT in text


def short_preparation(values: Mapping[str, object]) -> str:
    """How images are prepared, as a tag for people.

    >>> short_preparation({"size": 224, "clip_limit": 2.0, "tile_grid": 8, "aspect": "pad", "crop": 0.0})
    '224 px, pad, CLAHE 2'
    """
    aspect = str(values.get("aspect", "pad"))
    facts = [f"{values['size']} px", "around the lungs" if aspect == "lungs" else aspect]
    if crop := values.get("crop"):
        facts.append(f"crop {crop:g}")
    before = " before resizing" if values.get("clahe") == "before" else ""
    facts.append(f"CLAHE {clip:g}{before}" if (clip := values.get("clip_limit")) else "no CLAHE")
    return ", ".join(facts)


def _synthetic(evidence: Evidence) -> str:
    return f" {SYNTHETIC}" if evidence.synthetic else ""


def _champion(name: str, holder: Holder) -> str:
    tags = holder.tags
    auc = f", validation AUC {float(tags['val_auc']):.3f}" if tags.get("val_auc") else ""
    reason = f" ({printable(tags['reason'])})" if tags.get("reason") else ""
    place = f"#/models/{quote(name)}/versions/{holder.version}?{VIEW}"
    return f"**Champion: [version {holder.version}]({place})**, {tags.get('model', 'a model')}{auc}{reason}"


def _table(figures: Mapping[str, Any], target: Target) -> str:
    """Validation and test side by side, with their intervals. The UI puts no space between columns."""
    parts = [figures[split] for split in ("val", "test")]
    rows = [
        ("", "validation", "test"),
        (f"images ({target.positive})", *(f"{part['n']:,} ({part['n_positive']:,})" for part in parts)),
        *((words, *(format_with_interval(part, name) for part in parts)) for name, words in _FIGURES.items()),
        ("threshold", f"{figures['threshold']:.4g}", "the same"),
    ]
    lines = [f"| {' | '.join(f'{cell}&emsp;' for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---|---|---|", *lines[1:]])


def _file(run_id: str, path: str) -> str:
    """Address of an artifact, relative to the UI."""
    return f"get-artifact?{urlencode({'path': path, 'run_uuid': run_id})}"


def _in_ui(evidence: Evidence, path: str) -> str:
    """Address of the page that shows an artifact, in the UI."""
    return f"#/experiments/{evidence.experiment_id}/runs/{evidence.run_id}/artifacts/{quote(path)}?{VIEW}"
