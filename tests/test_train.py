"""Augmentation one movement at a time, batches image by image, then fits of a network of a few weights."""

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pneumonia import UserError, dataset, metrics, models, train

SIZE = 12
AMOUNTS = (
    "MAX_ROTATION",
    "MAX_SHIFT",
    "MAX_ZOOM",
    "MAX_GAMMA",
    "MAX_CONTRAST",
    "MAX_BRIGHTNESS",
    "MAX_NOISE",
)


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    models.start_keras(1)


# --- helpers --------------------------------------------------------------------------------------------------------


def toy_split(n: int = 32, *, seed: int = 0, bright: int = 1) -> dataset.Split:
    """Bright and dark images, in turn; `bright` is the label of the bright ones."""
    rng = np.random.default_rng(seed)
    is_bright = np.arange(n) % 2
    images = rng.integers(0, 60, (n, SIZE, SIZE)) + 120 * is_bright[:, None, None] + 20
    return dataset.Split(
        images=images.astype(np.uint8),
        labels=np.where(is_bright, bright, 1 - bright).astype(np.int8),
        weights=np.ones(n, np.float32),
        repeats=np.ones(n, np.int16),
        image_ids=np.array([f"i{row:03d}" for row in range(n)]),
    )


def toy_model(seed: int = 1, brightness: float | None = None) -> Any:
    """A few filters and their mean; or, given `brightness`, one weight that multiplies the mean pixel."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    pixels = layers.Input((None, None, 1), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    if brightness is None:
        x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.GlobalAveragePooling2D()(x)
    logit = layers.Dense(1, name="logit")(x)
    model = keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit), name="toy")
    if brightness is not None:
        model.set_weights([np.array([[brightness]]), np.zeros(1)])
    return model


def fit(model: Any, folder: Path, **changes: Any) -> pd.DataFrame:
    options: dict[str, Any] = {
        "train": toy_split(),
        "val": toy_split(16, seed=9),
        "seed": 3,
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 0.05,
        "weight_decay": 0.0,
        "patience": 99,
        "augment": 0.0,
        "label_smoothing": 0.0,
        "average": 0.0,
        "resume": folder,
    } | changes
    splits = options.pop("train"), options.pop("val")
    return train.fit(model, *splits, **options)


def auc(model: Any, split: dataset.Split) -> float:
    return metrics.roc_auc(split.labels, models.predict_scores(model, split.images))


def distort(images: NDArray, *, fraction: float = 1.0, seed: tuple[int, int] = (1, 0)) -> NDArray[np.float32]:
    import tensorflow as tf

    pixels = tf.constant(np.asarray(images)[..., None], tf.float32)
    return train.distort(pixels, fraction=fraction, seed=tf.constant(seed, tf.int64)).numpy()[..., 0]


def only(monkeypatch: pytest.MonkeyPatch, *kept: str) -> None:
    """Switch all of augmentation off but this."""
    for name in set(AMOUNTS) - set(kept):
        monkeypatch.setattr(train, name, 0.0)


# A plane: each movement turns it into another plane, which a least-squares fit of its middle reveals.
SIDE = 64
ACROSS, DOWN = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
MIDDLE = slice(16, 48)


def plane(image: NDArray) -> tuple[float, float, float]:
    """(slope to the right, slope down, value at the centre) of the middle of an image that is a plane there."""
    x, y = (grid[MIDDLE, MIDDLE].ravel() - (SIDE - 1) / 2 for grid in (ACROSS, DOWN))
    terms = np.stack([x, y, np.ones(x.size)], axis=1)
    fitted, *_ = np.linalg.lstsq(terms, image[MIDDLE, MIDDLE].ravel(), rcond=None)
    assert np.abs(terms @ fitted - image[MIDDLE, MIDDLE].ravel()).max() < 0.01
    return float(fitted[0]), float(fitted[1]), float(fitted[2])


# --- augmentation ---------------------------------------------------------------------------------------------------


def test_fraction_zero_changes_nothing() -> None:
    images = toy_split().images
    np.testing.assert_array_equal(distort(images, fraction=0.0), images)


def test_without_any_amount_an_image_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    images = np.random.default_rng(1).integers(0, 256, (5, 17, 24))
    np.testing.assert_allclose(distort(images), images, atol=0.001)


def test_a_shift_moves_the_image_and_fills_with_black(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_SHIFT")
    images = np.broadcast_to(100.0 + ACROSS, (40, SIDE, SIDE))
    moved = distort(images)
    shifts = np.array([plane(one)[2] - plane(images[0])[2] for one in moved])
    assert np.abs(shifts).max() <= train.MAX_SHIFT * SIDE + 1e-3
    assert shifts.min() < -1 < 1 < shifts.max()
    for one in moved:
        slope_right, slope_down, _ = plane(one)
        assert (slope_right, slope_down) == pytest.approx((1, 0), abs=1e-4)
    most = moved[shifts.argmax()]  # each pixel shows what stood to the right of it: nothing, at the right edge
    assert most[SIDE // 2, -1] == pytest.approx(0, abs=1e-3)
    down = np.array([plane(one)[2] for one in distort(np.broadcast_to(100.0 + DOWN, (40, SIDE, SIDE)))])
    assert down.std() > 1
    assert abs(np.corrcoef(down, shifts)[0, 1]) < 0.5  # drawn apart from the shift across


def test_a_rotation_turns_about_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_ROTATION")
    turned = [plane(one) for one in distort(np.broadcast_to(100.0 + ACROSS, (40, SIDE, SIDE)))]
    assert [centre for *_, centre in turned] == pytest.approx([100 + (SIDE - 1) / 2] * 40, abs=1e-3)
    assert [np.hypot(right, down) for right, down, _ in turned] == pytest.approx([1] * 40, abs=1e-4)
    degrees = np.array([np.degrees(np.arctan2(down, right)) for right, down, _ in turned])
    assert np.abs(degrees).max() <= train.MAX_ROTATION + 1e-3
    assert degrees.min() < -2 < 2 < degrees.max()


def test_a_zoom_stretches_about_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_ZOOM")
    zoomed = [plane(one) for one in distort(np.broadcast_to(100.0 + ACROSS, (40, SIDE, SIDE)))]
    assert [centre for *_, centre in zoomed] == pytest.approx([100 + (SIDE - 1) / 2] * 40, abs=1e-3)
    assert [down for _, down, _ in zoomed] == pytest.approx([0] * 40, abs=1e-4)
    slopes = np.array([right for right, *_ in zoomed])
    assert 1 - train.MAX_ZOOM - 1e-4 <= slopes.min() < 0.97
    assert 1.03 < slopes.max() <= 1 + train.MAX_ZOOM + 1e-4


def test_left_stays_left() -> None:
    """A flip would move the heart."""
    images = np.zeros((200, SIDE, SIDE))
    images[:, :, : SIDE // 4] = 200  # bright on the left
    images[:, -SIDE // 4 :, :] = 100  # less bright below
    images = distort(images)
    assert (images[:, 20:40, 4:12].mean(axis=(1, 2)) > images[:, 20:40, -12:-4].mean(axis=(1, 2))).all()
    assert (images[:, -12:-4, 24:40].mean(axis=(1, 2)) > images[:, 4:12, 24:40].mean(axis=(1, 2))).all()


def test_gamma_keeps_black_white_and_the_order_of_the_grays(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_GAMMA")
    grays = np.broadcast_to(np.linspace(0, 255, 64).reshape(1, 8, 8), (40, 8, 8))
    bent = distort(grays).reshape(40, -1)
    np.testing.assert_allclose(bent[:, [0, -1]], [[0, 255]] * 40, atol=1e-3)
    assert (np.diff(bent, axis=1) > 0).all()
    exponents = np.log(bent[:, 32] / 255) / np.log(grays[0].ravel()[32] / 255)
    assert np.abs(np.log(exponents)).max() <= train.MAX_GAMMA + 1e-3
    assert np.log(exponents).min() < -0.1 < 0.1 < np.log(exponents).max()


def test_contrast_keeps_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_CONTRAST")
    images = np.random.default_rng(1).integers(100, 156, (40, 16, 16))
    stretched = distort(images)
    np.testing.assert_allclose(stretched.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.01)
    factors = stretched.std(axis=(1, 2)) / images.std(axis=(1, 2))
    assert 1 - train.MAX_CONTRAST - 1e-3 <= factors.min() < 0.9
    assert 1.1 < factors.max() <= 1 + train.MAX_CONTRAST + 1e-3


def test_brightness_adds_the_same_to_every_pixel_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_BRIGHTNESS")
    images = np.random.default_rng(1).integers(30, 226, (40, 9, 7))
    added = distort(images) - images
    assert np.ptp(added, axis=(1, 2)).max() < 1e-3
    amounts = added.mean(axis=(1, 2))
    assert np.abs(amounts).max() <= train.MAX_BRIGHTNESS + 1e-3
    assert amounts.min() < -8 < 8 < amounts.max()


def test_noise_has_no_mean_and_differs_from_pixel_to_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_NOISE")
    grain = distort(np.full((40, 32, 32), 128.0)) - 128
    spread = grain.std(axis=(1, 2))
    assert np.abs(grain.mean(axis=(1, 2))).max() < 1
    assert spread.max() <= train.MAX_NOISE * 1.1
    assert spread.max() > train.MAX_NOISE / 2
    assert np.abs(np.corrcoef(grain.reshape(40, -1)) - np.eye(40)).max() < 0.2  # each image has its own


def test_the_same_seed_distorts_alike_and_another_does_not() -> None:
    images = toy_split().images
    np.testing.assert_array_equal(distort(images, seed=(4, 2)), distort(images, seed=(4, 2)))
    for other in ((5, 2), (4, 3)):
        assert np.abs(distort(images, seed=(4, 2)) - distort(images, seed=other)).mean() > 1


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_about_the_given_fraction_of_the_images_is_touched(fraction: float) -> None:
    images = np.random.default_rng(1).integers(0, 256, (600, SIZE, SIZE))
    touched = np.abs(distort(images, fraction=fraction) - images).max(axis=(1, 2)) > 0.01
    assert touched.mean() == pytest.approx(fraction, abs=0.06)  # three standard deviations of 600 draws


@given(
    st.integers(0, 2**62),
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0.01, 1),
    st.sampled_from([0, 128, 255, None]),
)
@settings(max_examples=40, deadline=None)
def test_pixels_stay_within_0_and_255(seed: int, height: int, width: int, fraction: float, gray: int | None) -> None:
    shape = (3, height, width)
    images = np.random.default_rng(seed).integers(0, 256, shape) if gray is None else np.full(shape, gray)
    distorted = distort(images, fraction=fraction, seed=(seed, 1))
    assert distorted.shape == shape
    assert np.isfinite(distorted).all()
    assert distorted.min() >= 0
    assert distorted.max() <= 255


# --- the start ------------------------------------------------------------------------------------------------------


def test_only_weights_of_a_backbone_are_unfolded_and_on_images_from_all_of_the_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[NDArray] = []
    monkeypatch.setattr(models, "create_model", lambda name, weights, dropout: (name, tuple(weights), dropout))
    monkeypatch.setattr(models, "unfold", lambda model, images: seen.append(images))
    images = np.arange(1000)
    assert train.start("mobilenet", weights=(), dropout=0.1, images=images) == ("mobilenet", (), 0.1)
    assert seen == []
    weights = (Path("a.h5"),)
    assert train.start("mobilenet", weights=weights, dropout=0.1, images=images, n_images=10)[1] == weights
    assert seen[0].tolist() == list(range(0, 1000, 100))


# --- batches --------------------------------------------------------------------------------------------------------


def numbered_split(n: int) -> dataset.Split:
    """Image i is filled with i; label and weight follow from i too."""
    number = np.arange(n)
    return dataset.Split(
        images=np.broadcast_to(number[:, None, None], (n, 4, 4)).astype(np.uint8),
        labels=(number % 2).astype(np.int8),
        weights=(number / 8).astype(np.float32),
        repeats=np.ones(n, np.int16),
        image_ids=number.astype(str),
    )


def take(n: int, split: dataset.Split, shown: NDArray, **options: Any) -> list[tuple[NDArray, NDArray, NDArray]]:
    stream = train.batches(split, shown, **({"batch_size": 4, "augment": 0.0, "seed": 5} | options))
    return [tuple(part.numpy() for part in batch) for batch in stream.take(n)]


def numbers(batches: list[tuple[NDArray, NDArray, NDArray]]) -> list[int]:
    return [int(pixels[0, 0, 0]) for images, *_ in batches for pixels in images]


def test_labels_and_weights_belong_to_their_images() -> None:
    for pixels, labels, weights in take(6, numbered_split(16), np.arange(16)):
        assert pixels.shape == (4, 4, 4, 1)
        assert pixels.dtype == labels.dtype == weights.dtype == np.float32
        number = pixels[:, 0, 0]
        np.testing.assert_array_equal(labels, number % 2)
        np.testing.assert_array_equal(weights, number / 8)


def test_an_epoch_shows_each_image_as_often_as_it_repeats() -> None:
    repeats = np.array([0, 1, 2, 5])
    seen = numbers(take(4, numbered_split(4), np.repeat(np.arange(4), repeats), batch_size=2))
    assert np.bincount(seen, minlength=4).tolist() == repeats.tolist()


def test_each_epoch_has_a_new_order_and_leaves_a_smaller_batch_out() -> None:
    seen = numbers(take(4, numbered_split(11), np.arange(11)))
    first, second = seen[:8], seen[8:]
    assert len(set(first)) == len(set(second)) == 8
    assert first != second
    assert first != sorted(first)


def test_the_same_seed_gives_the_same_batches() -> None:
    split = numbered_split(12)
    first, again = (take(5, split, np.arange(12), augment=1.0) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    assert numbers(take(3, split, np.arange(12))) != numbers(take(3, split, np.arange(12), seed=6))


def test_an_image_is_distorted_anew_in_each_epoch() -> None:
    split = toy_split(4)
    (first, *_), (second, *_) = take(2, split, np.zeros(4, int), augment=1.0)
    shown = np.concatenate([first, second])
    differences = [np.abs(shown[i] - shown[j]).mean() for i in range(8) for j in range(i)]
    assert min(differences) > 0.5


# --- fit ------------------------------------------------------------------------------------------------------------


def test_a_separable_set_is_learnt(tmp_path: Path) -> None:
    model, val = toy_model(), toy_split(16, seed=9)
    history = fit(model, tmp_path, val=val, epochs=6, augment=0.5)
    assert auc(model, val) == history["val_auc"].max() == 1
    assert history["loss"].iloc[-1] < 0.5 < history["loss"].iloc[0]


def test_history_has_one_row_per_epoch_with_what_was_reported(tmp_path: Path) -> None:
    told: list[tuple[int, Mapping[str, float]]] = []
    history = fit(toy_model(), tmp_path, report=lambda epoch, values: told.append((epoch, dict(values))))
    assert list(history) == ["epoch", "loss", "val_loss", "val_auc", "learning_rate"]
    assert history["epoch"].tolist() == [1, 2, 3] == [epoch for epoch, _ in told]
    assert history.drop(columns="epoch").to_dict("records") == [values for _, values in told]
    assert np.isfinite(history.to_numpy()).all()


def test_validation_figures_are_those_of_all_validation_images(tmp_path: Path) -> None:
    model, val = toy_model(), toy_split(18, seed=9)
    (row,) = fit(model, tmp_path, val=val, epochs=1).to_dict("records")
    scores = models.predict_scores(model, val.images)
    assert row["val_loss"] == pytest.approx(sklearn.metrics.log_loss(val.labels, scores), abs=1e-5)
    assert row["val_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(val.labels, scores), abs=1e-6)


def test_the_learning_rate_warms_up_over_the_first_epoch_and_falls_to_zero(tmp_path: Path) -> None:
    history = fit(toy_model(), tmp_path, epochs=5, learning_rate=0.01)
    rates = history["learning_rate"].tolist()
    # Of a half cosine, at 0, 1/4, 1/2, 3/4 and 1 of its length.
    assert rates == pytest.approx([0.01, 0.0085355, 0.005, 0.0014645, 0], abs=1e-6)


def test_the_best_epoch_is_kept_not_the_last(tmp_path: Path) -> None:
    """A model that starts right and is trained on wrong labels gets worse with every epoch."""
    weights: dict[int, list[NDArray]] = {}
    model, val = toy_model(brightness=0.15), toy_split(16, seed=9)

    def remember(epoch: int, values: Mapping[str, float]) -> None:
        weights[epoch] = model.get_weights()

    history = fit(model, tmp_path, train=toy_split(bright=0), val=val, epochs=4, report=remember)
    assert history["val_auc"].iloc[0] == 1
    assert history["val_auc"].iloc[-1] == 0
    assert auc(model, val) == 1
    for kept, first, last in zip(model.get_weights(), weights[1], weights[4], strict=True):
        np.testing.assert_array_equal(kept, first)
        assert (kept != last).any()


@pytest.mark.parametrize("patience", [1, 2])
def test_the_fit_stops_after_as_many_epochs_without_a_better_auc(patience: int, tmp_path: Path) -> None:
    history = fit(toy_model(brightness=5.0), tmp_path, epochs=6, patience=patience)
    assert history["val_auc"].tolist() == [1] * (1 + patience)


def test_two_fits_with_one_seed_give_the_same_weights(tmp_path: Path) -> None:
    def weights(seed: int) -> list[NDArray]:
        model = toy_model()
        fit(model, tmp_path, augment=0.7, seed=seed, epochs=2)
        return model.get_weights()

    first, again, other = weights(3), weights(3), weights(4)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any((one != two).any() for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize(("weight_right", "weight_wrong", "learnt"), [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_images_of_weight_zero_teach_nothing(
    weight_right: float, weight_wrong: float, learnt: float, tmp_path: Path
) -> None:
    right, wrong = toy_split(), toy_split(seed=5, bright=0)
    both = dataset.Split(*(np.concatenate(pair) for pair in zip(right, wrong, strict=True)))
    weighed = both._replace(weights=np.repeat([weight_right, weight_wrong], 32).astype(np.float32))
    model, val = toy_model(brightness=0.0), toy_split(16, seed=9)
    fit(model, tmp_path, train=weighed, val=val, epochs=1)
    assert auc(model, val) == learnt


def test_dropped_images_are_not_shown(tmp_path: Path) -> None:
    """Shown, one of them would make the loss infinite."""
    split = toy_split()
    poisoned = split._replace(weights=np.where(np.arange(32) < 8, np.inf, 1).astype(np.float32))
    dropped = poisoned._replace(repeats=np.where(np.arange(32) < 8, 0, 1).astype(np.int16))
    assert np.isfinite(fit(toy_model(), tmp_path, train=dropped)["loss"]).all()
    with pytest.raises(UserError):
        fit(toy_model(), tmp_path, train=poisoned)


class Killed(BaseException):
    """As a process ends that is killed: nothing catches it."""


def killed_in(epoch: int, told: list[int]) -> train.Report:
    def report(now: int, values: Mapping[str, float]) -> None:
        told.append(now)
        if now == epoch:
            raise Killed

    return report


def dropping_model() -> Any:
    """One whose training draws random numbers of its own, and has statistics that move."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    pixels = layers.Input((None, None, 1), name="pixels")
    x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(pixels))
    x = layers.Dropout(0.5)(layers.BatchNormalization()(x))
    logit = layers.Dense(1, name="logit")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, layers.Activation("sigmoid", name="probability")(logit))


@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_cut_fit_goes_on_and_ends_as_if_it_had_not_been_cut(epoch: int, average: float, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    options = {"epochs": 5, "augment": 0.5, "average": average, "learning_rate": 0.01, "weight_decay": 0.01}
    expected = dropping_model()
    history = fit(expected, whole, **options)

    told: list[int] = []
    with pytest.raises(Killed):
        fit(dropping_model(), cut, **options, report=killed_in(epoch + 1, told))
    continued = dropping_model()
    after = fit(continued, cut, **options, report=lambda now, values: told.append(now))
    # The epoch in which it was killed is done again, those before are not.
    assert told == [*range(1, epoch + 2), *range(epoch + 1, 6)]
    pd.testing.assert_frame_equal(after, history)
    for one, two in zip(continued.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert list(cut.iterdir()) == []


def test_a_fit_that_was_cut_after_its_last_epoch_is_only_finished(tmp_path: Path) -> None:
    expected = toy_model()
    (tmp_path / "whole").mkdir()
    history = fit(expected, tmp_path / "whole", epochs=2)
    model = toy_model()

    def cut(path: str) -> None:
        raise Killed

    model.load_weights = cut
    (tmp_path / "cut").mkdir()
    with pytest.raises(Killed):
        fit(model, tmp_path / "cut", epochs=2)
    continued, told = toy_model(), []
    after = fit(continued, tmp_path / "cut", epochs=2, report=lambda now, values: told.append(now))
    assert told == []
    pd.testing.assert_frame_equal(after, history)
    for one, two in zip(continued.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_average_of_the_weights_is_what_is_judged_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "AVERAGE_EVERY", 1)
    model = toy_model(brightness=0.0)
    taken: list[float] = []

    def remember(epoch: int, values: Mapping[str, float]) -> None:
        taken.append(float(model.get_weights()[0][0, 0]))  # the weights that training goes on with

    fit(model, tmp_path, train=toy_split(8), epochs=1, batch_size=8, average=0.75, report=remember)
    # One step: the average is three quarters of the start, which is 0, and a quarter of where the step led.
    assert taken[0] != 0
    assert model.get_weights()[0][0, 0] == pytest.approx(taken[0] / 4, rel=1e-6)


def test_label_smoothing_keeps_the_scores_from_the_extremes(tmp_path: Path) -> None:
    def widest(label_smoothing: float) -> float:
        model, spread = toy_model(), []

        def measure(epoch: int, values: Mapping[str, float]) -> None:
            spread.append(float(np.abs(models.predict_scores(model, toy_split().images) - 0.5).max()))

        fit(model, tmp_path, epochs=8, learning_rate=0.2, label_smoothing=label_smoothing, report=measure)
        return spread[-1]

    assert widest(0.4) < 0.35 < 0.45 < widest(0.0)


def test_two_processes_give_the_same_weights(tmp_path: Path) -> None:
    code = """
        import hashlib, sys
        from pathlib import Path
        from pneumonia import models
        models.start_keras(1)
        from tests import test_train
        model = models.create_model("compact", dropout=0.3, size=128)
        test_train.fit(model, Path(sys.argv[1]), augment=0.7, epochs=2, average=0.9, learning_rate=0.001)
        digest = hashlib.sha256()
        for one in model.get_weights():
            digest.update(one.tobytes())
        print(digest.hexdigest())
    """
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / name)]
        ended = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
        digests.add(ended.stdout.split()[-1])
    assert len(digests) == 1


def test_a_finished_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    fit(toy_model(), tmp_path, epochs=1)
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == []


def test_a_loss_that_is_not_finite_ends_in_one_line(tmp_path: Path) -> None:
    split = toy_split()._replace(weights=np.full(32, np.nan, np.float32))
    with pytest.raises(UserError, match=r"loss is not finite in epoch 1; lower tune\.learning_rate") as refusal:
        fit(toy_model(), tmp_path, train=split)
    assert "\n" not in str(refusal.value)
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == []


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_split_of_one_class_is_refused(name: str, tmp_path: Path) -> None:
    split = toy_split(16)._replace(labels=np.ones(16, np.int8))
    with pytest.raises(UserError, match=f"split {name} has 16 images of one class; training needs both"):
        fit(toy_model(), tmp_path, **{name: split})


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    empty = dataset.Split(*(values[:0] for values in toy_split()))
    with pytest.raises(UserError, match="split val has 0 images"):
        fit(toy_model(), tmp_path, val=empty)


def test_a_batch_larger_than_an_epoch_is_refused(tmp_path: Path) -> None:
    split = toy_split(32)._replace(repeats=np.repeat([1, 0], 16).astype(np.int16))
    with pytest.raises(UserError, match=r"train\.batch_size = 17 is larger than the 16 images of an epoch"):
        fit(toy_model(), tmp_path, train=split, batch_size=17)
    assert len(fit(toy_model(), tmp_path, train=split, batch_size=16, epochs=1)) == 1
