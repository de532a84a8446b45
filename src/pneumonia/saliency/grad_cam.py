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
    """Grad-CAM: the feature maps of one layer, weighted by their gradients of the logit.

    Coarse (one value per cell of the layer), but it depends on the trained weights.

    Args:
        model: a network of `networks.MODELS`, whose row names the layer, or an ensemble, with the mean of the maps.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74.
    """
    size = images.shape[1]
    cam = _cam(model, networks.model_row(model.name).explain)
    maps = np.concatenate([cam(batch).numpy() for batch in batches(images)])
    return scaled(np.stack([cv2.resize(cam_map, (size, size), interpolation=cv2.INTER_LINEAR) for cam_map in maps]))


@lru_cache(maxsize=2)
def _cam(model: Any, layer: str) -> Callable[[Maps], Any]:
    """The weighted feature maps of a batch, float32 (n, rows, columns); compiled once for a model and layer."""
    import keras
    import tensorflow as tf

    inners = [
        keras.Model(member.inputs, [member.get_layer(layer).output, member.get_layer("logit").output])
        for member in networks.members(model)
    ]

    def member_map(inner: Any, pixels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(pixels)  # records all that is computed from it, also the features
            features, logit = inner(pixels, training=False)
            total = tf.reduce_sum(logit)
        gradient = tape.gradient(total, features)
        channel_weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(features * channel_weights, axis=-1))

    return compiled(lambda pixels: tf.add_n([member_map(inner, pixels) for inner in inners]) / len(inners))
