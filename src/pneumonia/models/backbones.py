"""Pretrained backbones: how one is built into a network, its weights, and its separation from the head."""

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
"""Momentum of batch normalisation that is trained. Keras' .99 and .999 are for the million steps of ImageNet: after a
few hundred the moving statistics would still be close to their initial values, and inference would fail."""
_UNFOLD_BATCH = 32


class Backbone(NamedTuple):
    """Contents of `data/backbone/`.

    Attributes:
        name: `none`, `imagenet`, or the path of a user's file or folder; written in every report.
        paths: weights files, one for each backbone of the model; may be empty.
    """

    name: str
    paths: tuple[Path, ...] = ()


def read(folder: Path) -> Backbone:
    """Read the output of the stage `backbone`."""
    record = tables.read_json(folder / "backbone.json")
    return Backbone(record["weights"], tuple(folder / file["file"] for file in record.get("files", ())))


def unfold(model: Any, images: npt.NDArray[np.uint8]) -> int:
    """Restore batch normalisation in weights in which it is folded into the convolutions.

    Converted weights (for example from TFLite) are often like this: each normalisation passes its input through, and a
    network trained from them has no normalisation and overfits. Here each layer gets the mean and variance of its input
    on `images`, and a scale and shift that undo them: the output of the network is unchanged, and normalisation works
    in training.

    Args:
        model: as `create_model` makes it, with weights of its backbone.
        images: uint8 (n, height, width); a few hundred train images.

    Returns:
        Number of changed layers; 0 if the weights have their own statistics.
    """
    import keras

    folded = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and _passes_through(layer)
    ]
    if not folded:
        return 0
    layer_inputs = keras.Model(model.input, [layer.input for layer in folded])
    n_values, sums, squares = np.zeros(len(folded)), [0.0] * len(folded), [0.0] * len(folded)
    for start in range(0, len(images), _UNFOLD_BATCH):
        outputs = layer_inputs(images[start : start + _UNFOLD_BATCH, ..., None].astype(np.float32), training=False)
        for number, tensor in enumerate(outputs if isinstance(outputs, list) else [outputs]):
            values = np.asarray(tensor, dtype=np.float64).reshape(-1, tensor.shape[-1])
            n_values[number] += len(values)
            sums[number] = sums[number] + values.sum(axis=0)
            squares[number] = squares[number] + (values**2).sum(axis=0)
    for layer, n, total, square in zip(folded, n_values, sums, squares, strict=True):
        mean = np.asarray(total) / n
        variance = np.maximum(np.asarray(square) / n - mean**2, 0)
        gamma, beta, _, old_variance = layer.get_weights()
        scale = gamma / np.sqrt(old_variance + layer.epsilon)  # until now the layer computes scale * input + beta
        layer.set_weights([scale * np.sqrt(variance + layer.epsilon), beta + scale * mean, mean, variance])
    return len(folded)


def _passes_through(layer: Any) -> bool:
    """Whether the mean is 0 and the variance the same in all channels, so that neither was measured."""
    _, _, mean, variance = layer.get_weights()
    return bool((mean == 0).all() and np.ptp(variance) == 0)


def halves(model: Any) -> tuple[Any, Any]:
    """A network in two parts that share its layers: the backbone, up to the layer `features`, and the head.

    Returns:
        Two keras.Model; None and the network itself if it has no backbone.
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
    """The last feature maps of one of `keras.applications`; its layers follow `x` and are not nested.

    Args:
        application: function of `keras.applications`.
        x: tensor of three channels, scaled as the application expects.
        weights: one file, or none for random weights.
        name: of the whole model, for the error.
        prefix: of its layers' names; distinguishes two backbones in one graph.
        frozen: its weights are not trained, and its batch normalisation keeps its statistics also in training.
    """
    import keras
    from keras import layers

    pretrained = []
    for path in weights:
        plain = application(input_shape=tuple(x.shape[1:]), include_top=False, weights=None)
        _load_weights(plain, path, name)
        pretrained = plain.get_weights()
    earlier_layers = {id(layer) for layer in keras.Model(keras.utils.get_source_inputs(x), x).layers}
    # `input_tensor` builds the backbone flat: Grad-CAM could not reach the layers of a nested model.
    backbone = application(input_tensor=x, include_top=False, weights=None)
    if pretrained:
        backbone.set_weights(pretrained)
    for layer in backbone.layers:
        if id(layer) in earlier_layers:
            continue
        layer.name = f"{prefix}{layer.name}"
        if frozen:
            layer.trainable = False  # for batch normalisation this also means inference mode
        elif isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM
    return backbone.output


def _load_weights(model: Any, path: str, name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # there would be a hundred before the error below
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"weights = {path}: not the weights of the backbone of {name} ({model.name}: "
            f"{str(error).splitlines()[0]}); use the file for this architecture without top"
        ) from error
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise UserError(
                f"weights = {path}: {weight.path} has values that are not finite, so {name} could not be trained; "
                "download the file again"
            )
