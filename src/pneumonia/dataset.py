"""What travels between stages: tables, the image store, digests.

A table is a CSV file with one row per image. The image store is a Zarr group per split. Both are
written beside their final name and moved there when complete, so that a name that exists is whole.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from filelock import FileLock

from pneumonia import UserError, files, images

LABELS = {0: "normal", 1: "pneumonia"}
SPLITS = ("train", "val", "test")

BOTH_LABELS = "the same file carries both labels"
"""Reason of a quarantine that still tells who is one patient."""

IMAGES_PER_CHUNK = 256
"""Images a chunk of the store holds: 12 MiB at 224 px, so that 5,856 images are 26 files."""

IMAGES_PER_BLOCK = 1_024
"""Images that are scored in one go: whole chunks, and whole batches of any usual size."""

_GIB = 2**30

_TEXT = {
    "image_id": "str",
    "uri": "str",
    "patient_id": "str",
    "subtype": "str",
    "source_split": "str",
    "sha256": "str",
    "lung_mask_uri": "str",
    "sex": "str",
    "view": "str",
    "mode": "str",
    "dhash": "str",
    "look_alike": "str",
    "reason": "str",
    "split": "str",
}
_DVC_EXPERIMENT = re.compile(r"(.*?)[/\\]\.dvc[/\\]tmp[/\\]exps[/\\]")


class Pixels:
    """Images that stay in the store and are read where they are indexed, as a numpy array would be by its first axis.

    Chunks are read whole. The most recently used ones are kept, so that rows drawn from a few of them cost one read
    of each.

    Args:
        array: uint8 (n, size, size) of the image store.
        budget: bytes that the kept chunks may take; one is kept in any case.

    Attributes:
        shape: n, size, size.
        dtype: uint8.
    """

    def __init__(self, array: zarr.Array[Any], budget: float) -> None:
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[np.uint8] = array.dtype
        self._rows = np.arange(array.shape[0])
        self._per_chunk = array.chunks[0]
        n_kept = max(1, int(budget // (array.dtype.itemsize * np.prod(array.chunks))))
        self._chunk = lru_cache(maxsize=n_kept)(partial(_read_chunk, array))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """The rows that numpy would give for this key, copied: uint8 (…, size, size).

        Raises:
            IndexError: no such row.
            TypeError: a key for more than the first axis.
        """
        if isinstance(key, tuple):
            raise TypeError("images in the store are indexed by rows only; index what that gives")
        rows = np.asarray(self._rows[key])
        chunks, places = np.divmod(rows, self._per_chunk)
        taken = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        for number in np.unique(chunks):
            here = chunks == number
            taken[here] = self._chunk(int(number))[places[here]]
        return taken


def _read_chunk(array: zarr.Array[Any], number: int) -> npt.NDArray[np.uint8]:
    start = number * array.chunks[0]
    return np.asarray(array[start : start + array.chunks[0]])


class Split(NamedTuple):
    """The images of one split, row by row.

    Attributes:
        images: uint8 (n, size, size), 0-255, in memory or, where they would not fit, in the store.
        labels: int8 (n,), 0 normal / 1 pneumonia.
        weights: float32 (n,), factor of an image's loss.
        repeats: int16 (n,), times an epoch shows the image; 0 = dropped by undersampling.
        image_ids: str (n,).
    """

    images: npt.NDArray[np.uint8] | Pixels
    labels: npt.NDArray[np.int8]
    weights: npt.NDArray[np.float32]
    repeats: npt.NDArray[np.int16]
    image_ids: npt.NDArray[Any]


def project_root(folder: Path | None = None) -> Path:
    """The project's folder, also from inside DVC's temporary experiment folders.

    `dvc exp run --temp` and the queue run a stage in `<root>/.dvc/tmp/exps/…`, a folder that is
    thrown away; what must outlive the experiment belongs under the root.
    """
    here = (folder or Path.cwd()).resolve()
    inside_experiment = _DVC_EXPERIMENT.match(f"{here}/")
    return Path(inside_experiment[1]) if inside_experiment else here


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well and vanishes when it does not.

    Works for files and folders. What an earlier, killed writer left behind is removed first.
    """
    final = Path(path)
    partial = final.with_name(f".partial-{final.name}")
    final.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        if final.is_dir():
            remove(final)
        partial.replace(final)
    finally:
        remove(partial)


@contextmanager
def resumable(stage: str, *key: object) -> Iterator[Path]:
    """A folder for what must survive a crash of `stage`: the same one for the same `key`, for one process at a time.

    It lies under the project's root, outside of what DVC removes before a stage runs, stays when the block fails,
    and goes when the block ends well.

    Args:
        stage: name of a stage.
        key: all that decides what the stage makes: settings, digests of data and code.
    """
    name = sha256_bytes("\n".join(map(str, key)).encode())[:16]
    folder = project_root() / ".resume" / stage / name
    # Beside the folder, since it must not go with it: another process may wait for it.
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        remove(folder)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV: the same table gives the same bytes on every platform."""
    with written_whole(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)


def read_table(path: str | Path) -> pd.DataFrame:
    """A table as `write_table` wrote it; text columns stay text (an id such as `0012` keeps its zeros)."""
    table = pd.read_csv(path, dtype=_TEXT, keep_default_na=False, na_values={"age": [""]})
    if "valid" in table:
        table["valid"] = table["valid"].astype(str).eq("True")
    return table


def write_json(values: Mapping[str, Any], path: str | Path) -> None:
    """Write a report; floats keep 8 significant digits, so that it stays readable."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(rounded(values), indent=2) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """A value as `write_json` keeps it: floats with 8 significant digits, also within tables and lists.

    Whoever applies a published number then decides as the reports did. Scores have 7 digits behind the point, so that
    a threshold between any two of them can be told with 8.
    """
    if isinstance(value, Mapping):
        return {str(name): rounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return float(f"{value:.8g}") if isinstance(value, (float, np.floating)) else value


def stated(report: Mapping[str, float], name: str, digits: int = 3) -> str:
    """A figure as text, with its interval in brackets where the report has one; empty where it has no such figure.

    Args:
        report: as `metrics.classification_report` makes it: `name`, `name_low`, `name_high`.
        name: of the figure.
        digits: behind the point.

    >>> stated({"auc": 0.8765, "auc_low": 0.8, "auc_high": 0.93}, "auc")
    '0.876 [0.800, 0.930]'
    """
    if name not in report:
        return ""
    ends = [f"{report[f'{name}_{end}']:.{digits}f}" for end in ("low", "high") if f"{name}_{end}" in report]
    return f"{report[name]:.{digits}f}{f' [{ends[0]}, {ends[1]}]' if ends else ''}"


def once(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of one split of a table with `split` and `sha256`; a file that occurs twice is one image."""
    return predictions[predictions["split"] == split].drop_duplicates("sha256")


def read_json(path: str | Path) -> Any:
    """A report as `write_json` wrote it."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digest(table: pd.DataFrame) -> str:
    """SHA-256 over which images, with which labels and in which split, a table holds; row order does not matter."""
    columns = [name for name in ("image_id", "sha256", "label", "split") if name in table]
    lines = sorted("\t".join(map(str, row)) for row in table[columns].itertuples(index=False))
    return sha256_bytes("\n".join(lines).encode())


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes) -> str:
    """Hex SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def read_image(uri: str) -> npt.NDArray[np.uint8]:
    """One image as the whole project sees it: one channel, before any processing.

    Colour is dropped here: in the Kermany set every file in RGB mode is a pneumonia of the train
    split, so that a colour channel would give the answer away.

    Args:
        uri: `zip://MEMBER::ARCHIVE`, a path, or an fsspec URL of a JPEG, PNG or DICOM file.

    Returns:
        uint8 (height, width), 0-255.

    Raises:
        UserError: the file is missing, truncated, or no image.
    """
    content = files.read_bytes(uri)
    try:
        return images.decode(content)
    except UserError as error:
        raise UserError(f"{uri}: cannot be read as an image ({error})") from error


def read_unchanged(uri: str, sha256: str) -> bytes:
    """The bytes of a file of the manifest, as `fetch` saw it.

    Raises:
        UserError: it is gone, cannot be reached, or is another one by now.
    """
    try:
        content = files.read_bytes(uri)
    except UserError as error:
        raise UserError(f"{error}; bring it back and run again, or look again: dvc repro -f -s fetch") from error
    if sha256_bytes(content) != sha256:
        raise UserError(f"{uri}: the file has changed since fetch saw it; look again: dvc repro -f -s fetch")
    return content


def create_store(path: str | Path, attributes: dict[str, Any]) -> zarr.Group:
    """An empty image store; `attributes` travel with it (data set, digest)."""
    return zarr.open_group(path, mode="w", attributes=attributes)


def create_split(
    store: zarr.Group, split: str, table: pd.DataFrame, *, size: int, with_lungs: bool
) -> tuple[zarr.Array[Any], zarr.Array[Any] | None]:
    """Make the arrays of one split, all but the pixels filled from the table.

    Returns:
        `images` and, where masks exist, `lungs`: uint8 (n, size, size), still empty.
    """
    group = store.create_group(split)
    columns = {
        "labels": table["label"].to_numpy(np.int8),
        "weights": table["weight"].to_numpy(np.float32),
        "repeats": table["repeats"].to_numpy(np.int16),
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


def open_store(path: str | Path) -> zarr.Group:
    """The image store, for reading."""
    return zarr.open_group(path, mode="r")


def read_split(store: zarr.Group, split: str, *, memory: float | None = None) -> Split:
    """One split, its images in memory (50 kB each at 224 px) where they fit, else streamed.

    Args:
        store: the image store.
        split: one of `SPLITS`.
        memory: GiB that its images may take; images that take more come as `Pixels`, which keep half of that.
            None = no limit.
    """
    group = cast(zarr.Group, store[split])
    arrays = {name: cast(zarr.Array[Any], group[name]) for name in Split._fields}
    stored = arrays.pop("images")
    limit = math.inf if memory is None else memory * _GIB
    images = Pixels(stored, limit / 2) if stored.nbytes > limit else np.asarray(stored[:])
    return Split(images, **{name: np.asarray(array[:]) for name, array in arrays.items()})


def lungs(store: zarr.Group, split: str) -> zarr.Array[Any] | None:
    """Lung masks of a split, uint8 (n, size, size), 255 = lung; None where the source has none."""
    group = cast(zarr.Group, store[split])
    return cast("zarr.Array[Any]", group["lungs"]) if "lungs" in group else None


def blocks(images: npt.NDArray[np.uint8] | Pixels) -> Iterator[npt.NDArray[np.uint8]]:
    """The images in order, `IMAGES_PER_BLOCK` at a time, so that memory stays flat: each uint8 (n, size, size)."""
    for start in range(0, len(images), IMAGES_PER_BLOCK):
        yield images[start : start + IMAGES_PER_BLOCK]


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
