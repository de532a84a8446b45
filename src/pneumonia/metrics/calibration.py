"""Probabilities that mean what they say, and what becomes of them where pneumonia is rarer or more common.

A network that learns with class weights answers as if both classes were equally common, and one that learns for long
is too sure of itself. `fit` mends both on validation images: Platt's two numbers, a slope and a bias of the logit.
On synthetic scores with 128 to 1,000 validation images its log loss on other images was lower than that of temperature
scaling, which has no bias and so cannot mend the class weights, and than that of isotonic regression, but for 1,000
images whose true logit was no straight line of the score's. Isotonic regression also ties images, which changes the
AUC; a slope and a bias keep their order.

`prior_by_em` and `adjust_prior` then move calibrated probabilities to a population in which pneumonia is as common as
unlabelled scores say. That the former needs a bias in the calibration: Alexandari, Kundaje & Shrikumar 2020,
doi:10.48550/arXiv.1901.06852.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit

from pneumonia.metrics.arrays import Floats, Ints, check_scores

N_BINS = 15  # the bin count of Guo et al. 2017, so that an ECE can be set beside published ones
CLIP = 5e-8  # half the last digit of a stored score: what a score of 0 or 1 may have been before it was rounded
MIN_SLOPE = 0.01  # less would tie images at the 7 digits stored, or turn their order round


class Reliability(NamedTuple):
    """One row per non-empty score bin, low to high: float64, float64 and int64 (n_non_empty_bins,)."""

    mean_score: Floats
    fraction_positive: Floats
    n: Ints


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
    positive, score = check_scores(y_true, y_score, probabilities=True)
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


def bin_index(score: Floats, n_bins: int) -> Ints:
    """The bin of each probability among `n_bins` of equal width, closed above; 0 is in the first."""
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}, expected at least 1, such as {N_BINS}")
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    return np.searchsorted(inner_edges, score, side="left")


class Platt(NamedTuple):
    """A calibration: the logit of the probability is `slope` times the logit of the score, plus `bias`."""

    slope: float
    bias: float


def fit(y_true: ArrayLike, y_score: ArrayLike) -> Platt:
    """The slope and the bias under which scores best foretell the labels of validation images.

    The maximum of the likelihood, with Platt's targets instead of 1 and 0: (m + 1) / (m + 2) for m pneumonias and
    1 / (n + 2) for n normals. They keep the maximum finite where validation images are told apart without error, and
    there they keep probabilities as modest as so few images warrant.

    Scores that order the images the wrong way get the least slope, 0.01: nearly the same probability for all.

    Args:
        y_true: 0 or 1, shape (n,), both present; not the images that the model learnt from, nor those it is judged on.
        y_score: probabilities, 0-1, shape (n,); 0 and 1 themselves are moved by half of the seventh digit.

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
        surplus = expit(z) - target
        return float(np.mean(np.logaddexp(0, z) - target * z)), np.array([np.mean(surplus * log_odds), surplus.mean()])

    bounds = [(MIN_SLOPE, None), (None, None)]
    limits = {"maxiter": 1000, "gtol": 1e-9, "ftol": 1e-15}
    found = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options=limits)
    return Platt(slope=float(found.x[0]), bias=float(found.x[1]))


def apply(platt: Platt, y_score: ArrayLike) -> Floats:
    """Calibrated probabilities.

    Args:
        platt: as `fit` found it.
        y_score: probabilities of the same model, 0-1, shape (n,).

    Returns:
        float64 (n,), 0-1, in the order of the scores: AUC, and decisions at a threshold that is mapped too, stay.

    Raises:
        ValueError: scores outside 0-1, NaN, or no vector.

    >>> apply(Platt(slope=1.0, bias=0.0), [0.25, 0.5]).tolist()
    [0.25, 0.5]
    """
    return np.asarray(expit(platt.slope * _logit(_probabilities("y_score", y_score)) + platt.bias), dtype=np.float64)


def prior_by_em(scores: ArrayLike, train_prior: float) -> float:
    """The share of pneumonia among unlabelled images, from their calibrated scores alone.

    EM takes the mean of the probabilities for the share, adjusts the probabilities to it, and begins again. It climbs
    a concave likelihood, so where it stands still is its only maximum; that point is found here by bisection, because
    EM itself creeps near 0 and 1.

    The estimate holds as far as two things do: the scores are calibrated where the share is `train_prior`, and images
    of each class look as they did there. If normals look different in the new place (another device, another age),
    they are taken for a change of the share, and nothing in the scores tells. With few images it scatters widely.

    Args:
        scores: calibrated probabilities, 0-1, shape (n,); 0 and 1 themselves count as certain.
        train_prior: the share of pneumonia among the images that the scores were calibrated on, strictly between 0
            and 1. With class weights that is not the share that the network learnt with.

    Returns:
        The share, 0-1; 0 and 1 where the scores are likeliest without any pneumonia, or any normal.

    Raises:
        ValueError: all scores are alike, so that EM cannot leave where it began: they do not say what the share is.
            Also for scores outside 0-1 and a prior that is not strictly between 0 and 1.

    Source:
        Saerens, Latinne & Decaestecker 2002, doi:10.1162/089976602753284446; its likelihood: Alexandari, Kundaje &
        Shrikumar 2020, doi:10.48550/arXiv.1901.06852.

    >>> round(prior_by_em([0.9, 0.9, 0.9, 0.9, 0.1, 0.1], train_prior=0.5), 4)
    0.7083
    """
    score = _probabilities("scores", scores)
    _check_prior("train_prior", train_prior)
    if score.min() == score.max():
        raise ValueError(f"all {score.size} scores are {score[0]:g}: they do not say how common pneumonia is")
    pneumonia, normal = score / train_prior, (1 - score) / (1 - train_prior)  # the likelihoods, up to a factor
    with np.errstate(divide="ignore", over="ignore"):  # infinity compares as it should
        if np.mean(pneumonia / normal) <= 1:
            return 0.0
        if np.mean(normal / pneumonia) <= 1:
            return 1.0
    low, high = 0.0, 1.0
    for _ in range(200):  # halving; float64 is exhausted before
        share = (low + high) / 2
        if share in (low, high):
            break
        if np.sum((pneumonia - normal) / (share * pneumonia + (1 - share) * normal)) > 0:
            low = share
        else:
            high = share
    return share


def adjust_prior(scores: ArrayLike, old_prior: float, new_prior: float) -> Floats:
    """What probabilities become where pneumonia is `new_prior` common instead of `old_prior`.

    Bayes' rule: the odds are multiplied by the ratio of the prior odds. The order of the images stays; 0 and 1 stay.

    Args:
        scores: probabilities that are calibrated where the share of pneumonia is `old_prior`, 0-1, shape (n,).
        old_prior: strictly between 0 and 1.
        new_prior: strictly between 0 and 1.

    Returns:
        float64 (n,), 0-1.

    Raises:
        ValueError: a prior that is not strictly between 0 and 1, scores outside 0-1, NaN, or no vector.

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
    if not ((score >= 0) & (score <= 1)).all():  # NaN is neither
        raise ValueError(f"{name} holds NaN or values outside 0-1, expected probabilities: apply the sigmoid to logits")
    return score


def _check_prior(name: str, prior: float) -> None:
    if not 0 < prior < 1:
        raise ValueError(f"{name} is {prior}, expected a share of pneumonia strictly between 0 and 1")
