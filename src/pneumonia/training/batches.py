"""The stream of training batches: images in random order, or their features, with augmentation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.data import store
from pneumonia.data.image_boxes import Boxes
from pneumonia.data.store import Split
from pneumonia.images import augmentation
from pneumonia.models import detector, runtime
from pneumonia.training.recipe import Recipe

POOL_BYTES = 2**30
"""Size of the pools in which images are shuffled. A pool is made of chunks of the store, chosen again for each epoch,
so that a set larger than memory is read chunk by chunk. A set up to this size is shuffled as a whole. The size never
depends on where the images are: the order is the same in memory and in the store."""


def epoch_rows(split: Split) -> npt.NDArray[np.intp]:
    """Rows of the split in one epoch: each as many times as `repeats` says, intp (n,), not shuffled."""
    return np.repeat(np.arange(len(split.labels)), split.repeats)


def batches(
    images: Any,
    split: Split,
    rows: npt.NDArray[np.intp],
    recipe: Recipe,
    *,
    seed: int,
    size: int | None = None,
    first_epoch: int = 0,
    boxes: Boxes | None = None,
) -> Any:
    """An endless tf.data stream of training batches.

    Each epoch has a new order. The last batch of an epoch is left out where it is smaller than the others.

    Args:
        images: uint8 (n, size, size), the images of the split, which are distorted and mixed; or float32
            (copies, n, d), their features as `frozen_features` computes them, which are only mixed.
        split: of the image store.
        rows: intp, rows of the split in one epoch, as `epoch_rows` makes them.
        recipe: batch size, augmentation and mixup.
        seed: the same seed gives the same batches.
        first_epoch: number of epochs to skip; the batches after them are the same as without the skip.
        boxes: of the split, for a detector; they move with the pixels. None = no boxes.

    Returns:
        tf.data.Dataset of (float32 (batch, size, size, 1) 0-255 or (batch, d), float32 (batch, 1),
        float32 (batch, 1)): pixels or features, labels, weights. With boxes labels and weights are pairs: those of the
        image, and what `detector.encode` makes of the boxes with weights of 1.
    """
    import tensorflow as tf

    # Constants on purpose out of the graph: a captured uint8 array is shared, not copied.
    labels, weights = split.labels.astype(np.float32), split.weights
    features = images.dtype == np.float32
    shares = np.zeros((len(labels), 0, 4), np.float32) if boxes is None else boxes / np.float32(split.images.shape[1])

    def generate() -> Iterator[tuple[Any, Any, Any, Any, Any]]:
        rng, step = np.random.default_rng(seed), 0
        turn = np.random.default_rng((seed, 1)).integers(len(images), size=images.shape[1]) if features else None
        for epoch in itertools.count():
            order = epoch_order(rows, split.images, rng)
            for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
                batch = order[start : start + recipe.batch_size]
                if epoch >= first_epoch:
                    if turn is not None:
                        inputs = images[(turn[batch] + epoch) % len(images), batch]
                    else:
                        inputs = images[batch][..., None]
                    yield inputs, labels[batch, None], weights[batch, None], shares[batch], np.int64(step)
                step += 1

    signature = (
        tf.TensorSpec((recipe.batch_size, *(images.shape[2:] if features else (*images.shape[1:], 1))), images.dtype),
        tf.TensorSpec((recipe.batch_size, 1), tf.float32),
        tf.TensorSpec((recipe.batch_size, 1), tf.float32),
        tf.TensorSpec((recipe.batch_size, *shares.shape[1:]), tf.float32),
        tf.TensorSpec((), tf.int64),
    )

    def augmented(inputs: Any, label: Any, weight: Any, places: Any, step: Any) -> tuple[Any, Any, Any]:
        draw = tf.stack([np.int64(seed), step])
        if not features:
            inputs = augment(inputs, size, recipe, seed=draw)
        if boxes is not None:
            side = (size or inputs.shape[1]) // detector.STRIDE  # the network enlarges small images
            cells = detector.encode(augment_boxes(places, recipe, seed=draw), side)
            return inputs, (label, cells), (weight, tf.ones_like(weight))
        return augmentation.mixup(inputs, label, weight, alpha=recipe.mixup, seed=draw)

    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    parallel = min(8, os.cpu_count() or 1)  # each call holds a batch; the number has no effect on the result
    stream = stream.map(augmented, num_parallel_calls=parallel, deterministic=True).prefetch(4)
    return stream.with_options(runtime.untuned())


def augment(pixels: Any, size: int | None, recipe: Recipe, *, seed: Any) -> Any:
    """Images as the recipe changes them for one epoch, at the size of the network.

    Args:
        pixels: tensor (n, side, side, 1), 0-255, in random order.
        size: side of the network's input in pixels; None = any.
        seed: int64 tensor (2,); the same seed gives the same result.

    Returns:
        float32 tensor (n, size, size, 1), 0-255.
    """
    seen = augmentation.hide_edges(pixels, fraction=recipe.hide_edges, seed=seed)
    cropped = augmentation.crop(seen, size, smallest=recipe.crop, flip=recipe.flip, seed=seed)
    return augmentation.distort(cropped, fraction=recipe.augment, strength=recipe.strength, seed=seed)


def augment_boxes(boxes: Any, recipe: Recipe, *, seed: Any) -> Any:
    """Where `augment`, with the same recipe and seed, leaves boxes: float32 tensor (n, k, 4), shares of the image."""
    cropped = augmentation.crop_boxes(boxes, smallest=recipe.crop, flip=recipe.flip, seed=seed)
    return augmentation.distort_boxes(cropped, fraction=recipe.augment, strength=recipe.strength, seed=seed)


def epoch_order(rows: npt.NDArray[np.intp], images: Any, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """The rows in the order of one epoch: pool after pool of chunks, each shuffled.

    Args:
        rows: intp (n,), rows of a split, with repetitions.
        images: its images; their shape decides the number of pools.
        rng: source of the order.
    """
    chunk = rows // store.IMAGES_PER_CHUNK
    n_pools = -(-int(np.prod(images.shape)) // POOL_BYTES)
    if n_pools <= 1:
        return rng.permutation(rows)
    pools = np.array_split(rng.permutation(np.unique(chunk)), n_pools)
    return np.concatenate([rng.permutation(rows[np.isin(chunk, pool)]) for pool in pools])
