"""The figures that the README states, measured here: `make bench`, or `python -m tests.bench NAME`.

Ratios and AUCs are printed with n; absolute times depend on the machine, whose cores are printed first.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonia import compute, dataset, metrics, models, phantom, preprocess, train


def _prepared(patients: Sequence[phantom.Patient]) -> list[tuple[Any, Any, int, str]]:
    return [
        (
            preprocess.prepare(one.image, size=224, aspect="pad", clip_limit=2.0, tile_grid=8),
            cv2.resize(one.image, (32, 32), interpolation=cv2.INTER_AREA),
            one.label,
            one.patient_id,
        )
        for patient in patients
        for one in phantom.render(patient)
    ]


def bench_phantom(n_images: int = 4_000, n_test: int = 1_000) -> None:
    """The phantom is no toy: pixels alone do not solve it, a small network does."""
    start = time.perf_counter()
    patients = phantom.plan(n_images, seed=1)
    rows = [
        row
        for part in compute.run(_prepared, patients, workers=None, chunk=32, label="render", unit="patient")
        for row in part
    ]
    print(f"phantom: {n_images} images rendered and prepared, {n_images / (time.perf_counter() - start):.0f} images/s")
    images, small = np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]).reshape(n_images, -1)
    labels, groups = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    learn, test = _by_patient(groups, n_test / n_images)
    print(f"phantom: {len(learn)} images to learn from, {len(test)} of other patients to judge on")

    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    linear.fit(small[learn], labels[learn])
    _report("linear model on 32x32 pixels", labels[test], linear.predict_proba(small[test])[:, 1])

    models.start_keras(1)
    fit, val = _by_patient(groups[learn], 0.15)
    model = models.create_model("compact", dropout=0.1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        history = train.fit(
            model,
            _split(images, labels, learn[fit]),
            _split(images, labels, learn[val]),
            seed=1,
            epochs=15,
            batch_size=32,
            learning_rate=1e-3,
            weight_decay=5e-4,
            patience=15,
            augment=0.5,
            checkpoint=Path(folder) / "best.weights.h5",
        )
    seen = len(fit) * len(history)
    print(f"phantom: compact trained with {seen / (time.perf_counter() - start):.0f} images/s")
    _report("compact", labels[test], models.predict_scores(model, images[test]))


def _by_patient(groups: Any, share: float) -> tuple[Any, Any]:
    first, second = next(GroupShuffleSplit(1, test_size=share, random_state=1).split(groups, groups=groups))
    return first, second


def _split(images: Any, labels: Any, rows: Any) -> dataset.Split:
    chosen = labels[rows].astype(np.int8)
    balanced = np.where(chosen == 1, 0.5 / chosen.mean(), 0.5 / (1 - chosen.mean())).astype(np.float32)
    ones = np.ones(len(rows), np.int16)
    return dataset.Split(images[rows], chosen, balanced, ones, rows.astype(str))


def _report(name: str, y_true: Any, y_score: Any) -> None:
    low, high = metrics.auc_interval(y_true, y_score)
    print(f"phantom: {name}: AUC {metrics.roc_auc(y_true, y_score):.3f} [{low:.3f}, {high:.3f}], n = {len(y_true)}")


BENCHES = {"phantom": bench_phantom}


def main() -> None:
    names = sys.argv[1:] or list(BENCHES)
    print(f"{os.cpu_count()} cores")
    for name in names:
        BENCHES[name]()


if __name__ == "__main__":
    main()
