"""Grad-CAM: coarse maps from the last feature maps of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia.models import networks
from pneumonia.saliency.maps import Maps, batches, compiled, scaled


def grad_cam(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """Grad-CAM: the feature maps of one layer, weighed by how much each moves the logit.

    Coarse (one value per cell of the layer), but it depends on what the model has learnt.

    Args:
        model: a network of `networks.MODELS`, whose row names the layer, or an ensemble: the mean of their maps.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74.
    """
    size = images.shape[1]
    cam = _cam(model, networks.model_row(model.name).explain)
    maps = np.concatenate([cam(batch).numpy() for batch in batches(images)])
    return scaled(np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_LINEAR) for one in maps]))


@lru_cache(maxsize=2)
def _cam(model: Any, layer: str) -> Callable[[Maps], Any]:
    """Compiled once for a model and layer: the weighed feature maps of a batch, float32 (n, rows, columns)."""
    import keras
    import tensorflow as tf

    inners = [
        keras.Model(member.inputs, [member.get_layer(layer).output, member.get_layer("logit").output])
        for member in networks.members(model)
    ]

    def of_one(inner: Any, pixels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(pixels)  # what follows from it is recorded, the features among it
            features, logit = inner(pixels, training=False)
            total = tf.reduce_sum(logit)
        gradient = tape.gradient(total, features)
        channel_weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(features * channel_weights, axis=-1))

    return compiled(lambda pixels: tf.add_n([of_one(inner, pixels) for inner in inners]) / len(inners))
