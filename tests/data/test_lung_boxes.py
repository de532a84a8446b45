"""A store around the lungs says for each image where they were."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumonia.data import lung_boxes
from pneumonia.data.store import create_split, create_store, open_store
from pneumonia.images.geometry import Box

TABLE = pd.DataFrame({"image_id": ["a", "b"], "label": [0, 1], "weight": 1.0, "repeats": 1})


def test_boxes_shares_and_the_origins_of_masks_come_back_by_their_images(tmp_path: Path) -> None:
    store = create_store(tmp_path / "images.zarr", {})
    boxes = [(Box(1.25, 2.0, 30.5, 40.0), 0.3), None]
    for split in ("train", "val", "test"):
        create_split(store, split, TABLE, size=8, with_lungs=False)
        if split != "test":
            lung_boxes.create(store, split, 2, with_boxes=split == "train")
            store[f"{split}/{lung_boxes.FROM}"][:] = lung_boxes.as_codes(["found", "none"])
            store[f"{split}/{lung_boxes.PROBLEM}"][:] = lung_boxes.as_texts(["", "one lung only"])
    store[f"train/{lung_boxes.NAME}"][:] = lung_boxes.as_rows(boxes)
    store = open_store(tmp_path / "images.zarr")
    assert lung_boxes.read(store, "train") == {"a": boxes[0][0], "b": None}
    np.testing.assert_array_equal(lung_boxes.shares(store, "train"), [0.3, np.nan])
    assert lung_boxes.shares(store, "val") is None
    assert lung_boxes.read(store, "val") == lung_boxes.read(store, "test") == {}
    assert lung_boxes.read_all(store) == {"a": boxes[0][0], "b": None}
    assert lung_boxes.origins(store, "val") == {"a": "found", "b": "none"}
    assert lung_boxes.counts(lung_boxes.origins(store, "val")) == {"found": 1, "none": 1}
    assert lung_boxes.origins(store, "test") == {}, "a store of an earlier version"
    assert lung_boxes.all_origins(store) == {"a": "found", "b": "none"}
    assert lung_boxes.problems(store) == {"b": "one lung only"}


def test_a_store_of_version_0_2_0_has_boxes_but_no_shares_and_no_reasons(tmp_path: Path) -> None:
    store = create_store(tmp_path / "images.zarr", {})
    create_split(store, "train", TABLE, size=8, with_lungs=False)
    store["train"].create_array(lung_boxes.NAME, data=np.array([[[1.0, 2, 30, 40]], [[0, 0, 0, 0]]]))
    assert lung_boxes.read(store, "train") == {"a": Box(1, 2, 30, 40), "b": None}
    assert lung_boxes.shares(store, "train") is None
    assert lung_boxes.problems(store) == lung_boxes.all_origins(store) == {}


def test_a_picture_is_the_image_of_its_id_with_its_mask(tmp_path: Path) -> None:
    store = create_store(tmp_path / "images.zarr", {})
    images, masks = create_split(store, "train", TABLE, size=8, with_lungs=True)
    assert masks is not None
    images[1], masks[1, :4] = 90, 255
    image, mask = lung_boxes.picture(store, "train", "b")
    assert (image == 90).all()
    assert mask.sum(axis=1).tolist() == [8] * 4 + [0] * 4
    assert not lung_boxes.picture(store, "train", "a")[1].any()
    with pytest.raises(ValueError, match="c"):
        lung_boxes.picture(store, "train", "c")


def test_a_chunk_without_any_lungs_is_a_file_whose_loss_is_noticed(tmp_path: Path) -> None:
    store = create_store(tmp_path / "images.zarr", {})
    create_split(store, "train", TABLE, size=8, with_lungs=False)
    lung_boxes.create(store, "train", 2, with_boxes=True)
    store[f"train/{lung_boxes.NAME}"][:] = lung_boxes.as_rows([None, None])
    store[f"train/{lung_boxes.FROM}"][:] = lung_boxes.as_codes(["none", "none"])
    store[f"train/{lung_boxes.PROBLEM}"][:] = lung_boxes.as_texts(["", ""])
    for name in (lung_boxes.NAME, lung_boxes.FROM, lung_boxes.PROBLEM):
        assert (tmp_path / "images.zarr/train" / name / "c/0/0/0").is_file()
    assert np.array_equal(store[f"train/{lung_boxes.NAME}"][:], np.zeros((2, 1, 5)))
