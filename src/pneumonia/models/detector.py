"""A single-shot detector: its layers, what it learns, and the boxes that come out of it.

One map of cells, without anchors: each cell says how likely the middle of an opacity is there, and how far the sides
of its box are. Opacities are large and few, so that one map is enough. The RetinaNet of KerasHub was not taken: the
package needs TensorFlow Text and tokenizers, and its network has no score of the image. KerasCV, which came before it,
is made for keras-core. All layers are those of Keras; overlapping boxes are suppressed by OpenCV.

The network has one output as all others, the probability of the image. The heads of the boxes lie on the way to it: the
image is also judged by what was found in it.

Source: TTFNet of Liu et al. (2020), arXiv:1909.00700, after CenterNet of Zhou et al. (2019), arXiv:1904.07850, on a
    pyramid of features (Lin et al. 2017, arXiv:1612.03144) with squeeze-and-excitation (Hu et al. 2018,
    arXiv:1709.01507); multi-task learning as by Gabruseva et al. (2020), arXiv:2005.13899.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia import UserError
from pneumonia.images.suppression import suppressed

STRIDE = 8
"""Pixels of the network's input along each side of a cell."""

FILTERS = (16, 32, 64, 96, 128)
"""Of the stages of the backbone; each halves the sides of its maps."""

BLOCKS = (*(f"stage{number}_" for number in range(1, len(FILTERS) + 1)), "pyramid_", "centre_maps_", "sides_maps_")
"""Prefixes of the layers, for `networks.summary`."""

CHANNELS = 64
"""Of the maps of the pyramid."""

REACH = 0.25
"""Unit of the distances of the sides, as a share of the image: at the start all boxes are about a third of it wide."""

SPREAD = 0.54 / 6
"""Standard deviation of the peak in the middle of a box, as a share of its side. TTFNet's."""

_PRIOR = -2.19
"""Logit of .1: at the start nothing is found, else the empty cells would be most of the loss."""

CENTRE = "centre"
_HEADS = (CENTRE, "sides")
"""Layers whose outputs are the logits of the cells and the distances of the sides."""


def layers_of(x: Any, dropout: float) -> Any:
    """The maps of a network from its input to the features of the image's logit, (n, channels).

    Among the layers are `centre`, float32 (n, side, side, 1), logits, and `sides`, float32 (n, side, side, 4): left,
    top, right, bottom, in units of `REACH`.

    Args:
        x: tensor (n, size, size, 1).
        dropout: share of the features dropped in training, 0-1.

    Raises:
        UserError: the size is no multiple of 32.
    """
    from keras import initializers, layers

    if x.shape[1] % 2 ** len(FILTERS):
        raise UserError(f"train.image_size = {x.shape[1]} must be a multiple of {2 ** len(FILTERS)} for the detector")
    maps = []
    for stage, filters in enumerate(FILTERS, start=1):
        x = _convolution(x, filters, f"stage{stage}_down", strides=2)
        if stage > 1:
            x = _residual(x, filters, f"stage{stage}")
        maps.append(x)
    deepest = layers.GlobalAveragePooling2D(name="deepest_mean")(x)
    x = layers.Conv2D(CHANNELS, 1, name="lateral5")(x)
    for stage in (4, 3):
        above = layers.UpSampling2D(2, name=f"up{stage}")(x)
        x = layers.Add(name=f"fused{stage}")(
            [above, layers.Conv2D(CHANNELS, 1, name=f"lateral{stage}")(maps[stage - 1])]
        )
    x = _convolution(x, CHANNELS, "pyramid")
    # float32 under any precision policy, as the logit of the image.
    centre = _convolution(x, CHANNELS, "centre_maps")
    start = initializers.Constant(_PRIOR)
    centre = layers.Conv2D(1, 1, bias_initializer=start, dtype="float32", name="centre")(centre)
    sides = _convolution(x, CHANNELS, "sides_maps")
    sides = layers.Conv2D(4, 1, activation="softplus", dtype="float32", name="sides")(sides)
    likely = layers.Activation("sigmoid", name="likely", dtype="float32")(centre)
    found = [
        layers.GlobalMaxPooling2D(name="highest", dtype="float32")(centre),
        layers.GlobalAveragePooling2D(name="extent", dtype="float32")(
            layers.Multiply(name="weighted")([likely, sides])
        ),
    ]
    mean = layers.GlobalAveragePooling2D(name="mean")(x)
    seen = layers.Dropout(dropout, name="drop")(layers.Concatenate(name="seen")([deepest, mean]))
    return layers.Concatenate(name="evidence")([seen, *found])


def _convolution(x: Any, filters: int, name: str, strides: int = 1, *, activation: str = "relu") -> Any:
    from keras import layers

    from pneumonia.models.backbones import MOMENTUM

    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return layers.Activation(activation, name=f"{name}_{activation}")(x)


def _residual(x: Any, filters: int, name: str) -> Any:
    """Two convolutions with squeeze-and-excitation, added to their input."""
    from keras import layers

    y = _convolution(x, filters, f"{name}_first")
    y = _convolution(y, filters, f"{name}_second", activation="linear")
    squeezed = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(y)
    squeezed = layers.Conv2D(filters // 8, 1, activation="relu", name=f"{name}_reduce")(squeezed)
    gates = layers.Conv2D(filters, 1, activation="sigmoid", name=f"{name}_excite")(squeezed)
    y = layers.Multiply(name=f"{name}_scale")([y, gates])
    return layers.Activation("relu", name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


def is_detector(model: Any) -> bool:
    """Whether a network, or the members of an ensemble, have the heads of a detector."""
    from pneumonia.models import ensembles

    return any(layer.name == CENTRE for layer in ensembles.members(model)[0].layers)


def without_boxes(model: Any) -> Any:
    """The same network with the same weights under other names of its heads: it learns no boxes, and claims none."""
    import keras

    def renamed(layer: Any) -> Any:
        config = layer.get_config()
        name = f"free_{layer.name}" if layer.name in _HEADS else layer.name
        return type(layer).from_config(config | {"name": name})

    free = keras.models.clone_model(model, clone_function=renamed)
    free.set_weights(model.get_weights())
    return free


def trained_outputs(model: Any) -> list[Any]:
    """The outputs of a network that `loss` compares with what `encode` makes: the logit of the image and the cells."""
    from keras import layers

    heads = [model.get_layer(name).output for name in _HEADS]
    return [model.get_layer("logit").output, layers.Concatenate(name="cells", dtype="float32")(heads)]


def encode(boxes: Any, side: int) -> Any:
    """What the cells should say.

    Args:
        boxes: float32 tensor (n, k, 4): x, y, width, height as shares of the image; rows of width 0 are no boxes; all
            NaN where the boxes of an image are not known.
        side: cells along each side.

    Returns:
        float32 tensor (n, side, side, 7): the peaks, 1 in the cell with the middle of a box; the box of the highest
        peak there: left, top, right, bottom as shares of the image; the weight of these sides; 1 if the boxes are
        known.
    """
    import tensorflow as tf

    is_known = tf.reduce_all(tf.math.is_finite(boxes), axis=(1, 2))
    boxes = tf.where(is_known[:, None, None], boxes, 0.0)
    x, y, width, height = (part[:, None, None] for part in tf.unstack(boxes, axis=2))  # (n, 1, 1, k)
    cells = (tf.range(side, dtype=tf.float32) + 0.5) / side

    def exponent(places: Any, start: Any, extent: Any) -> Any:
        middle = tf.clip_by_value(tf.floor((start + extent / 2) * side), 0, side - 1)
        return ((places - (middle + 0.5) / side) / tf.maximum(SPREAD * extent, 1e-6)) ** 2 / 2

    peaks = tf.exp(-exponent(cells[None, None, :, None], x, width) - exponent(cells[None, :, None, None], y, height))
    peaks = tf.where(width > 0, peaks, 0.0)
    highest = tf.reduce_max(peaks, axis=3)
    ends = tf.stack(
        [boxes[..., 0], boxes[..., 1], boxes[..., 0] + boxes[..., 2], boxes[..., 1] + boxes[..., 3]], axis=2
    )
    box = tf.gather(ends, tf.argmax(peaks, axis=3), axis=1, batch_dims=1)
    weight = tf.where(highest > 0.01, highest, 0.0)
    known = tf.broadcast_to(tf.cast(is_known, tf.float32)[:, None, None], tf.shape(highest))
    return tf.concat([highest[..., None], box, weight[..., None], known[..., None]], axis=3)


def focal_loss(peaks: Any, logits: Any) -> Any:
    """Of each cell: -(1 - p)^2 log p at a peak, elsewhere -(1 - peak)^4 p^2 log(1 - p), where p = sigmoid(logit).

    Source: CenterNet, equation 1; Lin et al. (2017), arXiv:1708.02002.
    """
    from keras import ops

    p = ops.sigmoid(logits)
    at_peak = (1 - p) ** 2 * ops.softplus(-logits)
    elsewhere = (1 - peaks) ** 4 * p**2 * ops.softplus(logits)
    return ops.where(peaks >= 1, at_peak, elsewhere)


def giou_loss(a: Any, b: Any) -> Any:
    """1 less the generalised intersection over union of boxes, (…, 4): left, top, right, bottom.

    Source: Rezatofighi et al. (2019), arXiv:1902.09630.
    """
    from keras import ops

    def area(start: Any, end: Any) -> Any:
        sides = ops.maximum(end - start, 0.0)
        return sides[..., 0] * sides[..., 1]

    shared = area(ops.maximum(a[..., :2], b[..., :2]), ops.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - shared
    hull = area(ops.minimum(a[..., :2], b[..., :2]), ops.maximum(a[..., 2:], b[..., 2:]))
    return 1 - shared / (union + 1e-9) + (hull - union) / (hull + 1e-9)


def loss(target: Any, cells: Any) -> Any:
    """The loss of the boxes of each image, (n,): focal loss of the peaks, and 5 times the GIoU loss of the sides.

    It is 0 for an image whose boxes are not known. The factor is TTFNet's.

    Args:
        target: as `encode` makes it.
        cells: (n, side, side, 5), of `trained_outputs`.
    """
    from keras import ops

    weight, known = target[..., 5], target[:, 0, 0, 6]
    n_boxes = ops.sum(ops.cast(target[..., 0] >= 1, "float32"), axis=(1, 2))
    peaks = ops.sum(focal_loss(target[..., 0], cells[..., 0]), axis=(1, 2)) / ops.maximum(n_boxes, 1.0)
    apart = giou_loss(_ends(cells[..., 1:]), target[..., 1:5])
    sides = ops.sum(weight * apart, axis=(1, 2)) / ops.maximum(ops.sum(weight, axis=(1, 2)), 1e-6)
    return known * (peaks + 5 * sides)


def _ends(sides: Any) -> Any:
    """Left, top, right, bottom of the box of each cell as shares of the image, (n, side, side, 4)."""
    from keras import ops

    side = sides.shape[1]
    cells = (np.arange(side, dtype=np.float32) + 0.5) / side
    middles = np.stack(np.meshgrid(cells, cells), axis=-1)[None]  # x changes along the last axis of the map
    return ops.concatenate([middles - REACH * sides[..., :2], middles + REACH * sides[..., 2:]], axis=-1)


def decode(centre: Any, sides: Any) -> tuple[Any, Any]:
    """The boxes of all cells and their scores.

    Args:
        centre, sides: the outputs of the layers of these names.

    Returns:
        Tensors (n, cells, 4): x, y, width, height as shares of the image, and (n, cells): 0-1.
    """
    from keras import ops

    ends = ops.reshape(_ends(sides), (-1, sides.shape[1] * sides.shape[2], 4))
    scores = ops.reshape(ops.sigmoid(centre), (-1, sides.shape[1] * sides.shape[2]))
    return ops.concatenate([ends[..., :2], ends[..., 2:] - ends[..., :2]], axis=-1), scores


def joint(model: Any) -> Any:
    """A function from pixels to the probability, the boxes of all cells and their scores, as `decode` returns them.

    Of an ensemble they come from the mean logits and the mean distances of its members.
    """
    import keras
    from keras import ops

    from pneumonia.models import ensembles

    members = [
        keras.Model(one.input, [one.get_layer(name).output for name in ("logit", *_HEADS)])
        for one in ensembles.members(model)
    ]

    def outputs(pixels: Any) -> tuple[Any, Any, Any]:
        parts = [member(pixels, training=False) for member in members]
        logit, centre, sides = (sum(of_all) / len(parts) for of_all in zip(*parts, strict=True))
        return ops.sigmoid(logit), *decode(centre, sides)

    return outputs


Found = list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
"""The boxes of each image in its own pixels, and their scores, as `images.suppression.suppressed` returns them."""


def find(model: Any, images: Any, batch_size: int = 64) -> Found:
    """What a detector finds in images.

    Args:
        model: a detector, or an ensemble of some.
        images: uint8 (n, height, width), 0-255, in memory or in the store.
        batch_size: images at once.
    """
    return finder(model, batch_size)(images)


def finder(model: Any, batch_size: int = 64) -> Callable[[Any], Found]:
    """As `find`, a function of images, compiled once; it follows the weights of the model."""
    import tensorflow as tf

    outputs = tf.function(joint(model), input_signature=[tf.TensorSpec((None, None, None, 1), tf.float32)])

    def search(images: Any) -> Found:
        height, width = images.shape[1:]
        found: Found = []
        for start in range(0, len(images), batch_size):
            pixels = images[start : start + batch_size][..., None].astype(np.float32)
            _, boxes, scores = (one.numpy() for one in outputs(tf.constant(pixels)))
            found += [suppressed(*one, width, height) for one in zip(boxes, scores, strict=True)]
        return found

    return search
