"""The networks, one row of `MODELS` each, and the one function that scores images with them.

Every model takes pixels 0-255 `(n, height, width, 1)` of any size and carries its own resize and rescale
layers, so that the image store serves all of them. It ends in a float32 layer `logit` and its sigmoid,
`probability`. Keras is imported inside the functions: names and facts are known without it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia import UserError, dataset


class Model(NamedTuple):
    """A row of `MODELS`.

    Attributes:
        build: makes the network: `build(size, weights, dropout) -> keras.Model`.
        size: pixels, side of the square the network sees.
        explain: layer whose feature maps Grad-CAM weighs.
        weights_url: published ImageNet weights of the backbone; empty where there is no backbone.
        source: where the architecture comes from.
    """

    build: Callable[[int, str | None, float], Any]
    size: int
    explain: str
    weights_url: str
    source: str


def _compact(size: int, weights: str | None, dropout: float) -> Any:
    from keras import layers

    pixels, x = _input(size)
    x = layers.Rescaling(1 / 255)(x)
    for block, filters in enumerate((8, 8, 8, 32, 32, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
        # The first blocks have too few channels to lose one.
        x = layers.SpatialDropout2D(dropout if block > 3 else 0.0, name=f"drop{block}")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu", name="dense1")(x)
    x = layers.Dense(32, activation="relu", name="dense2")(x)
    return _classifier("compact", pixels, x)


def _mobilenet(size: int, weights: str | None, dropout: float) -> Any:
    import keras
    from keras import layers

    pixels, x = _input(size)
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    x = layers.Concatenate(name="gray_to_rgb")([x, x, x])
    # `input_tensor` builds the backbone flat: Grad-CAM could not reach the layers of a nested model.
    backbone = keras.applications.MobileNetV2(input_tensor=x, include_top=False, weights=None)
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            # Its .999 is made for ImageNet's million steps: after a few hundred the moving statistics
            # would still be those of the start, and the network useless outside training.
            layer.momentum = 0.9
    if weights:
        plain = keras.applications.MobileNetV2(input_shape=(size, size, 3), include_top=False, weights=None)
        _load_weights(plain, weights, "mobilenet")
        backbone.set_weights(plain.get_weights())
    x = layers.GlobalAveragePooling2D(name="pool")(backbone.output)
    x = layers.Dropout(dropout, name="drop")(x)
    return _classifier("mobilenet", pixels, x)


MODELS = {
    "compact": Model(
        build=_compact,
        size=256,
        explain="conv4",  # 32x32 cells; of all layers the one that points best on validation images of the phantom
        weights_url="",
        source="seven conv+pool blocks, 77,633 parameters, as published for the Kermany set",
    ),
    "mobilenet": Model(
        build=_mobilenet,
        size=224,
        explain="out_relu",
        weights_url="https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        source="Sandler et al. (2018), MobileNetV2, arXiv:1801.04381",
    ),
}


def model_row(name: str) -> Model:
    """The row of `MODELS`, or one line that lists the known ones."""
    if name not in MODELS:
        raise UserError(f"model = {name!r} is unknown; known: {', '.join(MODELS)}")
    return MODELS[name]


def start_keras(seed: int | None = None) -> None:
    """Import TensorFlow without its start-up chatter, and seed everything that draws random numbers, if anything does.

    Its C++ libraries write a dozen lines to stderr before any setting of theirs is read. They are held back
    while it is imported, and shown where the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            tf.zeros(1)  # looks for devices, which says more
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    if seed is not None:
        keras.utils.set_random_seed(seed)


def create_model(name: str, *, weights: str | Path | None = None, dropout: float = 0.2, size: int | None = None) -> Any:
    """A new network, not yet trained.

    Args:
        name: a key of `MODELS`.
        weights: file of the backbone's ImageNet weights; None = random.
        dropout: share of channels dropped in training, 0-1.
        size: pixels, side of the square the network sees; None = the row's.

    Returns:
        keras.Model: float32 (n, None, None, 1), pixels 0-255 -> float32 (n, 1), probability of pneumonia.

    Raises:
        UserError: unknown name, or weights of another architecture.
    """
    row = model_row(name)
    return row.build(size or row.size, str(weights) if weights else None, dropout)


def load_model(path: str | Path) -> Any:
    """The model of a `.keras` file; code in it is not run (`safe_mode`)."""
    import keras

    return keras.saving.load_model(path, compile=False, safe_mode=True)


def save_model(model: Any, path: str | Path) -> None:
    """Write a `.keras` file, whole or not at all."""
    with dataset.written_whole(path) as partial:
        model.save(partial)


def predict_scores(model: Any, images: npt.NDArray[np.uint8], batch_size: int = 64) -> npt.NDArray[np.float64]:
    """Probability of pneumonia for each image.

    Args:
        model: as `create_model` makes it.
        images: uint8 (n, height, width), 0-255, as `preprocess.prepare` makes them.
        batch_size: images scored at once.

    Returns:
        float64 (n,), 0-1.
    """
    if len(images) == 0:
        return np.zeros(0)
    scores = model.predict(images[..., None], batch_size=batch_size, verbose=0)
    return np.asarray(scores[:, 0], dtype=np.float64)


def _input(size: int) -> tuple[Any, Any]:
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    return pixels, layers.Resizing(size, size, name="resize")(pixels)


def _classifier(name: str, pixels: Any, features: Any) -> Any:
    import keras
    from keras import layers

    # float32 whatever the precision policy: a sigmoid in half precision has no scores near 0 and 1.
    logit = layers.Dense(1, name="logit", dtype="float32")(features)
    probability = layers.Activation("sigmoid", name="probability", dtype="float32")(logit)
    return keras.Model(pixels, probability, name=name)


def _load_weights(model: Any, path: str, name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a hundred of them come before the error below
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"weights = {path}: not the weights of the backbone of {name} "
            f"({str(error).splitlines()[0]}); give the file made for this architecture without top"
        ) from error
