"""Known answers first (counted by hand or by brute force, or published), then scikit-learn, then properties."""

import math
import time
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.metrics
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from pneumonia.metrics import (
    Confusion,
    auc_interval,
    average_precision,
    bootstrap_interval,
    brier_score,
    classification_report,
    confusion,
    delong_test,
    effective_trials,
    expected_calibration_error,
    net_benefit,
    precision_recall_curve,
    reliability,
    roc_auc,
    roc_curve,
    threshold_at_sensitivity,
    wilson_interval,
    youden_threshold,
)

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


# --- helpers --------------------------------------------------------------------------------------------------------


def simulated(n: int, seed: int, *, signal: float = 1.5, decimals: int = 8) -> tuple[NDArray, NDArray]:
    """Labels and probabilities of a fair classifier; few decimals make ties."""
    generator = np.random.default_rng(seed)
    y_true = generator.integers(0, 2, n)
    logit = generator.normal(size=n) + signal * (y_true - 0.5)
    return y_true, np.round(1 / (1 + np.exp(-logit)), decimals)


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


def samples(*, positives: int = 1, negatives: int = 1) -> st.SearchStrategy[tuple[list[int], list[float]]]:
    """Up to 30 labelled probabilities, half of them on a coarse grid so that ties are common."""
    probability = st.one_of(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.floats(0, 1, allow_subnormal=True))
    rows = st.lists(st.tuples(st.integers(0, 1), probability), min_size=1, max_size=30)
    return (
        rows.map(lambda pairs: tuple(map(list, zip(*pairs, strict=True))))
        .filter(lambda sample: sum(sample[0]) >= positives)
        .filter(lambda sample: len(sample[0]) - sum(sample[0]) >= negatives)
    )


# --- known answers: discrimination ----------------------------------------------------------------------------------


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


def test_balanced_accuracy_sees_patients_with_images_of_both_classes() -> None:
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


# --- known answers: where DeLong has no variance --------------------------------------------------------------------


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


# --- known answers: proportions, decisions, thresholds --------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_newcombes_examples(successes: int, n: int, low: float, high: float) -> None:
    # Newcombe 1998, table I, method 3.
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("success", "groups", "n"),
    [
        ([1, 1, 0, 0], "abcd", 4),
        # Eight patients, each wholly right or wholly wrong: 18 is the sum of 1.5**2, then Student's quantiles.
        ([1, 1, 1, 0, 0, 0] * 4, "aaabbbcccdddeeefffggghhh", 24 / (8 / 7 * 18 / 24**2 / (0.25 / 23)) * 0.7653374),
        ([1, 0, 1, 0], "aabb", 4),  # patients differ less than chance would have them
        ([1, 1, 1, 1, 1, 1], "aabbcc", 3),
        ([1, 0, 1], "aaa", 1),
        ([1, 1, 0], "aab", 1),
    ],
)
def test_effective_trials_of_a_few_patients(success: list[int], groups: str, n: float) -> None:
    assert effective_trials(success, list(groups)) == pytest.approx(n)


def test_wilson_ends_solve_the_score_equation_and_meet_zero_and_one() -> None:
    for end in wilson_interval(37, 50, level=0.9):
        assert abs(0.74 - end) / math.sqrt(end * (1 - end) / 50) == pytest.approx(NormalDist().inv_cdf(0.95))
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


def test_a_score_at_the_threshold_is_positive() -> None:
    y_true, y_score = [1, 0, 1, 0, 1], [0.5, 0.5, 0.4, 0.1, 0.9]
    assert confusion(y_true, y_score, 0.5) == Confusion(tp=2, fp=1, tn=1, fn=1)
    assert confusion(y_true, y_score, math.inf) == Confusion(tp=0, fp=0, tn=2, fn=3)
    assert confusion([0, 0], [0.1, 0.9], 0.5) == Confusion(tp=0, fp=1, tn=1, fn=0)


def youden(y_true: ArrayLike, y_score: ArrayLike, threshold: float) -> float:
    tp, fp, tn, fn = confusion(y_true, y_score, threshold)
    return tp / (tp + fn) + tn / (tn + fp) - 1


def test_youden_threshold_is_the_best_of_all_observed_cuts() -> None:
    for seed in range(20):
        y_true, y_score = simulated(40, seed=seed, decimals=1 + seed % 3)
        best = max(youden(y_true, y_score, cut) for cut in y_score)
        assert youden(y_true, y_score, youden_threshold(y_true, y_score)) == pytest.approx(best)


@pytest.mark.parametrize(
    ("y_true", "y_score", "threshold"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8], 0.4),  # midway between the classes
        ([0, 1, 0, 1], [0.2, 0.4, 0.6, 0.8], 0.3),  # cuts .7 and .3 are equally good: the sensitive one
        ([0, 1], [0.5, 0.5], 0.25),  # constant: everything positive, midway to 0
        ([1, 0], [0.2, 0.8], 0.1),  # worse than chance: everything positive
        ([1, 0], [-3.0, 5.0], -3.0),  # logits: nothing is known below the lowest
        ([1, 0], [0.0, 0.0], 0.0),
    ],
)
def test_youden_threshold_of_a_few_scores(y_true: list[int], y_score: list[float], threshold: float) -> None:
    assert youden_threshold(y_true, y_score) == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("sensitivity", "threshold"), [(0.2, 0.85), (0.4, 0.65), (0.41, 0.45), (0.6, 0.45), (0.8, 0.25), (1.0, 0.05)]
)
def test_threshold_at_sensitivity_lies_midway_between_scores(sensitivity: float, threshold: float) -> None:
    y_true = [1, 0, 1, 0, 1, 0, 1, 0, 1]
    y_score = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert threshold_at_sensitivity(y_true, y_score, sensitivity) == pytest.approx(threshold)


def test_float_noise_moves_no_image_across_a_chosen_threshold() -> None:
    y_true, y_score = simulated(300, seed=11, decimals=4)
    noisy = y_score + np.random.default_rng(12).uniform(-1e-7, 1e-7, 300)
    for threshold in (youden_threshold(y_true, y_score), threshold_at_sensitivity(y_true, y_score, 1.0)):
        assert confusion(y_true, noisy, threshold) == confusion(y_true, y_score, threshold)


def test_neighbouring_floats_and_huge_scores_still_have_a_threshold_between() -> None:
    above = np.nextafter(0.5, 1)
    assert youden_threshold([0, 1], [0.5, above]) == above
    huge = np.finfo(np.float64).max
    assert youden_threshold([0, 1], [huge / 2, huge]) == pytest.approx(0.75 * huge)
    assert youden_threshold([0, 1], [0.0, 5e-324]) == 5e-324


# --- known answers: calibration -------------------------------------------------------------------------------------


def test_brier_score_by_hand() -> None:
    assert brier_score([0, 1, 1], [0.1, 0.8, 0.5]) == pytest.approx((0.01 + 0.04 + 0.25) / 3)
    assert brier_score([0, 1], [0, 1]) == 0
    assert brier_score([1, 1, 0, 0], [0.5] * 4) == 0.25


def test_calibration_by_hand() -> None:
    y_true, y_score = [0, 1, 1, 0, 1], [0.1, 0.3, 0.6, 0.8, 1.0]
    table = reliability(y_true, y_score, n_bins=2)
    np.testing.assert_allclose(table.mean_score, [0.2, 0.8])
    np.testing.assert_allclose(table.fraction_positive, [1 / 2, 2 / 3])
    np.testing.assert_array_equal(table.n, [2, 3])
    assert expected_calibration_error(y_true, y_score, n_bins=2) == pytest.approx((2 * 0.3 + 3 * (0.8 - 2 / 3)) / 5)


def test_bins_are_closed_above_zero_is_in_the_first_and_empty_ones_are_left_out() -> None:
    table = reliability([0, 0, 1, 1], [0.0, 0.25, 0.5, 1.0], n_bins=4)
    np.testing.assert_allclose(table.mean_score, [0.125, 0.5, 1.0])
    np.testing.assert_array_equal(table.n, [2, 1, 1])


def test_perfect_and_constant_scores_have_known_calibration_errors() -> None:
    assert expected_calibration_error([0, 1, 1], [0, 1, 1]) == 0
    assert expected_calibration_error([0, 1, 1], [1, 0, 0]) == 1
    assert expected_calibration_error([0, 0, 0, 1], [0.75] * 4) == 0.5


@pytest.mark.parametrize(("label", "error"), [(0, 0.6), (1, 0.4)])
def test_calibration_of_one_class_and_tied_scores_by_hand(label: int, error: float) -> None:
    y_true, y_score = [label] * 4, [0.4, 0.4, 0.8, 0.8]
    assert expected_calibration_error(y_true, y_score, n_bins=5) == pytest.approx(error)
    assert brier_score(y_true, y_score) == pytest.approx(0.4 if label == 0 else 0.2)
    assert reliability(y_true, y_score, n_bins=5).fraction_positive.tolist() == [label, label]


# --- known answers: net benefit -------------------------------------------------------------------------------------


def test_net_benefit_by_hand() -> None:
    # Ten images, four ill. At 1/5 a false alarm costs a quarter: three found less two alarms makes 2.5 of 10.
    y_true = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    y_score = [0.9, 0.8, 0.2, 0.1, 0.7, 0.2, 0.1, 0.1, 0.0, 0.15]
    curve = net_benefit(y_true, y_score, [0.2, 0.75])
    assert curve.model == pytest.approx([(3 - 2 / 4) / 10, 2 / 10])
    assert curve.treat_all == pytest.approx([(4 - 6 / 4) / 10, (4 - 6 * 3) / 10])
    assert curve.treat_none.tolist() == [0, 0]
    assert curve.thresholds.tolist() == [0.2, 0.75]


def test_net_benefit_is_counted_at_each_threshold() -> None:
    y_true, y_score = simulated(300, seed=32, decimals=2)  # ties at the thresholds themselves
    curve = net_benefit(y_true, y_score)
    assert curve.thresholds == pytest.approx(np.linspace(0.01, 0.99, 99))
    for threshold, found in zip(curve.thresholds, curve.model, strict=True):
        tp, fp, _, _ = confusion(y_true, y_score, threshold)
        assert found == pytest.approx(tp / 300 - fp / 300 * threshold / (1 - threshold))


def test_net_benefit_of_plain_rules_and_of_a_perfect_model() -> None:
    y_true, _ = simulated(100, seed=33)
    assert net_benefit(y_true, [1.0] * 100).model == pytest.approx(net_benefit(y_true, [1.0] * 100).treat_all)
    assert net_benefit(y_true, [0.0] * 100).model.tolist() == [0] * 99
    assert net_benefit(y_true, y_true).model == pytest.approx(np.full(99, y_true.mean()))
    crossing = net_benefit(y_true, y_true, [y_true.mean()])
    assert crossing.treat_all == pytest.approx([0])
    assert net_benefit([1, 1], [0.9, 0.2], [0.5]).treat_all.tolist() == [1]
    assert net_benefit([0, 0], [0.9, 0.2], [0.5]).model == pytest.approx([-0.5])


# --- agreement with scikit-learn ------------------------------------------------------------------------------------


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


# --- the report and its bootstrap -----------------------------------------------------------------------------------


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


def test_balanced_accuracy_covers_as_often_as_it_says() -> None:
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
    monkeypatch.setattr("pneumonia.metrics.CHUNK_CELLS", 1000)
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


# --- coverage -------------------------------------------------------------------------------------------------------


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


# --- properties -----------------------------------------------------------------------------------------------------


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


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.01, 0.999))
def test_wilson_interval_holds_the_proportion(trials: tuple[int, int], level: float) -> None:
    successes, n = trials
    low, high = wilson_interval(successes, n, level)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson_interval(n - successes, n, level) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(samples(negatives=0), st.floats(0, 1, exclude_min=True))
@example(([1, 1, 1, 0], [0.5, 0.7, 0.7, 0.2]), 1 / 3)
def test_threshold_at_sensitivity_reaches_the_target_and_no_higher_cut_does(
    sample: tuple[list[int], list[float]], target: float
) -> None:
    y_true, y_score = sample
    threshold = threshold_at_sensitivity(y_true, y_score, target)
    assert math.isfinite(threshold)

    def reached(cut: float) -> float:
        tp, _, _, fn = confusion(y_true, y_score, cut)
        return tp / (tp + fn)

    assert reached(threshold) >= target
    _, *higher = sorted({score for score in y_score if score >= threshold})  # the lowest is the chosen cut itself
    assert all(reached(cut) < target for cut in higher)


@given(samples())
def test_youden_threshold_is_finite_and_no_cut_is_better(sample: tuple[list[int], list[float]]) -> None:
    threshold = youden_threshold(*sample)
    assert math.isfinite(threshold)
    assert youden(*sample, threshold) >= max(youden(*sample, cut) for cut in sample[1]) - 1e-12


@given(samples(positives=0, negatives=0), st.integers(1, 40))
def test_calibration_figures_stay_between_zero_and_one(sample: tuple[list[int], list[float]], n_bins: int) -> None:
    table = reliability(*sample, n_bins)
    assert table.n.sum() == len(sample[0])
    assert (table.n > 0).all()
    assert (np.diff(table.mean_score) > 0).all()
    assert 0 <= expected_calibration_error(*sample, n_bins) <= 1
    assert 0 <= brier_score(*sample) <= 1


@given(samples(positives=0, negatives=0))
def test_net_benefit_is_at_most_the_share_of_pneumonia_and_at_least_that_of_all_false_alarms(
    sample: tuple[list[int], list[float]],
) -> None:
    curve = net_benefit(*sample)
    share = np.mean(sample[0])
    assert (curve.model <= share + 1e-12).all()
    assert (curve.model >= -(1 - share) * curve.thresholds / (1 - curve.thresholds) - 1e-12).all()


@given(samples())
def test_curves_rise_and_average_precision_is_at_most_one(sample: tuple[list[int], list[float]]) -> None:
    curve = roc_curve(*sample)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(curve.fpr) >= 0).all()
    assert (np.diff(curve.thresholds) < 0).all()
    assert precision_recall_curve(*sample).recall[-1] == 1
    assert 0 < average_precision(*sample) <= 1


# --- what may enter -------------------------------------------------------------------------------------------------

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
        with pytest.raises(ValueError, match="no list of numbers strictly between 0 and 1"):
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
