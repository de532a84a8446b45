"""The file that a model is saved to, and the scores of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia import workspace
from pneumonia.data.store import Pixels, blocks
from pneumonia.models import runtime


def save_model(model: Any, path: str | Path) -> None:
    """Write a `.keras` file, complete or not at all."""
    with workspace.written_whole(path) as partial:
        model.save(partial)


def predict_scores(model: Any, images: npt.NDArray[np.uint8] | Pixels, batch_size: int = 64) -> npt.NDArray[np.float64]:
    """Probability of pneumonia for each image.

    Args:
        model: as `create_model` makes it.
        images: uint8 (n, height, width), 0-255, as `geometry.prepare` makes them; in memory or in the store.
        batch_size: images scored at once.

    Returns:
        float64 (n,), 0-1.
    """
    if len(images) == 0:
        return np.zeros(0)
    scores = [outputs(model, block[..., None], batch_size=batch_size) for block in blocks(images)]
    return np.concatenate(scores)[:, 0].astype(np.float64)


def outputs(network: Any, inputs: npt.NDArray[Any], *, batch_size: int) -> npt.NDArray[np.float32]:
    """The output of a network for arrays: `predict` of Keras without the delay that `runtime.untuned` describes.

    Args:
        network: a Keras model.
        inputs: (n, …), in the input shape of the network.
        batch_size: inputs at once.

    Returns:
        float32 (n, …).
    """
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices(inputs).batch(batch_size).prefetch(2)
    return np.asarray(network.predict(stream.with_options(runtime.untuned()), verbose=0))
