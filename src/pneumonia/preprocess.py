"""Prepare all images in the same way: gray, one size, local contrast equalised (CLAHE), in one Zarr store.

`images.geometry.prepare` prepares one image.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import zarr

from pneumonia import compute, files, workspace
from pneumonia.data import store, tables
from pneumonia.images import decode, geometry
from pneumonia.images.geometry import Gray, Preparation


def write_store(
    splits: pd.DataFrame,
    path: Path,
    preparation: Preparation,
    *,
    workers: int | None,
    attributes: dict[str, Any],
    resume: Path,
    dask: str | None = None,
) -> int:
    """Prepare every image of the table and write it to a new image store.

    Workers return finished chunks and only this process writes. So memory stays constant, and the bytes do not depend
    on the workers. The store is written in `resume` and moved to `path` when it is complete.

    Args:
        splits: as `rebalance` wrote it.
        path: of the store; replaced if it exists.
        preparation: of every image; saved as the attribute `preparation` of the store.
        workers, dask: as in `compute.run`.
        attributes: further attributes of the store.
        resume: an existing folder that survives a crash, for this table and these settings only; holds the chunks that
            an earlier run finished.

    Returns:
        Number of images prepared in this call; the others come from an earlier interrupted run.

    Raises:
        UserError: an image cannot be read, or has changed since `fetch` listed it.
    """
    # A split has masks for all images or for none.
    with_lungs = "lung_mask_uri" in splits and bool(splits["lung_mask_uri"].ne("").all())
    rows_of = {
        split: splits[splits["split"] == split].sort_values("image_id", ignore_index=True) for split in tables.SPLITS
    }
    unfinished, begun = resume / path.name, resume / "begun"
    if not begun.is_file():
        empty = store.create_store(unfinished, {**attributes, "preparation": preparation.as_dict()})
        for split, table in rows_of.items():
            store.create_split(empty, split, table, size=preparation.size, with_lungs=with_lungs)
        begun.touch()
    for incomplete in unfinished.rglob("*.partial"):  # left by a process that was killed
        incomplete.unlink()
    group: Any = zarr.open_group(unfinished, mode="r+")
    pending: list[tuple[list[Any], int]] = []
    parts = []
    for split, table in rows_of.items():
        arrays = [group[split]["images"], *([group[split]["lungs"]] if with_lungs else [])]
        masks = table["lung_mask_uri"].map(files.absolute) if with_lungs else [""] * len(table)
        jobs = list(zip(table["uri"].map(files.absolute), table["sha256"], masks, strict=True))
        for number, part in enumerate(compute.chunks(jobs, store.IMAGES_PER_CHUNK)):
            # Zarr writes a chunk to a temporary name and renames it: an existing chunk is complete.
            if not all((unfinished / array.path / f"c/{number}/0/0").is_file() for array in arrays):
                pending.append((arrays, number * store.IMAGES_PER_CHUNK))
                parts.append(part)
    function = partial(_prepare_chunk, preparation=preparation)
    results = compute.run(function, parts, workers=workers, label="preprocess", dask=dask)
    for (arrays, start), result in zip(pending, results, strict=True):
        for array, pixels in zip(arrays, result, strict=True):
            array[start : start + len(pixels)] = pixels
    # An interrupted move leaves an incomplete store: without `begun` the next run starts from the beginning.
    begun.unlink()
    with workspace.written_whole(path) as partial_path:
        shutil.move(unfinished, partial_path)
    return sum(map(len, parts))


def _prepare_chunk(jobs: Sequence[tuple[str, str, str]], *, preparation: Preparation) -> list[Gray]:
    """The images, and the masks if there are any: uint8 (n, size, size)."""
    cv2.setNumThreads(1)  # the processes already use all cores; threads of OpenCV would slow them down
    pixels = np.zeros((len(jobs), preparation.size, preparation.size), np.uint8)
    masks = np.zeros_like(pixels)
    for row, (uri, sha256, mask_uri) in enumerate(jobs):
        content = decode.read_unchanged(uri, sha256)
        pixels[row] = geometry.prepare(decode.decode(content), preparation)
        if mask_uri:
            masks[row] = geometry.prepare_mask(decode.read_image(mask_uri), preparation)
    return [pixels, masks] if jobs[0][2] else [pixels]
