"""The files of a project in which patients occur, and how each is written again without them.

A table loses the rows of these patients, a report in JSON the entries that name them, an archive and an image store
their images. A page is replaced by a sentence; any other file is deleted.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from pneumonia import workspace
from pneumonia.data.traces import KEYS, Traces, in_archive, rewrite_archive, without_entries

PAGE = (
    "Removed: this page showed a patient whose data were removed, or may have shown one. {command} writes such a page "
    "again."
)
_COMMANDS = {"report.html": "pneumonia report", "compare.html": "pneumonia compare A B"}
"""Page -> command that writes it; `make repro` writes the others."""

PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}
SHEETS = "sheets"
"""Folder with pictures of many images. The folder around it has a table of these images."""
_PAGES = {".html", ".htm", ".md"}
_EMBEDDED = re.compile("data:image/(png|jpeg|gif|webp)")

Row = dict[str, str]


def units(folder: Path) -> Iterator[Path]:
    """Files and image stores below a folder; links to folders are not followed."""
    if folder.is_file() or (folder / "zarr.json").is_file():
        yield folder
    elif folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield from () if path.is_dir() and path.is_symlink() else units(path)


def search(folders: Iterable[Path], of: Traces, others: Collection[str] = ()) -> list[Path]:
    """The files and image stores below folders with something of the patients; sheets of pictures come first.

    The other files of their folder tell whose sheets they are, so that sheets have to be removed before these.

    Args:
        folders: they belong together: a page in them may embed pictures of them.
        others: `uri` of the images and masks of other patients.
    """
    paths = [unit for folder in folders for unit in units(folder)]
    embedded = any(path.suffix in PICTURES and of.are_named_in(path.name) for path in paths)
    sheets = [path for path in paths if is_sheet(path.as_posix())]
    other = [path for path in paths if path not in {*sheets} and holds(path, of, others, embedded=embedded)]
    with_patients = {path.parent for path in other}
    return [*(path for path in sheets if path.parent.parent in with_patients), *other]


def is_sheet(path: str) -> bool:
    """Whether a file is a picture of many images, which names none of them: `saliency/sheets/mean.png`.

    Args:
        path: with `/`, also below the folder `saliency`.
    """
    return PurePosixPath(path).parent.name == SHEETS and PurePosixPath(path).suffix in PICTURES


def holds(path: Path, of: Traces, others: Collection[str] = (), *, embedded: bool = False) -> bool:
    """Whether a file or an image store has something of the patients.

    Args:
        others: as in `search`.
        embedded: whether pages with pictures may show the patients, without a name.
    """
    if path.is_dir():
        return any(mask.any() for mask in in_store(path, of).values())
    if of.are_named_in(path.name):
        return True
    kind = kind_of(path)
    if kind == ".zip":
        return bool(in_archive(path, of, others))
    if kind in ("", *PICTURES):
        return False
    text = text_of(path)
    if kind in _WITHOUT:
        return _WITHOUT[kind](text, of) != text
    return shows(text, of, embedded=embedded and kind in _PAGES)


def shows(text: str, of: Traces, *, embedded: bool) -> bool:
    """Whether a text names the patients, or has pictures of which one may be theirs."""
    return of.are_named_in(text) or bool(embedded and _EMBEDDED.search(text))


def rewrite(path: Path, of: Traces, others: Collection[str], attributes: Mapping[str, Any]) -> None:
    """Write a file or an image store again without the patients, or delete it.

    Args:
        others: as in `search`.
        attributes: of an image store that change.
    """
    kind = "" if path.is_dir() else kind_of(path)
    if path.is_dir():
        rewrite_store(path, of, attributes)
    elif kind == ".zip":
        rewrite_archive(path, of, others)
    elif kind in (*_WITHOUT, *_PAGES) and not of.are_named_in(path.name):
        text = _WITHOUT[kind](text_of(path), of) if kind in _WITHOUT else _sentence(path.name)
        with workspace.written_whole(path) as partial:
            partial.write_bytes(text.encode("utf-8", "surrogateescape"))
    else:
        path.unlink()


def _sentence(name: str) -> str:
    """What stands in the place of a page."""
    return f"{PAGE.format(command=_COMMANDS.get(name, 'make repro'))}\n"


def kind_of(path: Path) -> str:
    """The suffix of a file; of one without suffix, as in DVC's cache, that of its content. Empty if binary."""
    if path.suffix:
        return path.suffix.lower()
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK\3\4"):
        return ".zip"
    if b"\0" in head:
        return ""
    if head[:1] in (b"{", b"["):
        return ".json"
    return ".csv" if b"image_id" in head.partition(b"\n")[0] else ".html"


def text_of(path: Path) -> str:
    """The text of a file; empty for a binary one."""
    with open(path, "rb") as file:
        head = file.read(4096)
        return "" if b"\0" in head else (head + file.read()).decode("utf-8", "surrogateescape")


def rows_of(path: Path) -> list[Row]:
    """The rows of a table of images; none of another file."""
    text = text_of(path) if kind_of(path) == ".csv" else ""
    header = text.partition("\n")[0].split(",")
    return list(csv.DictReader(io.StringIO(text, newline=""))) if {"image_id", "patient_id"} <= {*header} else []


def without_rows(text: str, traces: Traces) -> str:
    """A table (CSV) without the rows of patients; other cells that name them are emptied.

    A table without a column for images loses each row that names them.
    """
    if not text.strip() or not (traces.are_named_in(text) or "patient_id" in text.partition("\n")[0]):
        return text
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    is_of_images = bool({*KEYS} & {*header})
    kept = [header]
    for row in rows:
        is_named = traces.are_named_in("\n".join(row))
        if traces.have_row(dict(zip(header, row, strict=False))) or (is_named and not is_of_images):
            continue
        kept.append(["" if is_named and traces.are_named_in(cell) else cell for cell in row])
    if len(kept) == len(rows) + 1 and kept[1:] == rows:
        return text
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_MINIMAL).writerows(kept)
    return out.getvalue()


_WITHOUT: dict[str, Callable[[str, Traces], str]] = {
    ".csv": without_rows,
    ".json": without_entries,
    ".jsonl": without_entries,
}
"""Suffix of a file of this project -> its text without patients."""


def in_store(path: Path, traces: Traces) -> dict[str, npt.NDArray[np.bool_]]:
    """For each split of an image store: bool (n,), which images are of patients."""
    store: Any = zarr.open_group(path, mode="r")
    ids = {name: split["image_ids"][:] for name, split in store.groups() if "image_ids" in split}
    return {name: np.array([str(one) in traces.images for one in array], bool) for name, array in ids.items()}


def rewrite_store(path: Path, traces: Traces, attributes: Mapping[str, Any]) -> None:
    """Write an image store again without the images of patients, chunk by chunk, so that memory use is limited.

    Args:
        attributes: those that change.
    """
    store: Any = zarr.open_group(path, mode="r")
    with workspace.written_whole(path) as partial:
        new: Any = zarr.open_group(partial, mode="w", attributes={**store.attrs, **attributes})
        for name, is_gone in in_store(path, traces).items():
            kept, split = np.flatnonzero(~is_gone), new.create_group(name)
            for key, array in store[name].arrays():
                shape, n_rows = (len(kept), *array.shape[1:]), min(array.chunks[0], max(1, len(kept)))
                facts = {"shape": shape, "chunks": (n_rows, *array.chunks[1:]), "fill_value": array.fill_value}
                made = split.create_array(key, dtype=array.dtype, **facts)
                for start in range(0, len(kept), n_rows):
                    rows = kept[start : start + n_rows]
                    made[start : start + len(rows)] = array[rows[0] : rows[-1] + 1][rows - rows[0]]
