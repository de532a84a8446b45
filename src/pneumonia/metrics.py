"""How well scores separate pneumonia from normal, and how sure the sample lets us be.

Every function takes plain arrays: `y_true` holds 0 (normal) or 1 (pneumonia), `y_score` rises with the belief in
pneumonia. One image counts as positive when its score is at or above the threshold. Scores are compared as float64.

A quantity that the sample does not define (an AUC with one class only, say) is a ValueError from its own function and
an absent key in `classification_report`; it is never NaN and never a stand-in constant.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

N_BINS = 15  # the bin count of Guo et al. 2017, so that an ECE can be set beside published ones
N_RESAMPLES = 1000  # leaves 25 beyond each end of a 95 % interval; fewer and the ends jump with the seed
RISKS = np.arange(1, 100) / 100  # threshold probabilities of a decision curve: every per cent
CHUNK_CELLS = 2**20  # resamples x images held at once: 8 MB per array, whatever the size of the data set


class Confusion(NamedTuple):
    """Images by decision and truth: true positives, false positives, true negatives, false negatives."""

    tp: int
    fp: int
    tn: int
    fn: int


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


class NetBenefit(NamedTuple):
    """A decision curve, float64 (n_thresholds,) each; the last three in true positives per image."""

    thresholds: Floats
    model: Floats
    treat_all: Floats
    treat_none: Floats


class Reliability(NamedTuple):
    """One row per non-empty score bin, low to high: float64, float64 and int64 (n_non_empty_bins,)."""

    mean_score: Floats
    fraction_positive: Floats
    n: Ints


# --- discrimination -------------------------------------------------------------------------------------------------


def roc_auc(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The area under the ROC curve: how often a positive outscores a negative.

    It needs no threshold, so it is the figure by which models are tuned and champions chosen. A tie between a positive
    and a negative counts half; constant scores give exactly 0.5. Cost is one sort, O(n log n).

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
    positive, score = _check(y_true, y_score)
    _need_both_classes(positive, "an AUC")
    return _auc(*_placements(positive, score))


def auc_interval(
    y_true: ArrayLike, y_score: ArrayLike, level: float = 0.95, *, groups: ArrayLike | None = None
) -> tuple[float, float]:
    """A confidence interval of the AUC from one sample, always inside [0, 1] and around `roc_auc`.

    The standard error is DeLong's, by midranks, and with `groups` Obuchowski's, which is DeLong's with the images of a
    patient taken together: with three alike images a patient an interval that counts images as independent can hold
    the true AUC four times in five instead of nineteen in twenty. The interval is symmetric on the logit scale, which
    keeps it inside the unit interval and covers better than a symmetric one near 1, where good classifiers are.

    DeLong's variance carries no information when it is zero (perfect or perfectly wrong separation, constant scores)
    or when a class has one member only; a zero-width interval would claim certainty there. Then the interval holds
    every AUC that Hoeffding's inequality for U-statistics cannot exclude: the m x n pairs contain k = min(m, n) that
    share no image, so P(U at least u) <= exp(-k KL(u || AUC)) for AUC < u, without any assumption on the scores.
    At an AUC of 1 this is the Clopper-Pearson bound for k successes in k trials, `((1 - level) / 2) ** (1 / k)`.
    It is conservative: an interval at AUC 1 is wider than one just below 1. With `groups`, k counts pairs that share no
    patient.

    Close to 1 a 95 % interval is somewhat too high: at a true AUC of .995, with 60 and 180 images, it lies above the
    truth in about 6 % of samples.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range, shape (n,).
        level: the coverage asked for, strictly between 0 and 1.
        groups: patient ids of any type, shape (n,); None makes each image its own group. A patient may have images of
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
    positive, score = _check(y_true, y_score)
    _need_both_classes(positive, "an AUC")
    _check_level(level)
    unit = _sampling_units(groups, score.size)
    beaten, lost = _placements(positive, score)
    auc, variance = _auc(beaten, lost), _delong_variance(beaten, lost, unit, positive)
    if variance == 0:
        return _hoeffding_interval(auc, _disjoint_pairs(unit, positive), level)
    centre = math.log(auc / (1 - auc))
    half_width = (
        _normal_quantile(level) * math.sqrt(variance) / (auc * (1 - auc))
    )  # delta method: d logit(a) = da / (a (1 - a))
    return _expit(centre - half_width), _expit(centre + half_width)


def delong_test(y_true: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, *, groups: ArrayLike | None = None) -> float:
    """The two-sided p-value of "these two scores have the same AUC", both read on the same images.

    The pairing matters: two models mostly err on the same images, so their AUCs differ by less than their separate
    intervals suggest. Equal AUCs, hence identical scores and monotone transforms of them, give exactly 1.0.

    Where the variance of the difference is zero or a class has one member only (a perfect model against a constant
    one, say), the normal approximation would answer 0 or nothing; Hoeffding's inequality over k = min(m, n) disjoint
    pairs gives a valid, conservative p-value instead. See `auc_interval`, also for `groups`.

    Args:
        y_true: 0 or 1, shape (n,).
        score_a: finite, any range, shape (n,).
        score_b: finite, any range (not necessarily that of `score_a`), shape (n,).
        groups: patient ids of any type, shape (n,); None makes each image its own group.

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
    positive, a = _check(y_true, score_a)
    _, b = _check(y_true, score_b)
    _need_both_classes(positive, "a comparison of AUCs")
    unit = _sampling_units(groups, a.size)
    beaten_a, lost_a = _placements(positive, a)
    beaten_b, lost_b = _placements(positive, b)
    beaten, lost = beaten_a - beaten_b, lost_a - lost_b
    difference = abs(_auc(beaten, lost))
    if difference == 0:
        return 1.0
    variance = _delong_variance(beaten, lost, unit, positive)
    if variance == 0:
        # One pair's difference lies in [-1, 1]; (1 + difference) / 2 brings it to [0, 1], with mean 1/2 when equal.
        divergence = _binary_divergence((1 + difference) / 2, 0.5)
        return min(1.0, 2 * math.exp(-_disjoint_pairs(unit, positive) * divergence))
    return math.erfc(difference / math.sqrt(2 * variance))


def roc_curve(y_true: ArrayLike, y_score: ArrayLike) -> RocCurve:
    """Sensitivity against false alarms at every distinct score: the curve whose area is `roc_auc`.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range, shape (n,).

    Returns:
        `fpr`, `tpr` (0-1) and `thresholds`, one point per distinct score, highest first, after the point (0, 0), whose
        threshold is inf because no finite cut stands for "nothing is positive" on every data set. Tied scores are one
        point; constant scores give the diagonal.

    Raises:
        ValueError: as `roc_auc`.

    Source:
        Fawcett 2006, doi:10.1016/j.patrec.2005.10.010.

    >>> curve = roc_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> curve.fpr.tolist(), curve.tpr.tolist(), curve.thresholds.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 0.8, 0.4, 0.1])
    """
    positive, score = _check(y_true, y_score)
    _need_both_classes(positive, "a ROC curve")
    scores, tp, fp = _counts_above(positive, score)
    return RocCurve(
        fpr=np.append(0.0, fp / fp[-1]), tpr=np.append(0.0, tp / tp[-1]), thresholds=np.append(np.inf, scores)
    )


def precision_recall_curve(y_true: ArrayLike, y_score: ArrayLike) -> PrecisionRecallCurve:
    """Precision against recall at every distinct score: what a share of found pneumonias costs in false alarms.

    Unlike the ROC curve it depends on how common pneumonia is in the sample.

    Args:
        y_true: 0 or 1, shape (n,); negatives may be missing, positives may not.
        y_score: finite, any range, shape (n,).

    Returns:
        `recall`, `precision` (0-1) and `thresholds`, one point per distinct score, highest first. There is no invented
        point at recall 0: precision has no value where nothing is called positive.

    Raises:
        ValueError: no positives, or as `roc_auc` for malformed arrays.

    Source:
        Davis & Goadrich 2006, doi:10.1145/1143844.1143874.

    >>> curve = precision_recall_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> curve.recall.tolist(), curve.precision.tolist()
    ([0.5, 1.0, 1.0], [1.0, 0.6666666666666666, 0.5])
    """
    positive, score = _check(y_true, y_score)
    _need_positives(positive, "recall")
    scores, tp, fp = _counts_above(positive, score)
    return PrecisionRecallCurve(recall=tp / tp[-1], precision=tp / (tp + fp), thresholds=scores)


def average_precision(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The precision-recall curve in one number: precision averaged over the steps of recall.

    A step sum, not a trapezoid, which would be too hopeful (Davis & Goadrich). Constant scores give the prevalence.

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
    positive, score = _check(y_true, y_score)
    _need_positives(positive, "average precision")
    _, tp, fp = _counts_above(positive, score)
    return float(np.diff(tp, prepend=0) @ (tp / (tp + fp)) / tp[-1])  # steps in images: rounding cannot exceed 1


# --- decisions at a threshold ---------------------------------------------------------------------------------------


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
    positive, score = _check(y_true, y_score)
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
    positive, score = _check(y_true, y_score)
    _need_both_classes(positive, "Youden's index")
    scores, tp, fp = _counts_above(positive, score)
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
    positive, score = _check(y_true, y_score)
    _need_positives(positive, "sensitivity")
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity is {sensitivity}, expected a share greater than 0 and at most 1, such as 0.95")
    scores, tp, _ = _counts_above(positive, score)
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
    positive, score = _check(y_true, y_score, probabilities=True)
    cuts = _as_floats("thresholds", thresholds)
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
    _check_level(level)
    z = _normal_quantile(level)
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
    ended, _ = _check(success, success)
    _check_level(level)
    return _effective_trials(ended, _sampling_units(groups, ended.size), level)


def _effective_trials(success: Bools, unit: Ints, level: float) -> float:
    n = success.size
    n_units, share = np.unique(unit).size, success.mean()
    if n_units in (1, n) or share in (0, 1):
        return float(n_units)
    residuals = _unit_sums(unit, success - share)
    by_groups = n_units / (n_units - 1) * residuals @ residuals / n**2
    if by_groups == 0:
        return float(n)
    few = student_t.ppf((1 + level) / 2, n - 1) / student_t.ppf((1 + level) / 2, n_units - 1)
    return max(1.0, float(n * min(1.0, few**2 * share * (1 - share) / (n - 1) / by_groups)))


# --- calibration ----------------------------------------------------------------------------------------------------


def brier_score(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The mean squared distance between probability and outcome: calibration and discrimination in one number.

    0 is perfect; always answering the prevalence p gives p (1 - p).

    Args:
        y_true: 0 or 1, shape (n,); one class is enough.
        y_score: probabilities, 0-1, shape (n,).

    Returns:
        The Brier score, 0-1, lower is better.

    Raises:
        ValueError: scores outside 0-1, or malformed arrays.

    Source:
        Brier 1950 (its two-class form, halved), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    >>> brier_score([0, 1], [0.5, 1.0])
    0.125
    """
    positive, score = _check(y_true, y_score, probabilities=True)
    return float(np.mean((score - positive) ** 2))


def reliability(y_true: ArrayLike, y_score: ArrayLike, n_bins: int = N_BINS) -> Reliability:
    """What was promised and what happened, bin by bin: the points of a reliability diagram.

    Bins have equal width over 0-1 and are closed above, as in Guo et al.; 0 itself belongs to the first. Empty bins
    have no row. Constant scores fill one bin.

    Args:
        y_true: 0 or 1, shape (n,); one class is enough.
        y_score: probabilities, 0-1, shape (n,).
        n_bins: at least 1.

    Returns:
        For each non-empty bin, low to high: the mean score, the share of positives, the number of images.

    Raises:
        ValueError: scores outside 0-1, n_bins below 1, or malformed arrays.

    Source:
        Guo et al. 2017, section 2, doi:10.48550/arXiv.1706.04599.

    >>> reliability([0, 1, 1], [0.125, 0.375, 1.0], n_bins=2)
    Reliability(mean_score=array([0.25, 1.  ]), fraction_positive=array([0.5, 1. ]), n=array([2, 1]))
    """
    positive, score = _check(y_true, y_score, probabilities=True)
    bins = _bin_index(score, n_bins)
    n = np.bincount(bins, minlength=n_bins)
    filled = n > 0
    n = n[filled]
    return Reliability(
        mean_score=np.bincount(bins, weights=score, minlength=n_bins)[filled] / n,
        fraction_positive=np.bincount(bins, weights=positive, minlength=n_bins)[filled] / n,
        n=n,
    )


def expected_calibration_error(y_true: ArrayLike, y_score: ArrayLike, n_bins: int = N_BINS) -> float:
    """How far probabilities are from frequencies, on average over images: the gap of `reliability`, weighted by n.

    0 is perfect. It is positive even for a perfectly calibrated model, because few images in a bin scatter: compare
    models on the same images and the same `n_bins` only.

    Args:
        y_true: 0 or 1, shape (n,); one class is enough.
        y_score: probabilities, 0-1, shape (n,).
        n_bins: equal-width bins, at least 1.

    Returns:
        The expected calibration error, 0-1, lower is better.

    Raises:
        ValueError: as `reliability`.

    Source:
        Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602; Guo et al. 2017, equation 3, doi:10.48550/arXiv.1706.04599.

    >>> expected_calibration_error([0, 1, 1], [0.125, 0.375, 1.0], n_bins=2)
    0.16666666666666666
    """
    mean_score, fraction_positive, n = reliability(y_true, y_score, n_bins)
    return float(n @ np.abs(mean_score - fraction_positive) / n.sum())


# --- intervals by resampling, and the report ------------------------------------------------------------------------


def bootstrap_interval(
    statistic: Callable[[Ints, Floats], float],
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int,
) -> tuple[float, float]:
    """A percentile bootstrap interval of any statistic, for those that have no formula.

    Images of one patient resemble each other, so with `groups` whole patients are drawn with replacement and their
    images come along; without, images are drawn. A resample in which the statistic is undefined (it raises ValueError
    or returns a non-finite number, as an AUC does when one class was not drawn) is skipped.

    Args:
        statistic: a function of (y_true int64 (n,), y_score float64 (n,)), such as `roc_auc`. It is first called on
            the whole sample, where its own error goes through.
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range the statistic accepts, shape (n,).
        groups: patient ids of any type, shape (n,); None makes each image its own group.
        level: the coverage asked for, strictly between 0 and 1.
        n_resamples: at least 1; 1000 settle about two digits of a 95 % interval.
        seed: the same seed gives the same interval.

    Returns:
        (low, high): the (1 - level) / 2 quantile of the resampled statistic and its mirror, widened where needed to
        hold the estimate. (Resampling adds scatter, so a statistic that scatter raises, as the ECE, can be higher in
        nearly all resamples; its interval leans upwards.) A statistic that is the same in all resamples, as the F1 of
        a perfect sample, gets zero width: resampling cannot show errors that the sample does not hold.

    Raises:
        ValueError: fewer than two groups, a missing group id, more than half of the resamples undefined, a statistic
            undefined on the whole sample, a level outside (0, 1), or malformed arrays.

    Source:
        Efron 1979, doi:10.1214/aos/1176344552; drawing whole groups: Field & Welsh 2007,
        doi:10.1111/j.1467-9868.2007.00593.x.

    >>> y_true, y_score = [0, 0, 1, 1, 1, 0], [0.2, 0.4, 0.3, 0.9, 0.8, 0.1]
    >>> low, high = bootstrap_interval(brier_score, y_true, y_score, groups=["a", "a", "b", "c", "c", "d"], seed=0)
    >>> 0 < low < brier_score(y_true, y_score) < high < 1
    True
    """
    positive, score = _check(y_true, y_score)
    _check_level(level)
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}, expected at least 1, better 1000")
    unit = _sampling_units(groups, score.size)
    if unit.max() == 0:
        raise ValueError(
            "one group only, two or more were expected: nothing varies between resamples; "
            "pass groups=None if the images are independent"
        )
    labels = positive.astype(np.int64)
    estimate = float(statistic(labels, score))
    if not math.isfinite(estimate):
        raise ValueError(f"the statistic is {estimate} on the whole sample, expected a finite number: leave it out")
    values = np.full(n_resamples, np.nan)
    rows = np.arange(score.size)
    for i, counts in enumerate(counts for chunk in _resample(unit, n_resamples, seed) for counts in chunk):
        drawn = np.repeat(rows, counts)
        try:
            values[i] = statistic(labels[drawn], score[drawn])
        except ValueError:
            continue  # stays NaN: undefined here
    interval = _percentile_interval(estimate, values, level)
    if interval is None:
        raise ValueError(
            f"the statistic is undefined in {np.sum(~np.isfinite(values))} of {n_resamples} resamples, at most half "
            "were expected: too few images (or groups) of a class for an interval; gather more"
        )
    return interval


def classification_report(
    y_true: ArrayLike,
    y_score: ArrayLike,
    threshold: float,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """All headline figures of one split at one threshold, each with its interval, as plain numbers for JSON.

    | keys | interval |
    |---|---|
    | `n`, `n_positive` | none, counts (int) |
    | `auc` | `auc_interval` (DeLong, Obuchowski) |
    | `accuracy`, `sensitivity`, `specificity`, `precision` | `wilson_interval` of `effective_trials` |
    | `balanced_accuracy` | from those of sensitivity and specificity (Newcombe's way, MOVER) |
    | `f1`, `brier`, `ece`, `average_precision`, `mcc` | percentile bootstrap |

    All intervals respect `groups`. Each figure `x` comes as `x`, `x_low` and `x_high`, or not at all. It is left out
    where it has no value: `auc`, `balanced_accuracy` and `mcc` with one class, `sensitivity` and `average_precision`
    without positives, `specificity` without negatives, `precision` without predicted positives, `mcc` also when all
    decisions are alike, `brier` and `ece` for scores outside 0-1. The bootstrapped ones are also left out where they
    have no interval: one group only, or undefined in more than half of 1000 resamples. Where all resamples agree, as
    at a perfect F1, the figure comes alone: a bootstrap cannot show errors that the sample does not hold. That of
    `ece` leans upwards. See `bootstrap_interval`.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, shape (n,).
        threshold: an image is called positive at or above it; choose it on other images than these.
        groups: patient ids of any type, shape (n,); None makes each image its own group.
        level: the coverage asked for, strictly between 0 and 1.
        seed: of the bootstrap; the same seed gives the same report.

    Returns:
        Name to value, without NaN or None. All proportions are 0-1, `mcc` is -1 to 1.

    Raises:
        ValueError: malformed arrays, a NaN threshold, a missing group id, a level outside (0, 1).

    Source:
        As the single functions; MCC: Chicco & Jurman 2020, doi:10.1186/s12864-019-6413-7; MOVER: Zou & Donner 2008,
        doi:10.1002/sim.3095.

    >>> report = classification_report([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9], threshold=0.5)
    >>> report["n"], report["sensitivity"], report["specificity"], report["accuracy"]
    (4, 1.0, 0.5, 0.75)
    >>> "auc" in classification_report([1, 1], [0.7, 0.9], threshold=0.5)
    False
    """
    positive, score = _check(y_true, y_score)
    cells = confusion(positive, score, threshold)
    unit = _sampling_units(groups, score.size)
    _check_level(level)
    n, n_positive = score.size, cells.tp + cells.fn
    report: dict[str, float] = {"n": n, "n_positive": n_positive}

    if 0 < n_positive < n:
        report |= _with_interval("auc", roc_auc(positive, score), auc_interval(positive, score, level, groups=unit))

    called = score >= threshold
    for name, success, tried in (
        ("accuracy", called == positive, np.ones(n, np.bool_)),
        ("sensitivity", called, positive),
        ("specificity", ~called, ~positive),
        ("precision", positive, called),
    ):
        if tried.any():
            share, trials = float(success[tried].mean()), _effective_trials(success[tried], unit[tried], level)
            report |= _with_interval(name, share, wilson_interval(share * trials, trials, level))
    if 0 < n_positive < n:
        found, cleared = (
            _unit_sums(unit, np.where(tried, (called == positive) - report[name], 0.0))
            for name, tried in (("sensitivity", positive), ("specificity", ~positive))
        )
        report |= _balanced_accuracy(report, found, cleared)

    if unit.max() > 0:  # one group has no resamples that differ
        order = np.argsort(-score)
        positive, score, unit = positive[order], score[order], unit[order]
        estimates = _figures(positive, score, threshold, np.ones((1, n)))
        chunks = [_figures(positive, score, threshold, counts) for counts in _resample(unit, N_RESAMPLES, seed)]
        for name, (estimate,) in estimates.items():
            resampled = np.concatenate([chunk[name] for chunk in chunks])
            interval = _percentile_interval(float(estimate), resampled, level)
            if np.isfinite(estimate) and interval is not None:
                widthless = interval[0] == interval[1]
                report |= {name: float(estimate)} if widthless else _with_interval(name, float(estimate), interval)
    return report


def _balanced_accuracy(report: Mapping[str, float], found: Floats, cleared: Floats) -> dict[str, float]:
    """The mean of sensitivity and specificity; the distances to their ends are joined as legs of a triangle.

    Args:
        report: has both with their intervals.
        found, cleared: how much more of its positives and negatives a unit has right than the others; patients with
            images of both classes make the two depend on each other. A dependence that would narrow the interval is
            not counted.
    """
    halves = ("sensitivity", "specificity")
    value = sum(report[name] for name in halves) / 2
    scale = math.sqrt(found @ found * (cleared @ cleared))
    correlation = max(0.0, float(found @ cleared) / scale) if scale else 0.0
    below, above = (
        math.sqrt(a * a + b * b + 2 * correlation * a * b) / 2
        for a, b in ([report[name] - report[f"{name}_{end}"] for name in halves] for end in ("low", "high"))
    )
    return _with_interval("balanced_accuracy", value, (value - below, value + above))


def _with_interval(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _figures(positive: Bools, score: Floats, threshold: float, counts: NDArray[np.number]) -> dict[str, Floats]:
    """The bootstrapped figures of `classification_report`, for many resamples at once.

    A resample is a row of `counts`: how often it holds each image. Nearly every figure is then a function of weighted
    sums, one matrix product for all resamples; average precision needs cumulative sums down the ranking.

    Args:
        positive: bool (n,).
        score: float64 (n,), sorted from high to low.
        threshold: in the unit of `score`.
        counts: (n_resamples, n), whole numbers of 0 or more.

    Returns:
        Name to float64 (n_resamples,), NaN where undefined.
    """
    weight = counts.astype(np.float64)  # float64 products run in BLAS, and are exact for counts
    called = score >= threshold
    sums = weight @ np.column_stack([np.ones(score.size), positive, called, called & positive])
    n, n_positive, n_called, tp = sums.T
    n_negative, fp, fn = n - n_positive, n_called - tp, n_positive - tp
    tn = n_negative - fp
    figures = {"f1": _ratio(2 * tp, n_positive + n_called)}

    if score[-1] >= 0 and score[0] <= 1:
        figures["brier"] = weight @ (score - positive) ** 2 / n
        # The gap of a bin times its n is the sum of score - label in it, so bins need no division, even when empty.
        gaps = np.zeros((score.size, N_BINS))
        gaps[np.arange(score.size), _bin_index(score, N_BINS)] = score - positive
        figures["ece"] = np.abs(weight @ gaps).sum(axis=1) / n

    last_of_tie = np.append(score[1:] != score[:-1], True)
    found = np.cumsum(weight * positive, axis=1)[:, last_of_tie]
    seen = np.cumsum(weight, axis=1)[:, last_of_tie]
    precision = np.divide(found, seen, out=np.zeros_like(seen), where=seen > 0)  # none seen: no step of recall either
    figures["average_precision"] = _ratio((np.diff(found, axis=1, prepend=0.0) * precision).sum(axis=1), n_positive)

    figures["mcc"] = _ratio(tp * tn - fp * fn, np.sqrt(n_positive * n_negative * n_called * (n - n_called)))
    return figures


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def _sampling_units(groups: ArrayLike | None, n: int) -> Ints:
    """For each of n images the index of the unit that is drawn with it: its group, or itself without groups."""
    if groups is None:
        return np.arange(n)
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups has shape {names.shape}, expected ({n},): one id per image")
    # As text, because ids come as int, str or pandas objects, and only one type sorts.
    names = names.astype(np.str_)
    missing = np.isin(names, ["", "nan", "NaN", "None", "<NA>", "NaT"])
    if missing.any():
        raise ValueError(
            f"groups has {missing.sum()} missing ids of {n}, expected none: "
            "they would be drawn as one patient; give each such image an id of its own"
        )
    return np.unique(names, return_inverse=True)[1]


def _unit_sums(unit: Ints, values: Floats) -> Floats:
    """The values of the images of each unit, summed; 0 for a number that no image has."""
    return np.bincount(unit, weights=values).astype(np.float64)


def _resample(unit: Ints, n_resamples: int, seed: int) -> Iterator[Ints]:
    """Bootstrap samples as counts, int64 (up to n_resamples, n_images): how often each image was drawn.

    Comes in chunks of bounded memory. The draw depends on the units and the seed, not on the order of the images.
    """
    generator = np.random.default_rng(seed)
    n_units = int(unit.max()) + 1
    step = max(1, CHUNK_CELLS // unit.size)
    for start in range(0, n_resamples, step):
        n_rows = min(step, n_resamples - start)
        drawn = generator.integers(n_units, size=(n_rows, n_units))
        drawn += n_units * np.arange(n_rows)[:, np.newaxis]  # one bincount for all rows of the chunk
        yield np.bincount(drawn.ravel(), minlength=n_rows * n_units).reshape(n_rows, n_units)[:, unit]


def _percentile_interval(estimate: float, values: Floats, level: float) -> tuple[float, float] | None:
    """The central share `level` of the finite values and the estimate, or None when more than half are not finite."""
    defined = values[np.isfinite(values)]
    if 2 * defined.size < values.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), estimate), max(float(high), estimate)


# --- ranks, cuts and bounds -----------------------------------------------------------------------------------------


def _placements(positive: Bools, score: Floats) -> tuple[Floats, Floats]:
    """For each positive the negatives it outscores, and for each negative the positives it is outscored by.

    Ties count half, so all values are multiples of 1/2: sums of them, and differences between two scores, are exact in
    floating point, and a variance of 0 really is 0.
    """
    rank = _midranks(score)
    beaten = rank[positive] - _midranks(score[positive])
    lost = beaten.size - (rank[~positive] - _midranks(score[~positive]))
    return beaten, lost


def _midranks(values: Floats) -> Floats:
    """Ranks from 1, tied values sharing their mean rank."""
    _, inverse, n_tied = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(n_tied) - (n_tied - 1) / 2
    return np.asarray(mean_rank[inverse], dtype=np.float64)


def _auc(beaten: Floats, lost: Floats) -> float:
    return float(beaten.sum() / (beaten.size * lost.size))


def _delong_variance(beaten: Floats, lost: Floats, unit: Ints, positive: Bools) -> float:
    """Obuchowski's variance of `_auc`, for placements or differences of placements; 0 where a class has one unit.

    With one image in each unit it is DeLong's.

    Args:
        beaten: float64 (m,), of the positives.
        lost: float64 (n,), of the negatives.
        unit: of each image, int64 (m + n,).
        positive: of each image, bool (m + n,).
    """
    m, n = beaten.size, lost.size
    n_units = int(unit.max()) + 1
    units = [np.unique(unit[positive]).size, np.unique(unit[~positive]).size]
    if min(units) < 2:
        return 0.0
    # Each image's placement as a share, less the AUC, summed within each unit; divided only after the sums, which are
    # multiples of 1/2 and so exact.
    of_positives = np.bincount(unit[positive], weights=m * beaten - beaten.sum(), minlength=n_units) / (m * n)
    of_negatives = np.bincount(unit[~positive], weights=n * lost - lost.sum(), minlength=n_units) / (m * n)
    alone = [units[0] / (units[0] - 1) * of_positives @ of_positives / m**2]
    alone += [units[1] / (units[1] - 1) * of_negatives @ of_negatives / n**2]
    # Only units with images of both classes add to this; without any it is 0.
    shared = n_units / (n_units - 1) * of_positives @ of_negatives / (m * n)
    return max(0.0, float(sum(alone) + 2 * shared))


def _disjoint_pairs(unit: Ints, positive: Bools) -> int:
    """How many pairs of a positive and a negative can be had, no two of which share a unit, nor the two of a pair."""
    with_positive, with_negative = np.unique(unit[positive]), np.unique(unit[~positive])
    n_units = np.union1d(with_positive, with_negative).size
    return max(1, min(with_positive.size, with_negative.size, n_units // 2))


def _hoeffding_interval(mean: float, k: int, level: float) -> tuple[float, float]:
    """All expectations that the mean of k independent values in [0, 1] leaves possible, at half the error per side."""
    limit = math.log(2 / (1 - level)) / k

    def furthest(towards: float) -> float:
        inside, outside = mean, towards
        for _ in range(100):  # halving an interval of at most 1; float64 is exhausted before
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


def _normal_quantile(level: float) -> float:
    """How many standard deviations each side hold the central share `level`: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _counts_above(positive: Bools, score: Floats) -> tuple[Floats, Ints, Ints]:
    """The distinct scores from high to low, with the positives and the negatives at or above each."""
    scores, inverse = np.unique(score, return_inverse=True)
    n_positive = np.bincount(inverse[positive], minlength=scores.size)
    n_negative = np.bincount(inverse[~positive], minlength=scores.size)
    return scores[::-1], np.cumsum(n_positive[::-1]), np.cumsum(n_negative[::-1])


def _cut_below(scores: Floats, i: int) -> float:
    """A threshold that calls `scores[i]` positive and no lower one, as far from both as it can be."""
    upper = float(scores[i])
    lower = float(scores[i + 1]) if i + 1 < scores.size else 0.0  # no probability lies below 0
    middle = lower / 2 + upper / 2  # (lower + upper) / 2 could overflow
    # No float lies between neighbours, and nothing is known below a lowest score of 0 or less.
    return middle if lower < middle <= upper else upper


def _bin_index(score: Floats, n_bins: int) -> Ints:
    """The bin of each probability among `n_bins` of equal width, closed above; 0 is in the first."""
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}, expected at least 1, such as {N_BINS}")
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    return np.searchsorted(inner_edges, score, side="left")


# --- what may enter -------------------------------------------------------------------------------------------------


def _check(y_true: ArrayLike, y_score: ArrayLike, *, probabilities: bool = False) -> tuple[Bools, Floats]:
    """The labels as bool and the scores as float64, or a ValueError that says what is wrong with them."""
    label, score = _as_floats("y_true", y_true), _as_floats("y_score", y_score)
    if label.ndim != 1 or label.shape != score.shape:
        raise ValueError(
            f"y_true has shape {label.shape} and y_score {score.shape}, expected (n,) twice: "
            "a model's output of shape (n, 1) becomes one with scores[:, 0]"
        )
    if label.size == 0:
        raise ValueError("y_true and y_score are empty, expected at least one image: is the split empty?")
    strange = (label != 0) & (label != 1)
    if strange.any():
        raise ValueError(
            f"y_true holds {strange.sum()} values other than 0 and 1, the first is {label[strange][0]:g}: "
            "code normal as 0 and pneumonia as 1"
        )
    n_lost = int(np.sum(~np.isfinite(score)))
    if n_lost > 0:
        raise ValueError(
            f"y_score holds {n_lost} NaN or infinite values of {score.size}, expected finite ones: "
            "the model diverged or an image was empty; find those rows first"
        )
    if probabilities and (score.min() < 0 or score.max() > 1):
        raise ValueError(
            f"y_score spans {score.min():g} to {score.max():g}, expected probabilities 0-1: apply the sigmoid to logits"
        )
    return label == 1, score


def _as_floats(name: str, values: ArrayLike) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not an array of numbers ({error}), expected shape (n,): drop or code such rows"
        ) from error


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a coverage strictly between 0 and 1, such as 0.95")


def _need_both_classes(positive: Bools, what: str) -> None:
    n_positive = int(positive.sum())
    if not 0 < n_positive < positive.size:
        raise ValueError(
            f"{n_positive} positives and {positive.size - n_positive} negatives, {what} needs at least one of each: "
            "pool the subgroup with another or leave the figure out"
        )


def _need_positives(positive: Bools, what: str) -> None:
    if not positive.any():
        raise ValueError(f"0 positives among {positive.size} images, {what} needs at least one: leave the figure out")
