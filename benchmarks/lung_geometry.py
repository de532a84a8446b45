"""How much of a validation AUC is more than the place and the size of the lungs: AUC among films whose lungs lie alike.

In the Kermany set the frame of a film and the place of the lungs in it tell the class (docs/results.md). A model that
only knows that has an AUC of one half among films that are alike in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold, cross_val_predict

from pneumonia.data import lung_boxes
from pneumonia.data.tables import SPLITS
from pneumonia.metrics import ranking

N_STRATA = 10


def table(store: zarr.Group, splits: pd.DataFrame) -> pd.DataFrame:
    """Frame and lungs of each film in which lungs were found: `image_id`, and numbers that need no pixel.

    Args:
        store: prepared around the lungs.
        splits: as `rebalance` wrote it.
    """
    found = {
        name: (box, share)
        for split in SPLITS
        if split in store and (shares := lung_boxes.shares(store, split)) is not None
        for (name, box), share in zip(lung_boxes.read(store, split).items(), shares, strict=True)
        if box is not None
    }
    rows = []
    for name, width, height in zip(splits["image_id"], splits["width"], splits["height"], strict=True):
        if name in found:
            box, share = found[name]
            left, top, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
            corners = (left / width, top / height, right / width, bottom / height)
            rows.append((name, width / height, box.width / box.height, share, *corners))
    columns = ["image_id", "ratio", "lungs_ratio", "lungs_share", "left", "top", "right", "bottom"]
    return pd.DataFrame(rows, columns=columns)


def auc_within(geometry: pd.DataFrame, predictions: pd.DataFrame) -> tuple[float, float]:
    """AUC of geometry alone, by patients that it was not fitted on, and of the scores within strata of it.

    Args:
        geometry: as `table` returns it.
        predictions: `image_id, patient_id, label, score` of films that their network never saw.

    Returns:
        The AUC of boosted trees on the geometry; and that of the scores among pairs of films of one stratum.
    """
    both = predictions.merge(geometry, on="image_id", validate="one_to_one")
    labels = both["label"].to_numpy()
    by_geometry = cross_val_predict(
        HistGradientBoostingClassifier(max_depth=3, learning_rate=0.05, min_samples_leaf=60, random_state=1),
        both[[name for name in geometry if name != "image_id"]],
        labels,
        groups=both["patient_id"],
        cv=GroupKFold(5),
        method="predict_proba",
    )[:, 1]
    # Small trees: strata of an overfitted model would mix films whose lungs lie differently.
    strata = pd.qcut(by_geometry, N_STRATA, labels=False, duplicates="drop")
    return ranking.roc_auc(labels, by_geometry), _within(labels, both["score"].to_numpy(), strata)


def _within(labels: npt.NDArray[np.int_], scores: npt.NDArray[np.float64], strata: npt.NDArray[np.int_]) -> float:
    """AUC over the pairs of an ill and a healthy film that are in one stratum."""
    right = pairs = 0.0
    for stratum in np.unique(strata):
        own, values = labels[strata == stratum], scores[strata == stratum]
        n = float(own.sum()) * float((own == 0).sum())
        if n:
            right, pairs = right + n * ranking.roc_auc(own, values), pairs + n
    return right / pairs
