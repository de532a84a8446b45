"""What all saliency methods share."""

import numpy as np

from pneumonia.saliency.maps import batches, scaled


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
