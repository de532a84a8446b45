"""What a store says of the lungs of its images: whose their masks are, where they lay in the films, why there are none.

It is a module of its own: no network learns from this, so that a change here trains none again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from pneumonia.data import store as image_store
from pneumonia.data.tables import SPLITS
from pneumonia.images.geometry import Box

NAME = "lungs_box"
"""The array of a split that is prepared around the lungs: float64 (n, 1, 5), x, y, width, height in pixels of the
source, and the share of the film that is lung, 0-1; all 0 where no lungs were found."""

FROM = "lungs_from"
"""The array of a split: uint8 (n, 1, 1), the place in `ORIGINS`."""

PROBLEM = "lungs_problem"
"""The array of a split: str (n, 1, 1), why no lungs were found; empty where they were found, and where none were
searched for."""

ORIGINS = ("none", "human", "found")
"""Where the mask of an image comes from: there is none, a person drew it (`fetch.lungs`, or the source has it), or
`images.lungs` found it."""


def create(store: zarr.Group, split: str, n_images: int, *, with_boxes: bool) -> None:
    """Make the arrays of a split, still empty; the boxes only of a store around the lungs."""
    # What is empty is no value that occurs: Zarr writes no file for a chunk of empty values, and each must have a file.
    group, chunk = cast(zarr.Group, store[split]), image_store.IMAGES_PER_CHUNK
    for name, dtype, empty in ((FROM, np.uint8, 255), (PROBLEM, np.dtypes.StringDType(), "?")):
        group.create_array(name, shape=(n_images, 1, 1), chunks=(chunk, 1, 1), dtype=dtype, fill_value=empty)
    if with_boxes:
        group.create_array(NAME, shape=(n_images, 1, 5), chunks=(chunk, 1, 5), dtype=np.float64, fill_value=np.nan)


def as_rows(boxes: Sequence[tuple[Box, float] | None]) -> npt.NDArray[np.float64]:
    """Boxes and shares of the film as rows of the array `NAME`."""
    return np.array([(*one[0], one[1]) if one else (0,) * 5 for one in boxes], np.float64).reshape(-1, 1, 5)


def as_codes(origins: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Names of `ORIGINS` as rows of the array `FROM`."""
    return np.array([ORIGINS.index(one) for one in origins], np.uint8).reshape(-1, 1, 1)


def as_texts(problems: Sequence[str]) -> npt.NDArray[Any]:
    """Reasons as rows of the array `PROBLEM`."""
    return np.array(problems, np.dtypes.StringDType()).reshape(-1, 1, 1)


def read(store: zarr.Group, split: str) -> dict[str, Box | None]:
    """The box of each image of a split, by its id; empty for a store that was not prepared around the lungs."""
    names, rows = _rows(store, split, NAME)
    boxes = [Box(*map(float, row[:4])) if row[2] > 0 else None for row in rows]
    return dict(zip(names, boxes, strict=True))


def read_all(store: zarr.Group) -> dict[str, Box | None]:
    """The boxes of the images of all splits, as `read` returns them."""
    return {name: box for split in SPLITS if split in store for name, box in read(store, split).items()}


def shares(store: zarr.Group, split: str) -> npt.NDArray[np.float64] | None:
    """The share of each film of a split that is lung, float (n,), 0-1, NaN without lungs.

    None where `read` is empty, and for a store of version 0.2.0, which has boxes only.
    """
    _, rows = _rows(store, split, NAME)
    return np.where(rows[:, 2] > 0, rows[:, 4], np.nan) if len(rows) and rows.shape[1] > 4 else None


def origins(store: zarr.Group, split: str) -> dict[str, str]:
    """Where the mask of each image of a split comes from, by its id: one of `ORIGINS`; empty for an older store."""
    names, rows = _rows(store, split, FROM)
    return {name: ORIGINS[int(row[0])] for name, row in zip(names, rows, strict=True)}


def all_origins(store: zarr.Group) -> dict[str, str]:
    """The origins of the masks of all splits, as `origins` returns them."""
    return {name: origin for split in SPLITS if split in store for name, origin in origins(store, split).items()}


def problems(store: zarr.Group) -> dict[str, str]:
    """The images of all splits without lungs, with the reason: around which they should be prepared, or whose mask is
    missing; empty for an older store."""
    rows = [row for split in SPLITS if split in store for row in zip(*_rows(store, split, PROBLEM), strict=True)]
    return {name: str(row[0]) for name, row in rows if row[0]}


def picture(store: zarr.Group, split: str, image_id: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """A prepared image and the mask of its lungs: uint8, 0-255, and bool, both (size, size)."""
    group = cast(zarr.Group, store[split])
    place = np.asarray(cast("zarr.Array[Any]", group["image_ids"])[:]).tolist().index(image_id)
    image, mask = (np.asarray(cast("zarr.Array[Any]", group[name])[place]) for name in ("images", "lungs"))
    return image, mask > 0


def counts(origin_of: dict[str, str]) -> dict[str, int]:
    """The number of images of each origin that occurs."""
    values = list(origin_of.values())
    return {name: values.count(name) for name in ("human", "found", "none") if name in values}


def _rows(store: zarr.Group, split: str, array: str) -> tuple[list[str], npt.NDArray[Any]]:
    group = cast(zarr.Group, store[split])
    if array not in group:
        return [], np.zeros((0, 5))
    names, rows = (np.asarray(cast("zarr.Array[Any]", group[name])[:]) for name in ("image_ids", array))
    return list(map(str, names)), rows[:, 0]
