"""Backbones: unfolded normalisation, halves."""

from typing import Any

import numpy as np
import pytest

from pneumonia.models import backbones, networks
from tests.conftest import shallow_densenets
from tests.models.conftest import IMAGES, normalisations, with_own_statistics

pytestmark = pytest.mark.usefixtures("keras_started")


@pytest.fixture
def folded() -> Any:
    """A network as converters leave it: its normalisations add a shift to their input, and no more."""
    model = networks.create_model("mobilenet", size=64)
    rng = np.random.default_rng(3)
    for one in normalisations(model):
        channels = len(one.get_weights()[0])
        shift = rng.normal(0, 0.3, channels)
        one.set_weights([np.ones(channels), shift, np.zeros(channels), np.full(channels, 1 - one.epsilon)])
    return model


def test_unfolding_gives_each_normalisation_the_statistics_of_its_input_and_keeps_the_function(folded: Any) -> None:
    import keras

    images = np.random.default_rng(4).integers(0, 256, (40, 64, 64), dtype=np.uint8)
    features = keras.Model(folded.input, folded.get_layer("features").output)
    layers = normalisations(folded)
    pixels = images[..., None].astype(np.float32)
    before = np.asarray(features(pixels, training=False))
    assert backbones.unfold(folded, images) == len(layers)
    np.testing.assert_allclose(features(pixels, training=False), before, atol=1e-3, rtol=1e-3)
    arrived = keras.Model(folded.input, [one.input for one in layers])(pixels, training=False)
    for layer, values in zip(layers, map(np.asarray, arrived), strict=True):
        _, _, mean, variance = layer.get_weights()
        np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(variance, values.var(axis=(0, 1, 2)), rtol=1e-2, atol=1e-4)
    # Asked again, it finds statistics and leaves them.
    assert backbones.unfold(folded, images) == 0


def test_statistics_of_their_own_are_left_alone() -> None:
    model = networks.create_model("mobilenet", size=64)
    with_own_statistics(model, IMAGES[..., None])
    weights = model.get_weights()
    assert backbones.unfold(model, IMAGES) == 0
    for one, two in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["mobilenet", "densenet", "fusion"])
def test_the_halves_of_a_network_with_a_backbone_are_the_network(name: str) -> None:
    with shallow_densenets():
        model = networks.create_model(name, size=32)
    body, head = backbones.halves(model)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 1)).astype(np.float32)
    features = np.asarray(body(pixels, training=False))
    np.testing.assert_allclose(head(features, training=False), model(pixels, training=False), rtol=1e-5, atol=1e-7)
    learning = {layer.name for layer in head.layers if layer.trainable_weights}
    assert "logit" in learning
    assert not learning & set(networks.depths(model))


@pytest.mark.parametrize("name", ["compact", "vanilla", "conv4", "shallow"])
def test_a_network_without_backbone_is_all_head(name: str) -> None:
    model = networks.create_model(name)
    assert backbones.halves(model) == (None, model)
    assert networks.depths(model) == {}
