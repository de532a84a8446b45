"""Scores, and the file of a model that cannot be saved."""

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pneumonia.data.store import IMAGES_PER_BLOCK, Pixels
from pneumonia.models import networks, scoring
from tests.models.conftest import IMAGES

pytestmark = pytest.mark.usefixtures("keras_started")


def test_scores_are_probabilities_for_images_of_another_size(model: Any) -> None:
    scores = scoring.predict_scores(model, IMAGES)
    assert scores.shape == (3,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(set(scores)) == 3  # it looks at the image
    assert model(np.zeros((1, 300, 260, 1), np.float32), training=False).shape == (1, 1)


def test_no_images_have_no_scores(model: Any) -> None:
    scores = scoring.predict_scores(model, IMAGES[:0])
    assert scores.shape == (0,)
    assert scores.dtype == np.float64


def test_outputs_are_those_of_predict_for_any_batch_size() -> None:
    network = networks.create_model("shallow")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 1), np.uint8)
    expected = network.predict(pixels, batch_size=2, verbose=0)
    given: list[Any] = []
    predict = network.predict
    network.predict = lambda stream, **how: (given.append(stream), predict(stream, **how))[1]
    np.testing.assert_array_equal(scoring.outputs(network, pixels, batch_size=2), expected)
    np.testing.assert_allclose(scoring.outputs(network, pixels, batch_size=9), expected, rtol=1e-5)
    # Tuned, the end of a stream would be waited for.
    assert [stream.options().autotune.enabled for stream in given] == [False, False]


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    compact = networks.create_model("compact", size=128)
    together = scoring.predict_scores(compact, IMAGES)
    np.testing.assert_allclose(scoring.predict_scores(compact, IMAGES, batch_size=1), together, atol=1e-6)
    np.testing.assert_allclose(scoring.predict_scores(compact, IMAGES[::-1]), together[::-1], atol=1e-6)


def test_scores_in_blocks_are_those_of_one_call_in_memory_and_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(1).integers(0, 256, (150, 32, 32), dtype=np.uint8)
    model = networks.create_model("compact", size=128)
    at_once = model.predict(images[..., None], batch_size=64, verbose=0)[:, 0]
    assert len(set(at_once)) > 140
    array = zarr.create_array({}, data=images, chunks=(50, 32, 32))
    monkeypatch.setattr("pneumonia.data.store.IMAGES_PER_BLOCK", 64)
    np.testing.assert_array_equal(scoring.predict_scores(model, images), at_once)
    np.testing.assert_array_equal(scoring.predict_scores(model, Pixels(array, 0)), at_once)


def test_a_block_is_whole_batches() -> None:
    (batch_size,) = [one.default for one in signature(scoring.predict_scores).parameters.values()][2:]
    assert IMAGES_PER_BLOCK % batch_size == 0


def test_a_model_that_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken:
        def save(self, path: Path) -> None:
            path.write_text("half a model")
            raise OSError("disk full")

    (tmp_path / "model.keras").write_text("the old one")
    with pytest.raises(OSError, match="disk full"):
        scoring.save_model(Broken(), tmp_path / "model.keras")
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_text() == "the old one"
