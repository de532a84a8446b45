"""The boxes around which the images of a store were prepared, and where the lungs of each image are from.

They have their own module: no network learns from them, so that a change here trains none again.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from pneumonia.data.store import IMAGES_PER_CHUNK, lungs
from pneumonia.data.tables import SPLITS
from pneumonia.images.geometry import Box

NAME = "lungs_box"
"""The array of a split: float64 (n, 1, 4), x, y, width, height in pixels of the source; all 0 where no lungs were
found."""


def create(store: zarr.Group, split: str, n_images: int) -> None:
    """Make the array of a split, still empty."""
    # Empty is NaN: Zarr writes no file for a chunk of empty values, and one without lungs must have a file.
    shape, chunks = (n_images, 1, 4), (IMAGES_PER_CHUNK, 1, 4)
    cast(zarr.Group, store[split]).create_array(NAME, shape=shape, chunks=chunks, dtype=np.float64, fill_value=np.nan)


def as_rows(boxes: list[Box | None]) -> npt.NDArray[np.float64]:
    """Boxes as rows of the array."""
    return np.array([box or (0, 0, 0, 0) for box in boxes], np.float64).reshape(-1, 1, 4)


def read(store: zarr.Group, split: str) -> dict[str, Box | None]:
    """The box of each image of a split, by its id; empty for a store that was not prepared around the lungs."""
    group = cast(zarr.Group, store[split])
    if NAME not in group:
        return {}
    names, rows = (np.asarray(cast("zarr.Array[Any]", group[name])[:]) for name in ("image_ids", NAME))
    boxes = [Box(*map(float, row)) if row[2] > 0 else None for row in rows[:, 0]]
    return dict(zip(map(str, names), boxes, strict=True))


def read_all(store: zarr.Group) -> dict[str, Box | None]:
    """The boxes of the images of all splits, as `read` returns them."""
    return {name: box for split in SPLITS for name, box in read(store, split).items()}


def origins(store: zarr.Group, split: str) -> list[str]:
    """Where the lungs of each image are from, row by row.

    `human`: the array `lungs` has a mask by a person, which is not empty. `found`: it has none, but the image is
    prepared around lungs that were found in it. `none`: neither.
    """
    group = cast(zarr.Group, store[split])
    n = cast("zarr.Array[Any]", group["labels"]).shape[0]
    found = [box is not None for box in read(store, split).values()] or [False] * n
    drawn = [False] * n
    if (masks := lungs(store, split)) is not None:
        blocks = (np.asarray(masks[start : start + IMAGES_PER_CHUNK]) for start in range(0, n, IMAGES_PER_CHUNK))
        drawn = [bool(mask.any()) for block in blocks for mask in block]
    return ["human" if by_hand else "found" if box else "none" for by_hand, box in zip(drawn, found, strict=True)]
