"""Augmentation one movement at a time on images whose change can be read off."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pneumonia.images import augmentation
from pneumonia.models import runtime

AMOUNTS = (
    "MAX_ROTATION",
    "MAX_SHIFT",
    "MAX_ZOOM",
    "MAX_STRETCH",
    "MAX_GAMMA",
    "MAX_CONTRAST",
    "MAX_BRIGHTNESS",
    "MAX_SHARPNESS",
    "MAX_NOISE",
    "MAX_ERASED",
)


@pytest.fixture(scope="module", autouse=True)
def keras_started() -> None:
    runtime.start_keras(1)


def distort(
    images: NDArray, *, fraction: float = 1.0, strength: float = 1.0, seed: tuple[int, int] = (1, 0)
) -> NDArray[np.float32]:
    import tensorflow as tf

    pixels = tf.constant(np.asarray(images)[..., None], tf.float32)
    return augmentation.distort(pixels, fraction=fraction, strength=strength, seed=tf.constant(seed, tf.int64)).numpy()[
        ..., 0
    ]


def only(monkeypatch: pytest.MonkeyPatch, *kept: str) -> None:
    """Switch all of augmentation off but this."""
    for name in set(AMOUNTS) - set(kept):
        monkeypatch.setattr(augmentation, name, 0.0)


NOISE = np.random.default_rng(0).integers(20, 200, (32, 12, 12))

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


def test_fraction_zero_changes_nothing() -> None:
    images = NOISE
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
    assert np.abs(shifts).max() <= augmentation.MAX_SHIFT * SIDE + 1e-3
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
    assert np.abs(degrees).max() <= augmentation.MAX_ROTATION + 1e-3
    assert degrees.min() < -2 < 2 < degrees.max()


def test_a_zoom_stretches_about_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_ZOOM")
    zoomed = [plane(one) for one in distort(np.broadcast_to(100.0 + ACROSS, (40, SIDE, SIDE)))]
    assert [centre for *_, centre in zoomed] == pytest.approx([100 + (SIDE - 1) / 2] * 40, abs=1e-3)
    assert [down for _, down, _ in zoomed] == pytest.approx([0] * 40, abs=1e-4)
    slopes = np.array([right for right, *_ in zoomed])
    assert 1 - augmentation.MAX_ZOOM - 1e-4 <= slopes.min() < 0.97
    assert 1.03 < slopes.max() <= 1 + augmentation.MAX_ZOOM + 1e-4


def test_a_stretch_changes_width_against_height(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_STRETCH")
    across, down = (np.broadcast_to(100.0 + ramp, (40, SIDE, SIDE)) for ramp in (ACROSS, DOWN))
    slopes = [(plane(one)[0], plane(other)[1]) for one, other in zip(distort(across), distort(down), strict=True)]
    x, y = np.array(slopes).T
    np.testing.assert_allclose(x * y, 1.0, atol=1e-4)  # the same area
    stretched = np.log(x / y)
    assert -augmentation.MAX_STRETCH - 1e-4 <= stretched.min() < -0.1
    assert 0.1 < stretched.max() <= augmentation.MAX_STRETCH + 1e-4


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
    assert np.abs(np.log(exponents)).max() <= augmentation.MAX_GAMMA + 1e-3
    assert np.log(exponents).min() < -0.1 < 0.1 < np.log(exponents).max()


def test_contrast_keeps_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_CONTRAST")
    images = np.random.default_rng(1).integers(100, 156, (40, 16, 16))
    stretched = distort(images)
    np.testing.assert_allclose(stretched.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.01)
    factors = stretched.std(axis=(1, 2)) / images.std(axis=(1, 2))
    assert 1 - augmentation.MAX_CONTRAST - 1e-3 <= factors.min() < 0.9
    assert 1.1 < factors.max() <= 1 + augmentation.MAX_CONTRAST + 1e-3


def test_brightness_adds_the_same_to_every_pixel_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_BRIGHTNESS")
    images = np.random.default_rng(1).integers(30, 226, (40, 9, 7))
    added = distort(images) - images
    assert np.ptp(added, axis=(1, 2)).max() < 1e-3
    amounts = added.mean(axis=(1, 2))
    assert np.abs(amounts).max() <= augmentation.MAX_BRIGHTNESS + 1e-3
    assert amounts.min() < -8 < 8 < amounts.max()


def test_noise_has_no_mean_and_differs_from_pixel_to_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_NOISE")
    grain = distort(np.full((40, 32, 32), 128.0)) - 128
    spread = grain.std(axis=(1, 2))
    assert np.abs(grain.mean(axis=(1, 2))).max() < 1
    assert spread.max() <= augmentation.MAX_NOISE * 1.1
    assert spread.max() > augmentation.MAX_NOISE / 2
    assert np.abs(np.corrcoef(grain.reshape(40, -1)) - np.eye(40)).max() < 0.2  # each image has its own


def test_sharpness_takes_from_a_step_or_adds_to_it_and_leaves_flat_parts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_SHARPNESS")
    step = np.where(ACROSS < SIDE // 2, 80.0, 160.0)
    rows = distort(np.broadcast_to(step, (40, SIDE, SIDE)))[:, SIDE // 2]
    np.testing.assert_allclose(rows[:, :28], 80, atol=1e-3)
    np.testing.assert_allclose(rows[:, 36:], 160, atol=1e-3)
    rise = rows[:, SIDE // 2] - rows[:, SIDE // 2 - 1]
    assert 20 < rise.min() < 60 < 100 < rise.max() < 140  # of 80: blurred, and sharpened
    np.testing.assert_allclose(rows.sum(axis=1), step[0].sum(), rtol=1e-5)  # what one side loses the other gains


def test_erasing_fills_one_rectangle_with_the_mean_of_some_images(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MAX_ERASED")
    images = np.random.default_rng(2).integers(0, 256, (200, SIDE, SIDE))
    after = distort(images)
    changed = np.abs(after - images) > 0.01
    erased = changed.any(axis=(1, 2))
    assert 0.1 < erased.mean() < 0.4
    for image, one, where in zip(images[erased], after[erased], changed[erased], strict=True):
        rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
        box = one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_allclose(box, image.mean(), rtol=1e-5)
        assert max(box.shape) <= augmentation.MAX_ERASED * SIDE + 2


def test_mixup_draws_one_share_for_pixels_label_and_weight() -> None:
    import tensorflow as tf

    n = 400
    number = np.arange(n, dtype=np.float32)
    pixels = tf.constant(np.broadcast_to(number[:, None, None, None], (n, 2, 2, 1)))
    given = (pixels, tf.constant(number[:, None] % 2), tf.constant(number[:, None] + 1))
    seed = tf.constant([3, 7], tf.int64)
    mixed, labels, weights = (part.numpy() for part in augmentation.mixup(*given, alpha=0.4, seed=seed))
    other = number[::-1]
    share = (mixed[:, 0, 0, 0] - other) / (number - other)
    assert share.min() >= 0.5 - 1e-4
    assert 0.1 < np.mean(share < 0.9) < 0.9
    np.testing.assert_allclose(mixed, np.broadcast_to(mixed[:, :1, :1], mixed.shape))
    parts = share * (number + 1), (1 - share) * (other + 1)
    np.testing.assert_allclose(weights[:, 0], parts[0] + parts[1], rtol=1e-4)
    np.testing.assert_allclose(
        labels[:, 0] * weights[:, 0], parts[0] * (number % 2) + parts[1] * (other % 2), rtol=1e-3, atol=1e-3
    )
    again = augmentation.mixup(*given, alpha=0.4, seed=seed)[0]
    np.testing.assert_array_equal(again, mixed)


def test_mixup_with_alpha_zero_changes_nothing() -> None:
    given = object(), object(), object()
    assert augmentation.mixup(*given, alpha=0.0, seed=None) == given


def test_strength_scales_every_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.broadcast_to(np.full((24, 24), 100.0), (40, 24, 24))
    np.testing.assert_allclose(distort(images, strength=0.0), images, atol=1e-3)
    only(monkeypatch, "MAX_BRIGHTNESS")
    once, twice = (distort(images, strength=strength) - 100 for strength in (1.0, 2.0))
    np.testing.assert_allclose(twice, 2 * once, atol=1e-3)
    assert np.abs(once).max() > 10


def test_the_same_seed_distorts_alike_and_another_does_not() -> None:
    images = NOISE
    np.testing.assert_array_equal(distort(images, seed=(4, 2)), distort(images, seed=(4, 2)))
    for other in ((5, 2), (4, 3)):
        assert np.abs(distort(images, seed=(4, 2)) - distort(images, seed=other)).mean() > 1


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_about_the_given_fraction_of_the_images_is_touched(fraction: float) -> None:
    images = np.random.default_rng(1).integers(0, 256, (600, 12, 12))
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


def test_images_are_shrunk_as_the_network_would_shrink_them() -> None:
    import keras
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 1), dtype=np.uint8)
    shrunk = augmentation.shrink(tf.constant(pixels), 10)
    expected = keras.layers.Resizing(10, 10)(pixels.astype(np.float32))
    np.testing.assert_array_equal(shrunk, expected)
    np.testing.assert_array_equal(keras.layers.Resizing(10, 10)(shrunk), shrunk)  # the network changes nothing


@pytest.mark.parametrize("size", [24, 30, None])
def test_images_are_never_enlarged(size: int | None) -> None:
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 1), dtype=np.uint8)
    same = augmentation.shrink(tf.constant(pixels), size)
    assert same.dtype == tf.float32
    np.testing.assert_array_equal(same, pixels)


def crop(
    images: NDArray, *, smallest: float, size: int | None = None, flip: bool = False, seed: tuple[int, int] = (1, 0)
) -> NDArray[np.float32]:
    import tensorflow as tf

    pixels = tf.constant(np.asarray(images)[..., None], tf.uint8)
    draw = tf.constant(seed, tf.int64)
    return augmentation.crop(pixels, size, smallest=smallest, flip=flip, seed=draw).numpy()[..., 0]


def test_without_crops_an_image_is_only_shrunk_as_the_network_does() -> None:
    import tensorflow as tf

    np.testing.assert_array_equal(crop(NOISE, smallest=1.0), NOISE)
    shrunk = augmentation.shrink(tf.constant(NOISE[..., None]), 8).numpy()[..., 0]
    np.testing.assert_array_equal(crop(NOISE, smallest=1.0, size=8), shrunk)


def test_a_crop_is_a_part_of_the_image_of_the_area_and_proportions_that_were_asked_for() -> None:
    """On an image that is its own x (or y) coordinate, the first and last values of a crop are its sides."""
    n, smallest = 400, 0.3
    across, down = (crop(np.stack([grid] * n), smallest=smallest, size=24) for grid in (ACROSS, DOWN))
    sides = {"x": (across[:, 0, 0], across[:, 0, -1]), "y": (down[:, 0, 0], down[:, -1, 0])}
    for low, high in sides.values():
        assert low.min() >= 0
        assert high.max() <= SIDE - 1 + 1e-3
        assert (low.min() < 3, high.max() > SIDE - 4) == (True, True), "crops reach every side"
    width, height = ((high - low) / (SIDE - 1) for low, high in sides.values())
    area, ratio = width * height, width / height
    assert (area.min() >= smallest - 1e-3, area.max() <= 1 + 1e-3) == (True, True)
    assert np.mean(area) == pytest.approx(0.65, abs=0.03)
    assert (ratio.min() > 3 / 4 - 1e-3, ratio.max() < 4 / 3 + 1e-3, ratio.max() - ratio.min() > 0.4) == (True,) * 3
    np.testing.assert_array_equal(across[:, 0], across[:, -1])  # nothing is turned or sheared


def test_a_flip_mirrors_a_random_half_of_the_images_from_left_to_right() -> None:
    flipped = crop(NOISE, smallest=1.0, flip=True)
    mirrored = np.array([np.array_equal(after, before[:, ::-1]) for after, before in zip(flipped, NOISE, strict=True)])
    same = np.array([np.array_equal(after, before) for after, before in zip(flipped, NOISE, strict=True)])
    assert (mirrored ^ same).all()
    assert 8 <= mirrored.sum() <= 24


def test_the_same_seed_gives_the_same_crops_and_another_one_others() -> None:
    first, again, other = (crop(NOISE, smallest=0.3, flip=True, seed=(1, step)) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def hide_edges(images: NDArray, *, fraction: float = 1.0, seed: tuple[int, int] = (1, 0)) -> NDArray:
    import tensorflow as tf

    pixels = tf.constant(np.asarray(images)[..., None], tf.float32)
    return augmentation.hide_edges(pixels, fraction=fraction, seed=tf.constant(seed, tf.int64)).numpy()[..., 0]


def test_a_corner_or_the_border_is_hidden_and_the_middle_never() -> None:
    n, side = 400, 40
    images = np.zeros((n, side, side))
    images[:, ::2] = 2.0  # the mean is 1: what is hidden can be told from both lines
    hidden = hide_edges(images) == 1.0
    corner = round(augmentation.CORNER * side)
    border = round(augmentation.BORDER * side)
    assert not hidden[:, corner:-corner, corner:-corner].any()
    corners = hidden[:, (0, 0, -1, -1), (0, -1, 0, -1)].sum(axis=1)
    is_frame, is_corner = corners == 4, corners == 1
    assert 0.4 < is_frame.mean() < 0.6
    assert 0.3 < is_corner.mean() < 0.6
    assert not hidden[is_frame, border:-border, border:-border].any()
    assert (hidden[is_corner].sum(axis=(1, 2)) <= corner**2).all()
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert hidden[is_corner, row, column].mean() > 0.1, "each corner has its turn"


@pytest.mark.parametrize("fraction", [0.0, 0.3])
def test_edges_are_hidden_in_the_given_share_of_the_images(fraction: float) -> None:
    images = np.random.default_rng(1).integers(0, 255, (1_000, 32, 32))
    changed = (hide_edges(images, fraction=fraction) != images).any(axis=(1, 2)).mean()
    assert fraction * 0.7 <= changed <= fraction + 0.04, "less than half a pixel is no change"


def test_the_same_seed_hides_the_same_edges() -> None:
    first, again, other = (hide_edges(NOISE, seed=(1, step)) for step in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def ellipses(n: int, seed: int) -> tuple[NDArray, NDArray]:
    """Bright ellipses on black, and their boxes as shares of the image, float32 (n, 1, 4)."""
    rng = np.random.default_rng(seed)
    start, sides = rng.uniform(0.2, 0.4, (n, 2)), rng.uniform(0.2, 0.4, (n, 2))
    y, x = (np.mgrid[:240, :240] + 0.5) / 240
    middle = (start + sides / 2)[:, :, None, None]
    away = ((x - middle[:, 0]) / sides[:, 0, None, None]) ** 2 + ((y - middle[:, 1]) / sides[:, 1, None, None]) ** 2
    boxes = np.concatenate([start, sides], axis=1)[:, None]
    return np.where(away < 0.25, 255.0, 0.0), boxes.astype(np.float32)


@pytest.mark.parametrize("flip", [True, False])
def test_boxes_move_with_what_is_in_them(flip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    only(monkeypatch, "MAX_ROTATION", "MAX_SHIFT", "MAX_ZOOM", "MAX_STRETCH")
    images, boxes = ellipses(24, 1)
    seed = tf.constant((3, 4), tf.int64)
    pixels = augmentation.crop(images[..., None], None, smallest=0.6, flip=flip, seed=seed)
    pixels = augmentation.distort(pixels, fraction=0.8, strength=2.0, seed=seed).numpy()[..., 0]
    places = augmentation.crop_boxes(tf.constant(boxes), smallest=0.6, flip=flip, seed=seed)
    places = augmentation.distort_boxes(places, fraction=0.8, strength=2.0, seed=seed).numpy()[:, 0]
    whole = (places[:, :2] > 0.01).all(axis=1) & ((places[:, :2] + places[:, 2:]) < 0.99).all(axis=1)
    assert whole.sum() > 12
    assert np.abs(places - boxes[:, 0])[whole].max() > 0.1
    for image, (x, y, width, height) in zip(pixels[whole], places[whole] * 240, strict=True):
        rows, columns = np.nonzero(image > 127)
        found = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
        assert found == pytest.approx((x, x + width, y, y + height), abs=2)


def test_of_a_box_that_is_mostly_cut_off_nothing_stays() -> None:
    import tensorflow as tf

    boxes = tf.constant([[[-0.3, 0.2, 0.4, 0.5], [-0.1, 0.2, 0.4, 0.5], [0, 0, 0, 0], [np.nan] * 4]], tf.float32)
    seen = augmentation.crop_boxes(boxes, smallest=1.0, flip=False, seed=tf.constant((1, 2), tf.int64)).numpy()[0]
    assert seen[:, 2].tolist() == pytest.approx([0, 0.3, 0, np.nan], nan_ok=True)
