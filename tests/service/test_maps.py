"""Maps as pictures, and why there are none."""

import logging
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from pneumonia import UserError, predict, workspace
from pneumonia.saliency import methods
from pneumonia.service import maps
from pneumonia.service.current import open_model
from pneumonia.service.limits import RefusedError
from tests import predictors
from tests.service.conftest import film


def model(folder: Path, **facts: Any) -> Any:
    return open_model(predict.Source(predictors.write(folder, **facts)), "youden")


def test_colours_are_those_of_inferno_and_alpha_is_the_value() -> None:
    picture = maps.coloured(np.array([[0, 0.5, 1, 1.5, -1]], np.float32))
    assert picture.shape == (1, 5, 4)
    np.testing.assert_array_equal(picture[0, :, 3], [0, 128, 255, 255, 0])
    dark, _, bright = (picture[0, place, :3].astype(int) for place in range(3))  # blue, green, red
    assert dark.sum() < 20
    assert (bright[2] > 240, bright[1] > 240) == (True, True)


def test_each_reason_for_no_maps_is_said_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tmp_path / "model.keras"
    named = {"saliency": {"method": "smoothgrad"}}
    digests = {"model.onnx": workspace.sha256_bytes(predictors.network()), "model_sha256": workspace.sha256_bytes(b"k")}
    assert "names no method" in maps.problem(model(tmp_path / "a"))
    failed = model(tmp_path / "c", saliency={"method": "grad_cam", "verdict": "no better than anatomy"})
    assert maps.problem(failed).startswith("no saliency maps: every method that was measured is excluded")
    one = model(tmp_path / "b", digests=digests, **named)
    assert maps.problem(one) == "the Keras network of this predictor, model.keras, is not beside its folder"
    network.write_bytes(b"another")
    assert "is not beside" in maps.problem(one)
    network.write_bytes(b"k")
    assert maps.problem(one) == ""
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    assert maps.problem(one).startswith("TensorFlow, which computes the maps of this model, is not installed")
    exported = open_model(predict.Source(predictors.write_with_maps(tmp_path / "d")), "youden")
    assert maps.problem(exported) == "", "the exported network needs it not"


def test_a_network_that_cannot_be_loaded_is_a_refusal_and_its_reason_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = model(tmp_path / "a", saliency={"method": "smoothgrad"})
    monkeypatch.setattr(maps, "problem", lambda model: "")
    for error in (UserError("/srv/store is gone"), OSError(28, "No space left on device")):
        monkeypatch.setattr(predict, "load_network", Mock(side_effect=error))
        with caplog.at_level(logging.WARNING), pytest.raises(RefusedError, match="cannot be loaded") as refusal:
            maps.Maps().draw(one, film())
        assert refusal.value.status == 503
        assert "srv" not in refusal.value.message
    drawn = maps.Maps()
    assert drawn.problem(one) == ""
    with pytest.raises(RefusedError):
        drawn.draw(one, film())
    assert drawn.problem(one) == "the network for maps cannot be loaded; the log of the service says why"
    assert drawn.problem(model(tmp_path / "b", saliency={"method": "smoothgrad"})) == "", "another model may have maps"
    monkeypatch.setattr(maps.time, "monotonic", lambda: float("inf"))
    assert drawn.problem(one) == "", "after a time it is tried again"
    assert "/srv/store is gone" in caplog.text
    assert "No space left on device" in caplog.text


def test_the_network_is_loaded_once_for_a_model_and_again_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr(maps, "problem", lambda model: "")
    monkeypatch.setattr(predict, "load_network", lambda source, predictor, threads: loaded.append(source.folder))
    monkeypatch.setitem(methods.METHODS, "smoothgrad", lambda network, images, **options: images / np.float32(255))
    first, second = (model(tmp_path / name, saliency={"method": "smoothgrad"}) for name in "ab")
    drawn = maps.Maps()
    for one in (first, first, second, second):
        assert drawn.draw(one, film()).startswith(b"\x89PNG")
    assert loaded == [tmp_path / "a", tmp_path / "b"]
