"""Gradient x input."""

import numpy as np
import pytest

from pneumonia.saliency.gradient_x_input import gradient_x_input
from pneumonia.saliency.maps import scaled, smoothed
from tests.saliency import by_hand
from tests.saliency.conftest import OPTIONS


def test_each_pixel_counts_with_its_weight_times_its_gray_level(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)
    by_hand.give_function(monkeypatch, lambda films: films.sum((1, 2)), lambda films: np.stack([weights] * len(films)))
    films = by_hand.films(2)
    films[0, :8] = 0
    maps = gradient_x_input(None, films, **OPTIONS)
    np.testing.assert_allclose(maps, scaled(smoothed(np.abs(weights * films).astype(np.float32))), atol=1e-6)
    assert maps[0, :6].max() == 0, "black pixels count nothing, whatever their gradient"
