"""All figures of a split with their intervals."""

import math
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import sklearn.calibration
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pneumonia.metrics.calibration import brier_score, expected_calibration_error
from pneumonia.metrics.decisions import (
    confusion,
    effective_trials,
    wilson_interval,
)
from pneumonia.metrics.ranking import (
    auc_interval,
    average_precision,
    roc_auc,
)
from pneumonia.metrics.report import bootstrap_interval, classification_report
from tests.metrics.conftest import samples, simulated


def test_balanced_accuracy_sees_patients_with_images_of_both_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pneumonia.metrics.report.N_RESAMPLES", 200)  # for each of hundreds of intervals
    generator, hits = np.random.default_rng(47), {"known": 0, "hidden": 0}
    y_true, patient = np.tile([0, 1], 60), np.repeat(np.arange(60), 2)
    for _ in range(300):
        hard = np.repeat(generator.random(60), 2)
        alone = generator.random(120)
        right = np.where(generator.random(120) < 0.9, hard, alone) < 0.8
        scores = np.where(right, y_true, 1 - y_true)
        for name, groups in (("known", patient), ("hidden", None)):
            report = classification_report(y_true, scores, 0.5, groups=groups)
            hits[name] += report["balanced_accuracy_low"] <= 0.8 <= report["balanced_accuracy_high"]
    assert hits["known"] >= 0.92 * 300
    assert hits["hidden"] < 0.92 * 300


def test_report_agrees_with_scikit_learn() -> None:
    y_true, y_score = simulated(400, seed=15, decimals=2)
    called = (y_score >= 0.4).astype(int)
    report = classification_report(y_true, y_score, 0.4)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(y_true, called),
        "sensitivity": sklearn.metrics.recall_score(y_true, called),
        "specificity": sklearn.metrics.recall_score(y_true, called, pos_label=0),
        "precision": sklearn.metrics.precision_score(y_true, called),
        "f1": sklearn.metrics.f1_score(y_true, called),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(y_true, called),
        "mcc": sklearn.metrics.matthews_corrcoef(y_true, called),
        "auc": sklearn.metrics.roc_auc_score(y_true, y_score),
        "average_precision": sklearn.metrics.average_precision_score(y_true, y_score),
        "brier": sklearn.metrics.brier_score_loss(y_true, y_score),
        "ece": expected_calibration_error(y_true, y_score),
    }
    assert {name: report[name] for name in expected} == pytest.approx(expected)
    assert set(report) == {"n", "n_positive"} | {name + end for name in expected for end in ("", "_low", "_high")}


@pytest.mark.parametrize("by_patient", [False, True])
def test_report_intervals_are_those_of_the_single_functions(by_patient: bool) -> None:
    y_true, y_score = simulated(120, seed=16, decimals=2)
    groups = np.random.default_rng(17).integers(0, 50, 120) if by_patient else None
    report = classification_report(y_true, y_score, 0.5, groups=groups, level=0.9, seed=18)

    def f1(y_true: NDArray, y_score: NDArray) -> float:
        tp, fp, _, fn = confusion(y_true, y_score, 0.5)
        return 2 * tp / (2 * tp + fp + fn)

    def mcc(y_true: NDArray, y_score: NDArray) -> float:
        tp, fp, tn, fn = confusion(y_true, y_score, 0.5)
        return (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))

    statistics: dict[str, Callable[[NDArray, NDArray], float]] = {
        "f1": f1,
        "brier": brier_score,
        "ece": expected_calibration_error,
        "average_precision": average_precision,
        "mcc": mcc,
    }
    for name, statistic in statistics.items():
        interval = bootstrap_interval(statistic, y_true, y_score, groups=groups, level=0.9, seed=18)
        assert (report[f"{name}_low"], report[f"{name}_high"]) == pytest.approx(interval), name
    assert (report["auc_low"], report["auc_high"]) == auc_interval(y_true, y_score, 0.9, groups=groups)
    found, ids = y_score[y_true == 1] >= 0.5, groups[y_true == 1] if by_patient else np.arange(y_true.sum())
    n = effective_trials(found, ids, 0.9)
    assert (n < found.size) == by_patient
    interval = wilson_interval(found.mean() * n, n, 0.9)
    assert (report["sensitivity_low"], report["sensitivity_high"]) == pytest.approx(interval)


def test_balanced_accuracy_has_width_also_when_perfect() -> None:
    report = classification_report([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.8, 0.9], 0.5)
    low, _ = wilson_interval(3, 3)
    assert report["balanced_accuracy"] == report["balanced_accuracy_high"] == 1
    assert report["balanced_accuracy_low"] == pytest.approx(1 - (1 - low) / math.sqrt(2))
    # A bootstrap has nothing to say of errors that the sample does not hold.
    assert report["f1"] == 1
    assert "f1_low" not in report


def test_balanced_accuracy_covers_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pneumonia.metrics.report.N_RESAMPLES", 200)  # for each of hundreds of intervals
    generator, hits = np.random.default_rng(40), 0
    y_true = np.repeat([0, 1], [30, 60])
    for _ in range(400):
        right = generator.random(90) < np.where(y_true == 1, 0.9, 0.7)
        report = classification_report(y_true, np.where(right, y_true, 1 - y_true), 0.5)
        hits += report["balanced_accuracy_low"] <= 0.8 <= report["balanced_accuracy_high"]
    assert 0.92 <= hits / 400 <= 0.98


def test_report_repeats_with_a_seed_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    y_true, y_score = simulated(50, seed=19)
    report = classification_report(y_true, y_score, 0.5, seed=20)
    assert classification_report(y_true, y_score, 0.5, seed=20) == report
    assert classification_report(y_true, y_score, 0.5, seed=21) != report
    monkeypatch.setattr("pneumonia.metrics.report.CHUNK_CELLS", 1000)
    assert classification_report(y_true, y_score, 0.5, seed=20) == pytest.approx(report)


def keys(report: dict[str, float]) -> set[str]:
    return {key for key in report if not key.endswith(("_low", "_high"))}


def test_report_leaves_out_what_has_no_value() -> None:
    everything = keys(classification_report([0, 1] * 20, np.linspace(0.1, 0.9, 40), 0.5))
    assert len(everything) == 13

    only_positive = keys(classification_report([1] * 9, np.linspace(0.1, 0.9, 9), 0.5))
    assert everything - only_positive == {"auc", "specificity", "balanced_accuracy", "mcc"}
    only_negative = keys(classification_report([0] * 9, np.linspace(0.1, 0.9, 9), 0.5))
    assert everything - only_negative == {"auc", "sensitivity", "average_precision", "balanced_accuracy", "mcc"}
    none_called = keys(classification_report([0, 1] * 9, np.linspace(0.1, 0.9, 18), 0.95))
    assert everything - none_called == {"precision", "mcc"}
    logits = keys(classification_report([0, 1] * 9, np.linspace(-3, 3, 18), 0.0))
    assert everything - logits == {"brier", "ece"}
    one_patient = keys(classification_report([0, 1] * 9, np.linspace(0.1, 0.9, 18), 0.5, groups=["p1"] * 18))
    proportions = {"accuracy", "sensitivity", "specificity", "precision", "balanced_accuracy"}
    assert one_patient == {"n", "n_positive", "auc"} | proportions
    assert keys(classification_report([1], [0.9], 0.5)) == {"n", "n_positive", "accuracy", "sensitivity", "precision"}


@given(samples(positives=0, negatives=0), st.floats(0, 1), st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_every_reported_figure_is_finite_and_inside_its_interval(
    sample: tuple[list[int], list[float]], threshold: float, n_patients: int
) -> None:
    groups = np.random.default_rng(n_patients).integers(0, n_patients, len(sample[0]))
    report = classification_report(*sample, threshold, groups=groups)
    assert (report["n"], report["n_positive"]) == (len(sample[0]), sum(sample[0]))
    assert isinstance(report["n"], int)
    assert all(math.isfinite(value) for value in report.values())
    for name in keys(report) - {"n", "n_positive"}:
        if f"{name}_low" not in report:  # the same in all resamples
            assert name in {"f1", "brier", "ece", "average_precision", "mcc"}
            continue
        assert report[f"{name}_low"] < report[f"{name}_high"], name
        assert report[f"{name}_low"] <= report[name] + 1e-12, name
        assert report[name] <= report[f"{name}_high"] + 1e-12, name


def test_interval_of_a_calibration_error_holds_its_estimate() -> None:
    # Resampling a calibrated model adds scatter to every bin: now and then all but 2.5 % of the resamples are worse.
    at_the_end = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        y_score = generator.random(300)
        report = classification_report(generator.random(300) < y_score, y_score, 0.5)
        assert report["ece_low"] <= report["ece"] < report["ece_high"]
        at_the_end += report["ece_low"] == report["ece"]
    assert at_the_end > 0


def test_whole_patients_are_drawn() -> None:
    drawn: list[NDArray] = []

    def remember(y_true: NDArray, y_score: NDArray) -> float:
        drawn.append(np.bincount(y_score.astype(int), minlength=6))
        return float(y_true.mean())

    groups = pd.Series(["b", "a", "b", "c", "a", "b"])
    bootstrap_interval(remember, [0, 1, 0, 1, 0, 1], range(6), groups=groups, n_resamples=50, seed=22)
    whole, *resamples = drawn
    np.testing.assert_array_equal(whole, np.ones(6))
    for counts in resamples:
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    assert len(np.unique(resamples, axis=0)) > 5


def test_copies_of_each_image_narrow_the_interval_only_when_their_patient_is_hidden() -> None:
    y_true, y_score = simulated(100, seed=23)
    patient = [f"p{i:02d}" for i in range(100)]  # sorts as the images do, so that the draws are the same
    once = bootstrap_interval(brier_score, y_true, y_score, seed=24)
    copied = (np.tile(y_true, 4), np.tile(y_score, 4))
    grouped = bootstrap_interval(brier_score, *copied, groups=np.tile(patient, 4), seed=24)
    hidden = bootstrap_interval(brier_score, *copied, seed=24)
    assert grouped == pytest.approx(once)
    assert hidden[1] - hidden[0] < 0.6 * (once[1] - once[0])


def test_undefined_resamples_are_skipped_and_too_many_are_an_error() -> None:
    y_true, y_score = [1] + [0] * 30, np.linspace(0.9, 0.1, 31)  # 37 % of the resamples miss the only positive
    low, high = bootstrap_interval(roc_auc, y_true, y_score, seed=25)
    assert low == high == 1.0
    with pytest.raises(ValueError, match=r"undefined in \d+ of 1000 resamples"):
        # Drawn exactly once: 37 % of the resamples again, now the defined ones.
        bootstrap_interval(lambda y_true, _: 1.0 if y_true.sum() == 1 else math.nan, y_true, y_score, seed=25)


def test_bootstrap_refuses_what_cannot_give_an_interval() -> None:
    y_true, y_score = [0, 1, 0, 1], [0.1, 0.9, 0.3, 0.6]
    with pytest.raises(ValueError, match="one group only"):
        bootstrap_interval(brier_score, y_true, y_score, groups=["p"] * 4, seed=0)
    with pytest.raises(ValueError, match=r"groups has shape \(3,\), expected \(4,\)"):
        bootstrap_interval(brier_score, y_true, y_score, groups=["p", "q", "r"], seed=0)
    for missing in (None, math.nan, pd.NA, ""):
        with pytest.raises(ValueError, match="1 missing ids of 4"):
            bootstrap_interval(brier_score, y_true, y_score, groups=pd.Series(["p", "q", missing, "r"]), seed=0)
    with pytest.raises(ValueError, match="n_resamples is 0"):
        bootstrap_interval(brier_score, y_true, y_score, n_resamples=0, seed=0)
    with pytest.raises(ValueError, match="nan on the whole sample"):
        bootstrap_interval(lambda y_true, y_score: math.nan, y_true, y_score, seed=0)
    with pytest.raises(ValueError, match="needs at least one of each"):
        bootstrap_interval(roc_auc, [1, 1], [0.1, 0.9], seed=0)


def test_report_of_a_thousand_images_is_quick() -> None:
    y_true, y_score = simulated(1000, seed=26)
    seconds = []
    for _ in range(2):  # the better of two, because a test machine is shared
        start = time.perf_counter()
        classification_report(y_true, y_score, 0.5)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.5  # measured: 0.15


def test_patient_bootstrap_covers_where_the_image_bootstrap_does_not() -> None:
    generator = np.random.default_rng(28)
    patient = np.repeat(np.arange(40), 6)
    hits = {"patient": 0, "image": 0}
    for seed in range(120):
        quality = np.repeat(generator.normal(size=40), 6)  # some patients are hard, all six images of them
        y_score = 1 / (1 + np.exp(-(quality + 0.5 * generator.normal(size=240))))
        y_true = np.ones(240, dtype=int)
        for name, groups in (("patient", patient), ("image", None)):
            low, high = bootstrap_interval(
                lambda y_true, y_score: float(y_score.mean()),
                y_true,
                y_score,
                groups=groups,
                n_resamples=200,
                seed=seed,
            )
            hits[name] += low <= 0.5 <= high
    assert hits["patient"] >= 0.87 * 120  # percentile intervals of 40 patients: about .93, less three errors of .02
    assert hits["image"] < 0.75 * 120
