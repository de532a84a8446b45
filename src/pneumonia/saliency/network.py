"""What the methods need of a network: logits, gradients, feature maps, and random weights. The one adapter to Keras.

Every function takes numpy batches, float32 (n, height, width, 1), 0-255, and returns float32. Of a Keras network it is
compiled once; all work for each row of `networks.MODELS`, for ensembles and in half precision. In place of a Keras
network they take an `exported.Exported`, which has the one that was exported, and needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia import UserError
from pneumonia.saliency.exported import Exported
from pneumonia.saliency.maps import Maps

_N_CACHED = 6


def logits(model: Any) -> Callable[[Maps], Maps]:
    """The logit of each image: float32 (n,)."""
    compute = _computed(model, "logits")
    return lambda batch: compute(batch)[0]


def gradients(model: Any) -> Callable[[Maps], Maps]:
    """The gradient of the logit at each pixel: float32 (n, height, width)."""
    compute = _computed(model, "gradients")
    return lambda batch: compute(batch)[0]


def features(model: Any) -> Callable[[Maps], list[tuple[Maps, Maps]]]:
    """Feature maps of the layer to explain, and the gradients of the logit there.

    Returns:
        A function whose result has a pair for each member of an ensemble, and one pair for a single network:
        features and gradients, float32 (n, rows, columns, channels).
    """
    compute = _computed(model, "features")

    def pairs(batch: Maps) -> list[tuple[Maps, Maps]]:
        tensors = compute(batch)
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    return pairs


def cells(model: Any) -> Callable[[Maps], Maps]:
    """Of a detector the logit of each cell, that the middle of an opacity is there: float32 (n, rows, columns).

    Raises:
        UserError: it is no detector.
    """
    compute = _computed(model, "cells")
    return lambda batch: compute(batch)[0]


def _computed(model: Any, primitive: str) -> Callable[[Maps], list[Maps]]:
    if isinstance(model, Exported):
        return partial(model.compute, primitive)
    return _compiled(model, primitive, _layer(model) if primitive == "features" else "")


@lru_cache(maxsize=_N_CACHED)
def _compiled(model: Any, primitive: str, layer: str) -> Callable[[Maps], list[Maps]]:
    """A primitive as a function of numpy arrays; for another layer it is another function."""
    import tensorflow as tf

    graph = tf.function(tensors(model, primitive), reduce_retracing=True)
    return lambda batch: [np.asarray(one.numpy(), np.float32) for one in graph(tf.constant(batch))]


def tensors(model: Any, primitive: str) -> Callable[[Any], list[Any]]:
    """A primitive of a Keras network as a function of tensors, to compile or to export: from pixels to its results.

    Args:
        model: a network of `networks.MODELS`, or an ensemble.
        primitive: `logits`, `gradients`, `cells`, or `features`: of each member the features and their gradients.
    """
    return {"logits": _logits, "gradients": _gradients, "features": _features, "cells": _cells}[primitive](model)


def _logits(model: Any) -> Callable[[Any], list[Any]]:
    inner = _up_to_logit(model)
    return lambda pixels: [inner(pixels, training=False)[:, 0]]


def _gradients(model: Any) -> Callable[[Any], list[Any]]:
    import tensorflow as tf

    inner = _up_to_logit(model)

    def gradient(pixels: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            total = tf.reduce_sum(inner(pixels, training=False))
        return [tape.gradient(total, pixels)[..., 0]]

    return gradient


def _features(model: Any) -> Callable[[Any], list[Any]]:
    import keras
    import tensorflow as tf

    from pneumonia.models import ensembles

    layer = _layer(model)
    inners = [
        keras.Model(member.inputs, [member.get_layer(layer).output, member.get_layer("logit").output])
        for member in ensembles.members(model)
    ]

    def pair(inner: Any, pixels: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(pixels)  # records all that is computed from it, also the features
            values, logit = inner(pixels, training=False)
            total = tf.reduce_sum(logit)
        return tf.cast(values, tf.float32), tf.cast(tape.gradient(total, values), tf.float32)

    return lambda pixels: [one for inner in inners for one in pair(inner, pixels)]


def _cells(model: Any) -> Callable[[Any], list[Any]]:
    import keras

    from pneumonia.models import detector, ensembles

    if not detector.is_detector(model):
        raise UserError(f"detector_map is the map of a detector, and this {model.name} draws no boxes; leave it out")
    heads = [keras.Model(member.input, member.get_layer(detector.CENTRE).output) for member in ensembles.members(model)]
    return lambda pixels: [sum(head(pixels, training=False)[..., 0] for head in heads) / len(heads)]


def _layer(model: Any) -> str:
    from pneumonia.models import networks  # imports pandas, which a prediction does not need

    return networks.model_row(model.name).explain


def depth(model: Any) -> int:
    """Number of layers with weights, in the deepest member of an ensemble."""
    return max(len(layers) for layers in _layers_from_the_top(model))


@contextmanager
def randomised(model: Any, places: Sequence[int], seed: int) -> Iterator[None]:
    """The model with new random weights in some layers; its own weights return at the end.

    Kernels are drawn as Glorot and Bengio do, other weights are those of a layer that has learnt nothing. A layer gets
    the same weights whatever others are drawn. The weights are changed in place, so that compiled functions stay valid.

    Args:
        model: a network of `networks.MODELS` or an ensemble.
        places: of layers with weights, counted from the logit, which is 0.
        seed: of the weights.
    """
    chosen = [
        (layer, np.random.default_rng([seed, member, place]))
        for member, layers in enumerate(_layers_from_the_top(model))
        for place, layer in enumerate(layers)
        if place in places
    ]
    learnt = [layer.get_weights() for layer, _ in chosen]
    try:
        for layer, rng in chosen:
            layer.set_weights([_untrained(weight.path, weight.shape, rng) for weight in layer.weights])
        yield
    finally:
        for (layer, _), weights in zip(chosen, learnt, strict=True):
            layer.set_weights(weights)


def _layers_from_the_top(model: Any) -> list[list[Any]]:
    from pneumonia.models import ensembles

    return [[layer for layer in reversed(member.layers) if layer.weights] for member in ensembles.members(model)]


def _untrained(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Weights of a layer before training, by the name and shape of the variable."""
    if len(shape) == 1:
        return np.full(shape, path.endswith(("gamma", "moving_variance")), np.float32)
    window = int(np.prod(shape[:-2]))
    fan_in, fan_out = (window * channels for channels in shape[-2:])
    if "depthwise" in path:  # each channel has its own kernel
        fan_in = fan_out = window
    limit = np.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def _up_to_logit(model: Any) -> Any:
    import keras

    return keras.Model(model.inputs, model.get_layer("logit").output)
