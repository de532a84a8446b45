"""HiResCAM."""

import numpy as np
import pytest

from pneumonia.saliency.grad_cam import grad_cam
from pneumonia.saliency.hires_cam import hires_cam
from pneumonia.saliency.layer_cam import layer_cam
from tests.saliency import by_hand
from tests.saliency.conftest import OPTIONS

# Two channels see the same two places. The logit uses the first place for pneumonia and the second against it.
FEATURES = np.zeros((4, 4, 2))
FEATURES[0, 0] = FEATURES[3, 3] = [1, 1]
SLOPES = np.zeros((4, 4, 2))
SLOPES[0, 0], SLOPES[3, 3] = [3, -1], [-4, 1]


def test_hires_cam_shows_only_the_place_that_raises_the_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand.give_features(monkeypatch, (FEATURES, SLOPES))
    (values,) = hires_cam(None, by_hand.films(1, 4), **OPTIONS)
    expected = np.zeros((4, 4))
    expected[0, 0] = 1
    np.testing.assert_array_equal(values, expected)


def test_grad_cam_mixes_both_places_and_shows_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mean gradients of the two channels are -1 / 16 and 0: why it can be worse than a map of the anatomy."""
    by_hand.give_features(monkeypatch, (FEATURES, SLOPES))
    assert grad_cam(None, by_hand.films(1, 4), **OPTIONS).max() == 0


def test_layer_cam_does_not_subtract_what_speaks_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand.give_features(monkeypatch, (FEATURES, SLOPES))
    (values,) = layer_cam(None, by_hand.films(1, 4), **OPTIONS)
    np.testing.assert_allclose((values[0, 0], values[3, 3], values.sum()), (1, 1 / 3, 4 / 3), rtol=1e-6)


def test_the_sum_of_a_linear_head_is_the_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before negative cells are cut off the cells add up to the logit, so that they are its parts."""
    rng = np.random.default_rng(1)
    features, weights = rng.random((4, 4, 3)), rng.random((4, 4, 3))
    by_hand.give_features(monkeypatch, (features, weights))
    (values,) = hires_cam(None, by_hand.films(1, 4), **OPTIONS)
    cells = (features * weights).sum(axis=-1)
    np.testing.assert_allclose(values, cells / cells.max(), rtol=1e-6)
    np.testing.assert_allclose(values.sum() * cells.max(), (features * weights).sum(), rtol=1e-6)
