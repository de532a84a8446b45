"""EfficientNet-Lite0, which `keras.applications` does not have: no squeeze-and-excitation, ReLU6 and not swish.

Source: Tan & Le (2019), EfficientNet, arXiv:1905.11946; the variant Lite0 is of the same authors, 2020.
"""

from __future__ import annotations

from typing import Any

# Repeats, channels, size of the depthwise kernel, stride of the first block, expansion.
_STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
_STEM, _HEAD = 32, 1280
BLOCKS = ("stem_", *(f"block{number}_" for number in range(sum(stage[0] for stage in _STAGES))), "head_")
"""Beginnings of the names of its layers, from input to output."""


def lite0(*, include_top: bool, weights: None, input_shape: Any = None, input_tensor: Any = None) -> Any:
    """The network up to its last feature maps, of 1,280 channels; 3,413,024 parameters. Called as `keras.applications`.

    Args:
        include_top: False; the published classes are not used here.
        weights: None; those published are in another format, see `efficientnet_weights`.
        input_shape: (height, width, 3); or
        input_tensor: of this shape, with values of about -1 to 1.
    """
    import keras
    from keras import layers

    def convolution(x: Any, name: str, channels: int, *, stride: int = 1, size: int = 1, active: bool = True) -> Any:
        layer = layers.Conv2D(channels, size, stride, padding="same", use_bias=False, name=f"{name}_conv")
        return normalised(layer(x), name, active=active)

    def normalised(x: Any, name: str, *, active: bool) -> Any:
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if active else x

    pixels = layers.Input(input_shape, name="pixels") if input_tensor is None else input_tensor
    x = convolution(pixels, "stem", _STEM, stride=2, size=3)
    number = 0
    for repeats, channels, size, first_stride, expansion in _STAGES:
        for repeat in range(repeats):
            name, before = f"block{number}", x
            stride = first_stride if repeat == 0 else 1
            if expansion > 1:
                x = convolution(x, f"{name}_expand", expansion * x.shape[-1])
            layer = layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv")
            x = normalised(layer(x), f"{name}_depthwise", active=True)
            x = convolution(x, f"{name}_project", channels, active=False)
            if repeat > 0:
                x = layers.Add(name=f"{name}_add")([x, before])
            number += 1
    x = convolution(x, "head", _HEAD)
    source = keras.utils.get_source_inputs(x) if input_tensor is not None else pixels
    return keras.Model(source, x, name="efficientnet_lite0")
