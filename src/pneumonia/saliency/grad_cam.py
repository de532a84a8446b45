"""Grad-CAM: feature maps, each weighed by its mean gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency.cam import activation_maps
from pneumonia.saliency.maps import Maps


def grad_cam(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """Grad-CAM: the feature maps of one layer, each with one weight, the mean of its gradients of the logit.

    Exact only where a mean over the whole map follows the layer; elsewhere the weights mix regions that the network
    uses in opposite ways, and `hires_cam` is better.

    Args:
        model: a network of `networks.MODELS`, whose row names the layer, or an ensemble, with the mean of the maps.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74.
    """
    return activation_maps(
        model, images, lambda values, slopes: (values * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1)
    )
