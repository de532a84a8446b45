"""AUC, curves, and their intervals."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from pneumonia.metrics.calibration import brier_score, reliability
from pneumonia.metrics.decisions import (
    effective_trials,
    wilson_interval,
)
from pneumonia.metrics.ranking import (
    auc_difference,
    auc_interval,
    average_precision,
    delong_test,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)
from pneumonia.metrics.report import bootstrap_interval
from tests.metrics.conftest import samples, simulated

Z = NormalDist().inv_cdf(0.975)

# Ovarian cancer with intestinal obstruction, 43 patients: albumin, total protein, K-G score, outcome (DeLong et al.
# 1988, doi:10.2307/2531595; as printed in the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver Operating
# Characteristic Curves"). A low K-G score is the good sign, so it enters as 10 - score.
OVARIAN_ROWS = """
    3.0 5.8 10 0   3.2 6.3 5 1   3.9 6.8 3 1   2.8 4.8 6 0   3.2 5.8 3 1   0.9 4.0 5 0   2.5 5.7 8 0   1.6 5.6 5 1
    3.8 5.7 5 1    3.7 6.7 6 1   3.2 5.4 4 1   3.8 6.6 6 1   4.1 6.6 5 1   3.6 5.7 5 1   4.3 7.0 4 1   3.6 6.7 4 0
    2.3 4.4 6 1    4.2 7.6 4 0   4.0 6.6 6 0   3.5 5.8 6 1   3.8 6.8 7 1   3.0 4.7 8 0   4.5 7.4 5 1   3.7 7.4 5 1
    3.1 6.6 6 1    4.1 8.2 6 1   4.3 7.0 5 1   4.3 6.5 4 1   3.2 5.1 5 1   2.6 4.7 6 1   3.3 6.8 6 0   1.7 4.0 7 0
    3.7 6.1 5 1    3.3 6.3 7 1   4.2 7.7 6 1   3.5 6.2 5 1   2.9 5.7 9 0   2.1 4.8 7 1   2.8 6.2 8 0   4.0 7.0 7 1
    3.3 5.7 6 1    3.7 6.9 5 1   3.6 6.6 5 1
"""
OVARIAN = np.array(OVARIAN_ROWS.split(), dtype=np.float64).reshape(-1, 4)
OUTCOME = OVARIAN[:, 3]
ALBUMIN, PROTEIN, KG_SCORE = OVARIAN[:, 0], OVARIAN[:, 1], 10 - OVARIAN[:, 2]


def pair_scores(y_true: ArrayLike, y_score: ArrayLike) -> NDArray:
    """(positives, negatives): 1 where the positive wins, 0.5 for a tie, 0 where it loses. O(m n), no ranks."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score, dtype=np.float64)
    difference = y_score[y_true == 1][:, np.newaxis] - y_score[y_true == 0]
    return (np.sign(difference) + 1) / 2


def component_variance(pairs: NDArray) -> float:
    """DeLong's variance of the mean of a (positives, negatives) table, from its structural components."""
    m, n = pairs.shape
    return float(np.var(pairs.mean(axis=1), ddof=1) / m + np.var(pairs.mean(axis=0), ddof=1) / n)


def standard_error(y_true: ArrayLike, y_score: ArrayLike, groups: ArrayLike | None = None) -> float:
    """The standard error inside `auc_interval`, undoing the logit scale."""
    low, high = auc_interval(y_true, y_score, groups=groups)
    auc = roc_auc(y_true, y_score)
    return (math.log(high / (1 - high)) - math.log(low / (1 - low))) / (2 * Z) * auc * (1 - auc)


@pytest.mark.parametrize(
    ("y_true", "y_score", "auc"),
    [
        ([0, 1], [0.1, 0.9], 1.0),
        ([0, 1], [0.9, 0.1], 0.0),
        ([0, 1, 0, 1, 1], [0.5] * 5, 0.5),
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8], 0.875),
        ([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.2], 0.5),
        ([1, 0], [-0.0, 0.0], 0.5),
    ],
)
def test_auc_of_a_few_scores_is_what_counting_gives(y_true: list[int], y_score: list[float], auc: float) -> None:
    assert roc_auc(y_true, y_score) == auc


@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_auc_is_the_share_of_pairs_won_with_ties_as_half(decimals: int) -> None:
    y_true, y_score = simulated(200, seed=1, decimals=decimals)
    assert roc_auc(y_true, y_score) == pytest.approx(pair_scores(y_true, y_score).mean(), abs=1e-15)


@pytest.mark.parametrize(
    ("score", "auc", "se"), [(ALBUMIN, 0.7366, 0.0927), (PROTEIN, 0.6478, 0.1000), (KG_SCORE, 0.7258, 0.1028)]
)
def test_auc_and_standard_error_of_the_ovarian_cancer_example(score: NDArray, auc: float, se: float) -> None:
    assert roc_auc(OUTCOME, score) == pytest.approx(auc, abs=5e-5)
    assert standard_error(OUTCOME, score) == pytest.approx(se, abs=5e-5)


@pytest.mark.parametrize(("score", "p_value"), [(ALBUMIN, 0.9102), (PROTEIN, 0.4561)])
def test_delong_p_value_of_the_ovarian_cancer_example(score: NDArray, p_value: float) -> None:
    assert delong_test(OUTCOME, score, KG_SCORE) == pytest.approx(p_value, abs=5e-5)


@pytest.mark.parametrize("decimals", [1, 8])
def test_delong_agrees_with_structural_components(decimals: int) -> None:
    y_true, a = simulated(150, seed=2, decimals=decimals)
    b = np.round(0.6 * a + 0.4 * np.random.default_rng(3).random(150), decimals)
    pairs_a, pairs_b = pair_scores(y_true, a), pair_scores(y_true, b)
    assert standard_error(y_true, a) == pytest.approx(math.sqrt(component_variance(pairs_a)), rel=1e-9)
    z = (pairs_a - pairs_b).mean() / math.sqrt(component_variance(pairs_a - pairs_b))
    assert delong_test(y_true, a, b) == pytest.approx(2 * NormalDist().cdf(-abs(z)), rel=1e-9)


def test_variance_by_patient_agrees_with_sums_over_patients() -> None:
    """Obuchowski 1997, her equations written out patient by patient; some patients have images of both classes."""
    y_true, y_score = simulated(120, seed=43, decimals=2)
    patient = np.random.default_rng(44).integers(0, 35, 120)
    pairs = pair_scores(y_true, y_score)
    auc, (m, n) = pairs.mean(), pairs.shape
    of_positive, of_negative = pairs.mean(axis=1), pairs.mean(axis=0)
    sums = [
        (
            sum(value - auc for value, one in zip(of_positive, patient[y_true == 1], strict=True) if one == name),
            sum(value - auc for value, one in zip(of_negative, patient[y_true == 0], strict=True) if one == name),
        )
        for name in np.unique(patient)
    ]
    both = len(set(patient[y_true == 1]) & set(patient[y_true == 0]))
    assert both > 10
    with_positive, with_negative = len(set(patient[y_true == 1])), len(set(patient[y_true == 0]))
    variance = with_positive / (with_positive - 1) * sum(x * x for x, _ in sums) / m**2
    variance += with_negative / (with_negative - 1) * sum(y * y for _, y in sums) / n**2
    variance += 2 * len(sums) / (len(sums) - 1) * sum(x * y for x, y in sums) / (m * n)
    assert standard_error(y_true, y_score, patient) == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_interval_by_patient_agrees_with_the_bootstrap_by_patient() -> None:
    y_true, y_score, patient = patients_with_alike_images(np.random.default_rng(45))
    generator, drawn = np.random.default_rng(46), []
    for _ in range(1000):
        rows = (3 * generator.integers(0, 80, 80)[:, None] + np.arange(3)).ravel()
        drawn.append(roc_auc(y_true[rows], y_score[rows]))
    assert standard_error(y_true, y_score, patient) == pytest.approx(np.std(drawn), rel=0.1)


def test_perfect_separation_by_patient_counts_patients() -> None:
    y_true = [0] * 12 + [1] * 12
    low, high = auc_interval(y_true, range(24), groups=[f"p{i // 3}" for i in range(24)])
    assert (low, high) == auc_interval([0] * 4 + [1] * 4, range(8))


def test_perfect_separation_with_both_classes_in_each_patient_counts_half_the_patients() -> None:
    """Pairs that share no patient: ten patients with an image of each class make five, not ten."""
    patients = [*range(10)] * 2
    low, high = auc_interval([0] * 10 + [1] * 10, range(20), groups=patients)
    assert (low, high) == auc_interval([0] * 5 + [1] * 5, range(10))
    assert low < 0.6, "at a true AUC of .6 one sample in thirteen is perfect, .6**5"


@pytest.mark.parametrize("n_patients", [4, 5, 7, 10])
def test_patients_who_are_all_alike_have_no_variance_whatever_rounding_says(n_patients: int) -> None:
    y_true, patient = [1, 1, 1] * n_patients + [0] * n_patients, [*np.repeat(range(n_patients), 3), *range(n_patients)]
    score = [3, 3, 1] * n_patients + [2] * n_patients
    low, high = auc_interval(y_true, score, groups=patient)
    assert low < 0.5 < 0.8 < high, "Hoeffding's bound, no point at 2/3"
    other = [3, 1, 1] * n_patients + [2] * n_patients
    assert delong_test(y_true, score, other, groups=patient) > 0.5


def test_delong_interval_agrees_with_the_bootstrap() -> None:
    y_true, y_score = simulated(400, seed=4)
    assert auc_interval(y_true, y_score) == pytest.approx(
        bootstrap_interval(roc_auc, y_true, y_score, seed=5), abs=0.008
    )


def test_delong_p_value_agrees_with_the_paired_bootstrap() -> None:
    y_true, a = simulated(400, seed=29, decimals=2)
    b = np.round(0.75 * a + 0.25 * np.random.default_rng(30).random(400), 2)
    generator = np.random.default_rng(31)
    differences = []
    for _ in range(1000):
        drawn = generator.integers(0, 400, 400)
        differences.append(roc_auc(y_true[drawn], a[drawn]) - roc_auc(y_true[drawn], b[drawn]))
    z = NormalDist().inv_cdf(delong_test(y_true, a, b) / 2)
    assert abs(roc_auc(y_true, a) - roc_auc(y_true, b)) / abs(z) == pytest.approx(np.std(differences), rel=0.1)


def test_delong_test_is_one_for_identical_or_equally_ranked_scores() -> None:
    y_true, y_score = simulated(60, seed=6)
    assert delong_test(y_true, y_score, y_score) == 1.0
    assert delong_test(y_true, y_score, np.exp(3 * y_score)) == 1.0
    assert delong_test([0, 1], [0.3, 0.3], [0.7, 0.7]) == 1.0


def test_delong_test_sees_a_real_difference_and_not_its_order() -> None:
    y_true, good = simulated(300, seed=7, signal=3)
    poor = np.random.default_rng(8).random(300)
    assert delong_test(y_true, good, poor) < 1e-6
    assert delong_test(y_true, good, poor) == delong_test(y_true, poor, good)


def test_delong_test_is_uniform_when_two_models_are_equally_good() -> None:
    generator = np.random.default_rng(9)
    y_true = np.repeat([0, 1], 40)
    p_values = []
    for _ in range(400):
        shared = generator.normal(size=80) + y_true
        p_values.append(delong_test(y_true, *(shared + generator.normal(size=80) for _ in "ab")))
    # Three binomial standard deviations around .05, and what the normal approximation adds at 40 a class.
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert np.median(p_values) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 8), (100, 50)])
def test_perfect_separation_gives_the_clopper_pearson_bound_of_the_smaller_class(m: int, n: int) -> None:
    y_true, y_score = [0] * n + [1] * m, np.arange(m + n)
    bound = scipy.stats.beta.ppf(0.025, min(m, n), 1)
    assert auc_interval(y_true, y_score) == (pytest.approx(bound, abs=1e-12), 1.0)
    assert auc_interval(y_true, -y_score) == (0.0, pytest.approx(1 - bound, abs=1e-12))


def test_one_positive_or_constant_scores_give_a_wide_interval_not_a_point() -> None:
    low, high = auc_interval([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.6, 0.5])
    assert low < 0.1 < 0.75 < 0.95 < high <= 1
    low, high = auc_interval([0, 1] * 20, [0.5] * 40)
    assert low < 0.3 < 0.5 < 0.7 < high
    assert low + high == pytest.approx(1)


def test_interval_at_perfect_separation_covers_aucs_below_one() -> None:
    # At AUC .9 with 10 a class, separation is perfect now and then; a zero-width interval would then miss.
    generator = np.random.default_rng(10)
    y_true = np.repeat([0, 1], 10)
    shift = math.sqrt(2) * NormalDist().inv_cdf(0.9)
    intervals = [auc_interval(y_true, generator.normal(size=20) + shift * y_true) for _ in range(2000)]
    perfect = [low for low, high in intervals if high == 1.0]
    assert len(perfect) > 10
    assert max(perfect) < 0.9


def test_perfect_against_constant_scores_has_a_conservative_p_value() -> None:
    y_true = [0] * 30 + [1] * 30
    p_value = delong_test(y_true, y_true, [0.5] * 60)
    # k pairs, each +1/2 on average 0 under equality: KL(3/4 || 1/2) per pair.
    expected = 2 * math.exp(-30 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))
    assert p_value == pytest.approx(expected)
    assert 0 < p_value < 0.05
    assert delong_test([0, 1], [0.1, 0.9], [0.9, 0.1]) == 1.0  # one pair proves nothing
    assert delong_test([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(0.5)  # 2 * (1/2)**2


@pytest.mark.parametrize("decimals", [1, 3, 8])
def test_scores_and_curves_agree_with_scikit_learn(decimals: int) -> None:
    y_true, y_score = simulated(500, seed=13, decimals=decimals)
    assert roc_auc(y_true, y_score) == pytest.approx(sklearn.metrics.roc_auc_score(y_true, y_score))
    assert average_precision(y_true, y_score) == pytest.approx(sklearn.metrics.average_precision_score(y_true, y_score))
    assert brier_score(y_true, y_score) == pytest.approx(sklearn.metrics.brier_score_loss(y_true, y_score))

    theirs = sklearn.metrics.roc_curve(y_true, y_score, drop_intermediate=False)
    for ours, expected in zip(roc_curve(y_true, y_score), theirs, strict=True):
        np.testing.assert_allclose(ours, expected)

    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(y_true, y_score)
    curve = precision_recall_curve(y_true, y_score)
    np.testing.assert_allclose(curve.precision, precision[-2::-1])  # theirs rises and ends in an invented (0, 1)
    np.testing.assert_allclose(curve.recall, recall[-2::-1])
    np.testing.assert_allclose(curve.thresholds, thresholds[::-1])

    fraction_positive, mean_score = sklearn.calibration.calibration_curve(y_true, y_score, n_bins=15)
    table = reliability(y_true, y_score)
    np.testing.assert_allclose(table.fraction_positive, fraction_positive)
    np.testing.assert_allclose(table.mean_score, mean_score)


def test_area_under_roc_curve_is_the_auc() -> None:
    y_true, y_score = simulated(200, seed=14, decimals=1)
    curve = roc_curve(y_true, y_score)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(roc_auc(y_true, y_score))


@pytest.mark.parametrize("auc", [0.8, 0.95, 0.99])
def test_auc_interval_covers_the_true_auc_about_as_often_as_it_says(auc: float) -> None:
    generator = np.random.default_rng(27)
    y_true = np.repeat([0, 1], [30, 50])
    shift = math.sqrt(2) * NormalDist().inv_cdf(auc)  # two unit normals this far apart have that AUC
    intervals = [auc_interval(y_true, generator.normal(size=80) + shift * y_true) for _ in range(1000)]
    coverage = np.mean([low <= auc <= high for low, high in intervals])
    # The simulation's own error is .007; the approximation at 30 negatives may cost .02.
    assert 0.91 <= coverage <= 0.99


def patients_with_alike_images(generator: np.random.Generator, auc: float = 0.8) -> tuple[NDArray, NDArray, NDArray]:
    """Labels, scores and patients: 80 patients with three images each, which score nearly alike."""
    y_true, patient = np.repeat([0, 1], [90, 150]), np.repeat(np.arange(80), 3)
    shift = math.sqrt(2) * NormalDist().inv_cdf(auc)
    noise = math.sqrt(0.9) * np.repeat(generator.normal(size=80), 3) + math.sqrt(0.1) * generator.normal(size=240)
    return y_true, noise + shift * y_true, patient


def test_intervals_by_patient_cover_where_those_of_images_do_not() -> None:
    generator, threshold = np.random.default_rng(41), math.sqrt(2) * NormalDist().inv_cdf(0.8) / 2
    true_accuracy = NormalDist().cdf(threshold)
    hits = {"auc": 0, "auc of images": 0, "accuracy": 0, "accuracy of images": 0}
    for _ in range(300):
        y_true, y_score, patient = patients_with_alike_images(generator)
        for groups, of in ((patient, ""), (None, " of images")):
            low, high = auc_interval(y_true, y_score, groups=groups)
            hits[f"auc{of}"] += low <= 0.8 <= high
            right = (y_score >= threshold) == y_true
            n = effective_trials(right, groups if groups is not None else np.arange(240))
            low, high = wilson_interval(right.mean() * n, n)
            hits[f"accuracy{of}"] += low <= true_accuracy <= high
    assert min(hits["auc"], hits["accuracy"]) >= 0.92 * 300
    assert max(hits["auc of images"], hits["accuracy of images"]) <= 0.85 * 300


def test_delong_test_by_patient_is_uniform_where_that_of_images_is_too_sure() -> None:
    generator, by_patient, by_image = np.random.default_rng(42), [], []
    for _ in range(300):
        y_true, a, patient = patients_with_alike_images(generator)
        _, b, _ = patients_with_alike_images(generator)
        by_patient.append(delong_test(y_true, a, b, groups=patient))
        by_image.append(delong_test(y_true, a, b))
    assert np.mean(np.array(by_patient) < 0.1) == pytest.approx(0.1, abs=0.04)
    assert np.mean(np.array(by_image) < 0.1) > 0.2


@given(samples())
def test_auc_ignores_monotone_transforms_and_flips_with_the_labels(sample: tuple[list[int], list[float]]) -> None:
    y_true, y_score = np.array(sample[0]), np.array(sample[1])
    ranks = np.unique(y_score, return_inverse=True)[1]
    assert roc_auc(y_true, ranks**3 - 7) == roc_auc(y_true, y_score)
    assert roc_auc(1 - y_true, y_score) == pytest.approx(1 - roc_auc(y_true, y_score), abs=1e-15)
    assert roc_auc(y_true, -y_score) == pytest.approx(1 - roc_auc(y_true, y_score), abs=1e-15)


@given(samples(), st.floats(0.5, 0.999))
def test_auc_interval_is_inside_zero_to_one_around_the_auc_and_mirrors(
    sample: tuple[list[int], list[float]], level: float
) -> None:
    y_true, y_score = np.array(sample[0]), np.array(sample[1])
    low, high = auc_interval(y_true, y_score, level)
    assert 0 <= low <= roc_auc(y_true, y_score) <= high <= 1
    assert low < high
    assert auc_interval(1 - y_true, y_score, level) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(samples(), st.data())
def test_delong_p_value_is_a_symmetric_probability(sample: tuple[list[int], list[float]], data: st.DataObject) -> None:
    y_true, a = sample
    b = data.draw(st.permutations(a))
    p_value = delong_test(y_true, a, b)
    assert 0 <= p_value <= 1
    assert p_value == delong_test(y_true, b, a)


@given(samples())
def test_curves_rise_and_average_precision_is_at_most_one(sample: tuple[list[int], list[float]]) -> None:
    curve = roc_curve(*sample)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(curve.fpr) >= 0).all()
    assert (np.diff(curve.thresholds) < 0).all()
    assert precision_recall_curve(*sample).recall[-1] == 1
    assert 0 < average_precision(*sample) <= 1


def test_the_interval_of_a_difference_agrees_with_the_test_of_delong() -> None:
    """An interval at level 1 - p ends at 0: both use the same variance."""
    rng = np.random.default_rng(4)
    y_true = rng.integers(0, 2, 60)
    a, b = rng.normal(y_true, 1.5), rng.normal(y_true, 1.0)
    p_value = delong_test(y_true, a, b)
    difference, low, high = auc_difference(y_true, a, b, level=1 - p_value)
    assert difference == pytest.approx(roc_auc(y_true, b) - roc_auc(y_true, a))
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)
    swapped = auc_difference(y_true, b, a, level=1 - p_value)
    assert swapped == pytest.approx((-difference, -high, -low))


def test_equal_scores_differ_by_nothing() -> None:
    assert auc_difference([0, 1, 0, 1], [1, 2, 3, 4], [2, 4, 6, 8]) == (0.0, 0.0, 0.0)


def test_the_interval_of_a_difference_covers_the_truth_in_nearly_95_of_100_samples() -> None:
    rng = np.random.default_rng(7)
    inside = 0
    for _ in range(300):
        y_true = np.arange(200) % 2
        shared = rng.normal(size=200)
        a, b = (y_true + shared + rng.normal(0, 0.5, 200) for _ in range(2))  # of the same true AUC
        _, low, high = auc_difference(y_true, a, b)
        inside += low <= 0 <= high
    assert 0.91 <= inside / 300 <= 0.98
