"""Scores of saliency maps."""

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
    maps, insides = make_maps()
    assert scores.pointing_game(maps[:1], insides[:1]) == 1
    assert scores.pointing_game(maps[:2], insides[:2]) == 0.5
    # The highest point of an empty map would be its first pixel, which lies inside.
    assert scores.pointing_game(maps, insides) == pytest.approx(1 / 3)


def test_energy_in_box_is_the_share_of_the_sum_inside() -> None:
    maps, insides = make_maps()
    assert scores.energy_in_box(maps[:1], insides[:1]) == pytest.approx(0.6)
    assert scores.energy_in_box(maps[:2], insides[:2]) == pytest.approx((0.6 + 0.25) / 2)
    assert scores.energy_in_box(maps, insides) == pytest.approx((0.6 + 0.25 + 0) / 3)
    assert scores.energy_in_box(np.ones((1, 4, 4), np.float32), insides[:1]) == 0.25
