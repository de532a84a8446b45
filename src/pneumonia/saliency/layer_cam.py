"""LayerCAM: feature maps, each cell weighed by its own positive gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency.cam import activation_maps
from pneumonia.saliency.maps import Maps


def layer_cam(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """LayerCAM: the feature maps of one layer, each cell with its own weight, its gradient where that is positive.

    Unlike `hires_cam` it does not subtract what speaks against pneumonia in the same cell.

    Args:
        model: a network of `networks.MODELS`, whose row names the layer, or an ensemble, with the mean of the maps.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Jiang et al. (2021), doi:10.1109/TIP.2021.3089943.
    """
    return activation_maps(model, images, lambda values, slopes: (values * np.maximum(slopes, 0)).sum(axis=-1))
