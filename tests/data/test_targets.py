"""What a model tells apart, and the words and names that follow from it."""

import doctest

import pytest

from pneumonia import UserError
from pneumonia.data import columns, sources, targets
from pneumonia.data.targets import PNEUMONIA, TARGETS, Target


def test_examples_hold() -> None:
    assert doctest.testmod(targets).failed == 0


@pytest.mark.parametrize("row", TARGETS.values(), ids=TARGETS)
def test_a_row_has_two_classes_and_its_subtypes_are_those_that_sources_name(row: Target) -> None:
    assert TARGETS[row.name] is row
    assert len({*row.classes.values()}) == 2
    assert row.positive in row.finding  # else an answer and its sentence would speak of two things
    assert set(row.subtypes) <= set(columns.SUBTYPES.values())
    assert bool(row.subtypes) == bool(row.among) == bool(row.limit)  # who has no answer is said


def test_the_default_has_the_labels_of_the_data_set() -> None:
    assert targets.of({}) is PNEUMONIA
    assert PNEUMONIA.classes == {0: "normal", 1: "pneumonia"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_subject_names_data_set_and_target_for_every_row_of_both_tables(target: str) -> None:
    subjects = {data: targets.subject(data, target) for data in sources.DATASETS}
    assert {targets.parts(subject) for subject in subjects.values()} == {(data, target) for data in sources.DATASETS}
    assert targets.subject_of({"data": "phantom", "target": target}) == subjects["phantom"]


def test_an_unknown_target_is_one_line_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"^target = 'fungal' is unknown; known: pneumonia, bacterial$"):
        targets.target("fungal")


def test_a_predictor_of_a_later_target_has_its_own_names() -> None:
    row = targets.of({"target": "side", "labels": ["left", "right"]})
    assert row.classes == {0: "left", 1: "right"}
    assert row.finding == "right"
