"""Figures of saliency maps, one value for each image, and their means with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from pneumonia.metrics import decisions
from pneumonia.metrics.arrays import sampling_units
from pneumonia.saliency.maps import Maps, batches, blurred

Boxes = list[npt.NDArray[np.float64]]
Values = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

N_RESAMPLES = 2_000
_SIDE = 56
"""Pixels of the maps whose ranks are compared: the regions matter, and it is 16 times as fast."""


class Interval(NamedTuple):
    """A mean with its interval."""

    mean: float
    low: float
    high: float


def inside(boxes: npt.NDArray[np.float64], size: int) -> Bools:
    """Pixels whose centre lies in one of the boxes, bool (size, size)."""
    centres = np.arange(size) + 0.5
    mask = np.zeros((size, size), dtype=bool)
    for x, y, width, height in boxes:
        mask |= ((centres >= y) & (centres < y + height))[:, None] & ((centres >= x) & (centres < x + width))
    return mask


def pointing_game(maps: Maps, insides: Bools) -> Values:
    """Whether the highest value of each map lies inside, 0 or 1: float (n,).

    If several pixels are highest, it is the share of them inside; a map of zeros points nowhere and counts as 0.

    Source: Zhang et al. (2018), doi:10.1007/s11263-017-1059-x.
    """
    flat = maps.reshape(len(maps), -1)
    highest = (flat == flat.max(axis=1, keepdims=True)) & (flat > 0)
    return _share(highest.astype(float), insides.reshape(len(maps), -1))


def energy(maps: Maps, insides: Bools) -> Values:
    """Share of each map's sum that lies inside, float (n,); a map of zeros counts as 0.

    Source: Wang et al. (2020), Score-CAM, doi:10.1109/CVPRW50498.2020.00020.
    """
    return _share(maps.reshape(len(maps), -1).astype(float), insides.reshape(len(maps), -1))


def _share(weights: Values, insides: Bools) -> Values:
    total = weights.sum(axis=1)
    return np.asarray((weights * insides).sum(axis=1) / np.where(total > 0, total, 1), np.float64)


def insertion_deletion(
    probability: Callable[[Maps], Values], images: npt.NDArray[np.uint8], maps: Maps, n_steps: int = 8
) -> tuple[Values, Values]:
    """Mean probability while pixels are inserted into a blurred film, and while they are deleted from the film.

    The pixels with the highest values of the map come first. Insertion is high and deletion low if these are the
    pixels that the network needs.

    Args:
        probability: of a batch, float32 (n, size, size, 1), 0-255.
        images: uint8 (n, size, size).
        maps: float32 (n, size, size).
        n_steps: of equal numbers of pixels.

    Returns:
        float (n,) each, the areas under the two curves, 0-1.

    Source: Petsiuk et al. (2018), RISE, arXiv:1806.07421.
    """
    areas = []
    rng = np.random.default_rng(0)
    lottery = rng.random(images.shape[1:])  # decides between pixels with the same value
    for start, film in zip(range(0, len(images), 32), batches(images), strict=True):
        flat = maps[start : start + len(film)].reshape(len(film), -1)
        order = np.lexsort((np.broadcast_to(lottery.ravel(), flat.shape), flat), axis=-1)
        place = np.empty(order.shape, np.int64)  # 0 is the most important pixel
        np.put_along_axis(place, order, np.arange(flat.shape[1])[::-1][None], axis=-1)
        place = place.reshape(film.shape)
        plain = blurred(film)
        curves = []
        for base, other in ((plain, film), (film, plain)):
            shares = np.linspace(0, 1, n_steps + 1) * flat.shape[1]
            curves.append([probability(np.where(place < n, other, base)) for n in shares])
        areas.append(np.trapezoid(np.array(curves, np.float64), dx=1 / n_steps, axis=1))
    inserted, deleted = np.concatenate(areas, axis=1)
    return inserted, deleted


def rank_correlation(one: Maps, other: Maps) -> Values:
    """Spearman's correlation of the absolute values of two maps of each image, float (n,).

    A map with one value everywhere orders nothing: its correlation with any other map is 0.
    """
    ranks = [np.stack([rankdata(values) for values in _small(maps)]) for maps in (one, other)]
    a, b = (part - part.mean(axis=1, keepdims=True) for part in ranks)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(norm > 0, norm, 1), np.float64)


def _small(maps: Maps) -> npt.NDArray[np.float32]:
    side = min(_SIDE, maps.shape[1])
    resized = [cv2.resize(np.abs(values), (side, side), interpolation=cv2.INTER_AREA) for values in maps]
    return np.stack(resized).reshape(len(maps), -1).astype(np.float32)


def interval(values: Values, patients: Any, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean over images, with an interval for which whole patients are drawn.

    Values that are all 0 or 1 have Wilson's interval, because a bootstrap of a sample without errors has no width. A
    single patient has no interval: it is then the mean alone.

    Args:
        values: float (n,), one for each image.
        patients: identifiers (n,).
        level: of the interval.
        seed: of the resamples.

    Source: Field & Welsh (2007), doi:10.1111/j.1467-9868.2007.00593.x.
    """
    unit = sampling_units(patients, len(values))
    mean, n_units = float(values.mean()), int(unit.max()) + 1
    if np.isin(values, (0, 1)).all():
        n = decisions.effective_trials(values, np.asarray(patients), level)
        return Interval(mean, *decisions.wilson_interval(mean * n, n, level))
    sums, counts = np.bincount(unit, weights=values), np.bincount(unit)
    drawn = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), size=N_RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean))
