"""SmoothGrad."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.saliency.maps import scaled, smoothed
from pneumonia.saliency.smoothgrad import smoothgrad
from tests.saliency import by_hand

WEIGHTS = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)


def kinked(films: NDArray) -> NDArray:
    """The gradient of sum(max(w (x - 128), 0)), which noise changes where a gray level is near the kink."""
    return np.where(WEIGHTS * (films - 128) > 0, WEIGHTS, 0)


def test_smoothgrad_of_a_linear_model_is_its_squared_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand.give_function(monkeypatch, lambda films: films.sum((1, 2)), lambda films: np.stack([WEIGHTS] * len(films)))
    expected = scaled(smoothed(np.stack([WEIGHTS**2] * 3)))
    for seed, n_samples in ((1, 1), (2, 5)):
        maps = smoothgrad(None, by_hand.films(3), n_samples=n_samples, seed=seed)
        np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_smoothgrad_without_noise_is_the_squared_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand.give_function(monkeypatch, lambda films: films.sum((1, 2)), kinked)
    films = by_hand.films(2)
    maps = smoothgrad(None, films, n_samples=3, seed=1, noise=0.0)
    np.testing.assert_allclose(maps, scaled(smoothed(kinked(films.astype(np.float32)) ** 2)), atol=1e-6)


def test_smoothgrad_averages_over_noise_that_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network with kinks the gradient depends on the noise, and an average depends on it less."""
    by_hand.give_function(monkeypatch, lambda films: films.sum((1, 2)), kinked)
    films = by_hand.films(1)

    def maps(n_samples: int, seed: int) -> NDArray:
        return smoothgrad(None, films, n_samples=n_samples, seed=seed, noise=0.5)

    np.testing.assert_array_equal(maps(1, seed=1), maps(1, seed=1))
    one, many = (np.corrcoef(maps(n, seed=1).ravel(), maps(n, seed=2).ravel())[0, 1] for n in (1, 16))
    assert one + 0.1 < many < 1


def test_the_map_of_an_image_does_not_depend_on_the_images_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not across the border of a batch: the map of a prediction is that of the report."""
    by_hand.give_function(monkeypatch, lambda films: films.sum((1, 2)), kinked)
    films = by_hand.films(35)
    together = smoothgrad(None, films, n_samples=2, seed=0)
    for row in (0, 1, 31, 34):
        np.testing.assert_allclose(
            smoothgrad(None, films[row : row + 1], n_samples=2, seed=0)[0], together[row], atol=1e-6
        )
