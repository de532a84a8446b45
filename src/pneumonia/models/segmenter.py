"""The network that finds lungs: a small U-Net, and its form for `images.lungs`, which needs no Keras.

`benchmarks/segmenter.py` trains it and writes `pneumonia/pretrained/lungs/`.
"""

from __future__ import annotations

import warnings
from typing import Any

from pneumonia.images.lungs import SIDE
from pneumonia.models import half

CHANNELS = (24, 48, 96, 128)
"""Of the levels at 1/2, 1/4, 1/8 and 1/16 of the side."""

OPSET = 18
"""Version of the ONNX operators; runtimes since 2023 know it."""


def create() -> Any:
    """A new network, not yet trained: about 800,000 parameters, 0.4 thousand million multiplications a film.

    The first convolution halves the side, so that no level has the full resolution; the last one doubles it again.

    Returns:
        keras.Model: float32 (n, SIDE, SIDE, 1), gray levels 0-255, equalised -> float32 of the same shape, logits.

    Source: Ronneberger et al. (2015), U-Net, arXiv:1505.04597.
    """
    import keras
    from keras import layers

    pixels = layers.Input((SIDE, SIDE, 1), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    x = _convolution(x, CHANNELS[0], "stem", strides=2)
    levels = []
    for depth, channels in enumerate(CHANNELS):
        if depth:
            x = layers.MaxPooling2D(name=f"down{depth}")(x)
        for number in (1, 2)[: 1 + (depth > 0)]:
            x = _convolution(x, channels, f"encoder{depth}_{number}")
        levels.append(x)
    for depth in (2, 1, 0):
        x = _convolution(x, CHANNELS[depth], f"reduce{depth}", size=1)
        x = layers.UpSampling2D(interpolation="bilinear", name=f"up{depth}")(x)
        x = layers.Add(name=f"join{depth}")([x, levels[depth]])
        x = _convolution(x, CHANNELS[depth], f"decoder{depth}")
    logits = layers.Conv2DTranspose(1, 4, strides=2, padding="same", dtype="float32", name="logits")(x)
    return keras.Model(pixels, logits, name="segmenter")


def loss(y_true: Any, y_pred: Any) -> Any:
    """Cross-entropy and one minus the Dice coefficient of each image, added.

    Args:
        y_true: share of lung of each pixel, 0-1, float32 (n, SIDE, SIDE, 1).
        y_pred: logits of the same shape.

    Returns:
        float32 (n,).

    Source: Milletari et al. (2016), V-Net, arXiv:1606.04797.
    """
    from keras import ops

    smooth = SIDE * SIDE / 200  # of an image without lungs, the Dice coefficient is then 1 where nothing is found
    probability, axes = ops.sigmoid(y_pred), (1, 2, 3)
    common = ops.sum(probability * y_true, axis=axes)
    total = ops.sum(probability, axis=axes) + ops.sum(y_true, axis=axes)
    # max(z, 0) - z y + log(1 + exp(-|z|)), which is stable for logits of any size
    entropy = ops.maximum(y_pred, 0) - y_pred * y_true + ops.log1p(ops.exp(-ops.abs(y_pred)))
    return ops.mean(entropy, axis=axes) + 1 - (2 * common + smooth) / (total + smooth)


def convert(model: Any) -> bytes:
    """The trained network as ONNX: input `pixels` as of `create`, output `lungs`, probabilities 0-1.

    The weights are stored in float16, which halves the file; the runtime widens them once, when it opens it.
    """
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx uses names that numpy and Python have deprecated
        import tf2onnx

        signature = [tf.TensorSpec((None, SIDE, SIDE, 1), tf.float32, name="pixels")]

        def probability(pixels: Any) -> dict[str, Any]:
            return {"lungs": tf.sigmoid(model(pixels, training=False))}

        graph, _ = tf2onnx.convert.from_function(tf.function(probability), input_signature=signature, opset=OPSET)
    half.halve_constants(graph.graph)
    return bytes(graph.SerializeToString(deterministic=True))


def _convolution(x: Any, channels: int, name: str, *, size: int = 3, strides: int = 1) -> Any:
    from keras import layers

    x = layers.Conv2D(channels, size, strides=strides, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(momentum=0.97, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
