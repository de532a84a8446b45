"""What follows from a threshold: confusion, how to choose it, net benefit, intervals of shares.

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

RISKS = np.arange(1, 100) / 100  # threshold probabilities of a decision curve: every per cent


class Confusion(NamedTuple):
    """Images by decision and truth: true positives, false positives, true negatives, false negatives."""

    tp: int
    fp: int
    tn: int
    fn: int


class NetBenefit(NamedTuple):
    """A decision curve, float64 (n_thresholds,) each; the last three in true positives per image."""

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats


def confusion(y_true: ArrayLike, y_score: ArrayLike, threshold: float) -> Confusion:
    """True and false, positives and negatives, when an image at or above the threshold is called pneumonia.

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
        raise ValueError("threshold is NaN, a number was expected: choose one with youden_threshold on validation data")
    called = score >= threshold
    tp, fp = int(np.sum(called & positive)), int(np.sum(called & ~positive))
    return Confusion(tp=tp, fp=fp, tn=int(np.sum(~positive)) - fp, fn=int(np.sum(positive)) - tp)


def youden_threshold(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The threshold with the largest sensitivity + specificity - 1.

    The default operating point: it weighs both errors alike and ignores the prevalence. Choose it on validation data.
    Of equally good cuts the most sensitive (lowest) is taken, because a missed pneumonia costs more than a second
    look. The threshold lies midway between the two observed scores that it separates, so that float noise on another
    machine moves no image across; see `threshold_at_sensitivity` for the lowest cut.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range, shape (n,).

    Returns:
        A finite threshold in the unit of `y_score`. Scores that are constant or worse than chance call everything
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
    index = tp * fp[-1] - fp * tp[-1]  # Youden's index times m n: whole numbers, so equally good cuts compare equal
    return _cut_below(scores, int(np.flatnonzero(index == index.max())[-1]))


def threshold_at_sensitivity(y_true: ArrayLike, y_score: ArrayLike, sensitivity: float) -> float:
    """The highest threshold that still finds the asked-for share of pneumonias.

    The second operating point: fix what may be missed, then have as few false alarms as possible. It is the highest
    cut between observed scores, placed midway between them, so the sensitivity holds in spite of float noise. The
    lowest cut has no score below it: a positive lowest score is halved, since 0 bounds a probability; another lowest
    score is itself the threshold.

    Args:
        y_true: 0 or 1, shape (n,); negatives may be missing, positives may not.
        y_score: finite, any range, shape (n,).
        sensitivity: the least share of positives at or above the threshold, greater than 0 and at most 1.

    Returns:
        A finite threshold in the unit of `y_score`. Ties can lift the reached sensitivity above the target; constant
        scores call everything positive.

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
    """What deciding by the model is worth, beside treating every image as pneumonia and none: a decision curve.

    Whoever acts at a risk of t holds a missed pneumonia for (1 - t) / t times as bad as a false alarm. In these terms
    the net benefit is true positives less false ones, the latter at the price t / (1 - t), per image. At thresholds
    where the model lies below one of the other two lines, it does harm compared with that plain rule.

    It depends on how common pneumonia is in the sample, and on calibration: the threshold is meant as a probability.

    Args:
        y_true: 0 or 1, shape (n,); one class is enough.
        y_score: probabilities, 0-1, shape (n,).
        thresholds: each strictly between 0 and 1, shape (n_thresholds,).

    Returns:
        For each threshold the net benefit of the model, of "all are pneumonia" and of "none is", which is 0. None
        exceeds the share of pneumonia.

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
        raise ValueError("thresholds are no list of numbers strictly between 0 and 1, such as [0.1, 0.2]")
    price = cuts / (1 - cuts)
    called = score[:, np.newaxis] >= cuts
    tp, fp = called[positive].sum(axis=0), called[~positive].sum(axis=0)
    share = positive.mean()
    return NetBenefit(
        thresholds=cuts,
        model=(tp - fp * price) / score.size,
        treat_all=share - (1 - share) * price,
        treat_none=np.zeros_like(cuts),
    )


def wilson_interval(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """A confidence interval of a proportion: sensitivity, specificity, accuracy, precision.

    Unlike the textbook p +- z se it stays inside [0, 1] and keeps its coverage for small n and for proportions near 0
    or 1. Trials count as independent; for those that are not, see `effective_trials`.

    Args:
        successes: 0 to n.
        n: trials, at least 1; need not be whole.
        level: the coverage asked for, strictly between 0 and 1.

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
            "leave the proportion out where nothing was tried"
        )
    check_level(level)
    z = normal_quantile(level)
    proportion = successes / n
    shrink = 1 / (1 + z**2 / n)
    centre = shrink * (proportion + z**2 / (2 * n))
    half_width = shrink * z * math.sqrt(proportion * (1 - proportion) / n + (z / (2 * n)) ** 2)
    # The ends meet 0 and 1 exactly in algebra; rounding would leave them 1e-17 beside.
    return (
        centre - half_width if successes > 0 else 0.0,
        centre + half_width if successes < n else 1.0,
    )


def effective_trials(success: ArrayLike, groups: ArrayLike, level: float = 0.95) -> float:
    """How many independent trials tell as much as these, of which those of a group resemble each other.

    For an interval by patient: `wilson_interval(share * n_effective, n_effective)`. Five images of one patient that
    are all classified rightly are not five proofs.

    Args:
        success: 0 or 1, or bool, shape (n,).
        groups: patient ids of any type, shape (n,).
        level: of the interval that it is for: with few groups their variance is known less well, and Student's quantile
            takes the place of the normal one.

    Returns:
        n over the design effect: the variance of the share by groups over that of n independent trials. It is at least
        1 and at most n, and n where each group has one trial. Where all trials end alike, or are of one group, nothing
        tells how much groups matter; then it is the number of groups, the most cautious answer. A handful of errors
        tells little more, and is taken at its word: an interval with one error can be narrower than one without.

    Raises:
        ValueError: malformed arrays, a missing group id, or a level outside (0, 1).

    Source:
        Rao & Scott 1992, doi:10.2307/2532311; quantiles: Korn & Graubard 1998, Survey Methodology 24(2), 193-201.

    >>> round(effective_trials([1, 0] * 8 + [1, 1, 0, 0] * 4, groups=[patient // 2 for patient in range(32)]), 1)
    28.4
    """
    ended, _ = check_scores(success, success)
    check_level(level)
    return effective_trials_of_units(ended, sampling_units(groups, ended.size), level)


def effective_trials_of_units(success: Bools, unit: Ints, level: float) -> float:
    n = success.size
    n_units, share = np.unique(unit).size, success.mean()
    if n_units in (1, n) or share in (0, 1):
        return float(n_units)
    residuals = unit_sums(unit, success - share)
    by_groups = n_units / (n_units - 1) * residuals @ residuals / n**2
    if by_groups == 0:
        return float(n)
    few = student_t.ppf((1 + level) / 2, n - 1) / student_t.ppf((1 + level) / 2, n_units - 1)
    return max(1.0, float(n * min(1.0, few**2 * share * (1 - share) / (n - 1) / by_groups)))


def _cut_below(scores: Floats, i: int) -> float:
    """A threshold that calls `scores[i]` positive and no lower one, as far from both as it can be."""
    upper = float(scores[i])
    lower = float(scores[i + 1]) if i + 1 < scores.size else 0.0  # no probability lies below 0
    middle = lower / 2 + upper / 2  # (lower + upper) / 2 could overflow
    # No float lies between neighbours, and nothing is known below a lowest score of 0 or less.
    return middle if lower < middle <= upper else upper
