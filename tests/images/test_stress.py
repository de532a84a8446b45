"""Each stress does what it is called, and no more."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pneumonia.images import stress

ALL = [*stress.STRESSES, *stress.REPORTED]
RNG = np.random.default_rng(1)
IMAGES = cv2.GaussianBlur(RNG.integers(0, 256, (224, 224, 4), dtype=np.uint8), (0, 0), 2).transpose(2, 0, 1).copy()
IMAGES = np.clip(128 + 3.0 * (IMAGES.astype(float) - 128), 0, 255).astype(np.uint8)


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(image, cv2.CV_64F).var())


@pytest.mark.parametrize("name", ALL)
def test_images_keep_form_type_and_order_and_are_changed(name: str) -> None:
    before = IMAGES.copy()
    changed = stress.stressed(IMAGES, name)
    assert changed.shape == IMAGES.shape
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(IMAGES, before)
    for row in range(4):
        assert (changed[row] != IMAGES[row]).any() or name == "letters_removed", "these blobs have no strokes"
        alike = [np.corrcoef(changed[row].ravel(), one.ravel())[0, 1] for one in IMAGES]
        if name not in ("rotation", "proportions"):  # blobs that have moved are other blobs
            assert int(np.argmax(alike)) == row
            assert alike[row] > 0.8


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_images(name: str) -> None:
    np.testing.assert_array_equal(stress.stressed(IMAGES, name, seed=3), stress.stressed(IMAGES, name, seed=3))


@pytest.mark.parametrize("name", ALL)
def test_images_in_blocks_are_changed_as_all_at_once(name: str) -> None:
    rng = np.random.default_rng(3)
    blocks = [stress.stressed(IMAGES[start : start + 3], name, seed=rng) for start in (0, 3)]
    np.testing.assert_array_equal(np.concatenate(blocks), stress.stressed(IMAGES, name, seed=3))


@pytest.mark.parametrize("name", sorted(set(ALL) - {"noise"}))
@pytest.mark.parametrize("gray", [0, 128, 255])
def test_a_flat_image_stays_flat(name: str, gray: int) -> None:
    changed = stress.stressed(np.full((1, 32, 40), gray, np.uint8), name)
    assert np.ptp(changed) == 0
    if gray != 128 or "gamma" not in name:
        assert abs(int(changed[0, 0, 0]) - gray) <= (2 if name == "jpeg" else 0)


@pytest.mark.parametrize("name", ["blur", "resolution"])
def test_sharpness_falls_and_brightness_stays(name: str) -> None:
    for before, after in zip(IMAGES, stress.stressed(IMAGES, name), strict=True):
        assert sharpness(after) < sharpness(before) / 2
        assert after.mean() == pytest.approx(before.mean(), abs=1)


def test_blur_grows_with_the_side_so_that_it_means_the_same() -> None:
    step = np.zeros((1, 448, 448), np.uint8)
    step[:, :, 224:] = 255
    large = stress.stressed(step, "blur")
    small = stress.stressed(step[:, ::2, ::2].copy(), "blur")
    np.testing.assert_allclose(large[0, 224, ::2].astype(int), small[0, 112].astype(int), atol=30)
    rise = lambda row: int(((row > 25) & (row < 230)).sum())  # noqa: E731
    assert rise(large[0, 224]) == pytest.approx(2 * rise(small[0, 112]), abs=2)


def test_proportions_change_along_one_axis_about_the_centre() -> None:
    ramp = np.arange(20, 220, dtype=np.uint8)
    images = np.stack([np.broadcast_to(ramp, (200, 200)), np.broadcast_to(ramp[:, None], (200, 200))] * 8)
    seen = set()
    for before, after in zip(images, stress.stressed(images, "proportions"), strict=True):
        across, down = (np.ptp(after.astype(int), axis=axis).max() for axis in (1, 0))
        assert min(across, down) == 0  # a ramp stays one
        seen.add((bool(before[0, 0] == before[1, 0]), max(across, down)))
        assert after.mean() == pytest.approx(before.mean(), abs=0.6)
    # Of either kind some are cut by 15 %, the others along the other axis, which leaves a ramp as it was.
    assert seen == {(True, 199), (True, 169), (False, 199), (False, 169)}


@pytest.mark.parametrize(("name", "factor"), [("contrast_low", 0.6), ("contrast_high", 1.4)])
def test_contrast_is_scaled_about_the_mean(name: str, factor: float) -> None:
    image = RNG.integers(100, 156, (1, 64, 64), dtype=np.uint8)
    changed = stress.stressed(image, name)
    assert changed.std() == pytest.approx(factor * image.std(), rel=0.02)
    assert changed.mean() == pytest.approx(image.mean(), abs=0.2)


@pytest.mark.parametrize(("name", "exponent"), [("gamma_dark", 1.5), ("gamma_bright", 0.67)])
def test_gamma_bends_the_grays_and_keeps_black_and_white(name: str, exponent: float) -> None:
    grays = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    changed = stress.stressed(grays, name).ravel()
    assert (changed[0], changed[255]) == (0, 255)
    assert changed[128] == round(255 * (128 / 255) ** exponent)
    assert (np.diff(changed.astype(int)) >= 0).all()


def test_noise_is_each_images_own_and_has_its_spread() -> None:
    noise = stress.stressed(np.full((3, 64, 64), 128, np.uint8), "noise").astype(float) - 128
    assert noise.std(axis=(1, 2)) == pytest.approx([10] * 3, rel=0.05)
    assert np.abs(np.corrcoef(noise.reshape(3, -1)) - np.eye(3)).max() < 0.1


def test_rotation_turns_each_image_by_an_angle_of_its_own_and_leaves_no_black_corner() -> None:
    line = np.full((6, 101, 101), 40, np.uint8)
    line[:, 48:53, :] = 220
    turned = stress.stressed(line, "rotation", seed=4)
    assert turned.min() >= 40
    # The line's height at the left and right edge gives the angle.
    heights = [[one[:, column].argmax() for column in (5, 95)] for one in turned]
    angles = np.degrees(np.arctan2(np.diff(heights, axis=1)[:, 0], 90))
    assert np.abs(angles).max() <= 11
    assert angles.std() > 2


def test_jpeg_loses_detail_and_keeps_the_picture() -> None:
    before, (after,) = IMAGES[0], stress.stressed(IMAGES[:1], "jpeg")
    assert 2 < np.abs(after.astype(int) - before).mean() < 20


def test_only_what_is_kept_is_seen() -> None:
    kept = stress.middle(224, 224)
    assert kept.mean() == pytest.approx(0.49, abs=0.01)
    assert kept[112, 112]
    assert not kept[0].any()
    np.testing.assert_array_equal(kept, kept[::-1, ::-1])
    inside, outside = stress.occluded(IMAGES, kept), stress.occluded(IMAGES, ~kept)
    np.testing.assert_array_equal(inside + outside, IMAGES)
    assert (inside[:, ~kept] == 0).all()
    assert (outside[:, kept] == 0).all()
    masks = np.random.default_rng(1).random(IMAGES.shape) < 0.5
    np.testing.assert_array_equal(stress.occluded(IMAGES, masks), IMAGES * masks)


def test_a_box_is_the_smallest_around_a_mask() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4, 7] = mask[10, 20] = True
    box = stress.box_of(mask)
    assert box == (4, 11, 7, 21)
    assert box.mask(20, 30).sum() == 7 * 14
    assert stress.box_of(np.zeros((20, 20), bool)) == stress.box_of(stress.middle(20, 20))


def test_the_common_box_holds_nearly_all_boxes_and_is_not_widened_by_a_single_one() -> None:
    rng = np.random.default_rng(1)
    boxes = [
        stress.Box(int(a), int(b), int(c), int(d))
        for a, b, c, d in rng.integers((10, 60, 10, 60), (30, 80, 30, 80), (200, 4))
    ]
    common = stress.common_box(boxes)
    inside = [
        common.top <= one.top and common.bottom >= one.bottom and common.left <= one.left and common.right >= one.right
        for one in boxes
    ]
    assert np.mean(inside) >= 0.95
    assert stress.common_box([*boxes, stress.Box(0, 99, 0, 99)]) == common


def test_a_swap_shows_the_lungs_of_one_film_in_the_place_of_those_of_the_other() -> None:
    film, other = np.full((100, 100), 50, np.uint8), np.full((100, 100), 200, np.uint8)
    film[30:50, 20:60], film[35:40, 25:30] = 80, 250
    box, place = stress.Box(30, 50, 20, 60), stress.Box(40, 80, 10, 90)
    swap = stress.swapped(film, box, other, place)
    assert (swap[:30] == 200).all()
    assert (swap[:, :2] == 200).all()
    assert abs(int(swap[60, 50]) - 80) <= 1
    # Twice as large, because the lungs of the other film are: rows 35-40 become 50-60, columns 25-30 become 20-30.
    np.testing.assert_allclose(np.argwhere(swap > 240).mean(axis=0), (54.5, 24.5), atol=1.1)
    assert (np.diff(swap[:40, 50].astype(int)) <= 0).all(), "the border is soft"
    assert len(np.unique(swap[30:50, 50])) > 5
    np.testing.assert_array_equal(stress.swapped(film, box, film, box), film)


@given(arrays(np.uint8, st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40))))
def test_any_images_are_taken(images: np.ndarray) -> None:
    for name in ALL:
        assert stress.stressed(images, name).shape == images.shape


def test_letters_in_the_corners_are_removed_and_all_else_stays() -> None:
    film = cv2.GaussianBlur(RNG.integers(0, 256, (224, 224), dtype=np.uint8), (0, 0), 20)
    film = np.clip(100 + 6.0 * (film.astype(float) - film.mean()), 0, 170).astype(np.uint8)
    cv2.rectangle(film, (150, 0), (223, 60), 180, -1)  # a shoulder, wider than any letter
    marked = film.copy()
    cv2.putText(marked, "PORT", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255.0, 2)
    cv2.putText(marked, "L", (100, 112), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255.0, 2)
    (without,) = stress.stressed(marked[None], "letters_removed")
    corner = slice(0, 44), slice(0, 78)
    assert np.abs(marked[corner].astype(int) - film[corner]).max() > 80
    assert np.abs(without[corner].astype(int) - film[corner]).max() < 30
    without[corner] = marked[corner]
    np.testing.assert_array_equal(without, marked)
