"""Where a model looks: saliency maps, and scores that say whether they point at the disease."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import dataset, metrics, models

Maps = npt.NDArray[np.float32]
Boxes = list[npt.NDArray[np.float64]]


def grad_cam(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """Grad-CAM: the feature maps of one layer, weighed by how much each moves the logit.

    Coarse (one value per cell of the layer), but it depends on what the model has learnt.

    Args:
        model: a network of `models.MODELS`, whose row names the layer, or some of them as one: the mean of their maps.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Selvaraju et al. (2017), doi:10.1109/ICCV.2017.74.
    """
    size = images.shape[1]
    cam = _cam(model, models.model_row(model.name).explain)
    maps = np.concatenate([cam(batch).numpy() for batch in _batches(images)])
    return _scaled(np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_LINEAR) for one in maps]))


def smoothgrad(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int, noise: float = 0.1) -> Maps:
    """SmoothGrad: the gradient of the logit at each pixel, averaged over noisy copies of the image.

    Fine, down to the pixel; squared before it is averaged, which ranks regions better than the signed mean.

    Args:
        model: a network of `models.MODELS`.
        images: uint8 (n, size, size), 0-255.
        n_samples: noisy copies.
        seed: of the noise.
        noise: standard deviation as a share of each image's range.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Smilkov et al. (2017), arXiv:1706.03825; squared: Hooker et al. (2019), arXiv:1806.10758.
    """
    squared_gradient = _squared_gradient(model)
    rng = np.random.default_rng(seed)
    maps: list[Maps] = []
    for batch in _batches(images):
        sigma = noise * (batch.max(axis=(1, 2, 3), keepdims=True) - batch.min(axis=(1, 2, 3), keepdims=True))
        total = np.zeros(batch.shape[:3], np.float32)
        for _ in range(n_samples):
            grain = rng.standard_normal(batch.shape, dtype=np.float32) * sigma
            total += squared_gradient(batch + grain).numpy()
        # Single pixels say little; a blur of 1 % of the side shows the region they belong to.
        maps.extend(cv2.GaussianBlur(one, (0, 0), sigmaX=0.01 * batch.shape[1]) for one in total)
    return _scaled(np.stack(maps))


METHODS: dict[str, Callable[..., Maps]] = {"grad_cam": grad_cam, "smoothgrad": smoothgrad}


def choose(predictions: pd.DataFrame, n_images: int, seed: int) -> list[str]:
    """Test images to show: as many of each class as there are, half and half, drawn without a look at the scores."""
    test = predictions[predictions["split"] == "test"]
    rng = np.random.default_rng(seed)
    halves = [test.loc[test["label"] == label, "image_id"].to_numpy() for label in (1, 0)]
    shares = (n_images - n_images // 2, n_images // 2)
    return [str(name) for half, n in zip(halves, shares, strict=True) for name in rng.permutation(half)[:n]]


def choose_scored(predictions: pd.DataFrame, boxes: Mapping[str, Any], n_scored: int, seed: int) -> list[str]:
    """Test images to score maps on: those with boxes or, where the source has none, any."""
    test = predictions.loc[predictions["split"] == "test", "image_id"]
    boxed = test[test.isin(list(boxes))]
    rng = np.random.default_rng(seed)
    return [str(name) for name in rng.permutation(boxed if len(boxed) else test)[:n_scored]]


def score(
    model: Any, images: npt.NDArray[np.uint8], boxes: Boxes, *, n_samples: int, seed: int
) -> dict[str, dict[str, float]]:
    """`explain.json`: what each method's maps are worth.

    Args:
        model: trained.
        images: uint8 (n, size, size), 0-255.
        boxes: for each image float (k, 4): x, y, width, height in pixels of the store; k may be 0.
        n_samples, seed: as in `smoothgrad`.

    Returns:
        Per method `ms_per_image` and `n`, and, where images have boxes, `pointing_game` (share of the images whose
        highest value lies in a box; `_low` and `_high` are its 95 % Wilson interval), `energy_in_box` (mean share of
        a map that lies in the boxes), `box_area` (mean share of the image that the boxes cover: what a map without any
        knowledge reaches) and `n_boxed`.
    """
    boxed = np.array([len(one) > 0 for one in boxes])
    results = {}
    for name, method in METHODS.items():
        method(model, images, n_samples=1, seed=seed)  # compiles for each shape of batch; not part of the time
        start = time.perf_counter()
        maps = method(model, images, n_samples=n_samples, seed=seed)
        row: dict[str, float] = {"n": len(images), "ms_per_image": 1000 * (time.perf_counter() - start) / len(images)}
        if boxed.any():
            insides = np.stack([inside(one, images.shape[1]) for one in boxes])[boxed]
            row |= {
                "n_boxed": int(boxed.sum()),
                **_with_interval("pointing_game", pointing_game(maps[boxed], insides), int(boxed.sum())),
                "energy_in_box": energy_in_box(maps[boxed], insides),
                "box_area": float(insides.mean()),
            }
        results[name] = row
    return results


def _with_interval(name: str, share: float, n: int) -> dict[str, float]:
    low, high = metrics.wilson_interval(round(share * n), n)
    return {name: share, f"{name}_low": low, f"{name}_high": high}


def inside(boxes: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.bool_]:
    """bool (size, size): the pixels whose centre lies in one of the boxes."""
    centres = np.arange(size) + 0.5
    mask = np.zeros((size, size), dtype=bool)
    for x, y, width, height in boxes:
        mask |= ((centres >= y) & (centres < y + height))[:, None] & ((centres >= x) & (centres < x + width))
    return mask


def pointing_game(maps: Maps, insides: npt.NDArray[np.bool_]) -> float:
    """Share of the maps whose highest value lies inside.

    Source: Zhang et al. (2018), doi:10.1007/s11263-017-1059-x.
    """
    flat = maps.reshape(len(maps), -1)
    hits = insides.reshape(len(maps), -1)[np.arange(len(maps)), flat.argmax(axis=1)]
    return float((hits & (flat.max(axis=1) > 0)).mean())


def energy_in_box(maps: Maps, insides: npt.NDArray[np.bool_]) -> float:
    """Mean share of a map's sum that lies inside; an empty map counts as 0.

    Source: Wang et al. (2020), Score-CAM, doi:10.1109/CVPRW50498.2020.00020.
    """
    total = maps.sum(axis=(1, 2))
    return float(np.mean((maps * insides).sum(axis=(1, 2)) / np.where(total > 0, total, 1)))


def pick(split: dataset.Split, image_ids: list[str]) -> npt.NDArray[np.uint8]:
    """The images with these ids, in their order: uint8 (n, size, size)."""
    rows = {name: row for row, name in enumerate(split.image_ids)}
    return split.images[[rows[name] for name in image_ids]]


@lru_cache(maxsize=2)
def _cam(model: Any, layer: str) -> Callable[[Maps], Any]:
    """Compiled once for a model and layer: the weighed feature maps of a batch, float32 (n, rows, columns)."""
    import keras
    import tensorflow as tf

    inners = [
        keras.Model(member.inputs, [member.get_layer(layer).output, member.get_layer("logit").output])
        for member in models.members(model)
    ]

    def of_one(inner: Any, pixels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(pixels)  # what follows from it is recorded, the features among it
            features, logit = inner(pixels, training=False)
            total = tf.reduce_sum(logit)
        gradient = tape.gradient(total, features)
        channel_weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(features * channel_weights, axis=-1))

    return _compiled(lambda pixels: tf.add_n([of_one(inner, pixels) for inner in inners]) / len(inners))


@lru_cache(maxsize=2)
def _squared_gradient(model: Any) -> Callable[[Maps], Any]:
    """Compiled once for a model: the squared gradient of a batch, float32 (n, size, size)."""
    import keras
    import tensorflow as tf

    inner = keras.Model(model.inputs, model.get_layer("logit").output)

    def squared_gradient(pixels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            total = tf.reduce_sum(inner(pixels, training=False))
        return tf.square(tape.gradient(total, pixels)[..., 0])

    return _compiled(squared_gradient)


def _compiled(function: Callable[[Any], Any]) -> Callable[[Maps], Any]:
    import tensorflow as tf

    compiled = tf.function(function, reduce_retracing=True)
    return lambda batch: compiled(tf.constant(batch))


def _batches(images: npt.NDArray[np.uint8], size: int = 32) -> list[Maps]:
    return [images[start : start + size, ..., None].astype(np.float32) for start in range(0, len(images), size)]


def _scaled(maps: Maps) -> Maps:
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(highest > 0, highest, 1), dtype=np.float32)
