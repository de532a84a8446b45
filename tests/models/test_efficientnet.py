"""EfficientNet-Lite0 is the published network."""

from typing import Any

import pytest

from pneumonia.models import efficientnet

pytestmark = pytest.mark.usefixtures("keras_started")


@pytest.fixture(scope="module")
def network() -> Any:
    return efficientnet.lite0(include_top=False, weights=None, input_shape=(32, 32, 3))


def test_it_has_the_published_blocks(network: Any) -> None:
    assert network.count_params() == 3_413_024
    assert network.output_shape == (None, 1, 1, 1280)
    names = [layer.name for layer in network.layers if layer.weights]
    assert all(any(name.startswith(block) for block in efficientnet.BLOCKS) for name in names)
    assert len(efficientnet.BLOCKS) == 1 + 16 + 1
    assert sum(layer.name.endswith("_add") for layer in network.layers) == 9
