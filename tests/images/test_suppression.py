"""Which boxes of all cells are left."""

import numpy as np
import pytest

from pneumonia.images.suppression import MAX_BOXES, suppressed


def test_overlapping_boxes_beyond_the_image_and_unlikely_ones_are_left_out() -> None:
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.12, 0.1, 0.4, 0.4], [0.8, 0.8, 0.4, 0.1], [0, 0, 0.1, 0.1]], np.float32)
    found, scores = suppressed(boxes, np.array([0.5, 0.9, 0.3, 0.01], np.float32), 100, 100)
    np.testing.assert_allclose(found, [[12, 10, 40, 40], [80, 80, 20, 10]], atol=1e-4)
    assert scores.tolist() == pytest.approx([0.9, 0.3])


def test_there_is_an_end_to_the_boxes_of_an_image_and_none_is_a_result_too() -> None:
    corners = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) / 10
    boxes = np.concatenate([corners, np.full((100, 2), 0.1)], axis=1).astype(np.float32)
    scores = np.linspace(0.1, 0.9, 100).astype(np.float32)
    found, kept = suppressed(boxes, scores, 1, 1)
    assert len(found) == MAX_BOXES
    assert kept.tolist() == pytest.approx(scores[::-1][:MAX_BOXES].tolist())
    found, kept = suppressed(boxes, scores * 0, 1, 1)
    assert (found.shape, kept.shape) == ((0, 4), (0,))
