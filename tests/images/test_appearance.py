"""A short description in which a chest, a turned one, noise and an empty image differ."""

import numpy as np
import pytest

from pneumonia.images import appearance

SIZE = 96


def test_the_thumbnail_is_the_mean_of_each_cell() -> None:
    cells = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7
    image = np.kron(cells, np.ones((16, 16), np.uint8))
    assert appearance.describe(image)[:36].tolist() == cells.ravel().tolist()


def test_detail_is_found_at_its_scale() -> None:
    coarse = np.kron(np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8), np.ones((16, 16), np.uint8))
    fine = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    details = [appearance.describe(image)[36:41] for image in (coarse, fine)]
    assert details[0].argmax() > details[1].argmax() == 0


def test_gray_levels_are_described_by_quantiles_and_the_share_of_black() -> None:
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[: SIZE // 4] = 200
    assert appearance.describe(image)[41:].tolist() == [0, 0, 0, 50, 200, 0.75]


@pytest.mark.parametrize("size", [1, 6, 16, 224])
@pytest.mark.parametrize("level", [0, 255])
def test_an_image_of_any_size_and_of_one_gray_level_has_a_finite_description(size: int, level: int) -> None:
    described = appearance.describe(np.full((size, size), level, np.uint8))
    assert described.shape == (47,)
    assert np.isfinite(described).all()
