"""What a detector learns and what comes out of it, by hand; then that it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia import UserError, train
from pneumonia.data.store import Split
from pneumonia.images.suppression import suppressed
from pneumonia.metrics.boxes import Film, average_precision, iou
from pneumonia.models import detector, ensembles, networks, runtime, scoring
from pneumonia.training.recipe import Schedule
from tests.conftest import PLAIN

SIDE = 24
TWO = [[0.1, 0.2, 0.3, 0.4], [0.6, 0.5, 0.25, 0.3]]


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


def encoded(*images: Any) -> NDArray[np.float32]:
    return np.asarray(detector.encode(np.array(images, np.float32), SIDE))


def cells_of(target: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output of a network that says just what it should."""
    middles = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.meshgrid(middles, middles)
    left, top, right, bottom = (target[..., place] for place in range(1, 5))
    sides = np.stack([x - left, y - top, right - x, bottom - y], axis=-1) / detector.REACH
    peaks = np.clip(target[..., :1], 1e-4, 1 - 1e-4)
    return np.concatenate([np.log(peaks / (1 - peaks)), sides], axis=-1).astype(np.float32)


def test_focal_loss_is_its_formula() -> None:
    p, peak = np.array([0.01, 0.3, 0.9, 0.999, 0.3, 0.9]), np.array([1, 1, 1, 0, 0.5, 0.8])
    hit, other = -((1 - p) ** 2) * np.log(p), -((1 - peak) ** 4) * p**2 * np.log(1 - p)
    found = detector.focal_loss(peak.astype(np.float32), np.log(p / (1 - p)).astype(np.float32))
    np.testing.assert_allclose(found, np.where(peak == 1, hit, other), rtol=1e-4)


def test_the_loss_of_boxes_by_hand() -> None:
    box = np.array([0, 0, 2, 2], np.float32)
    others = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2]], np.float32)
    found = np.asarray(detector.giou_loss(box, others))
    np.testing.assert_allclose(found, [0, 1 - 1 / 3, 1 + 1 / 3], atol=1e-6)  # apart: a third of the hull is empty


def test_each_box_has_one_peak_in_the_cell_of_its_middle() -> None:
    (target,) = encoded([*TWO, [0, 0, 0, 0]])
    assert np.argwhere(target[..., 0] == 1).tolist() == [[9, 6], [15, 17]]  # 24 * .4, 24 * .25; 24 * .65, 24 * .725
    np.testing.assert_allclose(target[9, 6, 1:5], [0.1, 0.2, 0.4, 0.6], atol=1e-6)
    np.testing.assert_allclose(target[15, 17, 1:5], [0.6, 0.5, 0.85, 0.8], atol=1e-6)
    assert target[0, 0, :6].tolist()[0] < 1e-3
    assert (target[..., 6] == 1).all()
    assert target[9, 6, 5] == 1 > target[9, 7, 5] > target[9, 8, 5]


def test_boxes_come_back_from_what_they_are_encoded_to() -> None:
    boxes, scores = detector.decode(*np.split(cells_of(encoded(TWO)), [1], axis=-1))
    found, score = suppressed(np.asarray(boxes)[0], np.asarray(scores)[0], 200, 100)
    order = np.argsort(found[:2, 0])
    np.testing.assert_allclose(found[:2][order], np.array(TWO) * [200, 100, 200, 100], atol=0.01)
    assert score[:2].tolist() == pytest.approx([0.9999, 0.9999], abs=1e-4)
    assert len(found) == 2, "the cells around a peak say the same box"


def test_the_loss_is_0_for_a_right_answer_and_where_boxes_are_not_known() -> None:
    unknown = np.full((2, 4), np.nan).tolist()
    nothing = np.zeros((2, 4)).tolist()
    target = encoded(TWO, nothing, unknown)
    right = cells_of(target)
    assert np.isfinite(target).all()
    wrong = np.concatenate([np.full_like(right[..., :1], 2), np.ones_like(right[..., 1:])], axis=-1)
    for cells, expected in ((right, [True, True, True]), (wrong, [False, False, True])):
        assert (np.asarray(detector.loss(target, cells)) < 0.1).tolist() == expected


@pytest.fixture(scope="module")
def model() -> Any:
    return networks.create_model("detector", size=64, dropout=0.0)


def test_the_loss_of_the_boxes_reaches_the_backbone_and_both_heads(model: Any) -> None:
    import keras
    import tensorflow as tf

    network = keras.Model(model.input, detector.trained_outputs(model))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype(np.float32)
    target = np.asarray(detector.encode(np.array([TWO, TWO], np.float32), 64 // detector.STRIDE))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(detector.loss(target, network(pixels, training=True)[1]))
    gradients = tape.gradient(value, [one.value for one in network.trainable_weights])
    without = {w.path for w, g in zip(network.trainable_weights, gradients, strict=True) if g is None or not np.any(g)}
    assert without == {"logit/kernel", "logit/bias"}


def test_a_side_that_the_pyramid_cannot_halve_is_refused() -> None:
    with pytest.raises(UserError, match="image_size = 100 must be a multiple of 32 for the detector"):
        networks.create_model("detector", size=100)


def test_an_ensemble_finds_what_its_members_find(model: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 60), dtype=np.uint8)
    other = networks.create_model("detector", size=64)  # of other random weights
    pixels = images[..., None].astype(np.float32)
    pair, logits = detector.joint(ensembles.ensemble([model, other]))(pixels), []
    for one in (model, other):
        score = np.asarray(detector.joint(one)(pixels)[2])
        logits.append(np.log(score / (1 - score)))
    np.testing.assert_allclose(pair[2], 1 / (1 + np.exp(-np.mean(logits, axis=0))), atol=1e-5)
    alone, twice = (detector.find(one, images) for one in (model, ensembles.ensemble([model, model])))
    assert detector.is_detector(ensembles.ensemble([model, model]))
    assert not detector.is_detector(networks.create_model("shallow"))
    for (one, first), (other, second) in zip(alone, twice, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
        np.testing.assert_allclose(first, second, atol=1e-5)
    outputs = detector.joint(model)(images[..., None].astype(np.float32))
    np.testing.assert_allclose(outputs[0][:, 0], scoring.predict_scores(model, images), atol=1e-6)


def bright_boxes(n: int) -> Split:
    """Dark noise with a bright rectangle in every second image."""
    rng = np.random.default_rng(1)
    images = rng.integers(20, 60, (n, 64, 64), dtype=np.uint8)
    boxes = np.zeros((n, 1, 4), np.float32)
    for row in range(0, n, 2):
        x, y, width, height = rng.integers((4, 4, 16, 16), (36, 36, 26, 26))
        images[row, y : y + height, x : x + width] += 120
        boxes[row, 0] = x, y, width, height
    labels = (boxes[:, 0, 2] > 0).astype(np.int8)
    return Split(images, labels, np.ones(n, np.float32), np.ones(n, np.int16), np.arange(n).astype(str), boxes)


@pytest.mark.slow
def test_it_finds_the_boxes_of_eight_images_that_it_learnt_by_heart(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(1)
    split = bright_boxes(8)._replace(repeats=np.full(8, 8, np.int16))
    model = networks.create_model("detector", size=64, dropout=0.0)
    recipe = PLAIN._replace(batch_size=8, keep="last", box_weight=1.0)
    history = train.fit(model, split, split, recipe, Schedule(8, 8, 0.003, 1), resume=tmp_path)
    assert history["val_auc"].iloc[-1] == 1
    found = detector.find(model, split.images)
    assert split.boxes is not None
    films = [Film(truth[truth[:, 2] > 0], *one) for truth, one in zip(split.boxes, found, strict=True)]
    assert average_precision(films) >= 0.95
    assert min(iou(film.truth, film.boxes[:1])[0, 0] for film in films if len(film.truth)) > 0.6


def test_without_weight_of_the_boxes_it_is_a_classifier_of_the_same_network() -> None:
    import keras

    split = bright_boxes(8)._replace(boxes=None)
    pair = []
    for box_weight in (1.0, 0.0):
        keras.utils.set_random_seed(1)
        pair.append(train.start("detector", (), 0.0, split, size=64, box_weight=box_weight))
    full, free = pair
    assert [detector.is_detector(one) for one in pair] == [True, False]
    np.testing.assert_array_equal(*(scoring.predict_scores(one, split.images) for one in pair))
    before = free.get_layer("stage1_down_conv").get_weights()[0]
    train.fit(free, split, split, PLAIN._replace(box_weight=0.0, mixup=0.2), Schedule(1, 1, 0.001, 1))
    assert np.abs(free.get_layer("stage1_down_conv").get_weights()[0] - before).max() > 0, "the image teaches it"
    assert networks.summary(free)["parameters"].sum() == full.count_params()


def test_data_without_boxes_and_mixed_images_are_refused(model: Any) -> None:
    split = bright_boxes(8)
    schedule = Schedule(1, 1, 0.001, 1)
    for none in (None, np.zeros((8, 1, 4), np.float32), np.full((8, 1, 4), np.nan, np.float32)):
        with pytest.raises(UserError, match=r"needs boxes, and data/boxes\.csv has none"):
            train.fit(model, split._replace(boxes=none), split, PLAIN, schedule)
    with pytest.raises(UserError, match=r"train\.mixup = 0\.5 mixes two images"):
        train.fit(model, split, split, PLAIN._replace(mixup=0.5), schedule)
