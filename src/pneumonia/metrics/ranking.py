"""How well scores separate pneumonia from normal, with confidence intervals.

All functions take plain arrays: `y_true` contains 0 (normal) or 1 (pneumonia); a higher `y_score` means that pneumonia
is more likely. An image is positive if its score is at or above the threshold. Scores are compared as float64.

For a quantity that is undefined on the sample (for example an AUC with one class) its function raises ValueError, and
`classification_report` has no such key. It is never NaN and never replaced by a constant.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pneumonia.metrics.arrays import (
    Bools,
    Floats,
    Ints,
    check_level,
    check_scores,
    counts_above,
    need_both_classes,
    need_positives,
    normal_quantile,
    sampling_units,
)


class RocCurve(NamedTuple):
    """Points of a ROC curve, float64 (n_points,) each; both rates rise from 0 to 1 as `thresholds` falls."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


class PrecisionRecallCurve(NamedTuple):
    """Points of a precision-recall curve, float64 (n_points,) each; `recall` rises to 1 as `thresholds` falls."""

    recall: Floats
    precision: Floats
    thresholds: Floats


def roc_auc(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The area under the ROC curve: the probability that a positive has a higher score than a negative.

    It needs no threshold, so it is used for tuning and for the choice of the champion. A tie between a positive and a
    negative counts half; constant scores give exactly 0.5. The cost is one sort, O(n log n).

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range, shape (n,); only the order matters.

    Returns:
        The AUC, 0-1.

    Raises:
        ValueError: one class only, NaN or infinite scores, labels other than 0 and 1, empty or unequal arrays.

    Source:
        Hanley & McNeil 1982 (AUC is the Mann-Whitney statistic), doi:10.1148/radiology.143.1.7063747.

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    positive, score = check_scores(y_true, y_score)
    need_both_classes(positive, "an AUC")
    return _auc(*_placements(positive, score))


def auc_interval(
    y_true: ArrayLike, y_score: ArrayLike, level: float = 0.95, *, groups: ArrayLike | None = None
) -> tuple[float, float]:
    """A confidence interval of the AUC from one sample; it lies inside [0, 1] and contains `roc_auc`.

    The standard error is DeLong's, by midranks; with `groups` it is Obuchowski's, which is DeLong's by patient. With
    three similar images per patient, an interval that treats images as independent can contain the true AUC in 80 %
    instead of 95 % of samples. The interval is symmetric on the logit scale: it stays inside the unit interval, and its
    coverage near 1, where good classifiers are, is better than on the linear scale.

    DeLong's variance is useless if it is zero (perfect or perfectly wrong separation, constant scores) or if a class
    has only one member: an interval of width 0 would claim certainty. Then the interval contains every AUC that
    Hoeffding's inequality for U-statistics cannot exclude: the m x n pairs contain k = min(m, n) that share no image,
    so P(U at least u) <= exp(-k KL(u || AUC)) for AUC < u, without any assumption on the scores.
    At an AUC of 1 this is the Clopper-Pearson bound for k successes in k trials, `((1 - level) / 2) ** (1 / k)`.
    It is conservative: an interval at AUC 1 is wider than one just below 1. With `groups`, k counts pairs that share no
    patient.

    Close to 1 a 95 % interval is slightly too high: at a true AUC of .995, with 60 and 180 images, it lies above the
    true value in about 6 % of samples.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range, shape (n,).
        level: the nominal coverage, strictly between 0 and 1.
        groups: patient ids of any type, shape (n,); None = each image is its own group. A patient may have images of
            both classes.

    Returns:
        (low, high), each 0-1.

    Raises:
        ValueError: as `roc_auc`, a level outside (0, 1), or a missing group id.

    Source:
        DeLong et al. 1988, doi:10.2307/2531595; midranks: Sun & Xu 2014, doi:10.1109/LSP.2014.2337313; patients:
        Obuchowski 1997, doi:10.2307/2533958; logit scale: Qin & Hotilovac 2008,
        doi:10.1177/0962280207087173; bound: Hoeffding 1963, theorem 1 and section 5,
        doi:10.1080/01621459.1963.10500830; Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404.

    >>> low, high = auc_interval([0, 0, 0, 1, 1, 1], [0.1, 0.3, 0.6, 0.5, 0.7, 0.9])
    >>> print(f"{low:.3f} {high:.3f}")
    0.261 0.995
    """
    positive, score = check_scores(y_true, y_score)
    need_both_classes(positive, "an AUC")
    check_level(level)
    unit = sampling_units(groups, score.size)
    wins, losses = _placements(positive, score)
    auc, variance = _auc(wins, losses), _delong_variance(wins, losses, unit, positive)
    if variance == 0:
        return _hoeffding_interval(auc, _disjoint_pairs(unit, positive), level)
    centre = math.log(auc / (1 - auc))
    half_width = (
        normal_quantile(level) * math.sqrt(variance) / (auc * (1 - auc))
    )  # delta method: d logit(a) = da / (a (1 - a))
    return _expit(centre - half_width), _expit(centre + half_width)


def delong_test(y_true: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, *, groups: ArrayLike | None = None) -> float:
    """The two-sided p-value of "these two scores have the same AUC", for paired scores of the same images.

    Pairing is important: two models mostly make errors on the same images, so their difference is more certain than
    their separate intervals suggest. Equal AUCs, as of identical scores or monotone transforms, give exactly 1.0.

    If the variance of the difference is zero or a class has only one member (for example a perfect model against a
    constant one), the normal approximation gives 0 or is undefined; Hoeffding's inequality over k = min(m, n) disjoint
    pairs gives a valid, conservative p-value instead. See `auc_interval`, also for `groups`.

    Args:
        y_true: 0 or 1, shape (n,).
        score_a: finite, any range, shape (n,).
        score_b: finite, any range (not necessarily that of `score_a`), shape (n,).
        groups: patient ids of any type, shape (n,); None = each image is its own group.

    Returns:
        The p-value, 0-1. Swapping the two scores does not change it.

    Raises:
        ValueError: as `roc_auc`, for either score.

    Source:
        DeLong et al. 1988, doi:10.2307/2531595; Obuchowski 1997, doi:10.2307/2533958; Hoeffding 1963,
        doi:10.1080/01621459.1963.10500830.

    >>> y_true = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> p_value = delong_test(y_true, [1, 2, 3, 5, 4, 6, 7, 8], [1, 5, 3, 6, 4, 2, 7, 8])
    >>> print(f"{p_value:.3f}")
    0.221
    """
    positive, a = check_scores(y_true, score_a)
    _, b = check_scores(y_true, score_b)
    need_both_classes(positive, "a comparison of AUCs")
    unit = sampling_units(groups, a.size)
    wins_a, losses_a = _placements(positive, a)
    wins_b, losses_b = _placements(positive, b)
    wins, losses = wins_a - wins_b, losses_a - losses_b
    difference = abs(_auc(wins, losses))
    if difference == 0:
        return 1.0
    variance = _delong_variance(wins, losses, unit, positive)
    if variance == 0:
        # One pair's difference lies in [-1, 1]; (1 + difference) / 2 maps it to [0, 1], with mean 1/2 when equal.
        divergence = _binary_divergence((1 + difference) / 2, 0.5)
        return min(1.0, 2 * math.exp(-_disjoint_pairs(unit, positive) * divergence))
    return math.erfc(difference / math.sqrt(2 * variance))


def auc_difference(
    y_true: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    *,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> tuple[float, float, float]:
    """AUC of `score_b` less that of `score_a` on the same images, and its interval.

    The interval is that of the normal approximation with the variance of `delong_test`, cut at -1 and 1. Scores that
    order the images alike have the difference 0 and an interval of no width.

    Args:
        y_true: 0 or 1, shape (n,).
        score_a, score_b: finite, any range, shape (n,).
        level: of the interval, 0-1.
        groups: patient ids of any type, shape (n,); None = each image is its own group.

    Returns:
        The difference, and the lower and upper limit of the interval, each -1 to 1.

    Raises:
        ValueError: as `roc_auc`, for either score.

    >>> y_true = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> gain = auc_difference(y_true, [1, 5, 3, 6, 4, 2, 7, 8], [1, 2, 3, 5, 4, 6, 7, 8])
    >>> print("{:.3f} [{:.3f}, {:.3f}]".format(*gain))
    0.250 [-0.150, 0.650]
    """
    positive, a = check_scores(y_true, score_a)
    _, b = check_scores(y_true, score_b)
    need_both_classes(positive, "a comparison of AUCs")
    (wins_a, losses_a), (wins_b, losses_b) = _placements(positive, a), _placements(positive, b)
    wins, losses = wins_b - wins_a, losses_b - losses_a
    difference = _auc(wins, losses)
    variance = _delong_variance(wins, losses, sampling_units(groups, a.size), positive)
    half_width = normal_quantile(level) * math.sqrt(variance)
    return difference, max(-1.0, difference - half_width), min(1.0, difference + half_width)


def roc_curve(y_true: ArrayLike, y_score: ArrayLike) -> RocCurve:
    """True and false positive rate at every distinct score; the area under the curve is `roc_auc`.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range, shape (n,).

    Returns:
        `fpr`, `tpr` (0-1) and `thresholds`: first the point (0, 0), then one point per distinct score, highest first.
        The threshold of (0, 0) is inf, since no finite one means "nothing is positive" on every data set. Tied scores
        are one point; constant scores give the diagonal.

    Raises:
        ValueError: as `roc_auc`.

    Source:
        Fawcett 2006, doi:10.1016/j.patrec.2005.10.010.

    >>> curve = roc_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> curve.fpr.tolist(), curve.tpr.tolist(), curve.thresholds.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 0.8, 0.4, 0.1])
    """
    positive, score = check_scores(y_true, y_score)
    need_both_classes(positive, "a ROC curve")
    scores, tp, fp = counts_above(positive, score)
    return RocCurve(
        fpr=np.append(0.0, fp / fp[-1]), tpr=np.append(0.0, tp / tp[-1]), thresholds=np.append(np.inf, scores)
    )


def precision_recall_curve(y_true: ArrayLike, y_score: ArrayLike) -> PrecisionRecallCurve:
    """Precision and recall at every distinct score.

    Unlike the ROC curve, it depends on the prevalence of pneumonia in the sample.

    Args:
        y_true: 0 or 1, shape (n,); negatives may be missing, positives may not.
        y_score: finite, any range, shape (n,).

    Returns:
        `recall`, `precision` (0-1) and `thresholds`, one point per distinct score, highest first. There is no
        artificial point at recall 0: precision is undefined without predicted positives.

    Raises:
        ValueError: no positives, or as `roc_auc` for malformed arrays.

    Source:
        Davis & Goadrich 2006, doi:10.1145/1143844.1143874.

    >>> curve = precision_recall_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> curve.recall.tolist(), curve.precision.tolist()
    ([0.5, 1.0, 1.0], [1.0, 0.6666666666666666, 0.5])
    """
    positive, score = check_scores(y_true, y_score)
    need_positives(positive, "recall")
    scores, tp, fp = counts_above(positive, score)
    return PrecisionRecallCurve(recall=tp / tp[-1], precision=tp / (tp + fp), thresholds=scores)


def average_precision(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """Precision averaged over the steps of recall: the precision-recall curve in one number.

    A step sum; the trapezoidal rule would be too optimistic (Davis & Goadrich). Constant scores give the prevalence.

    Args:
        y_true: 0 or 1, shape (n,); without negatives the result is 1.
        y_score: finite, any range, shape (n,).

    Returns:
        The average precision, 0-1.

    Raises:
        ValueError: as `precision_recall_curve`.

    Source:
        Davis & Goadrich 2006, doi:10.1145/1143844.1143874.

    >>> round(average_precision([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8]), 4)
    0.8333
    """
    positive, score = check_scores(y_true, y_score)
    need_positives(positive, "average precision")
    _, tp, fp = counts_above(positive, score)
    return float(np.diff(tp, prepend=0) @ (tp / (tp + fp)) / tp[-1])  # steps in images: rounding cannot exceed 1


def _placements(positive: Bools, score: Floats) -> tuple[Floats, Floats]:
    """For each positive the number of negatives with lower scores; for each negative, of positives with higher scores.

    Ties count half, so all values are multiples of 1/2: their sums, and differences between two scores, are exact in
    floating point, and a variance of 0 is exactly 0.
    """
    rank = _midranks(score)
    wins = rank[positive] - _midranks(score[positive])
    losses = wins.size - (rank[~positive] - _midranks(score[~positive]))
    return wins, losses


def _midranks(values: Floats) -> Floats:
    """Ranks from 1; tied values have their mean rank."""
    _, inverse, n_tied = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(n_tied) - (n_tied - 1) / 2
    return np.asarray(mean_rank[inverse], dtype=np.float64)


def _auc(wins: Floats, losses: Floats) -> float:
    return float(wins.sum() / (wins.size * losses.size))


def _delong_variance(wins: Floats, losses: Floats, unit: Ints, positive: Bools) -> float:
    """Obuchowski's variance of `_auc`, for placements or differences of placements; 0 if a class has one unit.

    With one image per unit it is DeLong's.

    Args:
        wins: float64 (m,), of the positives.
        losses: float64 (n,), of the negatives.
        unit: of each image, int64 (m + n,).
        positive: of each image, bool (m + n,).
    """
    m, n = wins.size, losses.size
    n_units = int(unit.max()) + 1
    units = [np.unique(unit[positive]).size, np.unique(unit[~positive]).size]
    if min(units) < 2:
        return 0.0
    # Each image's placement as a share, less the AUC, summed within each unit. The division is last: the sums before
    # are multiples of 1/2, hence exact.
    of_positives = np.bincount(unit[positive], weights=m * wins - wins.sum(), minlength=n_units) / (m * n)
    of_negatives = np.bincount(unit[~positive], weights=n * losses - losses.sum(), minlength=n_units) / (m * n)
    variances = [units[0] / (units[0] - 1) * of_positives @ of_positives / m**2]
    variances += [units[1] / (units[1] - 1) * of_negatives @ of_negatives / n**2]
    # Only units with images of both classes add to this; without any it is 0.
    covariance = n_units / (n_units - 1) * of_positives @ of_negatives / (m * n)
    return max(0.0, float(sum(variances) + 2 * covariance))


def _disjoint_pairs(unit: Ints, positive: Bools) -> int:
    """Maximum number of pairs of a positive and a negative, all of different units."""
    with_positive, with_negative = np.unique(unit[positive]), np.unique(unit[~positive])
    n_units = np.union1d(with_positive, with_negative).size
    return max(1, min(with_positive.size, with_negative.size, n_units // 2))


def _hoeffding_interval(mean: float, k: int, level: float) -> tuple[float, float]:
    """Interval of the expectation from the mean of k independent values in [0, 1], with half the error on each side."""
    limit = math.log(2 / (1 - level)) / k

    def furthest(towards: float) -> float:
        inside, outside = mean, towards
        for _ in range(100):  # bisection of at most 1; the precision of float64 is reached before
            middle = (inside + outside) / 2
            if middle in (inside, outside):
                break
            if _binary_divergence(mean, middle) <= limit:
                inside = middle
            else:
                outside = middle
        return inside

    return furthest(0.0), furthest(1.0)


def _binary_divergence(p: float, q: float) -> float:
    """The Kullback-Leibler divergence of a coin of bias q from one of bias p, in nats; q strictly inside (0, 1)."""
    heads = p * math.log(p / q) if p > 0 else 0.0
    tails = (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0
    return heads + tails


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))
