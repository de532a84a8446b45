"""Shortcuts planted in the phantom, one change at a time."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from pneumonia import validate
from pneumonia.data import phantom, shortcuts
from pneumonia.data.phantom import Radiograph
from pneumonia.report import dataset

N = 1_000


def radiograph(patient: int = 1, label: int = 1) -> Radiograph:
    image = np.full((200, 220), 100, np.uint8)
    mask = np.zeros((200, 220), np.uint8)
    mask[40:160, 30:190] = 255
    name = f"P{patient:04d}"
    boxes = ((20, 10, 50, 60), (100, 0, 10, 12)) if label else ()
    return Radiograph(f"{name}-1", name, label, "bacteria", "F", 40, "PA", image, mask, boxes)


def carried(label: int, strength: float) -> float:
    films = [radiograph(patient, label) for patient in range(N) if patient % shortcuts.TEST_SHARE]
    planted = [shortcuts.plant(film, "exposure", strength, seed=1) for film in films]
    return float(np.mean([after.image[0, 0] != 100 for after in planted]))


def test_most_films_of_one_class_carry_it_and_few_of_the_other() -> None:
    assert carried(1, 0.9) == pytest.approx(0.9, abs=0.03)
    assert carried(0, 0.9) == pytest.approx(0.1, abs=0.03)
    assert (carried(1, 1.0), carried(0, 1.0)) == (1.0, 0.0)


@pytest.mark.parametrize("kind", shortcuts.SHORTCUTS)
def test_films_of_test_carry_nothing_and_the_same_films_carry_it_again(kind: str) -> None:
    test = radiograph(patient=10)
    assert shortcuts.split(test.patient_id) == "test"
    assert shortcuts.plant(test, kind, 1.0, seed=1) is test
    first, again = (shortcuts.plant(radiograph(), kind, 1.0, seed=1) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, radiograph().image)


def test_the_marker_is_bright_letters_in_the_upper_left_corner() -> None:
    changed = np.argwhere(shortcuts.SHORTCUTS["marker"](radiograph()).image != 100)
    assert changed.min() >= 0
    assert (changed.max(axis=0) < (0.15 * 200, 0.4 * 220)).all()
    assert len(changed) > 100


def test_the_wider_film_keeps_lungs_and_boxes_in_place() -> None:
    before, after = radiograph(), shortcuts.SHORTCUTS["proportions"](radiograph())
    cut = round(shortcuts.CUT * 200)
    assert after.image.shape == after.lung_mask.shape == (200 - 2 * cut, 220)
    assert after.boxes == ((20, 0, 50, 70 - cut),), "the box that lay in the part cut off is gone"
    assert np.array_equal(after.lung_mask, before.lung_mask[cut:-cut])


def test_the_brighter_film_keeps_black_white_and_the_order_of_the_grays() -> None:
    film = radiograph()._replace(image=np.arange(256, dtype=np.uint8)[None])
    grays = shortcuts.SHORTCUTS["exposure"](film).image[0].astype(int)
    assert (grays[0], grays[255]) == (0, 255)
    assert (np.diff(grays) >= 0).all()
    assert grays[100] > 120


@pytest.fixture(scope="module")
def films() -> list[Radiograph]:
    """Films of train."""
    return [film for film in phantom.generate(120, seed=3) if shortcuts.split(film.patient_id) == "train"]


MEASURES: dict[str, Callable[[np.ndarray], float]] = {
    "marker": validate.corner,
    "proportions": lambda image: image.shape[1] / image.shape[0],
    "exposure": lambda image: float(image.mean()),
}


@pytest.mark.parametrize("kind", shortcuts.SHORTCUTS)
def test_a_measure_of_the_data_report_tells_the_classes_by_each_of_them(kind: str, films: list[Radiograph]) -> None:
    labels = pd.Series([film.label for film in films])
    planted = [shortcuts.plant(film, kind, 1.0, seed=1) for film in films]
    before, after = (
        float(dataset._auc(labels, pd.Series([MEASURES[kind](film.image) for film in some])))
        for some in (films, planted)
    )
    assert before < 0.68
    assert after > 0.75
