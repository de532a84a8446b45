"""Occlusion: how much the logit falls when a patch of the film is gray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.saliency import network
from pneumonia.saliency.maps import Maps, batches, enlarged, scaled

STEPS = 14
"""Positions of the patch along each side."""

WIDTH = 0.054
"""Standard deviation of the patch, as a share of the side. Pointing game and energy in box on validation images of the
phantom: .95 and .59; a square patch of 14 % of the side has .85 and .38, a black one .25 and .11."""


def occlusion(model: Any, images: npt.NDArray[np.uint8], *, n_samples: int, seed: int) -> Maps:
    """Occlusion: the fall of the logit for each position of a soft patch with the mean gray level of the film.

    It needs no gradients, so that it works for any model that gives a score; it is slow, with 196 scores for a map.
    Only what speaks for pneumonia is shown: where the logit rises, the map is 0.

    Args:
        model: a network of `networks.MODELS`, or an ensemble.
        images: uint8 (n, size, size), 0-255.
        n_samples, seed: not used; a map has no random part.

    Returns:
        float32 (n, size, size), 0-1, each map scaled by its maximum.

    Source: Zeiler & Fergus (2014), doi:10.1007/978-3-319-10590-1_53.
    """
    logits = network.logits(model)
    maps = []
    for (film,) in (batch for batch in batches(images, size=1)):
        falls = logits(film[None])[0] - np.concatenate([logits(part) for part in _occluded(film)])
        maps.append(np.maximum(falls.reshape(STEPS, STEPS), 0))
    return scaled(enlarged(np.stack(maps), images.shape[1]))


def _occluded(film: Maps) -> Iterator[Maps]:
    """The film under each position of the patch, a row of positions at a time: float32 (STEPS, size, size, 1)."""
    gray = film.mean()
    for row in (bells := _bells(film.shape[0])):
        cover = (row[:, None] * bells[:, None, :])[..., None]
        yield np.asarray(film + cover * (gray - film), np.float32)


def _bells(size: int) -> Maps:
    """How much each position of the patch covers each pixel of a side: float32 (STEPS, size), 0-1."""
    centres = (np.arange(STEPS) + 0.5) * size / STEPS
    away = (np.arange(size) + 0.5 - centres[:, None]) / (WIDTH * size)
    return np.exp(-(away**2) / 2).astype(np.float32)
