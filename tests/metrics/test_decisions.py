"""Thresholds and what follows from them."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from pneumonia.metrics.decisions import (
    Confusion,
    confusion,
    effective_trials,
    net_benefit,
    threshold_at_sensitivity,
    wilson_interval,
    youden_threshold,
)
from tests.metrics.conftest import samples, simulated


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


@given(samples(positives=0, negatives=0))
def test_net_benefit_is_at_most_the_share_of_pneumonia_and_at_least_that_of_all_false_alarms(
    sample: tuple[list[int], list[float]],
) -> None:
    curve = net_benefit(*sample)
    share = np.mean(sample[0])
    assert (curve.model <= share + 1e-12).all()
    assert (curve.model >= -(1 - share) * curve.thresholds / (1 - curve.thresholds) - 1e-12).all()
