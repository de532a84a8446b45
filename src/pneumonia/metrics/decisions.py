"""Decisions at a threshold: confusion matrix, choice of the threshold, net benefit, intervals of proportions.

Arrays and errors as in `ranking`: an image counts as positive when its score is at or above the threshold.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student_t

from pneumonia.metrics.arrays import (
    Bools,
    Floats,
    Ints,
    as_floats,
    check_level,
    check_scores,
    counts_above,
    need_both_classes,
    need_positives,
    normal_quantile,
    sampling_units,
    unit_sums,
)

RISKS = np.arange(1, 100) / 100  # threshold probabilities of a decision curve: each per cent


class Confusion(NamedTuple):
    """Numbers of images by decision and label: true positives, false positives, true negatives, false negatives."""

    tp: int
    fp: int
    tn: int
    fn: int


class NetBenefit(NamedTuple):
    """A decision curve, float64 (n_thresholds,) each; the unit of the last three is true positives per image."""

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats


def confusion(y_true: ArrayLike, y_score: ArrayLike, threshold: float) -> Confusion:
    """Numbers of true and false positives and negatives, with pneumonia at or above the threshold.

    Args:
        y_true: 0 or 1, shape (n,); one class is enough.
        y_score: finite, any range, shape (n,).
        threshold: in the unit of `y_score`.

    Returns:
        Four counts that sum to n.

    Raises:
        ValueError: a NaN threshold, or malformed arrays.

    >>> confusion([0, 0, 1, 1], [0.2, 0.5, 0.5, 0.9], threshold=0.5)
    Confusion(tp=2, fp=1, tn=1, fn=0)
    """
    positive, score = check_scores(y_true, y_score)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN, expected a number: choose one with youden_threshold on validation data")
    predicted = score >= threshold
    tp, fp = int(np.sum(predicted & positive)), int(np.sum(predicted & ~positive))
    return Confusion(tp=tp, fp=fp, tn=int(np.sum(~positive)) - fp, fn=int(np.sum(positive)) - tp)


def youden_threshold(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The threshold with the largest sensitivity + specificity - 1.

    The default operating point: both errors have equal weight, and the prevalence has no effect. Choose it on
    validation data. Of equally good thresholds the most sensitive (lowest) is used, because a missed pneumonia costs
    more than a false alarm. The threshold is the midpoint of the two observed scores that it separates, so that
    rounding on another machine changes no decision; see `threshold_at_sensitivity` for the lowest one.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range, shape (n,).

    Returns:
        A finite threshold in the unit of `y_score`. If scores are constant or worse than chance, all images are
        positive.

    Raises:
        ValueError: as `roc_auc`.

    Source:
        Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3.

    >>> round(youden_threshold([0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.6, 0.8]), 9)
    0.25
    """
    positive, score = check_scores(y_true, y_score)
    need_both_classes(positive, "Youden's index")
    scores, tp, fp = counts_above(positive, score)
    index = tp * fp[-1] - fp * tp[-1]  # Youden's index times m n: integers, so equally good thresholds compare equal
    return _cut_below(scores, int(np.flatnonzero(index == index.max())[-1]))


def threshold_at_sensitivity(y_true: ArrayLike, y_score: ArrayLike, sensitivity: float) -> float:
    """The highest threshold with at least the target sensitivity.

    The second operating point: the share of missed pneumonias is limited, and false alarms are as few as possible. The
    threshold is the midpoint of two observed scores, so that the sensitivity does not change by rounding. The lowest
    threshold has no score below it: a positive lowest score is halved, since probabilities end at 0; otherwise the
    lowest score itself is the threshold.

    Args:
        y_true: 0 or 1, shape (n,); negatives may be missing, positives may not.
        y_score: finite, any range, shape (n,).
        sensitivity: minimum share of positives at or above the threshold, greater than 0 and at most 1.

    Returns:
        A finite threshold in the unit of `y_score`. With ties the sensitivity can be above the target; with constant
        scores all images are positive.

    Raises:
        ValueError: no positives, a sensitivity outside (0, 1], or malformed arrays.

    >>> round(threshold_at_sensitivity([0, 1, 0, 1, 1], [0.1, 0.3, 0.5, 0.7, 0.9], sensitivity=0.6), 9)
    0.6
    """
    positive, score = check_scores(y_true, y_score)
    need_positives(positive, "sensitivity")
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity is {sensitivity}, expected a share greater than 0 and at most 1, such as 0.95")
    scores, tp, _ = counts_above(positive, score)
    return _cut_below(scores, int(np.argmax(tp / tp[-1] >= sensitivity)))


def net_benefit(y_true: ArrayLike, y_score: ArrayLike, thresholds: ArrayLike = RISKS) -> NetBenefit:
    """A decision curve: net benefit of the model, of treating every image as pneumonia, and of treating none.

    A threshold probability t means that a missed pneumonia is (1 - t) / t times as bad as a false alarm. The net
    benefit is the number of true positives less t / (1 - t) times the number of false positives, per image. Where the
    model lies below one of the other two curves, it is worse than that simple rule.

    The result depends on the prevalence in the sample, and on calibration: the threshold is a probability.

    Args:
        y_true: 0 or 1, shape (n,); one class is enough.
        y_score: probabilities, 0-1, shape (n,).
        thresholds: each strictly between 0 and 1, shape (n_thresholds,).

    Returns:
        For each threshold the net benefit of the model, of treating all, and of treating none, which is 0. The maximum
        is the prevalence.

    Raises:
        ValueError: thresholds or scores outside their range, or malformed arrays.

    Source:
        Vickers & Elkin 2006, doi:10.1177/0272989X06295361.

    >>> curve = net_benefit([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], thresholds=[0.25, 0.5])
    >>> curve.model.round(4).tolist(), curve.treat_all.round(4).tolist(), curve.treat_none.tolist()
    ([0.4167, 0.0], [0.3333, 0.0], [0.0, 0.0])
    """
    positive, score = check_scores(y_true, y_score, probabilities=True)
    cuts = as_floats("thresholds", thresholds)
    if cuts.ndim != 1 or not ((cuts > 0) & (cuts < 1)).all():
        raise ValueError("thresholds is not a list of numbers strictly between 0 and 1, such as [0.1, 0.2]")
    price = cuts / (1 - cuts)
    predicted = score[:, np.newaxis] >= cuts
    tp, fp = predicted[positive].sum(axis=0), predicted[~positive].sum(axis=0)
    prevalence = positive.mean()
    return NetBenefit(
        thresholds=cuts,
        model=(tp - fp * price) / score.size,
        treat_all=prevalence - (1 - prevalence) * price,
        treat_none=np.zeros_like(cuts),
    )


def wilson_interval(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """A confidence interval of a proportion: sensitivity, specificity, accuracy, precision.

    Unlike the normal approximation p +- z se it stays inside [0, 1] and keeps its coverage for small n and for
    proportions near 0 or 1. Trials are assumed to be independent; if they are not, see `effective_trials`.

    Args:
        successes: 0 to n.
        n: trials, at least 1; may be fractional.
        level: the nominal coverage, strictly between 0 and 1.

    Returns:
        (low, high), each 0-1; low is exactly 0 without successes, high exactly 1 without failures.

    Raises:
        ValueError: n below 1, successes outside 0..n, or a level outside (0, 1).

    Source:
        Wilson 1927, doi:10.1080/01621459.1927.10502953; compared with others by Newcombe 1998, method 3,
        doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E.

    >>> low, high = wilson_interval(81, 263)
    >>> print(f"{low:.4f} {high:.4f}")
    0.2553 0.3662
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"{successes} successes of {n} trials, expected 0 <= successes <= n and n >= 1: "
            "leave the proportion out if there are no trials"
        )
    check_level(level)
    z = normal_quantile(level)
    proportion = successes / n
    shrink = 1 / (1 + z**2 / n)
    centre = shrink * (proportion + z**2 / (2 * n))
    half_width = shrink * z * math.sqrt(proportion * (1 - proportion) / n + (z / (2 * n)) ** 2)
    # The exact ends are 0 and 1; rounding would give an error of 1e-17.
    return (
        centre - half_width if successes > 0 else 0.0,
        centre + half_width if successes < n else 1.0,
    )


def effective_trials(success: ArrayLike, groups: ArrayLike, level: float = 0.95) -> float:
    """The number of independent trials with the same information as these correlated ones.

    For an interval by patient: `wilson_interval(share * n_effective, n_effective)`. Five correct images of one patient
    are not five independent successes.

    Args:
        success: 0 or 1, or bool, shape (n,).
        groups: patient ids of any type, shape (n,).
        level: of the later interval: with few groups their variance is uncertain, so Student's quantile replaces the
            normal one.

    Returns:
        n divided by the design effect, which is the variance of the share by groups over that of n independent trials.
        It is 1 to n, and n if each group has one trial. If all trials have the same result, or all are of one group,
        the correlation cannot be estimated; then the result is the number of groups, a conservative value. With few
        errors the estimate is uncertain but used: an interval with one error can be narrower than one without.

    Raises:
        ValueError: malformed arrays, a missing group id, or a level outside (0, 1).

    Source:
        Rao & Scott 1992, doi:10.2307/2532311; quantiles: Korn & Graubard 1998, Survey Methodology 24(2), 193-201.

    >>> round(effective_trials([1, 0] * 8 + [1, 1, 0, 0] * 4, groups=[patient // 2 for patient in range(32)]), 1)
    28.4
    """
    succeeded, _ = check_scores(success, success)
    check_level(level)
    return effective_trials_of_units(succeeded, sampling_units(groups, succeeded.size), level)


def effective_trials_of_units(success: Bools, unit: Ints, level: float) -> float:
    n = success.size
    n_units, share = np.unique(unit).size, success.mean()
    if n_units in (1, n) or share in (0, 1):
        return float(n_units)
    residuals = unit_sums(unit, success - share)
    group_variance = n_units / (n_units - 1) * residuals @ residuals / n**2
    if group_variance == 0:
        return float(n)
    quantile_ratio = student_t.ppf((1 + level) / 2, n - 1) / student_t.ppf((1 + level) / 2, n_units - 1)
    return max(1.0, float(n * min(1.0, quantile_ratio**2 * share * (1 - share) / (n - 1) / group_variance)))


def _cut_below(scores: Floats, i: int) -> float:
    """The midpoint between `scores[i]`, which is then positive, and the next lower score, which is not."""
    upper = float(scores[i])
    lower = float(scores[i + 1]) if i + 1 < scores.size else 0.0  # no probability lies below 0
    middle = lower / 2 + upper / 2  # (lower + upper) / 2 could overflow
    # There is no float between neighbouring ones, and no lower bound for a lowest score of 0 or less.
    return middle if lower < middle <= upper else upper
