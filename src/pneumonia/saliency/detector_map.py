"""The heat map of a detector: how likely the middle of an opacity is at each place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency import network
from pneumonia.saliency.maps import Maps, batches, enlarged, scaled


def detector_map(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """What the head of the boxes says of each cell: the probability that the middle of an opacity is there.

    It is an answer of its own, which learnt where boxes are; the other methods tell what the score of the image depends
    on. The network judges the image by it too.

    Args:
        model: a detector, or an ensemble of some, with the mean of the logits.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Raises:
        UserError: the network draws no boxes.
    """
    cells = network.cells(model)
    maps = []
    for batch in batches(images):
        likely = np.asarray(1 / (1 + np.exp(-cells(batch))), np.float32)
        maps.append(enlarged(likely, images.shape[1]))
    return scaled(np.concatenate(maps))
