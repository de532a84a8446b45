"""Figures of saliency maps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.saliency import scores
from tests.saliency.conftest import NO_BOXES


def test_a_box_holds_the_pixels_whose_centre_it_holds() -> None:
    mask = scores.inside(np.array([[1.0, 2.0, 3.0, 4.0]]), 8)
    expected = np.zeros((8, 8), bool)
    expected[2:6, 1:4] = True
    np.testing.assert_array_equal(mask, expected)


def test_pixels_on_the_edge_of_a_box_belong_to_one_of_two_neighbours() -> None:
    """An edge through centres counts left and above, not right and below: two boxes side by side share no pixel."""
    left, right = (scores.inside(np.array([[x, 0.5, 2.0, 2.0]]), 6) for x in (0.5, 2.5))
    assert np.argwhere(left).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert np.argwhere(right).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_several_boxes_join_and_what_lies_outside_the_image_is_cut() -> None:
    mask = scores.inside(np.array([[-5.0, -5.0, 6.0, 6.0], [0.0, 0.0, 2.0, 1.0], [5.0, 5.0, 90.0, 90.0]]), 6)
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [5, 5]]
    assert not scores.inside(NO_BOXES, 6).any()


def make_maps() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Three 4x4 maps and their boxes: a hit with 60 % inside, a miss with 25 % inside, and an empty map."""
    maps = np.zeros((3, 4, 4), np.float32)
    insides = np.zeros((3, 4, 4), bool)
    insides[:, :2, :2] = True
    maps[0, 0, 1], maps[0, 3, 3] = 0.6, 0.4
    maps[1, 0, 1], maps[1, 3, 3] = 0.25, 0.75
    return maps, insides


def test_the_pointing_game_counts_the_highest_points_inside() -> None:
    # The highest point of an empty map would be its first pixel, which lies inside.
    assert scores.pointing_game(*make_maps()).tolist() == [1, 0, 0]


def test_a_map_with_many_highest_points_hits_with_their_share_inside() -> None:
    _, insides = make_maps()
    assert scores.pointing_game(np.ones((1, 4, 4), np.float32), insides[:1]).tolist() == [0.25]


def test_energy_is_the_share_of_the_sum_inside() -> None:
    maps, insides = make_maps()
    np.testing.assert_allclose(scores.energy(maps, insides), [0.6, 0.25, 0], atol=1e-7)
    assert scores.energy(np.ones((1, 4, 4), np.float32), insides[:1]).tolist() == [0.25]


def one_pixel_model(batch: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 where the pixel in row 5, column 9 is bright, else 0: the only pixel that it reads."""
    return (batch[:, 5, 9, 0] > 200).astype(np.float64)


@pytest.mark.parametrize(
    ("place", "inserted", "deleted"), [((5, 9), 15 / 16, 1 / 16), ((0, 0), 1 / 16, 15 / 16)], ids=["right", "last"]
)
def test_a_map_of_the_one_pixel_that_matters_inserts_and_deletes_it_first(
    place: tuple[int, int], inserted: float, deleted: float
) -> None:
    """Of the eight trapezoids the first or the last is half lost."""
    image = np.full((1, 16, 16), 20, np.uint8)
    image[0, 5, 9] = 255
    maps = np.zeros((1, 16, 16), np.float32)
    maps[0][place] = 1
    if place == (0, 0):
        maps[0] += 0.5
        maps[0, 5, 9] = 0
    insertion, deletion = scores.insertion_deletion(one_pixel_model, image, maps)
    np.testing.assert_allclose((insertion[0], deletion[0]), (inserted, deleted))


def test_areas_of_many_images_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (35, 8, 16), dtype=np.uint8)
    maps = rng.random((35, 8, 16)).astype(np.float32)

    def model(batch: NDArray[np.float32]) -> NDArray[np.float64]:
        return batch[:, 5, 9, 0] / 255.0

    together = np.array(scores.insertion_deletion(model, images, maps))
    alone = [scores.insertion_deletion(model, images[row : row + 1], maps[row : row + 1]) for row in (0, 31, 34)]
    np.testing.assert_allclose(together[:, [0, 31, 34]], np.array(alone)[..., 0].T)


def test_rank_correlation_compares_the_order_of_absolute_values() -> None:
    rng = np.random.default_rng(1)
    maps = rng.random((2, 40, 40)).astype(np.float32)
    np.testing.assert_allclose(scores.rank_correlation(maps, -(maps**3)), [1, 1])
    np.testing.assert_allclose(scores.rank_correlation(maps, 1 - maps), [-1, -1], atol=1e-6)
    assert np.abs(scores.rank_correlation(maps, maps[::-1])).max() < 0.1


def test_a_map_without_order_correlates_with_nothing() -> None:
    maps = np.random.default_rng(1).random((2, 20, 20)).astype(np.float32)
    assert scores.rank_correlation(maps, np.zeros_like(maps)).tolist() == [0, 0]


def test_an_interval_draws_patients_and_not_images() -> None:
    """Ten copies of each image say nothing new: the interval is that of the patients, not narrower."""
    values = np.random.default_rng(1).random(30)
    patients = np.array([f"p{row}" for row in range(30)])
    once, copied = scores.interval(values, patients), scores.interval(np.repeat(values, 10), np.repeat(patients, 10))
    np.testing.assert_allclose(copied, once, atol=1e-12)
    as_images = scores.interval(np.repeat(values, 10), np.arange(300))
    assert as_images.high - as_images.low < (once.high - once.low) / 2
    # The normal approximation, 1.96 standard errors on each side.
    expected = 2 * 1.96 * values.std() / np.sqrt(30)
    assert 0.9 < (once.high - once.low) / expected < 1.1


def test_a_share_without_errors_has_an_interval_with_a_width() -> None:
    share = scores.interval(np.ones(20), np.arange(20))
    assert (share.mean, share.high) == (1, 1)
    assert 0.8 < share.low < 0.85
