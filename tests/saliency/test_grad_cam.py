"""Grad-CAM."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.models import networks, scoring
from pneumonia.saliency import grad_cam
from tests.saliency.conftest import OPTIONS, SIZE, blobs, detector

pytestmark = pytest.mark.usefixtures("known_to_models")


def peaks(maps: NDArray) -> NDArray[np.intp]:
    return np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:]), axis=1)


CENTRES = ((12, 40), (50, 10), (32, 32), (8, 56))


def test_grad_cam_peaks_at_what_the_network_detects() -> None:
    maps = grad_cam.grad_cam(detector(), blobs(*CENTRES), **OPTIONS)
    assert maps.shape == (4, SIZE, SIZE)
    assert maps.dtype == np.float32
    assert np.abs(peaks(maps) - CENTRES).max() <= 4
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1)
    assert maps.min() == 0
    for one, (row, column) in zip(maps, CENTRES, strict=True):
        far = np.ones((SIZE, SIZE), bool)
        far[max(row - 12, 0) : row + 12, max(column - 12, 0) : column + 12] = False
        assert one[far].max() == 0


def test_grad_cam_shows_only_what_speaks_for_pneumonia() -> None:
    bright, dark = blobs((12, 40)), blobs((50, 10), gray=0)
    both = np.where(dark == 0, 0, bright).astype(np.uint8)
    for weights, (row, column) in (((1, -1), (12, 40)), ((-1, 1), (50, 10))):
        maps = grad_cam.grad_cam(detector(*weights), both, **OPTIONS)
        assert np.abs(peaks(maps) - [row, column]).max() <= 4
    assert grad_cam.grad_cam(detector(-1, -1), both, **OPTIONS).max() == 0


def test_grad_cam_does_not_depend_on_how_sure_the_network_is() -> None:
    """It follows the logit, whose gradient does not vanish where the probability is 1."""
    sure = grad_cam.grad_cam(detector(bright=1e4), blobs(*CENTRES), **OPTIONS)
    np.testing.assert_allclose(sure, grad_cam.grad_cam(detector(), blobs(*CENTRES), **OPTIONS), atol=1e-5)
    assert scoring.predict_scores(detector(bright=1e4), blobs(*CENTRES)).min() == 1


def test_a_map_does_not_depend_on_the_other_images() -> None:
    """Neither across the border of a batch nor, in a network with more layers above the features, within it."""
    import keras

    rng = np.random.default_rng(1)
    images = blobs(*[tuple(rng.integers(8, SIZE - 8, 2)) for _ in range(35)])
    maps = grad_cam.grad_cam(detector(), images, **OPTIONS)
    assert len(maps) == 35
    for row in (0, 31, 32, 34):
        (alone,) = grad_cam.grad_cam(detector(), images[row : row + 1], **OPTIONS)
        np.testing.assert_allclose(alone, maps[row], atol=1e-5)
    keras.utils.set_random_seed(1)
    deep = networks.create_model("compact", size=128)
    together = grad_cam.grad_cam(deep, images[:4], **OPTIONS)
    for row in range(4):
        np.testing.assert_allclose(
            grad_cam.grad_cam(deep, images[row : row + 1], **OPTIONS)[0], together[row], atol=1e-3
        )
