"""Pretrained backbones: how one is built into a network, its blocks, and which of them learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia import UserError
from pneumonia.data import tables

MOMENTUM = 0.9
"""Of batch normalisation that learns. Keras' .99 and .999 are made for ImageNet's million steps: after a few hundred
the moving statistics would still be those of the start, and the network useless outside training."""
_UNFOLD_BATCH = 32


class Backbone(NamedTuple):
    """What `data/backbone/` holds.

    Attributes:
        name: `none`, `imagenet`, or the path of a user's file or folder; stands in every report.
        paths: weights files, one for each backbone of the model; none where there are none.
    """

    name: str
    paths: tuple[Path, ...] = ()


def read(folder: Path) -> Backbone:
    """What the stage `backbone` has written."""
    note = tables.read_json(folder / "backbone.json")
    return Backbone(note["weights"], tuple(folder / one["file"] for one in note.get("files", ())))


def unfold(model: Any, images: npt.NDArray[np.uint8]) -> int:
    """Give batch normalisation back its work where the weights come with it folded into the convolutions.

    Converted weights (from TFLite, for one) often have: every normalisation then passes its input through, and a
    network trained on from there has none, and memorises. Here each gets the mean and variance that its input has on
    `images`, and a scale and shift that undo them: the network computes what it did, and has something to train with.

    Args:
        model: as `create_model` makes it, with weights of its backbone.
        images: uint8 (n, height, width); a few hundred of those it will be trained on.

    Returns:
        Layers that were changed; 0 where the weights have statistics of their own.
    """
    import keras

    folded = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and _passes_through(layer)
    ]
    if not folded:
        return 0
    inputs = keras.Model(model.input, [layer.input for layer in folded])
    n_values, sums, squares = np.zeros(len(folded)), [0.0] * len(folded), [0.0] * len(folded)
    for start in range(0, len(images), _UNFOLD_BATCH):
        arrived = inputs(images[start : start + _UNFOLD_BATCH, ..., None].astype(np.float32), training=False)
        for number, tensor in enumerate(arrived if isinstance(arrived, list) else [arrived]):
            values = np.asarray(tensor, dtype=np.float64).reshape(-1, tensor.shape[-1])
            n_values[number] += len(values)
            sums[number] = sums[number] + values.sum(axis=0)
            squares[number] = squares[number] + (values**2).sum(axis=0)
    for layer, n, total, square in zip(folded, n_values, sums, squares, strict=True):
        mean = np.asarray(total) / n
        variance = np.maximum(np.asarray(square) / n - mean**2, 0)
        gamma, beta, _, before = layer.get_weights()
        scale = gamma / np.sqrt(before + layer.epsilon)  # what the layer has done so far: scale * input + beta
        layer.set_weights([scale * np.sqrt(variance + layer.epsilon), beta + scale * mean, mean, variance])
    return len(folded)


def _passes_through(layer: Any) -> bool:
    """No mean to take off and one variance for all channels: nothing that was ever measured."""
    _, _, mean, variance = layer.get_weights()
    return bool((mean == 0).all() and np.ptp(variance) == 0)


def halves(model: Any) -> tuple[Any, Any]:
    """A network in two: its backbone, pixels to the layer `features`, and the head behind it; layers are shared.

    Returns:
        Two keras.Model; None and the network itself where it has no backbone.
    """
    import keras

    if all(layer.name != "features" for layer in model.layers):
        return None, model
    features = model.get_layer("features").output
    return keras.Model(model.input, features, name="backbone"), keras.Model(features, model.output, name="head")


def build_backbone(
    application: Callable[..., Any],
    x: Any,
    weights: tuple[str, ...],
    name: str,
    *,
    prefix: str = "",
    frozen: bool = False,
) -> Any:
    """The last feature maps of one of `keras.applications`, its layers flat behind `x`.

    Args:
        application: makes it.
        x: scaled as it expects, three channels.
        weights: one file, or none for random weights.
        name: of the whole model, for the error.
        prefix: of its layers' names; tells two backbones in one graph apart.
        frozen: its weights do not learn, and its batch normalisation keeps its statistics also in training.
    """
    import keras
    from keras import layers

    loaded = []
    for path in weights:
        plain = application(input_shape=tuple(x.shape[1:]), include_top=False, weights=None)
        _load_weights(plain, path, name)
        loaded = plain.get_weights()
    before = {id(one) for one in keras.Model(keras.utils.get_source_inputs(x), x).layers}
    # `input_tensor` builds the backbone flat: Grad-CAM could not reach the layers of a nested model.
    backbone = application(input_tensor=x, include_top=False, weights=None)
    if loaded:
        backbone.set_weights(loaded)
    for layer in backbone.layers:
        if id(layer) in before:
            continue
        layer.name = f"{prefix}{layer.name}"
        if frozen:
            layer.trainable = False  # which for batch normalisation also means inference mode
        elif isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return backbone.output


def _load_weights(model: Any, path: str, name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a hundred of them come before the error below
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"weights = {path}: not the weights of the backbone of {name} ({model.name}: "
            f"{str(error).splitlines()[0]}); give the file made for this architecture without top"
        ) from error
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise UserError(
                f"weights = {path}: {weight.path} has values that are not finite, so {name} could not learn from them; "
                "bring the file again"
            )
