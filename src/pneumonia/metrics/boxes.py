"""How well predicted boxes find the true ones: the metric of the RSNA challenge, average precision and FROC.

Boxes are x, y, width, height, in one unit for all boxes of an image. A higher score means that an opacity is more
likely. All intervals are percentiles of a bootstrap that draws patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from pneumonia.data import image_boxes
from pneumonia.metrics.arrays import Bools, Floats, check_level, sampling_units
from pneumonia.metrics.report import N_RESAMPLES, percentile_interval, resample
from pneumonia.metrics.text import with_interval

RSNA_IOUS = tuple(round(0.4 + 0.05 * step, 2) for step in range(8))
"""Thresholds of the challenge, .40 to .75."""

AP_IOU = 0.5
"""Of average precision and FROC."""

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Per image, at which FROC is reported."""


class Film(NamedTuple):
    """The boxes of one image.

    Attributes:
        truth: float (k, 4), true boxes.
        boxes: float (m, 4), predicted boxes.
        scores: float (m,), of the predicted boxes.
    """

    truth: Floats
    boxes: Floats
    scores: Floats


Find = Callable[[npt.NDArray[np.intp]], Sequence[tuple[Floats, Floats]]]
"""From rows of a split to the boxes of each, (m, 4), and their scores, (m,)."""


class Froc(NamedTuple):
    """Points of a FROC curve, float64 (n_points,) each: both rise as `thresholds` falls."""

    false_positives: Floats
    sensitivity: Floats
    thresholds: Floats


def judged(boxes: image_boxes.Boxes | None, find: Find) -> dict[int, Film]:
    """Row -> boxes of the images of a split whose boxes are known, in pixels of the store.

    Args:
        boxes: of the split; None where the source has none.
        find: called with these rows.
    """
    if boxes is None:
        return {}
    rows = np.flatnonzero(image_boxes.are_known(boxes))
    found = find(rows)
    return {
        row: Film(image_boxes.of_image(boxes, row), *of_row) for row, of_row in zip(rows.tolist(), found, strict=True)
    }


def iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Intersection over union of each box of `a`, (k, 4), with each of `b`, (m, 4): float64 (k, m), 0-1.

    >>> iou([[0, 0, 2, 2]], [[1, 0, 2, 2], [5, 5, 1, 1]]).round(3).tolist()
    [[0.333, 0.0]]
    """
    one, other = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a, b))
    first, second = one[:, None], other[None]
    ends = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = np.clip(ends - np.maximum(first[..., :2], second[..., :2]), 0, None).prod(axis=2)
    union = first[..., 2:].prod(axis=2) + second[..., 2:].prod(axis=2) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(union), where=union > 0))


def hits(film: Film, threshold: float, *, strict: bool = False) -> Bools:
    """Which predicted boxes of an image hit a true one, bool (m,), in the order of the predictions.

    From the highest score to the lowest, each takes the true box that it overlaps most of those that are still free;
    a second box on the same opacity is a false alarm.

    Args:
        film: its boxes.
        threshold: least intersection over union.
        strict: whether it has to be above the threshold, as in the challenge, not at it, as COCO asks.
    """
    overlap = iou(film.boxes, film.truth)
    is_hit, is_free = np.zeros(len(film.boxes), np.bool_), np.ones(len(film.truth), np.bool_)
    for row in np.argsort(-film.scores, kind="stable"):
        if not is_free.any():
            break
        place = int(np.argmax(np.where(is_free, overlap[row], -1)))
        if overlap[row, place] > threshold or (not strict and overlap[row, place] == threshold):
            is_hit[row], is_free[place] = True, False
    return is_hit


def rsna_score(film: Film) -> float:
    """The score of one image in the challenge: hits / (hits + false alarms + misses), averaged over `RSNA_IOUS`.

    An image without true boxes scores 0 if any box is predicted; without any it does not count, and the score is NaN.

    Source: the page "Evaluation" of the RSNA Pneumonia Detection Challenge (2018).

    >>> rsna_score(Film(np.array([[0, 0, 10, 10.0]]), np.array([[0, 0, 10, 6.0]]), np.array([0.9])))
    0.5
    """
    if not len(film.truth):
        return 0.0 if len(film.boxes) else float("nan")
    n_both = len(film.truth) + len(film.boxes)
    n_hits = [int(hits(film, threshold, strict=True).sum()) for threshold in RSNA_IOUS]
    return float(np.mean([n / (n_both - n) for n in n_hits]))


def rsna_map(films: Sequence[Film]) -> float:
    """The metric of the challenge: the mean of `rsna_score` over the images that count.

    It depends on how many boxes are predicted: choose the least score of a box on validation.

    Raises:
        ValueError: no image counts.
    """
    return _defined(_Sample(films).rsna(np.ones((1, len(films)))), "the RSNA metric needs an image with boxes")


def average_precision(films: Sequence[Film]) -> float:
    """Average precision at an intersection over union of .5, as COCO defines it.

    Precision at 101 levels of recall from 0 to 1, each the highest at this recall or above, 0 where the recall is not
    reached; their mean.

    Raises:
        ValueError: no true box.

    Source: Lin et al. (2014), arXiv:1405.0312; `COCOeval` of pycocotools.
    """
    return _defined(_Sample(films).precision(np.ones((1, len(films)))), "average precision needs a true box")


def precision_recall(films: Sequence[Film]) -> tuple[Floats, Floats, Floats]:
    """Recall, precision and score of the boxes from the highest score to the lowest, float64 (m,) each."""
    sample = _Sample(films)
    true_positives = np.cumsum(sample.hit)
    recall = true_positives / max(1, int(sample.n_truth.sum()))
    return recall, true_positives / np.arange(1, len(sample.hit) + 1), sample.score


def froc(films: Sequence[Film]) -> Froc:
    """The share of true boxes that are found, against false alarms per image, at each distinct score.

    The false alarms of all images count, of those with and without true boxes. A hit needs an intersection over union
    of .5.

    Raises:
        ValueError: no true box.

    Source: Bunch et al. (1978), doi:10.1117/12.955926.
    """
    sample = _Sample(films)
    n_truth = int(sample.n_truth.sum())
    if n_truth == 0:
        raise ValueError("0 true boxes, FROC needs at least one: leave the figure out")
    last = _is_last(sample.score)
    found = np.cumsum(sample.hit)[last] / n_truth
    alarms = np.cumsum(~sample.hit)[last] / len(films)
    return Froc(*(np.append(start, part) for start, part in ((0, alarms), (0, found), (np.inf, sample.score[last]))))


def above(films: Sequence[Film], threshold: float) -> list[Film]:
    """The images with those predicted boxes whose score is at or above a threshold."""
    return [
        one._replace(boxes=one.boxes[at], scores=one.scores[at]) for one in films for at in [one.scores >= threshold]
    ]


def best_threshold(films: Sequence[Film]) -> float:
    """The least score of a shown box with the highest `rsna_map`, of all scores; of equals the highest.

    Hits go from the highest score down, so that those of fewer boxes are the first ones: one matching serves all
    thresholds.

    Args:
        films: of validation.

    Raises:
        ValueError: no box is predicted.
    """
    scores, changes, joins = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for film in films:
        order = np.argsort(-film.scores, kind="stable")
        n_boxes, n_true = np.arange(1, len(order) + 1), len(film.truth)
        values = np.zeros(len(order))  # the score of the image with its first boxes
        if n_true:
            n_hits = np.array([np.cumsum(hits(film, one, strict=True)[order]) for one in RSNA_IOUS])
            values = (n_hits / (n_true + n_boxes - n_hits)).mean(axis=0)
        scores.append(film.scores[order])
        changes.append(np.diff(values, prepend=0.0))
        joins.append(np.asarray((n_boxes == 1) & (n_true == 0), np.float64))  # it counts from its first box on
    score, change, join = (np.concatenate(parts) for parts in (scores, changes, joins))
    if not len(score):
        raise ValueError("no box is predicted, so that there is no threshold to choose")
    order = np.argsort(-score, kind="stable")
    n_images = sum(len(film.truth) > 0 for film in films) + np.cumsum(join[order])
    mean = np.divide(np.cumsum(change[order]), n_images, out=np.zeros(len(order)), where=n_images > 0)
    is_last = _is_last(score[order])
    return float(score[order][is_last][np.argmax(mean[is_last].round(12))])


def detection_report(
    shown: Sequence[Film],
    films: Sequence[Film],
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one split with their intervals, as plain numbers for JSON.

    Args:
        shown: the images with the boxes that a user is shown: those above a score that was chosen on validation.
        films: the same images with all their boxes.
        groups: patient ids, (n,); None = each image is its own group.
        level: of the intervals, 0-1.
        seed: of the bootstrap.

    Returns:
        `n`, `n_boxes` (true ones), `n_shown` (predicted ones); `rsna_map`, of the shown boxes, and `ap50`, of all, each
        with `_low` and `_high`; `froc`: for each of `FALSE_POSITIVES` `false_positives` and `sensitivity` with its
        limits. A figure without an interval is left out.
    """
    check_level(level)
    unit = sampling_units(groups, len(films))
    of_shown, of_all = _Sample(shown), _Sample(films)
    figures = {"rsna_map": of_shown.rsna, "ap50": of_all.precision, "froc": of_all.sensitivity}
    one = np.ones((1, len(films)))
    estimates = {name: function(one)[0] for name, function in figures.items()}
    draws: dict[str, list[Any]] = {name: [] for name in figures}
    for counts in resample(unit, N_RESAMPLES, seed):
        for start in range(0, len(counts), 50):  # of each resample a matrix of boxes is made
            for name, function in figures.items():
                draws[name].append(function(counts[start : start + 50].astype(np.float64)))
    report: dict[str, Any] = {
        "n": len(films),
        "n_boxes": int(of_all.n_truth.sum()),
        "n_shown": len(of_shown.score),
    }
    for name in ("rsna_map", "ap50"):
        report |= _with_limits(name, float(estimates[name]), np.concatenate(draws[name]), level)
    values = np.concatenate(draws["froc"])
    report["froc"] = [
        {"false_positives": rate, **_with_limits("sensitivity", float(estimate), column, level)}
        for rate, estimate, column in zip(FALSE_POSITIVES, estimates["froc"], values.T, strict=True)
    ]
    return report


def gain(
    a: Sequence[Film],
    b: Sequence[Film],
    figure: Literal["rsna_map", "ap50"],
    *,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A figure of `b` less that of `a` on the same images, and its interval.

    Args:
        a, b: the images in the same order; those boxes of which the figure is, all or the shown ones.
        figure: `rsna_map` or `ap50`, as in `detection_report`.
        groups, level, seed: as there.

    Raises:
        ValueError: the figure is undefined, or is so in more than half of the resamples.
    """
    check_level(level)
    function = {"rsna_map": _Sample.rsna, "ap50": _Sample.precision}[figure]
    one, other = _Sample(a), _Sample(b)

    def difference(counts: Floats) -> Floats:
        return function(other, counts) - function(one, counts)

    estimate = _defined(difference(np.ones((1, len(a)))), f"{figure} needs images with boxes")
    draws = [
        difference(counts[start : start + 50].astype(np.float64))
        for counts in resample(sampling_units(groups, len(a)), N_RESAMPLES, seed)
        for start in range(0, len(counts), 50)
    ]
    limits = percentile_interval(estimate, np.concatenate(draws), level)
    if limits is None:
        raise ValueError(f"{figure} is undefined in more than half of the resamples: leave the difference out")
    return estimate, *limits


def _with_limits(name: str, estimate: float, values: Floats, level: float) -> dict[str, float]:
    interval = percentile_interval(estimate, values, level) if np.isfinite(estimate) else None
    return {} if interval is None else with_interval(name, estimate, *interval)


def _defined(values: Floats, need: str) -> float:
    if not np.isfinite(values[0]):
        raise ValueError(f"{need}: leave the figure out")
    return float(values[0])


class _Sample:
    """All boxes of a set of images in the order of their scores, so that figures of many resamples are sums.

    Its methods take counts, float64 (n_resamples, n): how often each resample contains each image; they return NaN
    where the figure is undefined.
    """

    def __init__(self, films: Sequence[Film]) -> None:
        self._films = films
        self.n_truth = np.array([len(film.truth) for film in films], np.float64)
        image = np.repeat(np.arange(len(films)), [len(film.scores) for film in films])
        score = np.concatenate([np.zeros(0), *(film.scores for film in films)])
        self._order = np.argsort(-score, kind="stable")
        self.image, self.score = image[self._order], score[self._order]

    # Each figure needs one of these two; matching boxes takes most of the time.
    @cached_property
    def rsna_scores(self) -> Floats:
        return np.array([rsna_score(film) for film in self._films])

    @cached_property
    def hit(self) -> Bools:
        return np.concatenate([np.zeros(0, np.bool_), *(hits(film, AP_IOU) for film in self._films)])[self._order]

    def rsna(self, counts: Floats) -> Floats:
        is_counted = np.isfinite(self.rsna_scores)
        return _ratio(counts @ np.where(is_counted, self.rsna_scores, 0), counts @ is_counted.astype(np.float64))

    def precision(self, counts: Floats) -> Floats:
        n_truth, weight = counts @ self.n_truth, counts[:, self.image]
        true_positives, total = np.cumsum(weight * self.hit, axis=1), np.cumsum(weight, axis=1)
        precision = np.divide(true_positives, total, out=np.zeros_like(total), where=total > 0)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        levels, values = np.linspace(0, 1, 101), np.full(len(counts), np.nan)
        for row in np.flatnonzero(n_truth):
            places = np.searchsorted(true_positives[row] / n_truth[row], levels, side="left")
            values[row] = np.append(highest[row], 0.0)[places].mean()
        return values

    def sensitivity(self, counts: Floats) -> Floats:
        """(n_resamples, len(FALSE_POSITIVES)): the highest at no more false alarms than each rate."""
        n, n_truth, weight = counts.sum(axis=1), counts @ self.n_truth, counts[:, self.image]
        is_last = _is_last(self.score)
        found, alarms = (np.cumsum(weight * of, axis=1)[:, is_last] for of in (self.hit, ~self.hit))
        values = np.full((len(counts), len(FALSE_POSITIVES)), np.nan)
        for row in np.flatnonzero(n_truth):
            places = np.searchsorted(alarms[row] / n[row], FALSE_POSITIVES, side="right")
            values[row] = np.insert(found[row], 0, 0.0)[places] / n_truth[row]
        return values


def _is_last(scores: Floats) -> Bools:
    """Of sorted scores, which are the last of their equals: only there a threshold can be."""
    return np.append(scores[1:] != scores[:-1], True) if len(scores) else np.zeros(0, np.bool_)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)
