"""A short description of a prepared image, by which an image that is no such radiograph is recognised."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

GRID = 6
"""Cells along each side of the thumbnail."""

SCALES = 5
"""Scales of the texture, each half of the one before."""

QUANTILES = (5, 25, 50, 75, 95)


def describe(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Where an image is bright, how much detail it has at each scale, and how its gray levels are distributed.

    The thumbnail tells a chest from a turned or inverted one, a photograph or a document. The texture tells it from
    noise and from an empty image. No network is needed, so the description is the same for every model.

    Args:
        image: uint8 (size, size), 0-255, as `geometry.prepare` makes it.

    Returns:
        float64 (47,): the 36 means of a 6 x 6 grid, row by row; the logarithms of the mean detail at five scales; the
        5th, 25th, 50th, 75th and 95th percentile; the share of black pixels.
    """
    thumbnail = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float64)
    details, scale = [], image.astype(np.float32)
    for _ in range(SCALES):
        smooth = cv2.GaussianBlur(scale, (0, 0), 1.0)
        details.append(np.log(np.abs(scale - smooth).mean() + 0.1))  # 0.1: an image without any detail is finite
        half = max(1, smooth.shape[1] // 2), max(1, smooth.shape[0] // 2)
        scale = np.asarray(cv2.resize(smooth, half, interpolation=cv2.INTER_AREA), np.float32)
    return np.concatenate([thumbnail.ravel(), details, np.percentile(image, QUANTILES), [(image == 0).mean()]])
