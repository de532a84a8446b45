"""The adapter to Keras."""

import numpy as np
import pytest

from pneumonia.models import ensembles, networks
from pneumonia.saliency import network
from pneumonia.saliency.maps import batches
from tests.saliency.conftest import blobs, detector

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("known_to_models")]  # TensorFlow

(BATCH,) = batches(blobs((12, 40), (50, 10), (32, 32)))


def test_the_gradient_is_the_change_of_the_logit_with_a_pixel() -> None:
    model = detector()
    changed = BATCH.copy()
    changed[:, 12, 40] += 1
    difference = network.logits(model)(changed) - network.logits(model)(BATCH)
    np.testing.assert_allclose(network.gradients(model)(BATCH)[:, 12, 40], difference, atol=1e-6)
    assert difference[0] > 0


def test_features_and_their_gradients_are_those_of_the_layer_of_the_table() -> None:
    ((values, slopes),) = network.features(detector(bright=3.0, dark=-2.0))(BATCH)
    assert values.shape == slopes.shape == (3, 16, 16, 2)
    np.testing.assert_allclose(slopes[..., 0], 3 / 256, rtol=1e-5)
    np.testing.assert_allclose(slopes[..., 1], -2 / 256, rtol=1e-5)


def test_random_weights_are_those_of_the_seed_and_the_learnt_ones_return() -> None:
    model = detector()
    learnt = network.logits(model)(BATCH)
    drawn = []
    for seed in (1, 1, 2):
        with network.randomised(model, range(network.depth(model)), seed):
            drawn.append(network.logits(model)(BATCH))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    assert not np.allclose(drawn[0], learnt)
    np.testing.assert_array_equal(network.logits(model)(BATCH), learnt)


def test_the_learnt_weights_return_after_an_error() -> None:
    model = detector()
    learnt = model.get_weights()
    with pytest.raises(RuntimeError), network.randomised(model, (0, 1), 1):
        raise RuntimeError
    for before, after in zip(learnt, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_places_are_counted_from_the_logit_and_each_keeps_its_draw() -> None:
    model = detector()
    assert network.depth(model) == 2
    features = model.get_layer("features").get_weights()
    with network.randomised(model, (0,), 1):
        logit = model.get_layer("logit").get_weights()
        np.testing.assert_array_equal(model.get_layer("features").get_weights()[0], features[0])
    with network.randomised(model, (0, 1), 1):
        np.testing.assert_array_equal(model.get_layer("logit").get_weights()[0], logit[0])
        assert not np.allclose(model.get_layer("features").get_weights()[0], features[0])


def test_each_member_of_an_ensemble_has_its_own_weights_and_features() -> None:
    ensemble = ensembles.ensemble([networks.create_model("shallow", size=32) for _ in range(2)])
    assert network.depth(ensemble) == 4
    assert len(network.features(ensemble)(BATCH)) == 2
    with network.randomised(ensemble, (0,), 1):
        one, other = (member.get_layer("logit").get_weights()[0] for member in ensembles.members(ensemble))
    assert not np.allclose(one, other)


def test_normalisations_of_a_random_network_change_nothing() -> None:
    """They would multiply the signal by statistics of the learnt weights."""
    model = networks.create_model("mobilenet", size=32)
    with network.randomised(model, range(network.depth(model)), 1):
        norm = model.get_layer("bn_Conv1")
        assert [float(np.unique(weight).item()) for weight in norm.get_weights()] == [1, 0, 0, 1]
        assert np.isfinite(network.logits(model)(BATCH)).all()
        assert np.abs(network.gradients(model)(BATCH)).max() > 0


def test_networks_in_half_precision_give_float32() -> None:
    import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = networks.create_model("shallow", size=32)
    finally:
        keras.config.set_dtype_policy(policy)
    ((values, slopes),) = network.features(model)(BATCH)
    results = (values, slopes, network.gradients(model)(BATCH), network.logits(model)(BATCH))
    assert {one.dtype for one in results} == {np.dtype(np.float32)}
