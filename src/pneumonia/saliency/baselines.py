"""Maps that know nothing of the image or of the network: what a method must beat."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia.saliency.maps import Maps, scaled, smoothed
from pneumonia.saliency.scores import Bools, inside


def mean_of_boxes(boxes: Iterable[npt.NDArray[np.float64]], size: int) -> npt.NDArray[np.float32]:
    """Share of the images with a box at each pixel, float32 (size, size); 0 without images.

    Args:
        boxes: of each image, as `scores.inside` takes them. One image is in memory at a time.
        size: of the images.
    """
    total, n = np.zeros((size, size), np.float32), 0
    for one in boxes:
        total += inside(one, size)
        n += 1
    return total / np.float32(max(n, 1))


def train_boxes(mean: npt.NDArray[np.float32], n: int) -> Maps:
    """The same map for each image: the mean of the boxes of train images. The anatomy of the disease.

    Args:
        mean: float32 (size, size), as `mean_of_boxes` returns it.
        n: images.
    """
    return scaled(np.repeat(mean[None], n, axis=0))


def uniform_in_lungs(lungs: Bools) -> Maps:
    """1 in the lungs, 0 elsewhere."""
    return lungs.astype(np.float32)


def centre(n: int, size: int) -> Maps:
    """The same map for each image: a bell curve over the centre, whose standard deviation is a quarter of the side."""
    away = (np.arange(size) - (size - 1) / 2) / (size / 4)
    bell = np.exp(-(away[:, None] ** 2 + away**2) / 2)
    return scaled(np.repeat(bell[None], n, axis=0).astype(np.float32))


def edges(images: npt.NDArray[np.uint8]) -> Maps:
    """An edge detector: the steepness of the gray levels, which looks like a saliency map and knows no network."""
    steep = [
        np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)).astype(np.float32)
        for image in images
    ]
    return scaled(smoothed(np.stack(steep)))


def of_another_image(maps: Maps, patients: npt.NDArray[np.object_]) -> Maps:
    """For each image the map of the next image of another patient; if there is none, a map of zeros."""
    others = np.zeros_like(maps)
    for row, patient in enumerate(patients):
        following = np.roll(np.arange(len(patients)), -row - 1)
        further = following[patients[following] != patient]
        if len(further):
            others[row] = maps[further[0]]
    return others
