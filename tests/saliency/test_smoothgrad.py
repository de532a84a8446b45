"""SmoothGrad."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.models import networks
from pneumonia.saliency import smoothgrad
from tests.saliency.conftest import SIZE, blobs, detector


def linear(weights: NDArray) -> Any:
    """The logit is the sum of the pixels, each times its weight."""
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    logit = layers.Dense(1, name="logit")
    x = logit(layers.Flatten()(layers.Resizing(*weights.shape)(pixels)))
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(x), name="by_hand")
    logit.set_weights([weights.reshape(-1, 1), np.zeros(1)])
    return model


def test_smoothgrad_of_a_linear_model_is_its_squared_weights() -> None:
    weights = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    images = np.random.default_rng(2).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    for seed, n_samples in ((1, 1), (2, 5)):
        maps = smoothgrad.smoothgrad(linear(weights), images, n_samples=n_samples, seed=seed)
        np.testing.assert_allclose(maps, np.stack([weights**2 / (weights**2).max()] * 3), atol=1e-5)


def test_smoothgrad_is_blurred_by_one_percent_of_the_side() -> None:
    weights = np.zeros((200, 200), np.float32)
    weights[60, 120] = 1
    (one,) = smoothgrad.smoothgrad(linear(weights), np.zeros((1, 200, 200), np.uint8), n_samples=1, seed=1)
    across, down = np.meshgrid(np.arange(200), np.arange(200))
    bell = np.exp(-((across - 120) ** 2 + (down - 60) ** 2) / (2 * 2.0**2))
    np.testing.assert_allclose(one, bell, atol=0.002)


def test_smoothgrad_averages_over_noise_that_the_seed_decides() -> None:
    """In a network with kinks the gradient depends on the noise, and an average depends on it less."""
    import keras

    keras.utils.set_random_seed(1)
    model = networks.create_model("compact", size=128)
    image = np.random.default_rng(1).integers(0, 256, (1, 48, 48), dtype=np.uint8)

    def maps(n_samples: int, seed: int) -> NDArray:
        return smoothgrad.smoothgrad(model, image, n_samples=n_samples, seed=seed, noise=0.5)

    np.testing.assert_array_equal(maps(1, seed=1), maps(1, seed=1))
    one, many = (np.corrcoef(maps(n, seed=1).ravel(), maps(n, seed=2).ravel())[0, 1] for n in (1, 16))
    assert one + 0.1 < many < 1


def test_smoothgrad_without_noise_is_the_gradient() -> None:
    """Which is zero where nothing is detected; the noise is a share of the range of the image."""
    undetected = np.full((1, SIZE, SIZE), 100, np.uint8)
    assert smoothgrad.smoothgrad(detector(), undetected, n_samples=2, seed=1).max() == 0
    (found,) = smoothgrad.smoothgrad(detector(), blobs((12, 40)), n_samples=1, seed=1, noise=0.0)
    assert found[8:16, 36:44].min() > 0
    assert found[30:, :].max() == 0
