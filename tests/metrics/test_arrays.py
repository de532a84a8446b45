"""What may enter a metric."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike

from pneumonia.metrics.calibration import brier_score, expected_calibration_error, reliability
from pneumonia.metrics.decisions import (
    confusion,
    net_benefit,
    threshold_at_sensitivity,
    wilson_interval,
    youden_threshold,
)
from pneumonia.metrics.ranking import (
    auc_interval,
    average_precision,
    delong_test,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)
from pneumonia.metrics.report import bootstrap_interval, classification_report

TAKES_TWO_ARRAYS: dict[str, Callable[[ArrayLike, ArrayLike], object]] = {
    "roc_auc": roc_auc,
    "auc_interval": auc_interval,
    "delong_test": lambda y_true, y_score: delong_test(y_true, y_score, y_score),
    "roc_curve": roc_curve,
    "precision_recall_curve": precision_recall_curve,
    "average_precision": average_precision,
    "confusion": lambda y_true, y_score: confusion(y_true, y_score, 0.5),
    "youden_threshold": youden_threshold,
    "threshold_at_sensitivity": lambda y_true, y_score: threshold_at_sensitivity(y_true, y_score, 0.9),
    "net_benefit": net_benefit,
    "brier_score": brier_score,
    "reliability": reliability,
    "expected_calibration_error": expected_calibration_error,
    "bootstrap_interval": lambda y_true, y_score: bootstrap_interval(roc_auc, y_true, y_score, seed=0),
    "classification_report": lambda y_true, y_score: classification_report(y_true, y_score, 0.5),
}


@pytest.mark.parametrize("name", TAKES_TWO_ARRAYS)
@pytest.mark.parametrize(
    ("y_true", "y_score", "message"),
    [
        ([], [], "empty"),
        ([0, 1], [0.1, math.nan], "1 NaN or infinite values of 2"),
        ([0, 1], [-math.inf, 0.5], "1 NaN or infinite values of 2"),
        ([0, 2], [0.1, 0.9], "1 values other than 0 and 1, the first is 2"),
        ([0, math.nan], [0.1, 0.9], "the first is nan"),
        (["NORMAL", "PNEUMONIA"], [0.1, 0.9], "y_true is not an array of numbers"),
        ([0, 1], [0.1, 0.5, 0.9], r"y_true has shape \(2,\) and y_score \(3,\)"),
        ([0, 1], [[0.1], [0.9]], r"scores\[:, 0\]"),
        (0, 0.5, r"shape \(\)"),
    ],
)
def test_malformed_arrays_are_refused_with_a_remedy(
    name: str, y_true: ArrayLike, y_score: ArrayLike, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TAKES_TWO_ARRAYS[name](y_true, y_score)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("name", ["roc_auc", "auc_interval", "delong_test", "roc_curve", "youden_threshold"])
def test_one_class_has_no_auc(name: str, label: int) -> None:
    with pytest.raises(ValueError, match=f"{3 * label} positives and {3 - 3 * label} negatives, .* one of each"):
        TAKES_TWO_ARRAYS[name]([label] * 3, [0.1, 0.5, 0.9])


@pytest.mark.parametrize("name", ["precision_recall_curve", "average_precision", "threshold_at_sensitivity"])
def test_without_positives_there_is_no_recall(name: str) -> None:
    with pytest.raises(ValueError, match="0 positives among 2 images"):
        TAKES_TWO_ARRAYS[name]([0, 0], [0.1, 0.9])
    TAKES_TWO_ARRAYS[name]([1, 1], [0.1, 0.9])


@pytest.mark.parametrize("name", ["net_benefit", "brier_score", "reliability", "expected_calibration_error"])
def test_calibration_refuses_logits(name: str) -> None:
    with pytest.raises(ValueError, match=r"spans -2 to 3, expected probabilities 0-1: apply the sigmoid"):
        TAKES_TWO_ARRAYS[name]([0, 1], [-2, 3])


def test_options_out_of_range_are_refused() -> None:
    y_true, y_score = [0, 1, 1], [0.1, 0.4, 0.8]
    for level in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match="expected a coverage strictly between 0 and 1"):
            auc_interval(y_true, y_score, level)
        with pytest.raises(ValueError, match="expected a coverage strictly between 0 and 1"):
            wilson_interval(1, 2, level)
        with pytest.raises(ValueError, match="expected a coverage strictly between 0 and 1"):
            classification_report(y_true, y_score, 0.5, level=level)
    for sensitivity in (0, 1.01, math.nan):
        with pytest.raises(ValueError, match="expected a share greater than 0 and at most 1"):
            threshold_at_sensitivity(y_true, y_score, sensitivity)
    for successes, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"{successes} successes of {n} trials"):
            wilson_interval(successes, n)
    for thresholds in ([0.0], [0.5, 1.0], [math.nan], 0.5):
        with pytest.raises(ValueError, match="not a list of numbers strictly between 0 and 1"):
            net_benefit(y_true, y_score, thresholds)
    with pytest.raises(ValueError, match="n_bins is 0"):
        reliability(y_true, y_score, n_bins=0)
    with pytest.raises(ValueError, match="threshold is NaN"):
        confusion(y_true, y_score, math.nan)


def test_tables_lists_booleans_and_float32_are_all_welcome() -> None:
    y_true, y_score = [0, 1, 0, 1], [0.25, 0.5, 0.5, 0.75]
    table = pd.DataFrame({"label": y_true, "score": y_score})
    assert roc_auc(table["label"], table["score"]) == roc_auc(y_true, y_score) == 0.875
    assert roc_auc(np.array(y_true, dtype=bool), np.array(y_score, dtype=np.float32)) == 0.875
    assert brier_score(pd.array(y_true, dtype="Int8"), y_score) == brier_score(y_true, y_score)
