"""Prepare all images in the same way: gray, one size, local contrast equalised (CLAHE), in one Zarr store.

`images.geometry.prepare` prepares one image.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from pneumonia import UserError, compute, files, workspace
from pneumonia.data import columns, image_boxes, lung_boxes, store, tables, targets
from pneumonia.images import decode, geometry, lungs
from pneumonia.images.geometry import Gray, Preparation

MAX_STRETCH = 0.02
"""Largest difference of the proportions of a lung mask and its film, which rounding can explain."""


N_NAMED = 10
"""Images without lungs that are named in the terminal; MLflow has all, and `reports/lungs.html` many."""


def write_store(
    splits: pd.DataFrame,
    path: Path,
    preparation: Preparation,
    *,
    workers: int | None,
    attributes: dict[str, Any],
    resume: Path,
    dask: str | None = None,
    groups: Sequence[str] | None = None,
    boxes: pd.DataFrame | None = None,
) -> int:
    """Prepare every image of the table and write it to a new image store.

    The store says for each image whether its mask of the lungs is of a person, was found by `images.lungs`, or is
    missing, and why no lungs were found. Nothing is searched for in a film with a human mask, unless films are prepared
    around the lungs: that is always done with those that were found, because a prediction has no mask. Their boxes are
    stored too.

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
        groups: values of the column `split`, a group of the store each; None = the splits of a run.
        boxes: `boxes.csv`; None or without a box of these images = the store has no boxes.

    Returns:
        Number of images prepared in this call; the others come from an earlier interrupted run.

    Raises:
        UserError: an image cannot be read, or has changed since `fetch` listed it.
    """
    around_lungs = preparation.aspect == "lungs"
    rows_of = {
        split: splits[splits["split"] == split].sort_values("image_id", ignore_index=True)
        for split in (tables.splits_of(splits) if groups is None else groups)
    }
    unfinished, begun, finished = resume / path.name, resume / "begun", resume / "finished"
    for incomplete in unfinished.rglob("*.partial"):  # left by a process that was killed
        incomplete.unlink()
    if not begun.is_file() or begun.read_text(encoding="utf-8") != _digest_without_pixels(unfinished):
        begun.unlink(missing_ok=True)
        workspace.remove(finished)
        empty = store.create_store(unfinished, {**attributes, "preparation": preparation.as_dict()})
        for split, table in rows_of.items():
            store.create_split(empty, split, table, size=preparation.size, with_lungs=True)
            lung_boxes.create(empty, split, len(table), with_boxes=around_lungs)
        finished.mkdir()
        begun.write_text(_digest_without_pixels(unfinished), encoding="utf-8")
    group: Any = zarr.open_group(unfinished, mode="r+")
    pending: list[tuple[list[Any], int, Path]] = []
    parts = []
    for split, table in rows_of.items():
        names = ("images", "lungs", lung_boxes.FROM, lung_boxes.PROBLEM, *([lung_boxes.NAME] if around_lungs else []))
        arrays = [group[split][name] for name in names]
        masks = table["lung_mask_uri"] if "lung_mask_uri" in table else [""] * len(table)
        mask_uris = [files.absolute(uri) if uri else "" for uri in masks]
        jobs = list(zip(table["uri"].map(files.absolute), table["sha256"], mask_uris, strict=True))
        for number, part in enumerate(compute.chunks(jobs, store.IMAGES_PER_CHUNK)):
            note = finished / f"{split}-{number}"
            # A file in `.resume` may have lost its end or changed since: Zarr would read other pixels without an error.
            if not note.is_file() or note.read_text(encoding="utf-8") != _digest_of_chunk(unfinished, arrays, number):
                pending.append((arrays, number, note))
                parts.append(part)
    function = partial(_prepare_chunk, preparation=preparation)
    results = compute.run(function, parts, workers=workers, label="preprocess", dask=dask)
    for (arrays, number, note), result in zip(pending, results, strict=True):
        start = number * store.IMAGES_PER_CHUNK
        for array, values in zip(arrays, result, strict=True):
            array[start : start + len(values)] = values
        note.write_text(_digest_of_chunk(unfinished, arrays, number), encoding="utf-8")
    # An interrupted move leaves an incomplete store: without `begun` the next run starts from the beginning.
    begun.unlink()
    if boxes is not None:
        _write_boxes(group, rows_of, boxes, preparation)
    with workspace.written_whole(path) as partial_path:
        shutil.move(unfinished, partial_path)
    workspace.remove(finished)
    return sum(map(len, parts))


def _write_boxes(
    group: Any, rows_of: Mapping[str, pd.DataFrame], boxes: pd.DataFrame, preparation: Preparation
) -> None:
    """The boxes of each split, when it is known around which lungs the images were prepared."""
    placed = {
        split: geometry.boxes_in_store(boxes, table, preparation, lung_boxes.read(group, split))
        for split, table in rows_of.items()
    }
    if any(placed.values()):
        of_pneumonia = {one for row in targets.TARGETS.values() for one in row.subtypes}
        for split, table in rows_of.items():
            # With another target class 0 is a kind of pneumonia too.
            is_ill = (table["label"].eq(1) | table["subtype"].map(columns.subtype).isin(of_pneumonia)).to_numpy()
            image_boxes.write(group, split, image_boxes.stacked(list(table["image_id"]), is_ill, placed[split]))


def in_words(without: Sequence[str], preparation: Preparation) -> str:
    """The line of the stage on images without lungs, whose ids these are."""
    whole = ", prepared as a whole" if preparation.aspect == "lungs" else ""
    names = f"{', '.join(without[:N_NAMED])}{', …' if len(without) > N_NAMED else ''}"
    plural = "s" if len(without) > 1 else ""
    place = "evaluate shows them in reports/lungs.html"
    return f"no two lungs were found in {len(without):,} image{plural}{whole}: {names}; {place}"


def _digest_without_pixels(folder: Path) -> str:
    """Of all that is written before the first chunk: labels, weights and metadata."""
    arrays = ("images", "lungs", lung_boxes.NAME, lung_boxes.FROM, lung_boxes.PROBLEM)
    files_of_pixels = tuple(f"{name}/c/" for name in arrays)
    others = [one for one in sorted(folder.rglob("*")) if one.is_file()]
    names = {one: one.relative_to(folder).as_posix() for one in others}
    lines = [
        f"{name} {workspace.sha256_file(one)}"
        for one, name in names.items()
        if not name.partition("/")[2].startswith(files_of_pixels)
    ]
    return workspace.sha256_bytes("\n".join(lines).encode())


def _digest_of_chunk(folder: Path, arrays: Sequence[Any], number: int) -> str:
    """Of one chunk of each array; Zarr writes no file where all masks of a chunk are empty."""
    paths = [folder / array.path / f"c/{number}/0/0" for array in arrays]
    return " ".join(workspace.sha256_file(one) if one.is_file() else "no-file" for one in paths)


def _prepare_chunk(jobs: Sequence[tuple[str, str, str]], *, preparation: Preparation) -> list[npt.NDArray[Any]]:
    """The images and the masks of their lungs, uint8 (n, size, size), whose masks these are, why there are none, and,
    of images that are prepared around the lungs, the boxes."""
    cv2.setNumThreads(1)  # the processes already use all cores; threads of OpenCV would slow them down
    around_lungs = preparation.aspect == "lungs"
    pixels = np.zeros((len(jobs), preparation.size, preparation.size), np.uint8)
    masks = np.zeros_like(pixels)
    origins, problems = [], []
    boxes: list[tuple[geometry.Box, float] | None] = []
    for row, (uri, sha256, mask_uri) in enumerate(jobs):
        image = decode.decode(decode.read_unchanged(uri, sha256))
        both, problem = None, ""
        if around_lungs:
            both, problem = lungs.look(image, preparation)
        elif not mask_uri:
            both, problem = lungs.search(image, preparation.crop)
        problems.append(problem)
        box = both.box if both and around_lungs else None
        boxes.append((both.box, both.share) if both else None)
        pixels[row] = geometry.prepare(image, preparation, box)
        if mask_uri:
            mask = fitted(decode.read_image(mask_uri), *image.shape, names=(mask_uri, uri))
        elif both:
            mask = 255 * both.mask(*image.shape).astype(np.uint8)
        if mask_uri or both:
            masks[row] = geometry.prepare_mask(mask, preparation, box)
        origins.append("human" if mask_uri else "found" if both else "none")
    return [
        pixels,
        masks,
        lung_boxes.as_codes(origins),
        lung_boxes.as_texts(problems),
        *([lung_boxes.as_rows(boxes)] if around_lungs else []),
    ]


def fitted(mask: Gray, height: int, width: int, *, names: tuple[str, str]) -> Gray:
    """A mask in the size of its film: resized if the proportions agree, or stretched as a square film was squashed.

    Args:
        mask: uint8, 0 or 255.
        height, width: of the film, pixels.
        names: of mask and film, for the message.

    Raises:
        UserError: the proportions differ by more than `MAX_STRETCH`, and the film is no square.
    """
    if mask.shape == (height, width):
        return mask
    stretch = (mask.shape[1] / mask.shape[0]) / (width / height)
    if width != height and abs(stretch - 1) > MAX_STRETCH:
        raise UserError(
            f"{names[0]}: a lung mask of {mask.shape[1]} x {mask.shape[0]} pixels for the film {names[1]} of "
            f"{width} x {height}: the proportions differ by {abs(stretch - 1):.0%}; is it the mask of another film? "
            "Remove it, then run: dvc repro -f -s fetch"
        )
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(resized > 127, np.uint8(255), np.uint8(0))
