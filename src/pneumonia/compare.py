"""Two models side by side, from what both scored: pure functions of their tables of predictions.

Every comparison is paired: only images count that both models were judged on, recognised by the SHA-256 of their
file. "A" and "B" are the two models everywhere.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from pneumonia import UserError
from pneumonia.data import tables
from pneumonia.metrics import calibration, decisions, ranking
from pneumonia.metrics.report import classification_report
from pneumonia.metrics.text import format_with_interval

SIDES = ("A", "B")
SPLITS = {"val": "validation", "test": "test"}
N_ROWS, N_PICTURES = 20, 12
PIXELS = 320
"""Longest side of a picture on the page."""

CHOOSE = (
    "A choice between models must be made on validation. The test figures are there to report what was chosen: whoever "
    "picks the better of two on test reports luck as skill."
)
ORDER = (
    f"Each model decides at its own threshold; at most {N_ROWS} images, those first whose ranks differ most. A rank is "
    "the share of the common test images that score lower: the scores of two models need not be on one scale."
)


class Compared(NamedTuple):
    """Two models on their common images.

    Attributes:
        thresholds: of A and B, Youden's on all of the validation images of each.
        splits: `val` and `test`: a row for each common image: `sha256, image_id, patient_id, label` and the raw scores
            `A` and `B`.
        figures: `val` and `test` -> `A` and `B` -> as `report.classification_report` at the threshold of the model.
        p_values: `val` and `test` -> DeLong's of "both have the same AUC"; without a split that has no AUC.
        own: `val` and `test` -> `A` and `B` -> how many images the model itself was judged on.
        level: of the intervals.
    """

    thresholds: dict[str, float]
    splits: dict[str, pd.DataFrame]
    figures: dict[str, dict[str, dict[str, float]]]
    p_values: dict[str, float]
    own: dict[str, dict[str, int]]
    level: float


def compare(a: pd.DataFrame, b: pd.DataFrame, *, level: float) -> Compared:
    """Judge two models on the images that both scored.

    An image is common if the same file has the same label and split in both tables.

    Args:
        a, b: predictions: `image_id, sha256, split, label, score` and, where known, `patient_id`, by which the
            bootstrap resamples.
        level: of the intervals, 0-1.

    Raises:
        UserError: no common images of validation, or of test; or validation images of one class only.
    """
    predictions_of = {"A": a, "B": b}
    splits = {split: _common(a, b, split) for split in SPLITS}
    own = {
        split: {side: len(tables.unique_images(table, split)) for side, table in predictions_of.items()}
        for split in SPLITS
    }
    for split, common in splits.items():
        if common.empty:
            raise UserError(
                f"the two models have no {SPLITS[split]} image in common (A has {own[split]['A']}, B has "
                f"{own[split]['B']}): compare models of the same data and the same split"
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
    return Compared(thresholds, splits, figures, p_values, own, level)


def table(compared: Compared) -> pd.DataFrame:
    """The short table: AUC on both splits; accuracy, sensitivity and specificity on test at each model's threshold.

    Returns:
        Text: the figure, `A`, `B` with intervals in brackets, `B - A`, DeLong's `p`; what is not defined is empty.
    """
    rows = []
    asked = [("val", "auc"), ("test", "auc"), *(("test", name) for name in ("accuracy", "sensitivity", "specificity"))]
    for split, name in asked:
        both = compared.figures[split]
        known = all(name in both[side] for side in SIDES)
        gain = f"{both['B'][name] - both['A'][name]:+.4f}" if known else ""
        p_value = f"{compared.p_values[split]:.2g}" if name == "auc" and known else ""
        label = "AUC" if name == "auc" else name
        cells = {side: format_with_interval(both[side], name, 4 if name == "auc" else 3) for side in SIDES}
        rows.append({"": f"{label}, {SPLITS[split]}", **cells, "B - A": gain, "p": p_value})
    return pd.DataFrame(rows)


def notes(compared: Compared) -> str:
    """What the short table was computed from."""
    parts = [
        f"{len(common)} common {SPLITS[split]} images ({int((common['label'] == 1).sum())} pneumonia), of "
        f"{compared.own[split]['A']} that A and {compared.own[split]['B']} that B has scored."
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
    """What validation says of the two, in a sentence; test has no say."""
    on = f"On the {len(compared.splits['val'])} common validation images"
    if "val" not in compared.p_values:
        return f"{on} there is one class only: they do not say which model is better."
    gain = compared.figures["val"]["B"]["auc"] - compared.figures["val"]["A"]["auc"]
    if gain == 0:
        return f"{on} both have the same AUC."
    p_value = compared.p_values["val"]
    chance = "which chance alone seldom makes" if p_value < 1 - compared.level else "which chance alone may well make"
    ahead = "B" if gain > 0 else "A"
    return f"{on} {ahead} is ahead by {abs(gain):.4f} of AUC (DeLong p = {p_value:.2g}), {chance}."


def disagreements(compared: Compared) -> pd.DataFrame:
    """The common test images on which the two decide differently, each at its own threshold; the farthest first.

    Scores of two models are not on one scale, so how far apart they are is told by ranks: the share of the common test
    images that score lower.

    Returns:
        `sha256, image_id, label` (in words), `A, B` (scores), `rank_A, rank_B` (0-1), `right` (`A` or `B`).
    """
    test = compared.splits["test"]
    order = {side: test[side].rank() for side in SIDES}
    called = {side: test[side] >= compared.thresholds[side] for side in SIDES}
    found = test.assign(
        label=test["label"].map(tables.LABELS),
        **{f"rank_{side}": (place - 1) / max(len(test) - 1, 1) for side, place in order.items()},
        right=np.where(called["A"] == (test["label"] == 1), "A", "B"),
        far=(order["A"] - order["B"]).abs(),  # in whole or half places, so that equals compare equal
    )[called["A"] != called["B"]]
    found = found.sort_values(["far", "image_id"], ascending=[False, True], ignore_index=True)
    return found[["sha256", "image_id", "label", "A", "B", "rank_A", "rank_B", "right"]]


def tally(compared: Compared, found: pd.DataFrame) -> str:
    """On how many test images the two decide differently, and who is right how often.

    Args:
        found: as `disagreements` returns it.
    """
    n = len(compared.splits["test"])
    if found.empty:
        return f"On all of the {n} common test images both decide alike."
    right = found["right"].value_counts()
    return (
        f"On {len(found)} of the {n} common test images they decide differently; A is right on {right.get('A', 0)} of "
        f"them, B on {right.get('B', 0)}."
    )


def rows(found: pd.DataFrame) -> pd.DataFrame:
    """The first disagreements as text for a reader.

    Args:
        found: as `disagreements` returns it.
    """
    first = found.head(N_ROWS)
    cells = {
        f"{side}: score (rank)": [
            f"{score:.3f} ({rank:.0%})" for score, rank in zip(first[side], first[f"rank_{side}"], strict=True)
        ]
        for side in SIDES
    }
    return pd.DataFrame({"test image": first["image_id"], "label": first["label"], **cells, "right": first["right"]})


def curves(compared: Compared, split: str) -> dict[str, dict[str, Any]]:
    """What the figures of one split are drawn from.

    Returns:
        `A` and `B` -> `roc` (`fpr, tpr`; absent with one class), `reliability` (`mean_score, fraction_positive, n`),
        `report`, and `point`: the false and true positive rate at the model's threshold.
    """
    common = compared.splits[split]
    drawn: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        report, scores = compared.figures[split][side], common[side]
        drawn[side] = {
            "report": report,
            "reliability": pd.DataFrame(calibration.reliability(common["label"], scores)._asdict()),
        }
        if split in compared.p_values:
            roc = ranking.roc_curve(common["label"], scores)
            drawn[side]["roc"] = pd.DataFrame({"fpr": roc.fpr, "tpr": roc.tpr})
            drawn[side]["point"] = (1 - report["specificity"], report["sensitivity"])
    return drawn


def gallery(
    found: pd.DataFrame, splits: pd.DataFrame, images: Any, image_ids: npt.NDArray[Any]
) -> list[tuple[str, bytes]]:
    """Pictures of the first disagreements that the image store holds: caption and PNG.

    Args:
        found: as `disagreements` returns it.
        splits: of the data in the store: `image_id, sha256`. An image of another data set may have the same id.
        images: uint8 (n, size, size), 0-255, of the store's test split.
        image_ids: (n,), of `images`.
    """
    place = {str(name): row for row, name in enumerate(image_ids)}
    held = {
        sha256: place[name] for sha256, name in zip(splits["sha256"], splits["image_id"], strict=True) if name in place
    }
    return [
        (
            f"{one.image_id}: {one.label}; A {one.A:.3f}, B {one.B:.3f}; {one.right} is right",
            _png(images[held[one.sha256]]),
        )
        for one in found.head(N_ROWS).itertuples()
        if one.sha256 in held
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
        raise UserError(f"all validation images of {side} have one class: no threshold can be chosen on them")
    # With the digits of metrics.json, so that the decisions are those of the reports.
    threshold: float = tables.rounded(decisions.youden_threshold(val["label"], val["score"]))
    return threshold
