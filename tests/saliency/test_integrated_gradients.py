"""Integrated gradients."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.saliency.integrated_gradients import contributions, integrated_gradients
from pneumonia.saliency.maps import batches, blurred
from tests.saliency import by_hand
from tests.saliency.conftest import OPTIONS

WEIGHTS = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)


def cubic(films: NDArray) -> NDArray:
    return np.asarray((WEIGHTS * (films / 255) ** 3).sum((1, 2)))


def cubic_gradient(films: NDArray) -> NDArray:
    return np.asarray(WEIGHTS * 3 * (films / 255) ** 2 / 255)


def test_contributions_add_up_to_the_difference_of_the_two_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completeness: Sundararajan et al. (2017), proposition 1. The error falls with the square of the steps."""
    by_hand.give_function(monkeypatch, cubic, cubic_gradient)
    (batch,) = batches(by_hand.films(3))
    difference = cubic(batch[..., 0]) - cubic(blurred(batch)[..., 0])
    few, many = (np.abs(contributions(None, batch, n).sum((1, 2)) - difference).max() for n in (2, 16))
    assert many < 1e-3 * np.abs(difference).max()
    assert many < few / 20


def test_of_a_linear_model_each_pixel_has_its_weight_times_its_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand.give_function(
        monkeypatch, lambda films: (WEIGHTS * films).sum((1, 2)), lambda films: np.stack([WEIGHTS] * len(films))
    )
    (batch,) = batches(by_hand.films(2))
    expected = WEIGHTS * (batch - blurred(batch))[..., 0]
    np.testing.assert_allclose(contributions(None, batch, 1), expected, rtol=1e-5)


def test_pixels_that_speak_against_pneumonia_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a bright and a dark square have detail; the gradient is 1, so the dark one lowers the logit."""
    by_hand.give_function(monkeypatch, lambda films: films.sum((1, 2)), np.ones_like)
    film = np.full((1, 64, 64), 128, np.uint8)
    film[0, 10:14, 10:14], film[0, 50:54, 50:54] = 255, 0
    (values,) = integrated_gradients(None, film, **OPTIONS)
    assert values[11:13, 11:13].min() > 0.5
    assert values[51:53, 51:53].max() == 0
