"""SmoothGrad: fine maps from the gradients of the pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia.saliency.maps import Maps, batches, compiled, scaled


def smoothgrad(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int, noise: float = 0.1) -> Maps:
    """SmoothGrad: the gradient of the logit at each pixel, averaged over noisy copies of the image.

    Fine, one value per pixel. Gradients are squared before averaging, which ranks regions better than the signed mean.

    Args:
        model: a network of `networks.MODELS`.
        images: uint8 (n, size, size), 0-255.
        n_samples: noisy copies.
        seed: of the noise.
        noise: standard deviation as a share of each image's range.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Smilkov et al. (2017), arXiv:1706.03825; squared: Hooker et al. (2019), arXiv:1806.10758.
    """
    squared_gradient = _squared_gradient(model)
    rng = np.random.default_rng(seed)
    maps: list[Maps] = []
    for batch in batches(images):
        sigma = noise * (batch.max(axis=(1, 2, 3), keepdims=True) - batch.min(axis=(1, 2, 3), keepdims=True))
        total = np.zeros(batch.shape[:3], np.float32)
        for _ in range(n_samples):
            grain = rng.standard_normal(batch.shape, dtype=np.float32) * sigma
            total += squared_gradient(batch + grain).numpy()
        # Single pixels are noisy; a blur of 1 % of the side shows their region.
        maps.extend(cv2.GaussianBlur(values, (0, 0), sigmaX=0.01 * batch.shape[1]) for values in total)
    return scaled(np.stack(maps))


@lru_cache(maxsize=2)
def _squared_gradient(model: Any) -> Callable[[Maps], Any]:
    """The squared gradient of a batch, float32 (n, size, size); compiled once for a model."""
    import keras
    import tensorflow as tf

    inner = keras.Model(model.inputs, model.get_layer("logit").output)

    def squared_gradient(pixels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            total = tf.reduce_sum(inner(pixels, training=False))
        return tf.square(tape.gradient(total, pixels)[..., 0])

    return compiled(squared_gradient)
