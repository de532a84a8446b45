"""Where a model looks: saliency maps, and scores that show whether the maps point at the disease."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.data.store import Split
from pneumonia.metrics import decisions
from pneumonia.saliency import grad_cam, scores, smoothgrad
from pneumonia.saliency.maps import Maps

METHODS: dict[str, Callable[..., Maps]] = {"grad_cam": grad_cam.grad_cam, "smoothgrad": smoothgrad.smoothgrad}


def choose(predictions: pd.DataFrame, n_images: int, seed: int) -> list[str]:
    """Test images for the saliency pictures: half of each class if there are enough, drawn at random, not by score."""
    test = predictions[predictions["split"] == "test"]
    rng = np.random.default_rng(seed)
    halves = [test.loc[test["label"] == label, "image_id"].to_numpy() for label in (1, 0)]
    shares = (n_images - n_images // 2, n_images // 2)
    return [str(name) for half, n in zip(halves, shares, strict=True) for name in rng.permutation(half)[:n]]


def choose_scored(predictions: pd.DataFrame, boxes: Mapping[str, Any], n_scored: int, seed: int) -> list[str]:
    """Test images on which maps are scored: those with boxes or, if the source has no boxes, any."""
    test = predictions.loc[predictions["split"] == "test", "image_id"]
    boxed = test[test.isin(list(boxes))]
    rng = np.random.default_rng(seed)
    return [str(name) for name in rng.permutation(boxed if len(boxed) else test)[:n_scored]]


def score(
    model: Any, images: npt.NDArray[np.uint8], boxes: scores.Boxes, *, n_samples: int, seed: int
) -> dict[str, dict[str, float]]:
    """The content of `explain.json`: scores of the maps of each method.

    Args:
        model: trained.
        images: uint8 (n, size, size), 0-255.
        boxes: for each image float (k, 4): x, y, width, height in pixels of the store; k may be 0.
        n_samples, seed: as in `smoothgrad`.

    Returns:
        Per method `ms_per_image` and `n`, and, if images have boxes, `pointing_game` (share of the images whose highest
        value lies in a box; `_low` and `_high` are its 95 % Wilson interval), `energy_in_box` (mean share of a map that
        lies in the boxes), `box_area` (mean share of the image that the boxes cover: the `energy_in_box` of a uniform
        map) and `n_boxed`.
    """
    boxed = np.array([len(one) > 0 for one in boxes])
    results = {}
    for name, method in METHODS.items():
        method(model, images, n_samples=1, seed=seed)  # compiles for each batch shape, which is not measured
        start = time.perf_counter()
        maps = method(model, images, n_samples=n_samples, seed=seed)
        row: dict[str, float] = {"n": len(images), "ms_per_image": 1000 * (time.perf_counter() - start) / len(images)}
        if boxed.any():
            insides = np.stack([scores.inside(one, images.shape[1]) for one in boxes])[boxed]
            row |= {
                "n_boxed": int(boxed.sum()),
                **_with_interval("pointing_game", scores.pointing_game(maps[boxed], insides), int(boxed.sum())),
                "energy_in_box": scores.energy_in_box(maps[boxed], insides),
                "box_area": float(insides.mean()),
            }
        results[name] = row
    return results


def _with_interval(name: str, share: float, n: int) -> dict[str, float]:
    low, high = decisions.wilson_interval(round(share * n), n)
    return {name: share, f"{name}_low": low, f"{name}_high": high}


def pick(split: Split, image_ids: list[str]) -> npt.NDArray[np.uint8]:
    """The images with these ids, in the order of the ids: uint8 (n, size, size)."""
    rows = {name: row for row, name in enumerate(split.image_ids)}
    return split.images[[rows[name] for name in image_ids]]
