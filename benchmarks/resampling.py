"""How far test figures move when only the validation split is drawn anew: `python -m benchmarks.resampling [FOLDER]`.

A folder is a project whose stages `rebalance` (with one validation split), `preprocess` and `backbone` are finished.
The pretrained backbone computes the features of each image. Then the images outside test are divided into five
folds by patient, twenty times. Each time a logistic regression learns in two ways: once, with the first fold as
validation split; and five times, with scores out of fold and the mean logit on test. Printed is the standard deviation
of the figures on the same test images, at the thresholds that validation, or the scores out of fold, chose.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonia import UserError
from pneumonia.data import tables
from pneumonia.data.store import open_store, read_split
from pneumonia.metrics import decisions, ranking
from pneumonia.models import backbones, networks, runtime, scoring

N_TIMES, N_FOLDS = 20, 5
TARGET_SENSITIVITY = 0.95
FIGURES = ("auc", "accuracy", "sensitivity", "specificity")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resampling", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path())
    parser.add_argument("--model", default="mobilenet", help="network with a pretrained backbone")
    options = parser.parse_args()
    patients = tables.read_table(options.folder / "data/splits.csv").set_index("image_id")["patient_id"]
    learnt, test = features(options.folder, options.model)
    rows = [
        {"time": time, "way": way, "point": point, **figures}
        for time in range(N_TIMES)
        for way, point, figures in figures_of_division(learnt, test, patients, seed=time)
    ]
    spread = pd.DataFrame(rows).groupby(["point", "way"])[list(FIGURES)].std().round(4)
    print(f"{N_TIMES} times, {len(learnt)} images outside test, {len(test)} of test\n{spread.to_string()}")


def features(folder: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features of the images outside test and of test, with `image_id` and `label`.

    Raises:
        UserError: the store has folds.
    """
    store, backbone = open_store(folder / "data/images.zarr"), backbones.read(folder / "data/backbone")
    if "val" not in store:
        raise UserError(f"{folder}/data/images.zarr has folds; one validation split is needed: rebalance.folds=1")
    runtime.start_keras(1)
    body, _ = backbones.halves(networks.create_model(name, weights=backbone.paths, dropout=0.0))
    parts = []
    for split in (read_split(store, one) for one in ("train", "val", "test")):
        values = scoring.outputs(body, split.images[:][..., None], batch_size=32)
        parts.append(pd.DataFrame(values).assign(image_id=[*map(str, split.image_ids)], label=split.labels))
    return pd.concat(parts[:2], ignore_index=True), parts[2]


def figures_of_division(
    learnt: pd.DataFrame, test: pd.DataFrame, patients: pd.Series, *, seed: int
) -> list[tuple[str, str, Any]]:
    """One division into folds: way (`single split` or `folds`), operating point, and figures on test."""
    x, labels = _values(learnt), learnt["label"].to_numpy()
    groups = patients[learnt["image_id"]].to_numpy()
    unseen, on_test = np.zeros(len(learnt)), []
    first = np.zeros(0, np.intp)
    for train, val in StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed).split(x, labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=1_000)).fit(
            x[train], labels[train]
        )
        unseen[val] = model.decision_function(x[val])
        on_test.append(model.decision_function(_values(test)))
        first = first if len(first) else val
    ways = {
        "single split": (labels[first], unseen[first], on_test[0]),
        "folds": (labels, unseen, np.mean(on_test, axis=0)),
    }
    return [
        (way, point, _figures(test["label"].to_numpy(), scores, threshold))
        for way, (known, chosen_by, scores) in ways.items()
        for point, threshold in (
            ("youden", decisions.youden_threshold(known, chosen_by)),
            ("target_sensitivity", decisions.threshold_at_sensitivity(known, chosen_by, TARGET_SENSITIVITY)),
        )
    ]


def _values(table: pd.DataFrame) -> npt.NDArray[np.float32]:
    return table.drop(columns=["image_id", "label"]).to_numpy(np.float32)


def _figures(labels: npt.NDArray[Any], scores: npt.NDArray[np.float64], threshold: float) -> dict[str, float]:
    tp, fp, tn, fn = decisions.confusion(labels, scores, threshold)
    return {
        "auc": ranking.roc_auc(labels, scores),
        "accuracy": (tp + tn) / len(labels),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
    }


if __name__ == "__main__":
    main()
