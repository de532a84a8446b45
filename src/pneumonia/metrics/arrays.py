"""Checks of arrays, and sums over patients and thresholds that several metrics use."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def sampling_units(groups: ArrayLike | None, n: int) -> Ints:
    """For each of n images the index of its sampling unit: its group, or itself without groups."""
    if groups is None:
        return np.arange(n)
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups has shape {names.shape}, expected ({n},): one id per image")
    # As text, because ids are int, str or pandas objects, and mixed types cannot be sorted.
    names = names.astype(np.str_)
    missing = np.isin(names, ["", "nan", "NaN", "None", "<NA>", "NaT"])
    if missing.any():
        raise ValueError(
            f"groups has {missing.sum()} missing ids of {n}, expected none: "
            "they would be drawn as one patient; give each such image an id of its own"
        )
    return np.unique(names, return_inverse=True)[1]


def unit_sums(unit: Ints, values: Floats) -> Floats:
    """Sum of the values of each unit's images; 0 for a unit without images."""
    return np.bincount(unit, weights=values).astype(np.float64)


def normal_quantile(level: float) -> float:
    """Standard deviations on each side that contain the central share `level`: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def counts_above(positive: Bools, score: Floats) -> tuple[Floats, Ints, Ints]:
    """The distinct scores from high to low, with the numbers of positives and negatives at or above each."""
    scores, inverse = np.unique(score, return_inverse=True)
    n_positive = np.bincount(inverse[positive], minlength=scores.size)
    n_negative = np.bincount(inverse[~positive], minlength=scores.size)
    return scores[::-1], np.cumsum(n_positive[::-1]), np.cumsum(n_negative[::-1])


def check_scores(y_true: ArrayLike, y_score: ArrayLike, *, probabilities: bool = False) -> tuple[Bools, Floats]:
    """The labels as bool and the scores as float64; a ValueError if they are malformed."""
    label, score = as_floats("y_true", y_true), as_floats("y_score", y_score)
    if label.ndim != 1 or label.shape != score.shape:
        raise ValueError(
            f"y_true has shape {label.shape} and y_score {score.shape}, expected (n,) twice: "
            "for a model's output of shape (n, 1) pass scores[:, 0]"
        )
    if label.size == 0:
        raise ValueError("y_true and y_score are empty, expected at least one image: is the split empty?")
    invalid = (label != 0) & (label != 1)
    if invalid.any():
        raise ValueError(
            f"y_true holds {invalid.sum()} values other than 0 and 1, the first is {label[invalid][0]:g}: "
            "code normal as 0 and pneumonia as 1"
        )
    n_not_finite = int(np.sum(~np.isfinite(score)))
    if n_not_finite > 0:
        raise ValueError(
            f"y_score holds {n_not_finite} NaN or infinite values of {score.size}, expected finite ones: "
            "the model diverged or an image was empty; find those rows first"
        )
    if probabilities and (score.min() < 0 or score.max() > 1):
        raise ValueError(
            f"y_score spans {score.min():g} to {score.max():g}, expected probabilities 0-1: apply the sigmoid to logits"
        )
    return label == 1, score


def as_floats(name: str, values: ArrayLike) -> Floats:
    """An array of numbers; else a ValueError with its name."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not an array of numbers ({error}), expected shape (n,): drop or code such rows"
        ) from error


def check_level(level: float) -> None:
    """Raise ValueError for a level of an interval that is not strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a coverage strictly between 0 and 1, such as 0.95")


def need_both_classes(positive: Bools, what: str) -> None:
    """Raise ValueError for labels of one class; `what` names the quantity that would be undefined."""
    n_positive = int(positive.sum())
    if not 0 < n_positive < positive.size:
        raise ValueError(
            f"{n_positive} positives and {positive.size - n_positive} negatives, {what} needs at least one of each: "
            "pool the subgroup with another or leave the figure out"
        )


def need_positives(positive: Bools, what: str) -> None:
    """Raise ValueError for labels without a positive; `what` names the quantity that would be undefined."""
    if not positive.any():
        raise ValueError(f"0 positives among {positive.size} images, {what} needs at least one: leave the figure out")
