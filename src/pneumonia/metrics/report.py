"""All figures of one split with their intervals in one dictionary.

Arrays and errors as in `ranking`.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.metrics import calibration, decisions, ranking
from pneumonia.metrics.arrays import (
    Bools,
    Floats,
    Ints,
    check_level,
    check_scores,
    sampling_units,
    unit_sums,
)
from pneumonia.metrics.text import with_interval

CHUNK_CELLS = 2**20  # resamples x images at once: 8 MB per array for any size of the data set
N_RESAMPLES = 1000  # 25 lie beyond each end of a 95 % interval; with fewer, the ends depend much on the seed


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
    """A percentile bootstrap interval of a statistic without a formula for it.

    Images of one patient are correlated, so with `groups` whole patients are drawn with replacement, with all their
    images; without `groups`, images are drawn. A resample in which the statistic is undefined (ValueError or a number
    that is not finite, as for an AUC when one class was not drawn) is skipped.

    Args:
        statistic: a function of (y_true int64 (n,), y_score float64 (n,)), such as `roc_auc`. It is first called on
            the whole sample, where its error is passed on.
        y_true: 0 or 1, shape (n,).
        y_score: finite, any range the statistic accepts, shape (n,).
        groups: patient ids of any type, shape (n,); None = each image is its own group.
        level: the nominal coverage, strictly between 0 and 1.
        n_resamples: at least 1; with 1000 about two digits of a 95 % interval are stable.
        seed: the same seed gives the same interval.

    Returns:
        (low, high): the (1 - level) / 2 and (1 + level) / 2 quantiles of the resampled statistic, widened if needed to
        contain the estimate. (Resampling adds variance. A statistic that grows with variance, as the ECE, can be higher
        in nearly all resamples; its interval is biased upwards.) A statistic that is the same in all resamples, as the
        F1 of a perfect sample, has an interval of width 0: resampling cannot produce errors that the sample lacks.

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
    positive, score = check_scores(y_true, y_score)
    check_level(level)
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}, expected at least 1, 1000 is recommended")
    unit = sampling_units(groups, score.size)
    if unit.max() == 0:
        raise ValueError(
            "one group only, expected two or more: all resamples would be equal; "
            "pass groups=None if the images are independent"
        )
    labels = positive.astype(np.int64)
    estimate = float(statistic(labels, score))
    if not math.isfinite(estimate):
        raise ValueError(f"the statistic is {estimate} on the whole sample, expected a finite number: leave it out")
    values = np.full(n_resamples, np.nan)
    rows = np.arange(score.size)
    for i, counts in enumerate(counts for chunk in resample(unit, n_resamples, seed) for counts in chunk):
        drawn = np.repeat(rows, counts)
        try:
            values[i] = statistic(labels[drawn], score[drawn])
        except ValueError:
            continue  # stays NaN: undefined here
    interval = percentile_interval(estimate, values, level)
    if interval is None:
        raise ValueError(
            f"the statistic is undefined in {np.sum(~np.isfinite(values))} of {n_resamples} resamples, expected at "
            "most half: too few images (or groups) of a class for an interval; add more"
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
    """All main figures of one split at one threshold, each with its interval, as plain numbers for JSON.

    | keys | interval |
    |---|---|
    | `n`, `n_positive` | none, counts (int) |
    | `auc` | `auc_interval` (DeLong, Obuchowski) |
    | `accuracy`, `sensitivity`, `specificity`, `precision` | `wilson_interval` of `effective_trials` |
    | `balanced_accuracy` | from those of sensitivity and specificity (Newcombe's method, MOVER) |
    | `f1`, `brier`, `ece`, `average_precision`, `mcc` | percentile bootstrap |

    All intervals respect `groups`. Each figure `x` is returned as `x`, `x_low` and `x_high`, or left out if undefined:
    `auc`, `balanced_accuracy` and `mcc` with one class, `sensitivity` and `average_precision` without positives,
    `specificity` without negatives, `precision` without predicted positives, `mcc` also when all decisions are equal,
    `brier` and `ece` for scores outside 0-1. Bootstrapped figures are also left out if they have no interval: one group
    only, or undefined in more than half of 1000 resamples. If all resamples are equal, as at a perfect F1, the figure
    has no interval: a bootstrap cannot produce errors that the sample lacks. The interval of `ece` is biased upwards.
    See `bootstrap_interval`.

    Args:
        y_true: 0 or 1, shape (n,).
        y_score: finite, shape (n,).
        threshold: an image is positive at or above it; choose it on other images than these.
        groups: patient ids of any type, shape (n,); None = each image is its own group.
        level: the nominal coverage, strictly between 0 and 1.
        seed: of the bootstrap; the same seed gives the same report.

    Returns:
        Name to value, without NaN or None. All proportions are 0-1, `mcc` is -1 to 1.

    Raises:
        ValueError: malformed arrays, a NaN threshold, a missing group id, a level outside (0, 1).

    Source:
        See the single functions; MCC: Chicco & Jurman 2020, doi:10.1186/s12864-019-6413-7; MOVER: Zou & Donner 2008,
        doi:10.1002/sim.3095.

    >>> report = classification_report([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9], threshold=0.5)
    >>> report["n"], report["sensitivity"], report["specificity"], report["accuracy"]
    (4, 1.0, 0.5, 0.75)
    >>> "auc" in classification_report([1, 1], [0.7, 0.9], threshold=0.5)
    False
    """
    positive, score = check_scores(y_true, y_score)
    cells = decisions.confusion(positive, score, threshold)
    unit = sampling_units(groups, score.size)
    check_level(level)
    n, n_positive = score.size, cells.tp + cells.fn
    report: dict[str, float] = {"n": n, "n_positive": n_positive}

    if 0 < n_positive < n:
        report |= with_interval(
            "auc", ranking.roc_auc(positive, score), *ranking.auc_interval(positive, score, level, groups=unit)
        )

    predicted = score >= threshold
    for name, success, in_trial in (
        ("accuracy", predicted == positive, np.ones(n, np.bool_)),
        ("sensitivity", predicted, positive),
        ("specificity", ~predicted, ~positive),
        ("precision", positive, predicted),
    ):
        if in_trial.any():
            share, trials = (
                float(success[in_trial].mean()),
                decisions.effective_trials_of_units(success[in_trial], unit[in_trial], level),
            )
            report |= with_interval(name, share, *decisions.wilson_interval(share * trials, trials, level))
    if 0 < n_positive < n:
        true_positives, true_negatives = (
            unit_sums(unit, np.where(in_trial, (predicted == positive) - report[name], 0.0))
            for name, in_trial in (("sensitivity", positive), ("specificity", ~positive))
        )
        report |= _balanced_accuracy(report, true_positives, true_negatives)

    if unit.max() > 0:  # with one group all resamples are equal
        order = np.argsort(-score)
        positive, score, unit = positive[order], score[order], unit[order]
        estimates = _figures(positive, score, threshold, np.ones((1, n)))
        chunks = [_figures(positive, score, threshold, counts) for counts in resample(unit, N_RESAMPLES, seed)]
        for name, (estimate,) in estimates.items():
            resampled = np.concatenate([chunk[name] for chunk in chunks])
            interval = percentile_interval(float(estimate), resampled, level)
            if np.isfinite(estimate) and interval is not None:
                widthless = interval[0] == interval[1]
                report |= {name: float(estimate)} if widthless else with_interval(name, float(estimate), *interval)
    return report


def _balanced_accuracy(report: Mapping[str, float], true_positives: Floats, true_negatives: Floats) -> dict[str, float]:
    """The mean of sensitivity and specificity; the widths of their intervals are combined as by MOVER.

    Args:
        report: has both with their intervals.
        true_positives, true_negatives: of each unit, its number less the expected one. They are correlated if patients
            have images of both classes. A negative correlation, which would narrow the interval, is ignored.
    """
    halves = ("sensitivity", "specificity")
    value = sum(report[name] for name in halves) / 2
    scale = math.sqrt(true_positives @ true_positives * (true_negatives @ true_negatives))
    correlation = max(0.0, float(true_positives @ true_negatives) / scale) if scale else 0.0
    below, above = (
        math.sqrt(a * a + b * b + 2 * correlation * a * b) / 2
        for a, b in ([report[name] - report[f"{name}_{end}"] for name in halves] for end in ("low", "high"))
    )
    return with_interval("balanced_accuracy", value, value - below, value + above)


def _figures(positive: Bools, score: Floats, threshold: float, counts: NDArray[np.number]) -> dict[str, Floats]:
    """The bootstrapped figures of `classification_report`, for many resamples at once.

    A resample is a row of `counts`: how often it contains each image. Nearly every figure is then a function of
    weighted sums, one matrix product for all resamples; average precision needs cumulative sums over the ranking.

    Args:
        positive: bool (n,).
        score: float64 (n,), sorted from high to low.
        threshold: in the unit of `score`.
        counts: (n_resamples, n), integers of 0 or more.

    Returns:
        Name to float64 (n_resamples,), NaN where undefined.
    """
    weight = counts.astype(np.float64)  # float64 products use BLAS, and are exact for counts
    predicted = score >= threshold
    sums = weight @ np.column_stack([np.ones(score.size), positive, predicted, predicted & positive])
    n, n_positive, n_predicted, tp = sums.T
    n_negative, fp, fn = n - n_positive, n_predicted - tp, n_positive - tp
    tn = n_negative - fp
    figures = {"f1": _ratio(2 * tp, n_positive + n_predicted)}

    if score[-1] >= 0 and score[0] <= 1:
        figures["brier"] = weight @ (score - positive) ** 2 / n
        # The gap of a bin times its n is the sum of score - label in it, so bins need no division, even when empty.
        gaps = np.zeros((score.size, calibration.N_BINS))
        gaps[np.arange(score.size), calibration.bin_index(score, calibration.N_BINS)] = score - positive
        figures["ece"] = np.abs(weight @ gaps).sum(axis=1) / n

    last_of_tie = np.append(score[1:] != score[:-1], True)
    hits = np.cumsum(weight * positive, axis=1)[:, last_of_tie]
    total = np.cumsum(weight, axis=1)[:, last_of_tie]
    precision = np.divide(hits, total, out=np.zeros_like(total), where=total > 0)  # at 0 there is no step of recall
    figures["average_precision"] = _ratio((np.diff(hits, axis=1, prepend=0.0) * precision).sum(axis=1), n_positive)

    figures["mcc"] = _ratio(tp * tn - fp * fn, np.sqrt(n_positive * n_negative * n_predicted * (n - n_predicted)))
    return figures


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def resample(unit: Ints, n_resamples: int, seed: int) -> Iterator[Ints]:
    """Bootstrap samples as counts, int64 (up to n_resamples, n_images): how often each image was drawn.

    They are returned in chunks of limited memory, and depend on the units and the seed, not on the order of the images.
    """
    generator = np.random.default_rng(seed)
    n_units = int(unit.max()) + 1
    step = max(1, CHUNK_CELLS // unit.size)
    for start in range(0, n_resamples, step):
        n_rows = min(step, n_resamples - start)
        drawn = generator.integers(n_units, size=(n_rows, n_units))
        drawn += n_units * np.arange(n_rows)[:, np.newaxis]  # one bincount for all rows of the chunk
        yield np.bincount(drawn.ravel(), minlength=n_rows * n_units).reshape(n_rows, n_units)[:, unit]


def percentile_interval(estimate: float, values: Floats, level: float) -> tuple[float, float] | None:
    """The central `level` of the finite values, widened to the estimate; None if more than half are not finite."""
    defined = values[np.isfinite(values)]
    if 2 * defined.size < values.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), estimate), max(float(high), estimate)
