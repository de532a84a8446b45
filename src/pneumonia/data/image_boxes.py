"""The boxes of a split in the image store: an array of the same height for each image, so that rows stay rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

Boxes = npt.NDArray[np.float32]
"""Float32 (n, k, 4): x, y, width, height in pixels of the store; k is that of the image with most boxes.

Rows of width 0 are no boxes. A normal image without a box in the table has none: there is nothing in it. Of one with
pneumonia without a visible box nothing is known (the source drew none, or the square of the store leaves them out): all
its numbers are NaN. It teaches and tests the score of the image, not the boxes.
"""

NAME = "boxes"
"""The array of a split; a store of a source without boxes has none."""


def stacked(image_ids: Sequence[str], is_ill: npt.NDArray[Any], boxes_of: Mapping[str, npt.NDArray[Any]]) -> Boxes:
    """The boxes of images as one array.

    Args:
        image_ids: of n images.
        is_ill: (n,), whether an image shows pneumonia.
        boxes_of: image -> float (k, 4), as `geometry.boxes_in_store` returns them.

    >>> stacked(["a", "b", "c"], np.array([0, 1, 1]), {"b": np.array([[1, 2, 3, 4]])})[:, 0].tolist()
    [[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [nan, nan, nan, nan]]
    """
    most = max((len(boxes_of[name]) for name in image_ids if name in boxes_of), default=1)
    array = np.zeros((len(image_ids), most, 4), np.float32)
    for row, (name, ill) in enumerate(zip(image_ids, is_ill, strict=True)):
        if name in boxes_of:
            array[row, : len(boxes_of[name])] = boxes_of[name]
        elif ill:
            array[row] = np.nan
    return array


def write(store: zarr.Group, split: str, boxes: Boxes) -> None:
    """Add the boxes of a split to a store."""
    cast(zarr.Group, store[split]).create_array(NAME, data=boxes)


def read(store: zarr.Group, split: str) -> Boxes | None:
    """The boxes of a split, row by row as its images; None of a source without boxes, or of an older store."""
    group = cast(zarr.Group, store[split])
    return np.asarray(cast("zarr.Array[Any]", group[NAME])[:], np.float32) if NAME in group else None


def are_known(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Of which images it is known where boxes are, or that there are none: bool (n,)."""
    return np.asarray(np.isfinite(boxes).all(axis=(1, 2)))


def of_image(boxes: Boxes, row: int) -> npt.NDArray[np.float64]:
    """The boxes of one image, float64 (k, 4); none where they are not known."""
    own = np.nan_to_num(boxes[row].astype(np.float64))
    return np.asarray(own[own[:, 2] > 0])
