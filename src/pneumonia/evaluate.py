"""Judge a model: the threshold from validation, then figures with intervals on test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import zarr

from pneumonia import dataset, metrics, models, stress

HEADLINE = (
    "n",
    "n_positive",
    "auc",
    "auc_low",
    "auc_high",
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "brier",
    "ece",
)
"""What `metrics.json` holds of each split; `evaluation.json` has the rest, each figure with its interval."""


def predict(model: Any, store: zarr.Group, splits: pd.DataFrame, *, memory: float | None = None) -> pd.DataFrame:
    """Scores of the validation and test images.

    Args:
        model: trained.
        store: the image store.
        splits: as `rebalance` wrote it.
        memory: as in `dataset.read_split`.

    Returns:
        `image_id, sha256, patient_id, split, label, score` and, where a source has it, `subtype`.
    """
    parts = []
    for name in ("val", "test"):
        split = dataset.read_split(store, name, memory=memory)
        parts.append(pd.DataFrame({"image_id": split.image_ids, "score": models.predict_scores(model, split.images)}))
    facts = splits[["image_id", "sha256", "patient_id", "split", "label", "subtype"]]
    table = facts.merge(pd.concat(parts), on="image_id", validate="one_to_one")
    table["score"] = table["score"].round(7)
    order = ["image_id", "sha256", "patient_id", "split", "label", "score", "subtype"]
    return table.sort_values(["split", "image_id"], ascending=[False, True], ignore_index=True)[order]


def judge(
    predictions: pd.DataFrame, *, level: float, target_sensitivity: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headline figures, and all of them with intervals.

    Both operating points are chosen on validation: Youden's, and the highest threshold that reaches the target
    sensitivity. Intervals of ratios are Wilson's, of the AUC DeLong's, of the rest a bootstrap over patients.

    Args:
        predictions: as `predict` returns them.
        level: of the intervals.
        target_sensitivity: of the second operating point.

    Returns:
        `metrics.json` and `evaluation.json`.
    """
    val = predictions[predictions["split"] == "val"]
    chosen = {
        "youden": metrics.youden_threshold(val["label"], val["score"]),
        "target_sensitivity": metrics.threshold_at_sensitivity(val["label"], val["score"], target_sensitivity),
    }
    # As the reports print it: whoever applies the published threshold decides as these figures did.
    thresholds = {name: float(f"{value:.6g}") for name, value in chosen.items()}
    full: dict[str, dict[str, Any]] = {
        point: {
            "threshold": threshold,
            **{
                split: metrics.classification_report(
                    part["label"], part["score"], threshold, groups=part["patient_id"], level=level
                )
                for split, part in ((name, predictions[predictions["split"] == name]) for name in ("val", "test"))
            },
        }
        for point, threshold in thresholds.items()
    }
    headline = {
        "threshold": thresholds["youden"],
        **{
            split: {name: full["youden"][split][name] for name in HEADLINE if name in full["youden"][split]}
            for split in ("val", "test")
        },
    }
    test = predictions[predictions["split"] == "test"]
    return headline, {"level": level, **full, "subgroups": _subgroups(test, thresholds["youden"], level)}


def robustness(model: Any, store: zarr.Group, *, memory: float | None = None) -> dict[str, float]:
    """AUC on validation as it is and under each of `stress.STRESSES`, and their mean.

    Where clean validation images no longer tell models apart, the mean does; like all that chooses, it knows no test
    image.

    Args:
        model: trained.
        store: the image store.
        memory: as in `dataset.read_split`.
    """
    split = dataset.read_split(store, "val", memory=memory)
    labels = split.labels.astype(int)
    noise = {name: np.random.default_rng(0) for name in stress.STRESSES}
    scores: dict[str, list[float]] = {name: [] for name in ("clean", *stress.STRESSES)}
    for block in dataset.blocks(split.images):
        scores["clean"] += models.predict_scores(model, block).tolist()
        for name, rng in noise.items():
            scores[name] += models.predict_scores(model, stress.stressed(block, name, seed=rng)).tolist()
    aucs = {name: metrics.roc_auc(labels, np.array(values)) for name, values in scores.items()}
    return aucs | {"mean": sum(aucs.values()) / len(aucs)}


def curves(predictions: pd.DataFrame, threshold: float) -> dict[str, pd.DataFrame]:
    """The tables behind the plots, on test: `roc`, `precision_recall`, `calibration`, `confusion`."""
    test = predictions[predictions["split"] == "test"]
    y_true, y_score = test["label"], test["score"]
    roc = metrics.roc_curve(y_true, y_score)
    pr = metrics.precision_recall_curve(y_true, y_score)
    bins = metrics.reliability(y_true, y_score)
    names = pd.Series(dataset.LABELS)
    return {
        "roc": pd.DataFrame({"fpr": roc.fpr, "tpr": roc.tpr}),
        "precision_recall": pd.DataFrame({"recall": pr.recall, "precision": pr.precision}),
        "calibration": pd.DataFrame(
            {"mean_score": bins.mean_score, "fraction_positive": bins.fraction_positive, "n": bins.n}
        ),
        "confusion": pd.DataFrame(
            {"actual": names[y_true].to_numpy(), "predicted": names[(y_score >= threshold).astype(int)].to_numpy()}
        ),
    }


def _subgroups(test: pd.DataFrame, threshold: float, level: float) -> dict[str, dict[str, float]]:
    """Share of each subtype that is classified rightly: specificity for normals, sensitivity for the others."""
    rows = {}
    for subtype, part in test.groupby("subtype"):
        right = int(((part["score"] >= threshold) == (part["label"] == 1)).sum())
        low, high = metrics.wilson_interval(right, len(part), level)
        rows[str(subtype)] = {"n": len(part), "recall": right / len(part), "recall_low": low, "recall_high": high}
    return rows
