"""What the class activation maps share: feature maps of one layer, each weighed in the way of the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency import network
from pneumonia.saliency.maps import Maps, batches, enlarged, scaled


def activation_maps(model: Any, images: npt.NDArray[np.uint8], weigh: Callable[[Maps, Maps], Maps]) -> Maps:
    """Maps of the layer that the model's row of `networks.MODELS` names; of an ensemble the mean of the maps.

    Only what speaks for pneumonia is shown: negative values are 0.

    Args:
        model: a network of `networks.MODELS`, or an ensemble.
        images: uint8 (n, size, size), 0-255.
        weigh: from features and their gradients, float32 (n, rows, columns, channels), to (n, rows, columns).

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.
    """
    pairs_of = network.features(model)
    maps = []
    for batch in batches(images):
        members = [np.maximum(weigh(values, slopes), 0) for values, slopes in pairs_of(batch)]
        maps.append(enlarged(np.mean(members, axis=0, dtype=np.float32), images.shape[1]))
    return scaled(np.concatenate(maps))
