"""Helpers of all saliency methods, in numpy: batches as input, maps from 0 to 1 as output."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Maps = npt.NDArray[np.float32]

_DETAIL = 0.1
"""Of `blurred`, as a share of the side: shapes of the thorax stay, opacities and edges become weak."""


def batches(images: npt.NDArray[np.uint8], size: int = 32) -> list[Maps]:
    """Images as input of networks, `size` at a time: float32 (size, height, width, 1), 0-255."""
    return [images[start : start + size, ..., None].astype(np.float32) for start in range(0, len(images), size)]


def scaled(maps: Maps) -> Maps:
    """Maps from 0 to 1, each divided by its maximum; a map of zeros is not changed."""
    maximum = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(maximum > 0, maximum, 1), dtype=np.float32)


def enlarged(maps: Maps, size: int) -> Maps:
    """Maps of the cells of a layer as maps of the image, interpolated: float32 (n, size, size)."""
    resized = [cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR) for values in maps]
    return np.stack(resized).astype(np.float32)


def smoothed(maps: Maps, share: float = 0.01) -> Maps:
    """Maps of single pixels, blurred by a share of the side, because their region is less noisy than they are."""
    return np.stack([cv2.GaussianBlur(values, (0, 0), sigmaX=share * maps.shape[1]) for values in maps])


def levels(values: Maps) -> npt.NDArray[np.uint8]:
    """A map in gray levels: uint8 of the same shape; values below 0 or above 1 count as 0 or 1."""
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def coloured(values: Maps) -> npt.NDArray[np.uint8]:
    """A map in the colours of inferno: uint8 (height, width, 3), BGR."""
    return np.asarray(cv2.applyColorMap(levels(values), cv2.COLORMAP_INFERNO), np.uint8)


def overlaid(image: npt.NDArray[np.uint8], values: Maps) -> npt.NDArray[np.uint8]:
    """An image, gray or BGR, under its map: uint8 (height, width, 3), BGR; transparent where the map is low."""
    image = image if image.ndim == 3 else image[..., None]
    share = 0.7 * np.clip(values, 0, 1)[..., None]
    return np.asarray(np.rint(image * (1 - share) + coloured(values) * share), np.uint8)


def blurred(batch: Maps) -> Maps:
    """Films without detail, blurred by 10 % of the side: float32 (n, size, size, 1)."""
    sigma = _DETAIL * batch.shape[1]
    return np.stack([cv2.GaussianBlur(film[..., 0], (0, 0), sigmaX=sigma) for film in batch])[..., None]
