"""Make every image alike: gray, one size, local contrast equalised (CLAHE), in one Zarr store.

`prepare` is the one function that the stage, a model's user and the tests call.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from pneumonia import compute, dataset, files, images

Gray = npt.NDArray[np.uint8]


class Placement(NamedTuple):
    """Where the content of an image lies in the store's square, in pixels of the store."""

    x: int
    y: int
    width: int
    height: int


def prepare(
    image: Gray,
    *,
    size: int,
    clip_limit: float,
    tile_grid: int,
    aspect: str = "pad",
    crop: float = 0.0,
    clahe: str = "after",
) -> Gray:
    """An image as models see it.

    Cropped, shrunk (by area, so that nothing aliases), equalised, padded: the black border takes no part in the
    equalisation.

    Args:
        image: uint8 (height, width), 0-255.
        size: pixels, side of the square.
        clip_limit: contrast limit of CLAHE, in multiples of a flat histogram; 0 = no CLAHE.
        tile_grid: CLAHE tiles along each side.
        aspect: `pad` keeps the proportions and fills with black; `squash` stretches to the square.
        crop: share of the width, and of the height, that is cut off at each side: collimators, letters, frames.
        clahe: `after` equalises what the square holds, `before` the cropped source in its full resolution.

    Returns:
        uint8 (size, size), 0-255.

    Source: Pizer et al. (1987), doi:10.1016/S0734-189X(87)80186-X; Zuiderveld, Graphics Gems IV (1994).
    """
    place, content = _cut(image, size=size, aspect=aspect, crop=crop)
    if clahe == "before":
        content = _equalise(content, clip_limit, tile_grid)
    content = _resize(content, place)
    if clahe == "after":
        content = _equalise(content, clip_limit, tile_grid)
    return _pad(content, place, size)


def prepare_mask(mask: Gray, *, size: int, aspect: str = "pad", crop: float = 0.0) -> Gray:
    """A mask under the geometry of `prepare`: uint8 (size, size), 0 or 255."""
    place, content = _cut(mask, size=size, aspect=aspect, crop=crop)
    # Resized as the image is, then cut in half: taking the nearest pixel would move it by half a pixel of the store.
    return _pad(np.where(_resize(content, place) > 127, 255, 0).astype(np.uint8), place, size)


def placement(width: int, height: int, *, size: int, aspect: str = "pad") -> Placement:
    """Where `prepare` puts an image of this size, measured after the crop.

    >>> placement(400, 200, size=100, aspect="pad")
    Placement(x=0, y=25, width=100, height=50)
    """
    if aspect == "squash":
        return Placement(0, 0, size, size)
    scale = size / max(width, height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement((size - new_width) // 2, (size - new_height) // 2, new_width, new_height)


def to_store(
    boxes: npt.NDArray[np.float64], width: int, height: int, *, size: int, aspect: str = "pad", crop: float = 0.0
) -> npt.NDArray[np.float64]:
    """Boxes of a source image in the geometry of the store.

    Args:
        boxes: float (n, 4): x, y, width, height in pixels of the source image.
        width, height: of the source image, pixels.
        size, aspect, crop: as in `prepare`.

    Returns:
        float (n, 4): x, y, width, height in pixels of the store. Of a box that the crop cuts, what is left; one that
        it cuts off has no width or no height.
    """
    cut_x, cut_y = _margins(width, height, crop)
    kept_width, kept_height = width - 2 * cut_x, height - 2 * cut_y
    place = placement(kept_width, kept_height, size=size, aspect=aspect)
    left, top, across, down = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    right, bottom = np.clip(left + across - cut_x, 0, kept_width), np.clip(top + down - cut_y, 0, kept_height)
    left, top = np.clip(left - cut_x, 0, kept_width), np.clip(top - cut_y, 0, kept_height)
    scale_x, scale_y = place.width / kept_width, place.height / kept_height
    moved = (left * scale_x + place.x, top * scale_y + place.y, (right - left) * scale_x, (bottom - top) * scale_y)
    return np.stack(moved, axis=1)


def boxes_in_store(
    boxes: pd.DataFrame, splits: pd.DataFrame, *, size: int, aspect: str = "pad", crop: float = 0.0
) -> dict[str, npt.NDArray[np.float64]]:
    """The boxes of each image that has some, float (k, 4), in the geometry of the store.

    Args:
        boxes: `boxes.csv`.
        splits: `splits.csv`, which knows the sizes of the source images.
        size, aspect, crop: as in `prepare`.
    """
    sizes = splits.set_index("image_id")[["width", "height"]]
    found = {}
    for image_id, rows in boxes[boxes["image_id"].isin(sizes.index)].groupby("image_id"):
        corners = rows[["x", "y", "width", "height"]].to_numpy(float)
        moved = to_store(corners, *sizes.loc[image_id], size=size, aspect=aspect, crop=crop)
        if (seen := (moved[:, 2:] > 0).all(axis=1)).any():
            found[str(image_id)] = moved[seen]
    return found


def write_store(
    splits: pd.DataFrame,
    path: Path,
    *,
    size: int,
    clip_limit: float,
    tile_grid: int,
    aspect: str,
    crop: float,
    clahe: str,
    workers: int | None,
    attributes: dict[str, Any],
    resume: Path,
    dask: str | None = None,
) -> int:
    """Prepare every image of the table into a new image store.

    Workers return finished chunks and this process alone writes, so that memory stays flat and the bytes do not
    depend on who did the work. The store grows in `resume` and moves to `path` when it is complete.

    Args:
        splits: as `rebalance` wrote it.
        path: of the store; what was there is replaced.
        size, clip_limit, tile_grid, aspect, crop, clahe: as in `prepare`.
        workers, dask: as in `compute.run`.
        attributes: travel with the store.
        resume: an existing folder that survives a crash, of this table and these settings alone; chunks that an
            earlier run finished are found in it.

    Returns:
        Images that were prepared now; the others come from an earlier run that was cut off.

    Raises:
        UserError: an image cannot be read, or is not the one that `fetch` saw.
    """
    # The store says which splits have masks; a mask for only some images would be worse than none.
    with_lungs = "lung_mask_uri" in splits and bool(splits["lung_mask_uri"].ne("").all())
    tables = {
        split: splits[splits["split"] == split].sort_values("image_id", ignore_index=True) for split in dataset.SPLITS
    }
    growing, begun = resume / path.name, resume / "begun"
    if not begun.is_file():
        empty = dataset.create_store(growing, attributes)
        for split, table in tables.items():
            dataset.create_split(empty, split, table, size=size, with_lungs=with_lungs)
        begun.touch()
    for half_written in growing.rglob("*.partial"):  # by a process that was killed
        half_written.unlink()
    store: Any = zarr.open_group(growing, mode="r+")
    pending: list[tuple[list[Any], int]] = []
    parts = []
    for split, table in tables.items():
        arrays = [store[split]["images"], *([store[split]["lungs"]] if with_lungs else [])]
        masks = table["lung_mask_uri"].map(files.absolute) if with_lungs else [""] * len(table)
        jobs = list(zip(table["uri"].map(files.absolute), table["sha256"], masks, strict=True))
        for number, part in enumerate(compute.chunks(jobs, dataset.IMAGES_PER_CHUNK)):
            # Zarr writes a chunk beside its name and renames it: one that is there is whole.
            if not all((growing / array.path / f"c/{number}/0/0").is_file() for array in arrays):
                pending.append((arrays, number * dataset.IMAGES_PER_CHUNK))
                parts.append(part)
    function = partial(
        _prepare_chunk, size=size, clip_limit=clip_limit, tile_grid=tile_grid, aspect=aspect, crop=crop, clahe=clahe
    )
    results = compute.run(function, parts, workers=workers, label="preprocess", dask=dask)
    for (arrays, start), result in zip(pending, results, strict=True):
        for array, pixels in zip(arrays, result, strict=True):
            array[start : start + len(pixels)] = pixels
    # A move that breaks off leaves a store with holes that nobody would fill: then all starts anew.
    begun.unlink()
    with dataset.written_whole(path) as partial_path:
        shutil.move(growing, partial_path)
    return sum(map(len, parts))


def _prepare_chunk(jobs: Sequence[tuple[str, str, str]], *, size: int, **settings: Any) -> list[Gray]:
    """The images, and the masks where there are any: uint8 (n, size, size)."""
    cv2.setNumThreads(1)  # the processes share the cores already; OpenCV's own threads would fight them for these
    pixels = np.zeros((len(jobs), size, size), np.uint8)
    masks = np.zeros_like(pixels)
    geometry = {name: settings[name] for name in ("aspect", "crop")}
    for row, (uri, sha256, mask_uri) in enumerate(jobs):
        content = dataset.read_unchanged(uri, sha256)
        pixels[row] = prepare(images.decode(content), size=size, **settings)
        if mask_uri:
            masks[row] = prepare_mask(dataset.read_image(mask_uri), size=size, **geometry)
    return [pixels, masks] if jobs[0][2] else [pixels]


def _margins(width: int, height: int, crop: float) -> tuple[int, int]:
    """Pixels that `crop` cuts off at the left and right, and at the top and bottom."""
    return int(width * crop), int(height * crop)


def _cut(image: Gray, *, size: int, aspect: str, crop: float) -> tuple[Placement, Gray]:
    height, width = image.shape
    x, y = _margins(width, height, crop)
    content = image[y : height - y, x : width - x]
    return placement(content.shape[1], content.shape[0], size=size, aspect=aspect), content


def _resize(content: Gray, place: Placement) -> Gray:
    # The sides that shrink by area, so that nothing aliases; enlarged by area, pixels would stay blocks.
    shrunk = (min(place.width, content.shape[1]), min(place.height, content.shape[0]))
    smaller = cv2.resize(content, shrunk, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, place[2:], interpolation=cv2.INTER_LINEAR), np.uint8)


def _equalise(image: Gray, clip_limit: float, tile_grid: int) -> Gray:
    if clip_limit == 0:
        return image
    return np.asarray(cv2.createCLAHE(clip_limit, (tile_grid, tile_grid)).apply(image), np.uint8)


def _pad(content: Gray, place: Placement, size: int) -> Gray:
    square = np.zeros((size, size), np.uint8)
    square[place.y : place.y + place.height, place.x : place.x + place.width] = content
    return square
