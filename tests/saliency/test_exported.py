"""Maps of an exported network."""

from pathlib import Path

import numpy as np
import pytest

from pneumonia import inference
from pneumonia.saliency import network, occlusion
from pneumonia.saliency.exported import Exported
from tests import predictors
from tests.saliency import by_hand


@pytest.fixture
def exported() -> Exported:
    content = predictors.network() + predictors.maps()
    return Exported(inference.open_session(Path("maps.onnx"), content, threads=1, remedy=""))


def test_the_bytes_of_both_files_are_one_network(exported: Exported) -> None:
    batch = np.full((3, 32, 32, 1), 128, np.float32) + 32 * np.arange(3, dtype=np.float32)[:, None, None, None]
    np.testing.assert_allclose(network.logits(exported)(batch), [0, 1, 2], atol=1e-5)


def test_a_method_makes_the_same_map_of_both_kinds_of_network(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"n_samples": 1, "seed": 0}
    maps = occlusion.occlusion(exported, by_hand.films(2, 32), **options)
    by_hand.give_function(monkeypatch, lambda films: (films.mean((1, 2)) - 128) / 32)
    expected = occlusion.occlusion(None, by_hand.films(2, 32), **options)
    assert expected.max() == 1
    np.testing.assert_allclose(maps, expected, atol=1e-3)
