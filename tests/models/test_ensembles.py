"""Several networks as one, on networks of random weights."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia import explain
from pneumonia.models import ensembles, loading, networks, runtime, scoring
from pneumonia.saliency import methods, network
from tests.conftest import half_precision


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


def test_an_ensemble_has_the_mean_logit_of_its_members_and_their_mean_map(tmp_path: Path) -> None:
    import keras

    members = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        members.append(networks.create_model("shallow"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 80, 80), np.uint8)
    one, other = (logit(scoring.predict_scores(member, pixels)) for member in members)
    scoring.save_model(ensembles.ensemble(members), tmp_path / "model.keras")
    loaded = loading.load_model(tmp_path / "model.keras")
    assert loaded.name == "shallow"
    np.testing.assert_allclose(logit(scoring.predict_scores(loaded, pixels)), (one + other) / 2, atol=1e-5)
    assert not np.allclose(one, other)
    for alone, expected in zip(ensembles.separate(loaded), (one, other), strict=True):
        np.testing.assert_allclose(logit(scoring.predict_scores(alone, pixels)), expected, atol=1e-5)
    assert loaded.count_params() == 2 * members[0].count_params() == networks.summary(loaded)["parameters"].sum()
    inner = [network.features(member)(pixels[..., None].astype(np.float32)) for member in members]
    both = network.features(loaded)(pixels[..., None].astype(np.float32))
    for of_member, of_ensemble in zip(inner, both, strict=True):
        for alone, together in zip(of_member[0], of_ensemble, strict=True):
            np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    how = {"n_samples": 2, "seed": 1}
    assert all(explain.METHODS[method](loaded, pixels, **how).max() == 1 for method in methods.fitting(loaded))


def test_an_ensemble_of_one_is_the_one() -> None:
    network = networks.create_model("shallow")
    assert ensembles.ensemble([network]) is network
    assert ensembles.members(network) == ensembles.separate(network) == [network]


def test_an_ensemble_of_half_precision_computes_in_single_precision() -> None:
    with half_precision():
        pair = [networks.create_model("shallow", size=32) for _ in range(2)]
    members = ensembles.members(ensembles.ensemble(pair))
    assert {layer.compute_dtype for member in members for layer in member.layers} == {"float32"}


def test_a_network_of_half_precision_is_saved_in_single_precision() -> None:
    with half_precision():
        half = networks.create_model("shallow", size=32)
    assert half.get_layer("conv1").compute_dtype == "bfloat16"
    plain = ensembles.in_float32(half)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
    assert plain.name == half.name
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32), np.uint8)
    np.testing.assert_allclose(scoring.predict_scores(plain, images), scoring.predict_scores(half, images), atol=0.02)
    assert ensembles.in_float32(plain) is plain


def logit(probability: NDArray) -> NDArray:
    return np.log(probability / (1 - probability))
