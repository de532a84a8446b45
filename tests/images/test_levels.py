"""More than 8 bits become the same 8 bits, whatever their number, offset, hot pixels, letters and borders."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pneumonia.images import levels

SIDE = 200
FILM = np.clip(
    cv2.resize(np.random.default_rng(3).normal(0.5, 0.2, (7, 7)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), 0, 1
)
PLAIN = levels.gray_levels(np.rint(FILM * 4095).astype(np.uint16))
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def scaled(low: int, high: int) -> npt.NDArray[np.uint16]:
    return np.rint(low + FILM * (high - low)).astype(np.uint16)


def scattered(n: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SIDE * SIDE, bool)
    mask[np.random.default_rng(n).choice(mask.size, n, replace=False)] = True
    return mask.reshape(SIDE, SIDE)


def rectangle(share: float) -> npt.NDArray[np.bool_]:
    """In the corner, of a share of the image."""
    side = round(SIDE * share**0.5)
    return (np.indices((SIDE, SIDE)) < side).all(axis=0)


def assert_like_the_plain_film(
    pixels: npt.NDArray[np.integer], where: npt.NDArray[np.bool_] = EVERYWHERE, within: float = 2.0
) -> None:
    gray = levels.gray_levels(pixels)
    assert gray.dtype == np.uint8
    assert np.abs(gray.astype(int) - PLAIN)[where].max() <= within


def test_a_plain_film_reaches_from_black_to_white_and_loses_next_to_nothing() -> None:
    assert (PLAIN.min(), PLAIN.max()) == (0, 255)
    exact = np.rint((FILM - FILM.min()) / (FILM.max() - FILM.min()) * 255)
    assert np.abs(PLAIN - exact).mean() < 1


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 4096), (0, 1023), (0, 16383), (0, 65535), (33069, 36863), (100, 3000), (60000, 65535)],
)
def test_the_number_of_bits_and_an_offset_change_nothing(low: int, high: int) -> None:
    assert_like_the_plain_film(scaled(low, high))


def test_eight_bits_stored_in_sixteen_are_stretched_like_all_others() -> None:
    assert_like_the_plain_film(scaled(0, 255), within=4)
    assert_like_the_plain_film(scaled(90, 180), within=6)


def test_signed_values_are_like_unsigned_ones() -> None:
    assert_like_the_plain_film(scaled(0, 4095).astype(np.int16) - 2048, within=0)


@pytest.mark.parametrize("n", [1, 9, 40])
def test_hot_and_dead_pixels_change_nothing(n: int) -> None:
    broken = scattered(n)
    assert_like_the_plain_film(np.where(broken, np.uint16(65535), scaled(0, 4095)), ~broken)
    assert_like_the_plain_film(np.where(broken, np.uint16(0), scaled(33069, 36863)), ~broken)
    anywhere = np.random.default_rng(0).integers(5000, 65535, (SIDE, SIDE)).astype(np.uint16)
    assert_like_the_plain_film(np.where(broken, anywhere, scaled(0, 4095)), ~broken)


@pytest.mark.parametrize("share", [0.002, 0.02, 0.06])
@pytest.mark.parametrize("level", [65535, 12000, 8191])
def test_bright_letters_do_not_darken_the_film(share: float, level: int) -> None:
    letters = rectangle(share)
    pixels = np.where(letters, np.uint16(level), scaled(0, 4095))
    assert_like_the_plain_film(pixels, ~letters, within=8)
    assert levels.gray_levels(pixels)[letters].min() == 255


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("noise", [0, 30])
def test_the_border_of_a_collimator_does_not_flatten_the_film(share: float, noise: int) -> None:
    border = rectangle(share)
    dark = np.random.default_rng(0).integers(0, noise + 1, (SIDE, SIDE)).astype(np.uint16)
    gray = levels.gray_levels(np.where(border, dark, scaled(33069, 36863)))
    assert gray[border].max() == 0
    film = levels.gray_levels(scaled(33069, 36863)[~border].reshape(1, -1))[0]  # without the part under the border
    assert np.abs(gray[~border].astype(int) - film).mean() < 8


def test_border_letters_and_hot_pixels_may_come_together() -> None:
    border, letters, broken = rectangle(0.3), rectangle(0.03)[::-1, ::-1], scattered(20)
    pixels = np.where(border, np.uint16(0), scaled(33069, 36863))
    pixels[letters], pixels[broken] = 65535, 65535
    film = ~(border | letters | broken)
    alone = levels.gray_levels(pixels[film].reshape(1, -1))[0]
    assert np.abs(levels.gray_levels(pixels)[film].astype(int) - alone).mean() < 8


def test_few_values_are_stretched_from_minimum_to_maximum() -> None:
    few = np.array([[0, 1000], [3000, 4000]], np.uint16)
    np.testing.assert_array_equal(levels.gray_levels(few), [[0, 64], [191, 255]])
    mask = (FILM > 0.8).astype(np.uint16)  # 7 % of it
    np.testing.assert_array_equal(levels.gray_levels(mask), mask * 255)


def test_few_pixels_of_many_values_before_one_value_are_shown() -> None:
    """All but 0.1 % of the pixels have one value, but most values are elsewhere."""
    pixels = np.zeros(250_000, np.uint16)
    pixels[:100] = np.linspace(20000, 60000, 100)
    gray = levels.gray_levels(pixels.reshape(500, 500)).ravel()
    assert gray[100:].max() == 0
    assert (gray[0], gray[99]) == (85, 255)
    assert (np.diff(gray[:100].astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_an_image_of_one_value_is_black(value: int) -> None:
    np.testing.assert_array_equal(levels.gray_levels(np.full((4, 5), value, np.uint16)), np.zeros((4, 5)))


def test_values_may_come_in_any_order_and_without_pixels() -> None:
    shares = levels.stretch(np.array([5.0, -3.0, 1.0, 99.0]), np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(shares, [1, 0, 0.5, 12.75])
