"""HiResCAM: feature maps, each cell weighed by its own gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency.cam import activation_maps
from pneumonia.saliency.maps import Maps


def hires_cam(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """HiResCAM: the feature maps of one layer, each cell with its own weight, its gradient of the logit.

    It shows what the logit gains from each cell, to first order.

    Args:
        model: a network of `networks.MODELS`, whose row names the layer, or an ensemble, with the mean of the maps.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Draelos & Carin (2020), arXiv:2011.08891.
    """
    return activation_maps(model, images, lambda values, slopes: (values * slopes).sum(axis=-1))
