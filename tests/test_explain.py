"""Saliency of networks built by hand, whose answer is known; then the scores of maps drawn by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pneumonia import explain
from pneumonia.data.store import Pixels, Split, create_split, create_store, open_store, read_split
from pneumonia.models import networks
from pneumonia.saliency import grad_cam
from tests.conftest import shallow_densenets
from tests.saliency import conftest as saliency
from tests.saliency.conftest import NO_BOXES, OPTIONS, SIZE, blobs, detector

known_to_models = saliency.known_to_models


@pytest.fixture(scope="module", params=networks.MODELS)
def network(request: pytest.FixtureRequest) -> Any:
    with shallow_densenets():
        return networks.create_model(request.param, size=128 if request.param == "compact" else 64)


@pytest.mark.parametrize("method", explain.METHODS)
def test_every_method_explains_every_network_in_the_geometry_of_the_store(method: str, network: Any) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48), dtype=np.uint8)
    maps = explain.METHODS[method](network, images, **OPTIONS)
    assert maps.shape == (2, 48, 48)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize("method", explain.METHODS)
def test_a_map_depends_on_what_the_model_has_learnt(method: str) -> None:
    """Adebayo et al. (2018), arXiv:1810.03292: many saliency methods show the edges of the image instead."""
    import keras

    images = np.random.default_rng(1).integers(0, 256, (4, 48, 48), dtype=np.uint8)
    maps = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        maps.append(explain.METHODS[method](networks.create_model("compact", size=128), images, **OPTIONS).ravel())
    assert abs(np.corrcoef(*maps)[0, 1]) < 0.8


def predictions(n_normal: int = 20, n_pneumonia: int = 30) -> pd.DataFrame:
    labels = [0] * n_normal + [1] * n_pneumonia
    test = pd.DataFrame({"image_id": [f"test-{i}" for i in range(len(labels))], "split": "test", "label": labels})
    val = test.assign(image_id=test["image_id"].str.replace("test", "val"), split="val")
    table = pd.concat([val, test], ignore_index=True)
    return table.assign(score=np.random.default_rng(1).random(len(table)))


def labels_of(names: list[str]) -> list[int]:
    return predictions().set_index("image_id").loc[names, "label"].tolist()


def test_half_of_the_images_shown_are_pneumonia() -> None:
    shown = explain.choose(predictions(), 12, seed=1)
    assert len(set(shown)) == 12
    assert all(name.startswith("test-") for name in shown)
    assert labels_of(shown) == [1] * 6 + [0] * 6
    assert labels_of(explain.choose(predictions(), 5, seed=1)) == [1, 1, 1, 0, 0]
    assert labels_of(explain.choose(predictions(), 1, seed=1)) == [1]


def test_a_class_with_few_images_is_shown_whole() -> None:
    shown = explain.choose(predictions(n_normal=2), 12, seed=1)
    assert len(set(shown)) == 8
    assert {"test-0", "test-1"} < set(shown)


def test_the_seed_chooses_and_the_scores_do_not() -> None:
    table = predictions()
    shown, scored = explain.choose(table, 12, seed=1), explain.choose_scored(table, {}, 12, seed=1)
    for other_scores in (table.assign(score=1 - table["score"]), table.assign(score=0.5), table.drop(columns="score")):
        assert explain.choose(other_scores, 12, seed=1) == shown
        assert explain.choose_scored(other_scores, {}, 12, seed=1) == scored
    assert explain.choose(table, 12, seed=2) != shown
    assert explain.choose_scored(table, {}, 12, seed=2) != scored


def test_maps_are_scored_on_test_images_with_boxes() -> None:
    boxes = {name: np.ones((1, 4)) for name in ("test-31", "test-40", "test-49", "val-35")}
    assert sorted(explain.choose_scored(predictions(), boxes, 64, seed=1)) == ["test-31", "test-40", "test-49"]
    assert len(explain.choose_scored(predictions(), boxes, 2, seed=1)) == 2


def test_without_boxes_any_test_image_is_scored() -> None:
    scored = explain.choose_scored(predictions(), {}, 64, seed=1)
    assert sorted(scored) == sorted(f"test-{i}" for i in range(50))


def test_images_are_picked_by_id_in_the_order_asked() -> None:
    split = Split(
        images=np.arange(5, dtype=np.uint8).reshape(5, 1, 1),
        labels=np.zeros(5, np.int8),
        weights=np.ones(5, np.float32),
        repeats=np.ones(5, np.int16),
        image_ids=np.array(["e", "d", "c", "b", "a"]),
    )
    assert explain.pick(split, ["a", "d", "a"]).ravel().tolist() == [4, 1, 4]


def test_picked_images_need_not_be_in_memory(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": [f"{n:03}" for n in range(300)], "label": 1, "weight": 1.0, "repeats": 1})
    path = tmp_path / "images.zarr"
    images, _ = create_split(create_store(path, {}), "test", table, size=4, with_lungs=False)
    images[:] = (np.arange(300) % 251).astype(np.uint8)[:, None, None]
    split = read_split(open_store(path), "test", memory=0)
    assert isinstance(split.images, Pixels)
    found = explain.pick(split, ["299", "003", "299", "256"])
    np.testing.assert_array_equal(found, np.repeat([48, 3, 48, 5], 16).reshape(4, 4, 4))
    assert found.dtype == np.uint8


def test_scores_are_those_of_the_maps() -> None:
    """One box is right, one is elsewhere, one image has none and counts for time only."""
    images = blobs((12, 40), (50, 10), (32, 32))
    boxes = [np.array([[32.0, 4.0, 16.0, 16.0]]), np.array([[40.0, 40.0, 16.0, 8.0]]), NO_BOXES]
    scores = explain.score(detector(), images, boxes, n_samples=1, seed=1)
    assert list(scores) == list(explain.METHODS)
    row = scores["grad_cam"]
    maps = grad_cam.grad_cam(detector(), images, n_samples=1, seed=1)
    in_box = maps[0, 4:20, 32:48].sum() / maps[0].sum()
    assert (row["n"], row["n_boxed"], row["pointing_game"]) == (3, 2, 0.5)
    assert row["energy_in_box"] == pytest.approx(in_box / 2)
    assert row["box_area"] == pytest.approx((16 * 16 + 16 * 8) / 2 / SIZE**2)
    assert 0 < row["ms_per_image"] < 60_000
    assert scores["smoothgrad"]["n_boxed"] == 2


def test_without_boxes_there_are_no_scores_rather_than_empty_ones() -> None:
    scores = explain.score(detector(), blobs((12, 40), (50, 10)), [NO_BOXES, NO_BOXES], n_samples=1, seed=1)
    for row in scores.values():
        assert sorted(row) == ["ms_per_image", "n"]
        assert row["n"] == 2
    assert "null" not in json.dumps(scores)
