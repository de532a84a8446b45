"""SmoothGrad: fine maps from the gradients of the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency import network
from pneumonia.saliency.maps import Maps, batches, scaled, smoothed


def smoothgrad(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int, noise: float = 0.1) -> Maps:
    """SmoothGrad: the gradient of the logit at each pixel, averaged over noisy copies of the image.

    Fine, one value per pixel. Gradients are squared before averaging, which ranks regions better than the signed mean.

    Args:
        model: a network of `networks.MODELS`, or an ensemble.
        images: uint8 (n, size, size), 0-255.
        n_samples: noisy copies.
        seed: of the noise. Each image has the same noise, so that its map does not depend on the other images.
        noise: standard deviation as a share of each image's range.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Smilkov et al. (2017), arXiv:1706.03825; squared: Hooker et al. (2019), arXiv:1806.10758.
    """
    gradients = network.gradients(model)
    maps = []
    for batch in batches(images):
        rng = np.random.default_rng(seed)
        sigma = noise * (batch.max(axis=(1, 2, 3), keepdims=True) - batch.min(axis=(1, 2, 3), keepdims=True))
        total = np.zeros(batch.shape[:3], np.float32)
        for _ in range(n_samples):
            grain = rng.standard_normal(batch.shape[1:], dtype=np.float32)
            total += gradients(batch + sigma * grain) ** 2
        maps.append(smoothed(total))
    return scaled(np.concatenate(maps))
