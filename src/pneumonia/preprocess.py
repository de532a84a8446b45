"""Make every image alike: gray, one size, local contrast equalised (CLAHE), in one Zarr store.

How one image is prepared is `images.geometry.prepare`.
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
    """Prepare every image of the table into a new image store.

    Workers return finished chunks and this process alone writes, so that memory stays flat and the bytes do not
    depend on who did the work. The store grows in `resume` and moves to `path` when it is complete.

    Args:
        splits: as `rebalance` wrote it.
        path: of the store; what was there is replaced.
        preparation: of every image; the store keeps it as its attribute `preparation`.
        workers, dask: as in `compute.run`.
        attributes: more that travels with the store.
        resume: an existing folder that survives a crash, of this table and these settings alone; chunks that an
            earlier run finished are found in it.

    Returns:
        Images that were prepared now; the others come from an earlier run that was cut off.

    Raises:
        UserError: an image cannot be read, or is not the one that `fetch` saw.
    """
    # The store says which splits have masks; a mask for only some images would be worse than none.
    with_lungs = "lung_mask_uri" in splits and bool(splits["lung_mask_uri"].ne("").all())
    rows_of = {
        split: splits[splits["split"] == split].sort_values("image_id", ignore_index=True) for split in tables.SPLITS
    }
    growing, begun = resume / path.name, resume / "begun"
    if not begun.is_file():
        empty = store.create_store(growing, {**attributes, "preparation": preparation.as_dict()})
        for split, table in rows_of.items():
            store.create_split(empty, split, table, size=preparation.size, with_lungs=with_lungs)
        begun.touch()
    for half_written in growing.rglob("*.partial"):  # by a process that was killed
        half_written.unlink()
    group: Any = zarr.open_group(growing, mode="r+")
    pending: list[tuple[list[Any], int]] = []
    parts = []
    for split, table in rows_of.items():
        arrays = [group[split]["images"], *([group[split]["lungs"]] if with_lungs else [])]
        masks = table["lung_mask_uri"].map(files.absolute) if with_lungs else [""] * len(table)
        jobs = list(zip(table["uri"].map(files.absolute), table["sha256"], masks, strict=True))
        for number, part in enumerate(compute.chunks(jobs, store.IMAGES_PER_CHUNK)):
            # Zarr writes a chunk beside its name and renames it: one that is there is whole.
            if not all((growing / array.path / f"c/{number}/0/0").is_file() for array in arrays):
                pending.append((arrays, number * store.IMAGES_PER_CHUNK))
                parts.append(part)
    function = partial(_prepare_chunk, preparation=preparation)
    results = compute.run(function, parts, workers=workers, label="preprocess", dask=dask)
    for (arrays, start), result in zip(pending, results, strict=True):
        for array, pixels in zip(arrays, result, strict=True):
            array[start : start + len(pixels)] = pixels
    # A move that breaks off leaves a store with holes that nobody would fill: then all starts anew.
    begun.unlink()
    with workspace.written_whole(path) as partial_path:
        shutil.move(growing, partial_path)
    return sum(map(len, parts))


def _prepare_chunk(jobs: Sequence[tuple[str, str, str]], *, preparation: Preparation) -> list[Gray]:
    """The images, and the masks where there are any: uint8 (n, size, size)."""
    cv2.setNumThreads(1)  # the processes share the cores already; OpenCV's own threads would fight them for these
    pixels = np.zeros((len(jobs), preparation.size, preparation.size), np.uint8)
    masks = np.zeros_like(pixels)
    for row, (uri, sha256, mask_uri) in enumerate(jobs):
        content = decode.read_unchanged(uri, sha256)
        pixels[row] = geometry.prepare(decode.decode(content), preparation)
        if mask_uri:
            masks[row] = geometry.prepare_mask(decode.read_image(mask_uri), preparation)
    return [pixels, masks] if jobs[0][2] else [pixels]
