"""Compare two models: pure functions of their tables of predictions.

Every comparison is paired: it uses only the images that both models scored. An image is recognised by the SHA-256 of
its file. The two models are called "A" and "B".
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from pneumonia import UserError
from pneumonia.data import tables
from pneumonia.data.targets import PNEUMONIA, Target
from pneumonia.metrics import calibration, decisions, ranking
from pneumonia.metrics.report import classification_report
from pneumonia.metrics.text import format_with_interval

SIDES = ("A", "B")
SPLITS = {"val": "validation", "test": "test"}
N_ROWS, N_PICTURES = 20, 12
PIXELS = 320
"""Longest side of a picture on the page."""

CHOOSE = (
    "Choose between models on validation. The test figures only report what was chosen: if the choice was made on "
    "test, its test figure is too good."
)
ORDER = (
    f"Each model decides at its own threshold. At most {N_ROWS} images, sorted by the difference of their ranks. A "
    "rank is the share of the common test images that score lower: the scores of two models may have different scales."
)


class Compared(NamedTuple):
    """Two models on their common images.

    Attributes:
        thresholds: of A and B, Youden's, each on all validation images of the model.
        splits: `val` and `test` -> one row per common image: `sha256, image_id, patient_id, label` and the raw scores
            `A` and `B`.
        figures: `val` and `test` -> `A` and `B` -> as `report.classification_report` at the threshold of the model.
        p_values: `val` and `test` -> DeLong's of "both have the same AUC"; without a split that has no AUC.
        n_scored: `val` and `test` -> `A` and `B` -> number of images that the model scored.
        level: of the intervals.
        target: of both models.
    """

    thresholds: dict[str, float]
    splits: dict[str, pd.DataFrame]
    figures: dict[str, dict[str, dict[str, float]]]
    p_values: dict[str, float]
    n_scored: dict[str, dict[str, int]]
    level: float
    target: Target = PNEUMONIA


def require_same_target(a: Target, b: Target) -> Target:
    """The target of two models.

    Raises:
        UserError: they have different ones.
    """
    if a != b:
        raise UserError(
            f"A tells {a.negative} from {a.positive}, B tells {b.negative} from {b.positive}: figures of different "
            "targets cannot be compared; name two models of one target"
        )
    return a


def compare(a: pd.DataFrame, b: pd.DataFrame, *, level: float, target: Target = PNEUMONIA) -> Compared:
    """Evaluate two models on the images that both scored.

    An image is common if the same file has the same label and split in both tables.

    Args:
        a, b: predictions: `image_id, sha256, split, label, score` and, if known, `patient_id`, the unit of the
            bootstrap.
        level: of the intervals, 0-1.
        target: of both models.

    Raises:
        UserError: no common validation images, no common test images, or validation images of one class only.
    """
    predictions_of = {"A": a, "B": b}
    splits = {split: _common(a, b, split) for split in SPLITS}
    n_scored = {
        split: {side: len(tables.unique_images(table, split)) for side, table in predictions_of.items()}
        for split in SPLITS
    }
    for split, common in splits.items():
        if common.empty:
            raise UserError(
                f"the two models have no {SPLITS[split]} image in common (A has {n_scored[split]['A']}, B has "
                f"{n_scored[split]['B']}): compare models of the same data and the same split"
            )
    thresholds = {side: _threshold(side, table) for side, table in predictions_of.items()}
    figures = {
        split: {
            side: classification_report(
                common["label"], common[side], thresholds[side], groups=common["patient_id"], level=level
            )
            for side in SIDES
        }
        for split, common in splits.items()
    }
    p_values = {
        split: ranking.delong_test(common["label"], common["A"], common["B"], groups=common["patient_id"])
        for split, common in splits.items()
        if common["label"].nunique() == 2
    }
    return Compared(thresholds, splits, figures, p_values, n_scored, level, target)


def table(compared: Compared) -> pd.DataFrame:
    """The short table: AUC on both splits; accuracy, sensitivity and specificity on test at each model's threshold.

    Returns:
        Text: the figure, `A`, `B` with intervals in brackets, `B - A`, DeLong's `p`; an undefined value is empty.
    """
    rows = []
    columns = [
        ("val", "auc"),
        ("test", "auc"),
        *(("test", name) for name in ("accuracy", "sensitivity", "specificity")),
    ]
    for split, name in columns:
        both = compared.figures[split]
        known = all(name in both[side] for side in SIDES)
        gain = f"{both['B'][name] - both['A'][name]:+.4f}" if known else ""
        p_value = f"{compared.p_values[split]:.2g}" if name == "auc" and known else ""
        label = "AUC" if name == "auc" else name
        cells = {side: format_with_interval(both[side], name, 4 if name == "auc" else 3) for side in SIDES}
        rows.append({"": f"{label}, {SPLITS[split]}", **cells, "B - A": gain, "p": p_value})
    return pd.DataFrame(rows)


def notes(compared: Compared) -> str:
    """The images and methods behind the short table."""
    parts = [
        f"{len(common)} common {SPLITS[split]} images ({int((common['label'] == 1).sum())} "
        f"{compared.target.positive}), of {compared.n_scored[split]['A']} that A and {compared.n_scored[split]['B']} "
        "that B has scored."
        for split, common in compared.splits.items()
    ]
    return " ".join(
        [
            *parts,
            f"Intervals: {compared.level:.0%}; p: DeLong's, paired; both by patient; thresholds: Youden's on the "
            "validation images of each model.",
        ]
    )


def verdict(compared: Compared) -> str:
    """Which model is better on validation, in a sentence; test is not used."""
    on = f"On the {len(compared.splits['val'])} common validation images"
    if "val" not in compared.p_values:
        return f"{on} there is one class only: they cannot show which model is better."
    gain = compared.figures["val"]["B"]["auc"] - compared.figures["val"]["A"]["auc"]
    if gain == 0:
        return f"{on} both have the same AUC."
    p_value = compared.p_values["val"]
    chance = "which chance alone rarely gives" if p_value < 1 - compared.level else "which chance alone may give"
    ahead = "B" if gain > 0 else "A"
    return f"{on} {ahead} is ahead by {abs(gain):.4f} of AUC (DeLong p = {p_value:.2g}), {chance}."


def differing(settings: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """The settings in which the two models differ: `setting`, `A` and `B` as text; one that a model lacks is empty.

    Args:
        settings: `A` and `B` -> name -> value.

    >>> both = {"A": {"seed": "1", "train.epochs": "40"}, "B": {"seed": "1", "train.epochs": "60"}}
    >>> differing(both).to_dict("records")
    [{'setting': 'train.epochs', 'A': '40', 'B': '60'}]
    """
    names = sorted({name for values in settings.values() for name in values})
    rows = [{"setting": name, **{side: settings[side].get(name, "") for side in SIDES}} for name in names]
    return pd.DataFrame([row for row in rows if row["A"] != row["B"]], columns=["setting", *SIDES])


def difference(settings: Mapping[str, Mapping[str, str]]) -> str:
    """Which settings differ, in a sentence.

    Args:
        settings: as in `differing`; empty for a model whose train run is unknown.
    """
    unknown = [side for side in SIDES if not settings[side]]
    if unknown:
        return f"The settings of {' and '.join(unknown)} are not known: the train run is not in this MLflow store."
    names = list(differing(settings)["setting"])
    if not names:
        return "All settings that were logged are the same."
    return f"Settings that differ: {', '.join(names)}."


def disagreements(compared: Compared) -> pd.DataFrame:
    """The common test images on which the two models decide differently; the largest difference of ranks first.

    Each model decides at its own threshold. Scores of two models may have different scales, so ranks are compared: the
    rank of an image is the share of the common test images that score lower.

    Returns:
        `sha256, image_id, label` (in words), `A, B` (scores), `rank_A, rank_B` (0-1), `right` (`A` or `B`).
    """
    test = compared.splits["test"]
    order = {side: test[side].rank() for side in SIDES}
    positive = {side: test[side] >= compared.thresholds[side] for side in SIDES}
    table = test.assign(
        label=test["label"].map(compared.target.classes),
        **{f"rank_{side}": (rank - 1) / max(len(test) - 1, 1) for side, rank in order.items()},
        right=np.where(positive["A"] == (test["label"] == 1), "A", "B"),
        far=(order["A"] - order["B"]).abs(),  # whole or half ranks: equal differences compare as equal
    )[positive["A"] != positive["B"]]
    table = table.sort_values(["far", "image_id"], ascending=[False, True], ignore_index=True)
    return table[["sha256", "image_id", "label", "A", "B", "rank_A", "rank_B", "right"]]


def tally(compared: Compared, disagreements: pd.DataFrame) -> str:
    """On how many test images the two models decide differently, and how often each is right.

    Args:
        disagreements: as `disagreements` returns it.
    """
    n = len(compared.splits["test"])
    if disagreements.empty:
        return f"On all of the {n} common test images both models decide the same."
    right = disagreements["right"].value_counts()
    return (
        f"On {len(disagreements)} of the {n} common test images they decide differently; "
        f"A is right on {right.get('A', 0)} of them, B on {right.get('B', 0)}."
    )


def rows(disagreements: pd.DataFrame) -> pd.DataFrame:
    """The first disagreements as text.

    Args:
        disagreements: as `disagreements` returns it.
    """
    first = disagreements.head(N_ROWS)
    cells = {
        f"{side}: score (rank)": [
            f"{score:.3f} ({rank:.0%})" for score, rank in zip(first[side], first[f"rank_{side}"], strict=True)
        ]
        for side in SIDES
    }
    return pd.DataFrame({"test image": first["image_id"], "label": first["label"], **cells, "right": first["right"]})


def curves(compared: Compared, split: str) -> dict[str, dict[str, Any]]:
    """The data of the figures of one split.

    Returns:
        `A` and `B` -> `roc` (`fpr, tpr`; absent with one class), `reliability` (`mean_score, fraction_positive, low,
        high, n`), `report`, and `point`: the false and true positive rate at the model's threshold.
    """
    common = compared.splits[split]
    data: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        report, scores, patients = compared.figures[split][side], common[side], common["patient_id"]
        points = calibration.diagram(common["label"], scores, groups=patients, level=compared.level)
        data[side] = {
            "report": report,
            "reliability": pd.DataFrame(points._asdict()),
        }
        if split in compared.p_values:
            roc = ranking.roc_curve(common["label"], scores)
            data[side]["roc"] = pd.DataFrame({"fpr": roc.fpr, "tpr": roc.tpr})
            data[side]["point"] = (1 - report["specificity"], report["sensitivity"])
    return data


def gallery(
    disagreements: pd.DataFrame, splits: pd.DataFrame, images: Any, image_ids: npt.NDArray[Any]
) -> list[tuple[str, bytes]]:
    """Pictures of the first disagreements whose images are in the store: caption and PNG.

    Args:
        disagreements: as `disagreements` returns it.
        splits: of the data in the store: `image_id, sha256`. An image of another data set may have the same id.
        images: uint8 (n, size, size), 0-255, of the store's test split.
        image_ids: (n,), of `images`.
    """
    row_of = {str(name): row for row, name in enumerate(image_ids)}
    stored = {
        sha256: row_of[name]
        for sha256, name in zip(splits["sha256"], splits["image_id"], strict=True)
        if name in row_of
    }
    return [
        (
            f"{one.image_id}: {one.label}; A {one.A:.3f}, B {one.B:.3f}; {one.right} is right",
            _png(images[stored[one.sha256]]),
        )
        for one in disagreements.head(N_ROWS).itertuples()
        if one.sha256 in stored
    ][:N_PICTURES]


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(image)
    picture.thumbnail((PIXELS, PIXELS))
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _common(a: pd.DataFrame, b: pd.DataFrame, split: str) -> pd.DataFrame:
    mine = tables.unique_images(a, split)
    if "patient_id" not in mine:
        mine = mine.assign(patient_id=mine["sha256"])
    mine = mine[["sha256", "image_id", "patient_id", "label", "score"]].rename(columns={"score": "A"})
    theirs = tables.unique_images(b, split)[["sha256", "label", "score"]].rename(columns={"score": "B"})
    return mine.merge(theirs, on=["sha256", "label"], validate="one_to_one")


def _threshold(side: str, predictions: pd.DataFrame) -> float:
    val = predictions[predictions["split"] == "val"]
    if val["label"].nunique() < 2:
        raise UserError(f"all validation images of {side} have one class: no threshold can be chosen")
    # Rounded as in metrics.json: the decisions are those of the reports.
    threshold: float = tables.rounded(decisions.youden_threshold(val["label"], val["score"]))
    return threshold
