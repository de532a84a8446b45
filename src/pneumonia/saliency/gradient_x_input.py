"""Gradient x input: how much each pixel adds to the logit, to first order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency import network
from pneumonia.saliency.maps import Maps, batches, scaled, smoothed


def gradient_x_input(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """Gradient x input: the size of each pixel's gradient of the logit times its gray level.

    A bright pixel is prominent also where the network hardly uses it: a baseline for better methods.

    Args:
        model: a network of `networks.MODELS`, or an ensemble.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Shrikumar et al. (2016), arXiv:1605.01713.
    """
    gradients = network.gradients(model)
    return scaled(np.concatenate([smoothed(np.abs(gradients(batch) * batch[..., 0])) for batch in batches(images)]))
