"""Calibrated probabilities, and their adjustment to another prevalence of pneumonia.

A network trained with class weights predicts as if both classes were equally common, and one trained for long is
overconfident. `fit` corrects both on validation images by Platt scaling: a slope and a bias of the logit. On synthetic
scores with 128 to 1,000 validation images its log loss on other images was lower than that of temperature scaling,
which has no bias and so cannot correct the class weights. It was also lower than that of isotonic regression, except
for 1,000 images whose true logit was not linear in the score's. Isotonic regression also makes ties, which changes the
AUC; a slope and a bias keep the order.

`prior_by_em` and `adjust_prior` then adapt calibrated probabilities to a population whose prevalence is estimated from
unlabelled scores. The estimate needs a calibration with bias: Alexandari, Kundaje & Shrikumar 2020,
doi:10.48550/arXiv.1901.06852.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit

from pneumonia.metrics import decisions
from pneumonia.metrics.arrays import (
    Floats,
    Ints,
    check_level,
    check_scores,
    normal_quantile,
    sampling_units,
    unit_sums,
)

N_BINS = 15  # as in Guo et al. 2017, so that an ECE is comparable with published ones
N_DRAWS = 200  # of labels; the standard error of their mean is then about a thirtieth of it
N_FOLDS = 5  # of `cross_fitted`
N_BINS_SHOWN = 5  # of a diagram: with 15 a bin of a test split of 160 images has about 5, whose share says nothing
CLIP = 5e-8  # half the last digit of a stored score: a score of 0 or 1 may have been rounded from this
MIN_SLOPE = 0.01  # a smaller slope would make ties at the 7 stored digits; a negative one reverses the order


class Reliability(NamedTuple):
    """One row per non-empty score bin, low to high: float64, float64 and int64 (n_non_empty_bins,)."""

    mean_score: Floats
    fraction_positive: Floats
    n: Ints


class Diagram(NamedTuple):
    """One row per non-empty score bin, low to high, with the interval of its share: float64, and int64 for `n`."""

    mean_score: Floats
    fraction_positive: Floats
    low: Floats
    high: Floats
    n: Ints


def brier_score(y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The mean squared difference between probability and label; it measures calibration and discrimination together.

    0 is perfect; a constant prediction of the prevalence p gives p (1 - p).

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
    positive, score = check_scores(y_true, y_score, probabilities=True)
    return float(np.mean((score - positive) ** 2))


def reliability(y_true: ArrayLike, y_score: ArrayLike, n_bins: int = N_BINS) -> Reliability:
    """Mean predicted probability and observed frequency in each bin: the points of a reliability diagram.

    Bins have equal width over 0-1 and include their upper edge, as in Guo et al.; 0 belongs to the first. Empty bins
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
    positive, score = check_scores(y_true, y_score, probabilities=True)
    bins = bin_index(score, n_bins)
    n = np.bincount(bins, minlength=n_bins)
    filled = n > 0
    n = n[filled]
    return Reliability(
        mean_score=np.bincount(bins, weights=score, minlength=n_bins)[filled] / n,
        fraction_positive=np.bincount(bins, weights=positive, minlength=n_bins)[filled] / n,
        n=n,
    )


def diagram(
    y_true: ArrayLike, y_score: ArrayLike, *, groups: ArrayLike | None = None, level: float, n_bins: int = N_BINS_SHOWN
) -> Diagram:
    """The points of a reliability diagram that can be read: few bins, each with the interval of its share.

    Args:
        y_true: 0 or 1, shape (n,); one class is enough.
        y_score: probabilities, 0-1, shape (n,).
        groups: patient ids of any type, shape (n,); None = each image is its own group.
        level: of the intervals (Wilson, by patient), strictly between 0 and 1.
        n_bins: equal-width bins as in `reliability`, at least 1.

    Returns:
        As `reliability`, with `low` and `high` of the share of positives.

    Raises:
        ValueError: as `reliability`; a missing group id, a level outside (0, 1).

    >>> points = diagram([0, 1, 1], [0.1, 0.4, 1.0], level=0.95, n_bins=2)
    >>> points.fraction_positive.tolist(), points.low.round(3).tolist(), points.high.round(3).tolist()
    ([0.5, 1.0], [0.095, 0.207], [0.905, 1.0])
    """
    bins = reliability(y_true, y_score, n_bins)
    positive, score = check_scores(y_true, y_score, probabilities=True)
    check_level(level)
    unit = sampling_units(groups, score.size)
    numbers = bin_index(score, n_bins)
    ends = []
    for number in np.unique(numbers):
        rows = numbers == number
        trials = decisions.effective_trials_of_units(positive[rows], unit[rows], level)
        ends.append(decisions.wilson_interval(float(positive[rows].mean()) * trials, trials, level))
    low, high = np.array(ends, dtype=np.float64).T
    return Diagram(bins.mean_score, bins.fraction_positive, low, high, bins.n)


def expected_calibration_error(y_true: ArrayLike, y_score: ArrayLike, n_bins: int = N_BINS) -> float:
    """The mean absolute difference between probabilities and frequencies in the bins of `reliability`, weighted by n.

    0 is perfect. It is positive even for a perfectly calibrated model, because of random variation in bins with few
    images: see `error_if_perfect`, and compare models only on the same images with the same `n_bins`.

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


def error_if_perfect(y_score: ArrayLike, n_bins: int = N_BINS) -> float:
    """The expected calibration error that a perfectly calibrated model with these scores has on average.

    Labels are drawn from the scores, `N_DRAWS` times, with a fixed seed. An error that is not above this is no evidence
    against the calibration.

    Args:
        y_score: probabilities, 0-1, shape (n,).
        n_bins: as of `expected_calibration_error`.

    Returns:
        0-1; it falls with the number of images.

    Raises:
        ValueError: scores outside 0-1, NaN, not a vector, or `n_bins` below 1.

    Source:
        the resampling of Bröcker & Smith 2007, doi:10.1175/WAF993.1; on the bias Kumar, Liang & Ma 2019,
        arXiv:1909.10155.

    >>> error_if_perfect([0.0, 1.0, 1.0])
    0.0
    """
    score = _probabilities("y_score", y_score)
    bins = bin_index(score, n_bins)
    rng = np.random.default_rng(0)
    # The bins' sums of scores less labels, weighted by their numbers of images, are the error times n.
    errors = [
        np.abs(np.bincount(bins, score - (rng.random(len(score)) < score), minlength=n_bins)).sum()
        for _ in range(N_DRAWS)
    ]
    return float(np.mean(errors)) / len(score)


def bin_index(score: Floats, n_bins: int) -> Ints:
    """The bin of each probability; `n_bins` of equal width, each with its upper edge; 0 is in the first."""
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}, expected at least 1, such as {N_BINS}")
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    return np.searchsorted(inner_edges, score, side="left")


class Platt(NamedTuple):
    """A calibration: the logit of the probability is `slope` times the logit of the score, plus `bias`."""

    slope: float
    bias: float


def fit(y_true: ArrayLike, y_score: ArrayLike) -> Platt:
    """The slope and the bias with which scores best predict the labels of validation images.

    They maximise the likelihood with Platt's targets instead of 1 and 0: (m + 1) / (m + 2) for m pneumonias and
    1 / (n + 2) for n normals. With these the maximum is finite also if all validation images are classified without
    error, and probabilities are not extreme when there are few images.

    Scores in the wrong order get the minimum slope, 0.01: nearly the same probability for all images.

    Args:
        y_true: 0 or 1, shape (n,), both present; neither train nor test images.
        y_score: probabilities, 0-1, shape (n,); 0 and 1 are moved by half of the seventh digit.

    Returns:
        A slope of 0.01 or more, and a finite bias.

    Raises:
        ValueError: one class only, scores outside 0-1, labels other than 0 and 1, empty or unequal arrays.

    Source:
        Platt 1999, in Advances in Large Margin Classifiers, doi:10.7551/mitpress/1113.001.0001; on targets and
        likelihood Lin, Lin & Weng 2007, doi:10.1007/s10994-007-5018-6.

    >>> platt = fit([0, 0, 0, 1, 0, 1, 1, 1], [0.5, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.95])
    >>> [round(float(value), 2) for value in apply(platt, [0.5, 0.75, 0.95])]
    [0.19, 0.47, 0.89]
    """
    score = _probabilities("y_score", y_score)
    label = np.asarray(y_true, dtype=np.float64)
    if label.shape != score.shape:
        raise ValueError(f"y_true has shape {label.shape} and y_score {score.shape}, expected (n,) twice")
    if not np.isin(label, (0, 1)).all():
        raise ValueError("y_true holds values other than 0 and 1: code normal as 0 and pneumonia as 1")
    m = int(label.sum())
    n = label.size - m
    if m == 0 or n == 0:
        raise ValueError(f"{m} positives and {n} negatives, a calibration needs at least one of each")
    log_odds = _logit(score)
    target = np.where(label == 1, (m + 1) / (m + 2), 1 / (n + 2))

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = weights[0] * log_odds + weights[1]
        residual = expit(z) - target
        return float(np.mean(np.logaddexp(0, z) - target * z)), np.array(
            [np.mean(residual * log_odds), residual.mean()]
        )

    bounds = [(MIN_SLOPE, None), (None, None)]
    limits = {"maxiter": 1000, "gtol": 1e-9, "ftol": 1e-15}
    optimum = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options=limits)
    return Platt(slope=float(optimum.x[0]), bias=float(optimum.x[1]))


def apply(platt: Platt, y_score: ArrayLike) -> Floats:
    """Calibrated probabilities.

    Args:
        platt: as `fit` returns it.
        y_score: probabilities of the same model, 0-1, shape (n,).

    Returns:
        float64 (n,), 0-1, in the order of the scores: the AUC and decisions at a calibrated threshold do not change.

    Raises:
        ValueError: scores outside 0-1, NaN, or not a vector.

    >>> apply(Platt(slope=1.0, bias=0.0), [0.25, 0.5]).tolist()
    [0.25, 0.5]
    """
    return np.asarray(expit(platt.slope * _logit(_probabilities("y_score", y_score)) + platt.bias), dtype=np.float64)


def cross_fitted(y_true: ArrayLike, y_score: ArrayLike, groups: ArrayLike) -> Floats:
    """Calibrated probabilities of images from which their calibration was not learnt: that is of other patients.

    Groups with a positive and groups without one are dealt to `N_FOLDS` folds in the order of their names; each fold
    gets the `fit` of the others. With fewer groups of a kind there are fewer folds; with fewer than two the scores are
    returned as they are.

    Args:
        y_true: 0 or 1, shape (n,), both present.
        y_score: probabilities, 0-1, shape (n,).
        groups: patient of each image, shape (n,).

    Returns:
        float64 (n,), 0-1.

    Raises:
        ValueError: as `fit`.
    """
    positive, score = check_scores(y_true, y_score, probabilities=True)
    unit = sampling_units(groups, len(score))
    has_positive = unit_sums(unit, positive.astype(np.float64)) > 0
    n_folds = min(N_FOLDS, int(has_positive.sum()), int((~has_positive).sum()))
    if n_folds < 2:
        return score
    fold_of = np.empty(len(has_positive), dtype=np.int64)
    for kind in (has_positive, ~has_positive):
        fold_of[kind] = np.arange(kind.sum()) % n_folds
    folds, calibrated = fold_of[unit], np.empty(len(score))
    for fold in range(n_folds):
        inside = folds == fold
        calibrated[inside] = apply(fit(positive[~inside], score[~inside]), score[inside])
    return calibrated


class Line(NamedTuple):
    """How the logit of the true probability depends on that of a score; `slope` 1 and `intercept` 0 are perfect."""

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    intercept_low: float
    intercept_high: float


def line(y_true: ArrayLike, y_score: ArrayLike, groups: ArrayLike, *, level: float) -> Line:
    """Slope and intercept of the calibration of scores, with intervals by patient.

    A slope below 1 says that scores are too far from one half, an intercept below 0 that they are too high.

    Args:
        y_true: 0 or 1, shape (n,), both present.
        y_score: probabilities, 0-1, shape (n,).
        groups: patient of each image, shape (n,).
        level: of the intervals, such as 0.95. They are those of logistic regression with the variance of Liang & Zeger.

    Raises:
        ValueError: as `fit`; fewer than two groups; a level outside 0-1.

    Source:
        Cox 1958, doi:10.1093/biomet/45.3-4.562; Liang & Zeger 1986, doi:10.1093/biomet/73.1.13.
    """
    check_level(level)
    positive, score = check_scores(y_true, y_score, probabilities=True)
    unit = sampling_units(groups, len(score))
    n_units = int(unit.max()) + 1
    if n_units < 2:
        raise ValueError("all images are of one patient, an interval needs at least two")
    platt = fit(positive, score)
    design = np.column_stack([_logit(score), np.ones(len(score))])
    probability = apply(platt, score)
    bread = np.linalg.pinv((design * (probability * (1 - probability))[:, None]).T @ design)
    residuals = design * (positive - probability)[:, None]
    of_units = np.column_stack([unit_sums(unit, column) for column in residuals.T])
    variance = bread @ (of_units.T @ of_units) @ bread * n_units / (n_units - 1)
    half = normal_quantile(level) * np.sqrt(np.diag(variance))
    (slope, bias), (half_slope, half_bias) = platt, half.tolist()
    return Line(slope, slope - half_slope, slope + half_slope, bias, bias - half_bias, bias + half_bias)


def prior_by_em(scores: ArrayLike, train_prior: float) -> float:
    """The share of pneumonia among unlabelled images, from their calibrated scores alone.

    EM uses the mean of the probabilities as the share, adjusts the probabilities to it, and repeats. The likelihood is
    concave, so the fixed point of EM is its only maximum. Here it is found by bisection, because EM converges slowly
    near 0 and 1.

    The estimate has two assumptions: the scores are calibrated where the share is `train_prior`, and the images of each
    class look the same in both populations. If normals look different in the new one (another device, another age), the
    estimate is wrong, and the scores do not show it. With few images it has a large variance.

    Args:
        scores: calibrated probabilities, 0-1, shape (n,); 0 and 1 count as certain.
        train_prior: the share of pneumonia among the images that the scores were calibrated on, strictly between 0
            and 1. With class weights it differs from the share in training.

    Returns:
        The share, 0-1; it is 0 or 1 if the likelihood is highest without any pneumonia, or without any normal.

    Raises:
        ValueError: all scores are equal, so that the share cannot be estimated; scores outside 0-1; a prior that is not
            strictly between 0 and 1.

    Source:
        Saerens, Latinne & Decaestecker 2002, doi:10.1162/089976602753284446; its likelihood: Alexandari, Kundaje &
        Shrikumar 2020, doi:10.48550/arXiv.1901.06852.

    >>> round(prior_by_em([0.9, 0.9, 0.9, 0.9, 0.1, 0.1], train_prior=0.5), 4)
    0.7083
    """
    score = _probabilities("scores", scores)
    _check_prior("train_prior", train_prior)
    if score.min() == score.max():
        raise ValueError(
            f"all {score.size} scores are {score[0]:g}: the share of pneumonia cannot be estimated from them"
        )
    pneumonia, normal = score / train_prior, (1 - score) / (1 - train_prior)  # the likelihoods, up to a factor
    with np.errstate(divide="ignore", over="ignore"):  # comparisons with infinity are correct
        if np.mean(pneumonia / normal) <= 1:
            return 0.0
        if np.mean(normal / pneumonia) <= 1:
            return 1.0
    low, high = 0.0, 1.0
    for _ in range(200):  # bisection; the precision of float64 is reached before
        share = (low + high) / 2
        if share in (low, high):
            break
        if np.sum((pneumonia - normal) / (share * pneumonia + (1 - share) * normal)) > 0:
            low = share
        else:
            high = share
    return share


def adjust_prior(scores: ArrayLike, old_prior: float, new_prior: float) -> Floats:
    """Probabilities adjusted from a prevalence of `old_prior` to one of `new_prior`.

    Bayes' rule: the odds are multiplied by the ratio of the prior odds. The order of the images, 0 and 1 do not change.

    Args:
        scores: probabilities, calibrated for the prevalence `old_prior`, 0-1, shape (n,).
        old_prior: strictly between 0 and 1.
        new_prior: strictly between 0 and 1.

    Returns:
        float64 (n,), 0-1.

    Raises:
        ValueError: a prior that is not strictly between 0 and 1, scores outside 0-1, NaN, or not a vector.

    Source:
        Saerens, Latinne & Decaestecker 2002, doi:10.1162/089976602753284446.

    >>> adjust_prior([0.0, 0.5, 0.75, 1.0], old_prior=0.75, new_prior=0.5).tolist()
    [0.0, 0.25, 0.5, 1.0]
    """
    score = _probabilities("scores", scores)
    _check_prior("old_prior", old_prior)
    _check_prior("new_prior", new_prior)
    pneumonia = score * (new_prior / old_prior)
    normal = (1 - score) * ((1 - new_prior) / (1 - old_prior))
    return np.asarray(pneumonia / (pneumonia + normal), dtype=np.float64)


def _logit(score: Floats) -> Floats:
    inside = np.clip(score, CLIP, 1 - CLIP)
    return np.asarray(logit(inside), dtype=np.float64)


def _probabilities(name: str, values: ArrayLike) -> Floats:
    score = np.asarray(values, dtype=np.float64)
    if score.ndim != 1 or score.size == 0:
        raise ValueError(f"{name} has shape {score.shape}, expected (n,) with at least one image")
    if not ((score >= 0) & (score <= 1)).all():  # false for NaN
        raise ValueError(f"{name} holds NaN or values outside 0-1, expected probabilities: apply the sigmoid to logits")
    return score


def _check_prior(name: str, prior: float) -> None:
    if not 0 < prior < 1:
        raise ValueError(f"{name} is {prior}, expected a share of pneumonia strictly between 0 and 1")
