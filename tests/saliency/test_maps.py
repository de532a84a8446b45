"""What all saliency methods share."""

import numpy as np

from pneumonia.saliency.maps import batches, blurred, enlarged, scaled, smoothed


def test_each_map_is_scaled_by_its_own_maximum_and_an_empty_one_stays_empty() -> None:
    maps = np.zeros((3, 2, 2), np.float32)
    maps[0, 0, 1], maps[1] = 4, [[0.5, 0.25], [0, 0.125]]
    assert scaled(maps).tolist() == [[[0, 1], [0, 0]], [[1, 0.5], [0, 0.25]], [[0, 0], [0, 0]]]


def test_batches_hold_every_image_once_in_order_as_networks_take_them() -> None:
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    parts = batches(images, size=2)
    assert [part.shape for part in parts] == [(2, 2, 2, 1), (2, 2, 2, 1), (1, 2, 2, 1)]
    assert all(part.dtype == np.float32 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts)[..., 0], images)


def test_an_enlarged_map_has_its_cells_where_they_are_in_the_image() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 1, 2] = 1
    (large,) = enlarged(maps, 64)
    rows, columns = np.nonzero(large > 0.9)
    assert large.shape == (64, 64)
    np.testing.assert_allclose((rows.mean(), columns.mean()), (23.5, 39.5))


def test_a_single_pixel_becomes_a_bell_of_one_percent_of_the_side() -> None:
    maps = np.zeros((1, 200, 200), np.float32)
    maps[0, 60, 120] = 1
    across, down = np.meshgrid(np.arange(200), np.arange(200))
    bell = np.exp(-((across - 120) ** 2 + (down - 60) ** 2) / (2 * 2.0**2))
    np.testing.assert_allclose(scaled(smoothed(maps))[0], bell, atol=0.002)


def test_a_blurred_film_has_its_gray_level_but_no_detail() -> None:
    film = np.random.default_rng(1).uniform(0, 200, (1, 64, 64, 1)).astype(np.float32) + 20
    plain = blurred(film)
    assert plain.shape == film.shape
    assert abs(plain.mean() - film.mean()) < 2
    assert plain.std() < film.std() / 10
