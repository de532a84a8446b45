"""The boxes that are left of those that all cells of a detector say, without any part of the network."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

MIN_SCORE, MAX_OVERLAP, MAX_BOXES = 0.02, 0.3, 20
"""Of the boxes of an image: the least score, the largest intersection over union of two of them, the number. The boxes
of two opacities rarely overlap: each lung has its own."""


def suppressed(
    boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], width: float, height: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The boxes of an image: those with the highest scores that do not overlap others of a higher score.

    Args:
        boxes, scores: of all cells of an image, (cells, 4) and (cells,), as `models.detector.decode` returns them.
        width, height: of the image, in the unit of the result.

    Returns:
        float64 (m, 4): x, y, width, height, clipped to the image, and (m,): scores from high to low.
    """
    kept = np.asarray(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), MIN_SCORE, MAX_OVERLAP), np.intp).reshape(-1)[
        :MAX_BOXES
    ]
    inside = clipped(boxes[kept].astype(np.float64), 1, 1) * (width, height, width, height)
    return inside, scores[kept].astype(np.float64)


def clipped(boxes: npt.NDArray[np.float64], width: float, height: float) -> npt.NDArray[np.float64]:
    """The parts of boxes, (m, 4): x, y, width, height, that lie in an image of this size; sides of 0 outside it."""
    start = np.clip(boxes[:, :2], 0, (width, height))
    return np.concatenate([start, np.clip(boxes[:, :2] + boxes[:, 2:], 0, (width, height)) - start], axis=1)
