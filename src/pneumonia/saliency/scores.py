"""Scores of how well saliency maps agree with known findings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pneumonia.saliency.maps import Maps

Boxes = list[npt.NDArray[np.float64]]


def inside(boxes: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies in one of the boxes, bool (size, size)."""
    centres = np.arange(size) + 0.5
    mask = np.zeros((size, size), dtype=bool)
    for x, y, width, height in boxes:
        mask |= ((centres >= y) & (centres < y + height))[:, None] & ((centres >= x) & (centres < x + width))
    return mask


def pointing_game(maps: Maps, insides: npt.NDArray[np.bool_]) -> float:
    """Share of the maps whose highest value lies inside.

    Source: Zhang et al. (2018), doi:10.1007/s11263-017-1059-x.
    """
    flat = maps.reshape(len(maps), -1)
    hits = insides.reshape(len(maps), -1)[np.arange(len(maps)), flat.argmax(axis=1)]
    return float((hits & (flat.max(axis=1) > 0)).mean())


def energy_in_box(maps: Maps, insides: npt.NDArray[np.bool_]) -> float:
    """Mean share of a map's sum that lies inside; a map of zeros counts as 0.

    Source: Wang et al. (2020), Score-CAM, doi:10.1109/CVPRW50498.2020.00020.
    """
    total = maps.sum(axis=(1, 2))
    return float(np.mean((maps * insides).sum(axis=(1, 2)) / np.where(total > 0, total, 1)))
