"""Features of a frozen backbone: computed once, then every epoch of the head uses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia.data.store import Split
from pneumonia.models import backbones, networks
from pneumonia.training.batches import augment, epoch_order
from pneumonia.training.callbacks import progress_bar
from pneumonia.training.recipe import Recipe


class Features(NamedTuple):
    """Output of the layer `features` for all images.

    Attributes:
        train: float32 (copies, n, d); the copies of an image differ in their augmentation. 0 for images that no epoch
            shows (0 repeats), such as those of the fold that validates.
        val: float32 (m, d), without augmentation.
    """

    train: npt.NDArray[np.float32]
    val: npt.NDArray[np.float32]


def frozen_features(
    model: Any,
    train: Split,
    val: Split,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 64,
) -> Features:
    """Features of the images; of those of train `recipe.copies` times, each time with another distortion.

    One copy is enough where the recipe changes no images. There are never more copies than epochs.

    Args:
        model: as `train.start` makes it, with a backbone.
        train, val: splits of the image store.
        recipe: number of copies, and their augmentation.
        epochs: number of epochs that will use the copies.
        seed: of the augmentation.
        batch_size: images computed at once.
    """
    import tensorflow as tf

    body, _ = backbones.halves(model)
    is_changed = recipe.augment > 0 or recipe.hide_edges > 0 or recipe.crop < 1 or recipe.flip
    n_copies, n = min(recipe.copies, epochs) if is_changed else 1, len(train.labels)
    learnt = np.flatnonzero(train.repeats)
    copies = np.zeros((n_copies, n, body.output.shape[-1]), np.float32)
    compute = tf.function(lambda pixels: body(pixels, training=False), reduce_retracing=True)
    with progress_bar(n_copies * len(learnt) + len(val.labels), 0, "features", "image") as bar:

        def run(images: Any, order: npt.NDArray[np.intp], recipe: Recipe, first: int) -> Iterator[tuple[Any, Any]]:
            for begin in range(0, len(order), batch_size):
                rows = order[begin : begin + batch_size]
                pixels, size = tf.constant(images[rows][..., None]), networks.input_size(model)
                draw = tf.constant([seed, first + begin], tf.int64)
                yield rows, compute(augment(pixels, size, recipe, seed=draw))
                bar.update(len(rows))

        for copy in range(n_copies):
            # `distort` expects shuffled batches: in a fixed order the same images would stay untouched in each copy.
            order = epoch_order(learnt, train.images, np.random.default_rng((seed, copy)))
            for rows, values in run(train.images, order, recipe, copy * n):
                copies[copy, rows] = values
        unchanged = recipe._replace(crop=1.0, flip=False, hide_edges=0.0, augment=0.0)
        val_batches = run(val.images, np.arange(len(val.labels)), unchanged, 0)
        return Features(copies, np.concatenate([np.asarray(values, np.float32) for _, values in val_batches]))
