"""Maps that know nothing of the network."""

import tracemalloc

import numpy as np

from pneumonia.saliency import baselines, scores


def test_the_mean_of_the_boxes_is_highest_where_most_boxes_are() -> None:
    everywhere, once = [3.0, 2.0, 1.0, 1.0], [5.0, 5.0, 1.0, 1.0]
    boxes = [np.array([everywhere, once]), np.array([everywhere]), np.array([everywhere])]
    mean = baselines.mean_of_boxes(boxes, 8)
    assert (mean[2, 3], mean[5, 5]) == (1, np.float32(1 / 3))
    maps = baselines.train_boxes(mean, 2)
    assert maps.shape == (2, 8, 8)
    assert maps[0, 2, 3] == 1
    np.testing.assert_allclose(maps[0, 5, 5], 1 / 3)
    assert maps[0].sum() == maps[0, 2, 3] + maps[0, 5, 5]


def test_the_mean_of_the_boxes_holds_one_image_in_memory() -> None:
    tracemalloc.start()
    try:
        baselines.mean_of_boxes((np.array([[8.0, 8.0, 9.0, 9.0]]) for _ in range(200)), 128)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * 128 * 128 / 8
    assert baselines.mean_of_boxes([], 8).tolist() == np.zeros((8, 8)).tolist()


def test_a_map_that_is_uniform_in_the_lungs_has_the_energy_of_the_area() -> None:
    lungs = np.zeros((1, 8, 8), bool)
    lungs[:, 2:6] = True
    box = np.zeros((1, 8, 8), bool)
    box[:, 4:, :4] = True
    maps = baselines.uniform_in_lungs(lungs)
    assert scores.energy(maps, lungs).tolist() == [1]
    assert scores.energy(maps, box).tolist() == scores.pointing_game(maps, box).tolist() == [0.25]


def test_the_centre_is_symmetric_and_a_quarter_of_the_side_away_it_has_a_bell_value() -> None:
    (bell,) = baselines.centre(1, 65)
    assert bell[32, 32] == 1
    np.testing.assert_array_equal(bell, bell[::-1, ::-1])
    np.testing.assert_allclose(bell[32, 32 + 16], np.exp(-0.5 * (64 / 65) ** 2), rtol=0.01)


def test_the_edge_detector_sees_edges_and_nothing_in_a_plain_film() -> None:
    images = np.full((2, 64, 64), 90, np.uint8)
    images[0, :, 40:] = 200
    maps = baselines.edges(images)
    assert set(maps[0].argmax(axis=1).tolist()) <= {39, 40}
    assert maps[1].max() == 0


def test_another_image_is_one_of_another_patient() -> None:
    maps = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 2, 2), np.float32)
    patients = np.array(["a", "a", "b", "a"], dtype=object)
    assert baselines.of_another_image(maps, patients)[:, 0, 0].tolist() == [2, 2, 3, 2]
    assert baselines.of_another_image(maps, np.array(["a"] * 4, dtype=object)).max() == 0
