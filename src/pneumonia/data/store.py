"""The image store: one Zarr group per split, read whole or in chunks, from memory or from disk.

With folds there is no group `val`: each image of `train` validates one network, and the others learn from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from pneumonia import UserError, workspace
from pneumonia.data import image_boxes
from pneumonia.data.image_boxes import Boxes

IMAGES_PER_CHUNK = 256
"""Images per chunk of the store: 12 MiB at 224 px; 5,856 images are 26 files."""

IMAGES_PER_BLOCK = 1_024
"""Images that are scored at once: a multiple of the chunk and of usual batch sizes."""
_GIB = 2**30


class Pixels:
    """Images that stay in the store and are read when they are indexed, like the first axis of a numpy array.

    Chunks are read whole. The most recently used ones are cached: rows from a few chunks cost one read of each.

    Args:
        array: uint8 (n, size, size) of the image store.
        budget: maximum size of the cached chunks, bytes; one is always cached.
        rows: intp (n,), of the array; None = all of them.

    Attributes:
        shape: n, size, size.
        dtype: uint8.
    """

    def __init__(self, array: zarr.Array[Any], budget: float, rows: npt.NDArray[np.intp] | None = None) -> None:
        self._array, self._budget = array, budget
        self._rows = np.arange(array.shape[0]) if rows is None else rows
        self.shape: tuple[int, ...] = (len(self._rows), *array.shape[1:])
        self.dtype: np.dtype[np.uint8] = array.dtype
        self._per_chunk = array.chunks[0]
        n_cached = max(1, int(budget // (array.dtype.itemsize * np.prod(array.chunks))))
        self._chunk = lru_cache(maxsize=n_cached)(partial(_read_chunk, array))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """The rows that numpy would return for this key, as a copy: uint8 (…, size, size).

        Raises:
            IndexError: no such row.
            TypeError: a key for more than the first axis.
        """
        if isinstance(key, tuple):
            raise TypeError("images in the store are indexed by rows only; index the result for the other axes")
        rows = np.asarray(self._rows[key])
        chunks, places = np.divmod(rows, self._per_chunk)
        images = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        for number in np.unique(chunks):
            in_chunk = chunks == number
            images[in_chunk] = self._chunk(int(number))[places[in_chunk]]
        return images

    def subset(self, rows: npt.NDArray[np.intp]) -> Pixels:
        """These rows alone, with a cache of their own."""
        return Pixels(self._array, self._budget, self._rows[rows])


def _read_chunk(array: zarr.Array[Any], number: int) -> npt.NDArray[np.uint8]:
    start = number * array.chunks[0]
    return np.asarray(array[start : start + array.chunks[0]])


class Split(NamedTuple):
    """The images of one split, row by row.

    Attributes:
        images: uint8 (n, size, size), 0-255, in memory, or in the store if they do not fit.
        labels: int8 (n,), 0 normal / 1 pneumonia.
        weights: float32 (n,), factor of an image's loss; of a store with folds (n, folds), one for each network.
        repeats: int16, as the weights: how often an epoch contains the image; 0 = removed by undersampling, or the
            image validates this network.
        image_ids: str (n,).
        boxes: as `data.image_boxes.read` returns them; None of a source without boxes.
    """

    images: npt.NDArray[np.uint8] | Pixels
    labels: npt.NDArray[np.int8]
    weights: npt.NDArray[np.float32]
    repeats: npt.NDArray[np.int16]
    image_ids: npt.NDArray[Any]
    boxes: Boxes | None = None


def create_store(path: str | Path, attributes: dict[str, Any]) -> zarr.Group:
    """An empty image store with `attributes` (data set, digest)."""
    return zarr.open_group(path, mode="w", attributes=attributes)


def create_split(
    store: zarr.Group, split: str, table: pd.DataFrame, *, size: int, with_lungs: bool
) -> tuple[zarr.Array[Any], zarr.Array[Any] | None]:
    """Make the arrays of one split and fill all but the pixels from the table.

    Returns:
        `images` and, if there are masks, `lungs`: uint8 (n, size, size), still empty.
    """
    group = store.create_group(split)
    columns = {
        "labels": table["label"].to_numpy(np.int8),
        "weights": _of_networks(table, "weight").to_numpy(np.float32),
        "repeats": _of_networks(table, "repeats").to_numpy(np.int16),
        **({"folds": table["fold"].fillna(-1).to_numpy(np.int8)} if "fold" in table else {}),
        "image_ids": table["image_id"].astype(object).to_numpy().astype(np.dtypes.StringDType()),
    }
    for name, values in columns.items():
        group.create_array(name, data=values)
    pixels = [
        group.create_array(
            name, shape=(len(table), size, size), chunks=(IMAGES_PER_CHUNK, size, size), dtype=np.uint8, fill_value=0
        )
        for name in ("images", "lungs")[: 1 + with_lungs]
    ]
    return pixels[0], pixels[1] if with_lungs else None


def _of_networks(table: pd.DataFrame, name: str) -> Any:
    """A column; with folds, the column of each network."""
    columns = [column for column in table if str(column).startswith(f"{name}_")]
    return table[columns or name]


def open_store(path: str | Path) -> zarr.Group:
    """The image store, for reading."""
    return zarr.open_group(path, mode="r")


def stored_preparation(store: zarr.Group) -> dict[str, Any]:
    """How the images of a store were prepared, as `preprocess` noted it: the fields of `geometry.Preparation`.

    Raises:
        UserError: an earlier version of this project wrote the store.
    """
    if "preparation" not in store.attrs:
        raise UserError(f"{store.store}: written by an earlier version; dvc repro preprocess makes it again")
    return cast("dict[str, Any]", store.attrs["preparation"])


def read_split(store: zarr.Group, split: str, *, memory: float | None = None) -> Split:
    """One split, with its images in memory (50 kB each at 224 px) if they fit, else read from the store.

    Args:
        store: the image store.
        split: one of `SPLITS`.
        memory: limit for its images, GiB. Larger ones are returned as `Pixels`, with a cache of half the limit.
            None = no limit.
    """
    group = cast(zarr.Group, store[split])
    arrays = {name: cast(zarr.Array[Any], group[name]) for name in Split._fields if name != image_boxes.NAME}
    stored = arrays.pop("images")
    limit = math.inf if memory is None else memory * _GIB
    images = Pixels(stored, limit / 2) if stored.nbytes > limit else np.asarray(stored[:])
    facts = {name: np.asarray(array[:]) for name, array in arrays.items()}
    return Split(images, **facts)._replace(boxes=image_boxes.read(store, split))


def n_networks(store: zarr.Group) -> int:
    """Number of networks that a store is for: its folds, or 1 with a validation split."""
    return 1 if "val" in store else int(cast("zarr.Array[Any]", store["train/weights"]).shape[1])


def read_folds(store: zarr.Group, *, memory: float | None = None) -> Iterator[tuple[Split, Split]]:
    """For each network the split that it learns from and the one that validates it; without folds one pair.

    With folds, the first split of a pair has the images of all folds, so that they are in memory once; those of the
    second one have 0 `repeats` in it.

    Args:
        store, memory: as in `read_split`.
    """
    train = read_split(store, "train", memory=memory)
    if "val" in store:
        yield train, read_split(store, "val", memory=memory)
        return
    for fold, val in enumerate(_folds(store, train)):
        yield train._replace(weights=train.weights[:, fold], repeats=train.repeats[:, fold]), val


def read_fold_numbers(store: zarr.Group) -> npt.NDArray[np.int8]:
    """The fold of each image of `train`, int8 (n,), from 0; only of a store with folds."""
    return np.asarray(cast("zarr.Array[Any]", store["train/folds"])[:])


def read_validation(store: zarr.Group, *, memory: float | None = None) -> Iterator[Split]:
    """The split that validates each network, as in `read_folds`.

    Args:
        store, memory: as in `read_split`.
    """
    if "val" in store:
        yield read_split(store, "val", memory=memory)
        return
    yield from _folds(store, read_split(store, "train", memory=memory))


def subset(images: npt.NDArray[np.uint8] | Pixels, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8] | Pixels:
    """These rows of images, in memory or in the store as the images are."""
    return images.subset(rows) if isinstance(images, Pixels) else images[rows]


def _folds(store: zarr.Group, train: Split) -> Iterator[Split]:
    """The images of each fold."""
    folds = read_fold_numbers(store)
    for fold in range(n_networks(store)):
        rows = np.flatnonzero(folds == fold)
        images = subset(train.images, rows)
        ones = np.ones(len(rows))
        facts = (train.labels[rows], ones.astype(np.float32), ones.astype(np.int16), train.image_ids[rows])
        yield Split(images, *facts, None if train.boxes is None else train.boxes[rows])


def balance(store: zarr.Group) -> str:
    """Hex SHA-256 of weights, repeats and boxes of the train split, which the digest of the data does not include."""
    group = cast(zarr.Group, store["train"])
    names = ("weights", "repeats", *((image_boxes.NAME,) if image_boxes.NAME in group else ()))
    arrays = (cast(zarr.Array[Any], group[name]) for name in names)
    return workspace.sha256_bytes(b"".join(np.asarray(array[:]).tobytes() for array in arrays))


def lungs(store: zarr.Group, split: str) -> zarr.Array[Any] | None:
    """Lung masks of a split, uint8 (n, size, size), 255 = lung; None if the source has no masks."""
    group = cast(zarr.Group, store[split])
    return cast("zarr.Array[Any]", group["lungs"]) if "lungs" in group else None


def blocks(images: npt.NDArray[np.uint8] | Pixels) -> Iterator[npt.NDArray[np.uint8]]:
    """The images in order, `IMAGES_PER_BLOCK` at a time, so that memory use is limited: uint8 (n, size, size) each."""
    for start in range(0, len(images), IMAGES_PER_BLOCK):
        yield images[start : start + IMAGES_PER_BLOCK]
