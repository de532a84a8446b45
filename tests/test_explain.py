"""Saliency of networks built by hand, whose answer is known; then the scores of maps drawn by hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pneumonia import dataset, explain, models

SIZE = 64
OPTIONS = {"n_samples": 2, "seed": 1}
NO_BOXES = np.zeros((0, 4))


@pytest.fixture(scope="module", autouse=True)
def known_to_models() -> Iterator[None]:
    """Grad-CAM asks the table of models for the layer to explain."""
    models.start_keras(1)
    row = models.Model(build=lambda *_: None, size=SIZE, explain="features", weights_urls=(), source="built by hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "by_hand", row)
        yield


def detector(bright: float = 1.0, dark: float = 0.0) -> Any:
    """One filter answers to bright blobs of 8 px, one to dark ones; the logit weighs the mean of each."""
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    features = layers.Conv2D(2, 8, strides=4, padding="same", activation="relu", name="features")
    logit = layers.Dense(1, name="logit")
    x = logit(layers.GlobalAveragePooling2D()(features(layers.Rescaling(1 / 255)(pixels))))
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(x), name="by_hand")
    mean = np.full((8, 8, 1), 1 / 64)
    features.set_weights([np.stack([mean, -mean], axis=3), np.array([-0.6, 0.2])])
    logit.set_weights([np.array([[bright], [dark]]), np.zeros(1)])
    return model


def linear(weights: NDArray) -> Any:
    """The logit is the sum of the pixels, each times its weight."""
    import keras
    from keras import layers

    pixels = layers.Input((None, None, 1), name="pixels")
    logit = layers.Dense(1, name="logit")
    x = logit(layers.Flatten()(layers.Resizing(*weights.shape)(pixels)))
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(x), name="by_hand")
    logit.set_weights([weights.reshape(-1, 1), np.zeros(1)])
    return model


def blobs(*centres: tuple[int, int], gray: int = 255) -> NDArray[np.uint8]:
    """One image for each (row, column): mid-gray with a square of 8 px in another gray."""
    images = np.full((len(centres), SIZE, SIZE), 128, np.uint8)
    for image, (row, column) in zip(images, centres, strict=True):
        image[row - 4 : row + 4, column - 4 : column + 4] = gray
    return images


def peaks(maps: NDArray) -> NDArray[np.intp]:
    return np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:]), axis=1)


CENTRES = ((12, 40), (50, 10), (32, 32), (8, 56))


# --- Grad-CAM -------------------------------------------------------------------------------------------------------


def test_grad_cam_peaks_at_what_the_network_detects() -> None:
    maps = explain.grad_cam(detector(), blobs(*CENTRES), **OPTIONS)
    assert maps.shape == (4, SIZE, SIZE)
    assert maps.dtype == np.float32
    assert np.abs(peaks(maps) - CENTRES).max() <= 4
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1)
    assert maps.min() == 0
    for one, (row, column) in zip(maps, CENTRES, strict=True):
        far = np.ones((SIZE, SIZE), bool)
        far[max(row - 12, 0) : row + 12, max(column - 12, 0) : column + 12] = False
        assert one[far].max() == 0


def test_grad_cam_shows_only_what_speaks_for_pneumonia() -> None:
    bright, dark = blobs((12, 40)), blobs((50, 10), gray=0)
    both = np.where(dark == 0, 0, bright).astype(np.uint8)
    for weights, (row, column) in (((1, -1), (12, 40)), ((-1, 1), (50, 10))):
        maps = explain.grad_cam(detector(*weights), both, **OPTIONS)
        assert np.abs(peaks(maps) - [row, column]).max() <= 4
    assert explain.grad_cam(detector(-1, -1), both, **OPTIONS).max() == 0


def test_grad_cam_does_not_depend_on_how_sure_the_network_is() -> None:
    """It follows the logit, whose gradient does not vanish where the probability is 1."""
    sure = explain.grad_cam(detector(bright=1e4), blobs(*CENTRES), **OPTIONS)
    np.testing.assert_allclose(sure, explain.grad_cam(detector(), blobs(*CENTRES), **OPTIONS), atol=1e-5)
    assert models.predict_scores(detector(bright=1e4), blobs(*CENTRES)).min() == 1


def test_a_map_does_not_depend_on_the_other_images() -> None:
    """Neither across the border of a batch nor, in a network with more layers above the features, within it."""
    import keras

    rng = np.random.default_rng(1)
    images = blobs(*[tuple(rng.integers(8, SIZE - 8, 2)) for _ in range(35)])
    maps = explain.grad_cam(detector(), images, **OPTIONS)
    assert len(maps) == 35
    for row in (0, 31, 32, 34):
        (alone,) = explain.grad_cam(detector(), images[row : row + 1], **OPTIONS)
        np.testing.assert_allclose(alone, maps[row], atol=1e-5)
    keras.utils.set_random_seed(1)
    deep = models.create_model("compact", size=128)
    together = explain.grad_cam(deep, images[:4], **OPTIONS)
    for row in range(4):
        np.testing.assert_allclose(
            explain.grad_cam(deep, images[row : row + 1], **OPTIONS)[0], together[row], atol=1e-3
        )


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("method", explain.METHODS)
def test_every_method_explains_every_network_in_the_geometry_of_the_store(method: str, name: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48), dtype=np.uint8)
    model = models.create_model(name, size=128)
    maps = explain.METHODS[method](model, images, **OPTIONS)
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
        maps.append(explain.METHODS[method](models.create_model("compact", size=128), images, **OPTIONS).ravel())
    assert abs(np.corrcoef(*maps)[0, 1]) < 0.8


# --- SmoothGrad -----------------------------------------------------------------------------------------------------


def test_smoothgrad_of_a_linear_model_is_its_squared_weights() -> None:
    weights = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    images = np.random.default_rng(2).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    for seed, n_samples in ((1, 1), (2, 5)):
        maps = explain.smoothgrad(linear(weights), images, n_samples=n_samples, seed=seed)
        np.testing.assert_allclose(maps, np.stack([weights**2 / (weights**2).max()] * 3), atol=1e-5)


def test_smoothgrad_is_blurred_by_one_percent_of_the_side() -> None:
    weights = np.zeros((200, 200), np.float32)
    weights[60, 120] = 1
    (one,) = explain.smoothgrad(linear(weights), np.zeros((1, 200, 200), np.uint8), n_samples=1, seed=1)
    across, down = np.meshgrid(np.arange(200), np.arange(200))
    bell = np.exp(-((across - 120) ** 2 + (down - 60) ** 2) / (2 * 2.0**2))
    np.testing.assert_allclose(one, bell, atol=0.002)


def test_smoothgrad_averages_over_noise_that_the_seed_decides() -> None:
    """In a network with kinks the gradient depends on the noise, and an average depends on it less."""
    import keras

    keras.utils.set_random_seed(1)
    model = models.create_model("compact", size=128)
    image = np.random.default_rng(1).integers(0, 256, (1, 48, 48), dtype=np.uint8)

    def maps(n_samples: int, seed: int) -> NDArray:
        return explain.smoothgrad(model, image, n_samples=n_samples, seed=seed, noise=0.5)

    np.testing.assert_array_equal(maps(1, seed=1), maps(1, seed=1))
    one, many = (np.corrcoef(maps(n, seed=1).ravel(), maps(n, seed=2).ravel())[0, 1] for n in (1, 16))
    assert one + 0.1 < many < 1


def test_smoothgrad_without_noise_is_the_gradient() -> None:
    """Which is zero where nothing is detected; the noise is a share of the range of the image."""
    undetected = np.full((1, SIZE, SIZE), 100, np.uint8)
    assert explain.smoothgrad(detector(), undetected, n_samples=2, seed=1).max() == 0
    (found,) = explain.smoothgrad(detector(), blobs((12, 40)), n_samples=1, seed=1, noise=0.0)
    assert found[8:16, 36:44].min() > 0
    assert found[30:, :].max() == 0


# --- which images ---------------------------------------------------------------------------------------------------


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
    split = dataset.Split(
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
    images, _ = dataset.create_split(dataset.create_store(path, {}), "test", table, size=4, with_lungs=False)
    images[:] = (np.arange(300) % 251).astype(np.uint8)[:, None, None]
    split = dataset.read_split(dataset.open_store(path), "test", memory=0)
    assert isinstance(split.images, dataset.Pixels)
    found = explain.pick(split, ["299", "003", "299", "256"])
    np.testing.assert_array_equal(found, np.repeat([48, 3, 48, 5], 16).reshape(4, 4, 4))
    assert found.dtype == np.uint8


# --- scores of maps -------------------------------------------------------------------------------------------------


def test_a_box_holds_the_pixels_whose_centre_it_holds() -> None:
    mask = explain.inside(np.array([[1.0, 2.0, 3.0, 4.0]]), 8)
    expected = np.zeros((8, 8), bool)
    expected[2:6, 1:4] = True
    np.testing.assert_array_equal(mask, expected)


def test_pixels_on_the_edge_of_a_box_belong_to_one_of_two_neighbours() -> None:
    """An edge through centres counts left and above, not right and below: two boxes side by side share no pixel."""
    left, right = (explain.inside(np.array([[x, 0.5, 2.0, 2.0]]), 6) for x in (0.5, 2.5))
    assert np.argwhere(left).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert np.argwhere(right).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_several_boxes_join_and_what_lies_outside_the_image_is_cut() -> None:
    mask = explain.inside(np.array([[-5.0, -5.0, 6.0, 6.0], [0.0, 0.0, 2.0, 1.0], [5.0, 5.0, 90.0, 90.0]]), 6)
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [5, 5]]
    assert not explain.inside(NO_BOXES, 6).any()


def make_maps() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Three 4x4 maps and their boxes: a hit with 60 % inside, a miss with 25 % inside, and an empty map."""
    maps = np.zeros((3, 4, 4), np.float32)
    insides = np.zeros((3, 4, 4), bool)
    insides[:, :2, :2] = True
    maps[0, 0, 1], maps[0, 3, 3] = 0.6, 0.4
    maps[1, 0, 1], maps[1, 3, 3] = 0.25, 0.75
    return maps, insides


def test_the_pointing_game_counts_the_highest_points_inside() -> None:
    maps, insides = make_maps()
    assert explain.pointing_game(maps[:1], insides[:1]) == 1
    assert explain.pointing_game(maps[:2], insides[:2]) == 0.5
    # The highest point of an empty map would be its first pixel, which lies inside.
    assert explain.pointing_game(maps, insides) == pytest.approx(1 / 3)


def test_energy_in_box_is_the_share_of_the_sum_inside() -> None:
    maps, insides = make_maps()
    assert explain.energy_in_box(maps[:1], insides[:1]) == pytest.approx(0.6)
    assert explain.energy_in_box(maps[:2], insides[:2]) == pytest.approx((0.6 + 0.25) / 2)
    assert explain.energy_in_box(maps, insides) == pytest.approx((0.6 + 0.25 + 0) / 3)
    assert explain.energy_in_box(np.ones((1, 4, 4), np.float32), insides[:1]) == 0.25


def test_scores_are_those_of_the_maps() -> None:
    """One box is right, one is elsewhere, one image has none and counts for time only."""
    images = blobs((12, 40), (50, 10), (32, 32))
    boxes = [np.array([[32.0, 4.0, 16.0, 16.0]]), np.array([[40.0, 40.0, 16.0, 8.0]]), NO_BOXES]
    scores = explain.score(detector(), images, boxes, n_samples=1, seed=1)
    assert list(scores) == list(explain.METHODS)
    row = scores["grad_cam"]
    maps = explain.grad_cam(detector(), images, n_samples=1, seed=1)
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
