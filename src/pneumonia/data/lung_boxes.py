"""The boxes around which the images of a store were prepared.

They have their own module: no network learns from them, so that a change here trains none again.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from pneumonia.data.store import IMAGES_PER_CHUNK
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
    return {name: box for split in SPLITS if split in store for name, box in read(store, split).items()}
