"""Maps that know nothing of the image or of the network: what a method must beat."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia.saliency.maps import Maps, scaled, smoothed
from pneumonia.saliency.scores import Bools


def train_boxes(insides: Bools, n: int) -> Maps:
    """The same map for each image: the share of the train images with a box at each pixel. The anatomy of the disease.

    Args:
        insides: bool (n_train, size, size), the boxes of train images.
        n: images.
    """
    return scaled(np.repeat(insides.mean(axis=0, dtype=np.float32)[None], n, axis=0))


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
