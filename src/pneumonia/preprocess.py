"""Make every image alike: gray, one size, local contrast equalised (CLAHE), in one Zarr store.

`prepare` is the one function that the stage, a model's user and the tests call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia import UserError, compute, dataset

Gray = npt.NDArray[np.uint8]


class Placement(NamedTuple):
    """Where the content of an image lies in the store's square, in pixels of the store."""

    x: int
    y: int
    width: int
    height: int


def prepare(image: Gray, *, size: int, aspect: str, clip_limit: float, tile_grid: int) -> Gray:
    """An image as models see it.

    Shrunk first (by area, so that nothing aliases), then equalised, then padded: the black border takes no
    part in the equalisation.

    Args:
        image: uint8 (height, width), 0-255.
        size: pixels, side of the square.
        aspect: `pad` keeps the proportions and fills with black; `squash` stretches to the square.
        clip_limit: contrast limit of CLAHE, in multiples of a flat histogram; 0 = no CLAHE.
        tile_grid: CLAHE tiles along each side.

    Returns:
        uint8 (size, size), 0-255.

    Source: Pizer et al. (1987), doi:10.1016/S0734-189X(87)80186-X; Zuiderveld, Graphics Gems IV (1994).
    """
    place = placement(image.shape[1], image.shape[0], size=size, aspect=aspect)
    content: Any = cv2.resize(image, (place.width, place.height), interpolation=cv2.INTER_AREA)
    if clip_limit > 0:
        content = cv2.createCLAHE(clip_limit, (tile_grid, tile_grid)).apply(content)
    return _pad(content, place, size)


def prepare_mask(mask: Gray, *, size: int, aspect: str) -> Gray:
    """A mask under the geometry of `prepare`: uint8 (size, size), 0 or 255."""
    place = placement(mask.shape[1], mask.shape[0], size=size, aspect=aspect)
    content: Any = cv2.resize(mask, (place.width, place.height), interpolation=cv2.INTER_NEAREST)
    return _pad(np.where(content > 127, 255, 0).astype(np.uint8), place, size)


def placement(width: int, height: int, *, size: int, aspect: str) -> Placement:
    """Where `prepare` puts an image of this size.

    >>> placement(400, 200, size=100, aspect="pad")
    Placement(x=0, y=25, width=100, height=50)
    """
    if aspect == "squash":
        return Placement(0, 0, size, size)
    scale = size / max(width, height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement((size - new_width) // 2, (size - new_height) // 2, new_width, new_height)


def to_store(
    boxes: npt.NDArray[np.float64], width: int, height: int, *, size: int, aspect: str
) -> npt.NDArray[np.float64]:
    """Boxes of a source image in the geometry of the store.

    Args:
        boxes: float (n, 4): x, y, width, height in pixels of the source image.
        width, height: of the source image, pixels.
        size, aspect: as in `prepare`.

    Returns:
        float (n, 4): x, y, width, height in pixels of the store.
    """
    place = placement(width, height, size=size, aspect=aspect)
    scale = np.array([place.width / width, place.height / height] * 2)
    moved = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale + [place.x, place.y, 0, 0]
    return np.asarray(moved, dtype=np.float64)


def boxes_in_store(
    boxes: pd.DataFrame, splits: pd.DataFrame, *, size: int, aspect: str
) -> dict[str, npt.NDArray[np.float64]]:
    """The boxes of each image that has some, float (k, 4), in the geometry of the store.

    Args:
        boxes: `boxes.csv`.
        splits: `splits.csv`, which knows the sizes of the source images.
        size, aspect: as in `prepare`.
    """
    sizes = splits.set_index("image_id")[["width", "height"]]
    return {
        str(image_id): to_store(
            found[["x", "y", "width", "height"]].to_numpy(float), *sizes.loc[image_id], size=size, aspect=aspect
        )
        for image_id, found in boxes[boxes["image_id"].isin(sizes.index)].groupby("image_id")
    }


def write_store(
    splits: pd.DataFrame,
    path: Path,
    *,
    size: int,
    aspect: str,
    clip_limit: float,
    tile_grid: int,
    workers: int | None,
    attributes: dict[str, Any],
) -> None:
    """Prepare every image of the table into a new image store.

    Workers return finished chunks and this process alone writes, so that memory stays flat and the bytes do
    not depend on the number of workers.

    Args:
        splits: as `rebalance` wrote it.
        path: of the store; what was there is replaced once the new store is complete.
        size, aspect, clip_limit, tile_grid: as in `prepare`.
        workers: processes.
        attributes: travel with the store.

    Raises:
        UserError: an image cannot be read, or is not the one that `fetch` saw.
    """
    # The store says which splits have masks; a mask for only some images would be worse than none.
    with_lungs = "lung_mask_uri" in splits and bool(splits["lung_mask_uri"].ne("").all())
    function = partial(_prepare_chunk, size=size, aspect=aspect, clip_limit=clip_limit, tile_grid=tile_grid)
    with dataset.written_whole(path) as partial_path:
        store = dataset.create_store(partial_path, attributes)
        for split in dataset.SPLITS:
            table = splits[splits["split"] == split].sort_values("image_id", ignore_index=True)
            images, lungs = dataset.create_split(store, split, table, size=size, with_lungs=with_lungs)
            masks = table["lung_mask_uri"] if with_lungs else [""] * len(table)
            jobs = list(zip(table["uri"], table["sha256"], masks, strict=True))
            start = 0
            for pixels, mask_pixels in compute.run(
                function, jobs, workers=workers, chunk=dataset.IMAGES_PER_CHUNK, label=f"preprocess {split}"
            ):
                images[start : start + len(pixels)] = pixels
                if lungs is not None:
                    lungs[start : start + len(pixels)] = mask_pixels
                start += len(pixels)


def _prepare_chunk(
    jobs: Sequence[tuple[str, str, str]], *, size: int, aspect: str, clip_limit: float, tile_grid: int
) -> tuple[Gray, Gray]:
    images = np.zeros((len(jobs), size, size), np.uint8)
    masks = np.zeros_like(images)
    for row, (uri, sha256, mask_uri) in enumerate(jobs):
        content = dataset.read_bytes(uri)
        if dataset.sha256_bytes(content) != sha256:
            raise UserError(f"{uri}: the file has changed since fetch saw it; look again: dvc repro -f -s fetch")
        images[row] = prepare(
            dataset.decode(content), size=size, aspect=aspect, clip_limit=clip_limit, tile_grid=tile_grid
        )
        if mask_uri:
            masks[row] = prepare_mask(dataset.read_image(mask_uri), size=size, aspect=aspect)
    return images, masks


def _pad(content: Gray, place: Placement, size: int) -> Gray:
    square = np.zeros((size, size), np.uint8)
    square[place.y : place.y + place.height, place.x : place.x + place.width] = content
    return square
