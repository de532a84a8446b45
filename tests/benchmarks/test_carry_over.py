"""The changes of films that recipes for other places are made of."""

import numpy as np
import pytest

from benchmarks import carry_over

RNG = np.random.default_rng(0)
FILMS = RNG.integers(0, 256, (5, 96, 96)).astype(np.uint8)
MASKS = np.zeros_like(FILMS)
MASKS[:, 30:66, 30:66] = 255
CHANGES = {
    (name, kind): change
    for name, one in carry_over.TRIES.items()
    for kind in ("always", "added")
    if (change := getattr(one, kind)) is not None
} | {
    (name, str(place)): change
    for name, changes in carry_over.PREDICTIONS.items()
    for place, change in enumerate(changes)
    if change is not carry_over._as_is
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=map("-".join, CHANGES))
def test_a_changed_film_is_a_film_of_its_own(change: carry_over.Change) -> None:
    before = FILMS.copy()
    changed = change(FILMS, MASKS)
    assert (changed.shape, changed.dtype) == (FILMS.shape, np.uint8)
    assert all((one != other).any() for one, other in zip(changed, FILMS, strict=True))
    np.testing.assert_array_equal(FILMS, before)


def test_windowing_takes_the_exposure_away() -> None:
    darker = (FILMS // 2 + 20).astype(np.uint8)
    one, other = (carry_over._windowed(films, MASKS).astype(int) for films in (FILMS, darker))
    # The 4 gray levels that keep a blank film from noise make 45 * 2 * (78 / 82 - 37 / 41) = 4.4 of difference.
    assert np.abs(one - other).max() <= 5
    assert np.abs(FILMS.astype(int) - darker).max() > 100


def test_a_film_gets_the_gray_levels_of_another_and_keeps_its_order() -> None:
    changed = carry_over._other_histogram(FILMS, MASKS)
    others = FILMS[carry_over._others(len(FILMS))]
    np.testing.assert_array_equal(np.sort(changed.reshape(5, -1)), np.sort(others.reshape(5, -1)))
    order = FILMS[0].ravel().argsort(kind="stable")
    assert (np.diff(changed[0].ravel()[order].astype(int)) >= 0).all()


def test_outside_the_lungs_nothing_stays_of_the_film() -> None:
    alone, elsewhere = carry_over._lungs_only(FILMS, MASKS), carry_over._other_surroundings(FILMS, MASKS)
    np.testing.assert_array_equal(alone[:, 44:52, 44:52], FILMS[:, 44:52, 44:52])
    assert np.ptp(alone[0, :8]) == 0
    others = FILMS[carry_over._others(len(FILMS))]
    np.testing.assert_array_equal(elsewhere[:, :8], others[:, :8])
