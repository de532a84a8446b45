"""Boxes of images as rows of one array."""

from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.data import image_boxes, removal, store, traces

BOXES = {"two": np.array([[1, 2, 3, 4], [5, 6, 7, 8.5]]), "one": np.array([[0, 0, 2, 2.0]])}
IDS = ["one", "normal", "two", "unknown"]
LABELS = np.array([1, 0, 1, 1], np.int8)


def test_each_image_gets_its_boxes_back_and_those_of_pneumonia_without_boxes_are_not_known() -> None:
    array = image_boxes.stacked(IDS, LABELS, BOXES)
    assert array.dtype == np.float32
    assert array.shape == (4, 2, 4)
    assert image_boxes.are_known(array).tolist() == [True, True, True, False]
    for row, name in enumerate(IDS):
        np.testing.assert_array_equal(image_boxes.of_image(array, row), BOXES.get(name, np.zeros((0, 4))))


def test_a_store_gives_back_what_was_written_also_without_a_patient(tmp_path: Path) -> None:
    made = store.create_store(tmp_path / "s", {})
    table = pd.DataFrame({"image_id": IDS, "label": LABELS, "weight": 1.0, "repeats": 1})
    store.create_split(made, "train", table, size=4, with_lungs=False)
    assert image_boxes.read(made, "train") is None
    image_boxes.write(made, "train", image_boxes.stacked(IDS, LABELS, BOXES))
    np.testing.assert_array_equal(
        image_boxes.read(store.open_store(tmp_path / "s"), "train"), image_boxes.stacked(IDS, LABELS, BOXES)
    )
    patient = traces.of_rows(["p"], [{"image_id": "normal", "patient_id": "p"}])
    removal.rewrite_store(tmp_path / "s", patient, {})
    kept = image_boxes.read(store.open_store(tmp_path / "s"), "train")
    assert kept is not None
    assert image_boxes.of_image(kept, 1).tolist() == BOXES["two"].tolist()
    assert image_boxes.are_known(kept).tolist() == [True, True, False]
