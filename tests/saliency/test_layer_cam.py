"""LayerCAM."""

import numpy as np
import pytest

from pneumonia.saliency.layer_cam import layer_cam
from tests.saliency import by_hand
from tests.saliency.conftest import OPTIONS


def test_layer_cam_weighs_each_cell_by_its_own_positive_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.array([[[2.0], [2.0]], [[1.0], [0.0]]])
    slopes = np.array([[[1.0], [-5.0]], [[4.0], [9.0]]])
    by_hand.give_features(monkeypatch, (features, slopes))
    (values,) = layer_cam(None, by_hand.films(1, 2), **OPTIONS)
    assert values.tolist() == [[0.5, 0], [1, 0]]
