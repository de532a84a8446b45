"""What the class activation maps share."""

import numpy as np
import pytest

from pneumonia.saliency import cam
from tests.saliency import by_hand


def test_what_speaks_against_pneumonia_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand.give_features(monkeypatch, (np.ones((2, 2, 1)), np.array([[[1], [-1]], [[2], [0]]])))
    (values,) = cam.activation_maps(None, by_hand.films(1, 2), lambda values, slopes: (values * slopes)[..., 0])
    assert values.tolist() == [[0.5, 0], [1, 0]]


def test_an_ensemble_has_the_mean_of_the_maps_of_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.array([[[4.0], [0.0]], [[-8.0], [0.0]]]), np.array([[[0.0], [2.0]], [[0.0], [0.0]]])
    by_hand.give_features(monkeypatch, (first, np.ones_like(first)), (second, np.ones_like(second)))
    (values,) = cam.activation_maps(None, by_hand.films(1, 2), lambda values, slopes: (values * slopes)[..., 0])
    assert values.tolist() == [[1, 0.5], [0, 0]], "a negative value of one member takes nothing from the other"


def test_maps_of_more_images_than_a_batch_are_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((40, 4, 4), np.uint8)
    images[np.arange(40), np.arange(40) % 4, 1] = 9
    monkeypatch.setattr(cam.network, "features", lambda model: lambda batch: [(batch, np.ones_like(batch))])
    maps = cam.activation_maps(None, images, lambda values, slopes: (values * slopes)[..., 0])
    np.testing.assert_array_equal(maps, (images > 0).astype(np.float32))
