"""Small splits and networks that several test files train."""

from typing import Any

import numpy as np

from pneumonia.data.store import Split
from pneumonia.models import networks

SIZE = 12
BACKBONE = "toy_backbone"
ROW = networks.Model(
    build=lambda *_: None, size=SIZE, explain="", weights_urls=(), source="toys", blocks=("block_1_", "block_2_")
)
"""Of `backbone_model`, for `networks.MODELS` while a test runs."""


def toy_split(n: int = 32, *, seed: int = 0, bright: int = 1) -> Split:
    """Bright and dark images, in turn; `bright` is the label of the bright ones."""
    rng = np.random.default_rng(seed)
    is_bright = np.arange(n) % 2
    images = rng.integers(0, 60, (n, SIZE, SIZE)) + 120 * is_bright[:, None, None] + 20
    return Split(
        images=images.astype(np.uint8),
        labels=np.where(is_bright, bright, 1 - bright).astype(np.int8),
        weights=np.ones(n, np.float32),
        repeats=np.ones(n, np.int16),
        image_ids=np.array([f"i{row:03d}" for row in range(n)]),
    )


def backbone_model(seed: int = 1, frozen: bool = False) -> Any:
    """Two blocks with normalisation, the layer `features`, and a head that drops some of them."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    pixels = layers.Input((None, None, 1), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for block in (1, 2):
        x = layers.Conv2D(4, 3, activation="relu", name=f"block_{block}_conv", trainable=not frozen)(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"block_{block}_bn", trainable=not frozen)(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    logit = layers.Dense(1, name="logit")(layers.Dropout(0.3, name="drop")(x))
    return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit), name=BACKBONE)
