"""Helpers of all saliency methods: batches as input, maps from 0 to 1 as output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Maps = npt.NDArray[np.float32]


def compiled(function: Callable[[Any], Any]) -> Callable[[Maps], Any]:
    """A function of tensors, compiled to a TensorFlow graph that takes numpy batches."""
    import tensorflow as tf

    graph = tf.function(function, reduce_retracing=True)
    return lambda batch: graph(tf.constant(batch))


def batches(images: npt.NDArray[np.uint8], size: int = 32) -> list[Maps]:
    """Images as input of networks, `size` at a time: float32 (size, height, width, 1), 0-255."""
    return [images[start : start + size, ..., None].astype(np.float32) for start in range(0, len(images), size)]


def scaled(maps: Maps) -> Maps:
    """Maps from 0 to 1, each divided by its maximum; a map of zeros is not changed."""
    maximum = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(maximum > 0, maximum, 1), dtype=np.float32)
