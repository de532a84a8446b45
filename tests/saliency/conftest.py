"""What several test files of this folder share."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.models import networks, runtime

SIZE = 64
OPTIONS = {"n_samples": 2, "seed": 1}
NO_BOXES = np.zeros((0, 4))


@pytest.fixture(scope="module")
def known_to_models() -> Iterator[None]:
    """Class activation maps ask the table of models for the layer to explain. It imports TensorFlow."""
    runtime.start_keras(1)
    row = networks.Model(build=lambda *_: None, size=SIZE, explain="features", weights_urls=(), source="built by hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.MODELS, "by_hand", row)
        yield


def detector(bright: float = 1.0, dark: float = 0.0) -> Any:
    """One filter answers to bright blobs of 8 px, one to dark ones; the logit weighs the mean of each."""
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    features = layers.Conv2D(2, 8, strides=4, padding="same", activation="relu", name="features")
    logit = layers.Dense(1, name="logit")
    x = logit(layers.GlobalAveragePooling2D()(features(layers.Rescaling(1 / 255)(pixels))))
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(x), name="by_hand")
    mean = np.full((8, 8, 1), 1 / 64)
    features.set_weights([np.stack([mean, -mean], axis=3), np.array([-0.6, 0.2])])
    logit.set_weights([np.array([[bright], [dark]]), np.zeros(1)])
    return model


def blobs(*centres: tuple[int, int], gray: int = 255) -> NDArray[np.uint8]:
    """One image for each (row, column): mid-gray with a square of 8 px in another gray."""
    images = np.full((len(centres), SIZE, SIZE), 128, np.uint8)
    for image, (row, column) in zip(images, centres, strict=True):
        image[row - 4 : row + 4, column - 4 : column + 4] = gray
    return images
