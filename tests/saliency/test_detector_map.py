"""The heat map of a detector, on one whose cells say where they are bright."""

from typing import Any

import numpy as np
import pytest

from pneumonia import UserError
from pneumonia.models import ensembles, networks
from pneumonia.saliency import network
from pneumonia.saliency.detector_map import detector_map
from tests.saliency.conftest import OPTIONS, blobs, detector

pytestmark = pytest.mark.usefixtures("known_to_models")

PLACES = [(12, 40), (50, 10)]


def of_bright_cells(factor: float = 20.0) -> Any:
    """The logit of a cell is its mean pixel: above 0 only where a blob is."""
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    means = layers.AveragePooling2D(8)(layers.Rescaling(1 / 255)(pixels))
    centre = layers.Conv2D(1, 1, name="centre")
    x = layers.GlobalMaxPooling2D()(centre(means))
    logit = layers.Dense(1, name="logit")(x)
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit), name="by_hand")
    centre.set_weights([np.full((1, 1, 1, 1), factor), np.array([-0.7 * factor])])
    return model


def test_it_is_brightest_where_the_head_sees_an_opacity() -> None:
    maps = detector_map(of_bright_cells(), blobs(*PLACES), **OPTIONS)
    assert maps.dtype == np.float32
    for values, (row, column) in zip(maps, PLACES, strict=True):
        highest = np.unravel_index(values.argmax(), values.shape)
        assert np.abs(np.array(highest) - (row, column)).max() <= 4
        assert values.max() == 1
        assert values[32, 32] < 0.2


def test_an_ensemble_has_the_mean_of_the_logits_and_random_heads_change_the_map() -> None:
    pair = [of_bright_cells(), of_bright_cells(10.0)]
    (batch,) = (blobs(*PLACES)[..., None].astype(np.float32),)
    one, other = (network.cells(model)(batch) for model in pair)
    np.testing.assert_allclose(network.cells(ensembles.ensemble(pair))(batch), (one + other) / 2, rtol=1e-5)
    with network.randomised(pair[0], range(network.depth(pair[0])), 1):
        assert not np.allclose(network.cells(pair[0])(batch), one)


def test_a_network_without_boxes_is_refused() -> None:
    free = networks.create_model("shallow", size=32)
    for model in (detector(), free):
        with pytest.raises(
            UserError, match=f"detector_map is the map of a detector, and this {model.name} draws no boxes"
        ):
            detector_map(model, blobs(*PLACES), **OPTIONS)
