"""The lungs of image files as masks and a table: `pneumonia lungs`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pneumonia import UserError, compute, credentials, files, workspace
from pneumonia.images import decode, lungs
from pneumonia.names import printable

TABLE = "lungs.csv"

CHUNK = 64
"""Images that a worker process searches at once."""


class Job(NamedTuple):
    """An image to search.

    Attributes:
        name: in the table.
        uri: for `files.read_bytes`.
        mask: file to write; None = none.
        error: why a place that was named has no images; then this is its row.
    """

    name: str
    uri: str
    mask: Path | None
    error: str


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        image: its name.
        found: `yes` or `no`; empty if the image cannot be read.
        share: of the film that is lung, 0-1.
        x, y, width, height: of the box around both lungs, pixels of the film; empty without lungs.
        mask: name of the file with the mask; empty without one.
        problem: why no lungs were found.
        error: why the image cannot be read.
    """

    image: str
    found: str = ""
    share: str = ""
    x: str = ""
    y: str = ""
    width: str = ""
    height: str = ""
    mask: str = ""
    problem: str = ""
    error: str = ""


def search(jobs: Sequence[Job], *, workers: int = 1) -> Iterator[list[Row]]:
    """The rows of images, in their order, in chunks; masks are written on the way.

    A mask is a PNG of the size of the film, 255 where it is lung, else 0. A film without lungs has none, and one of an
    earlier run is removed.

    Args:
        jobs: the images.
        workers: processes.
    """
    there = [job._replace(uri=files.absolute(job.uri)) for job in jobs]
    yield from compute.run(_search_chunk, compute.chunks(there, CHUNK), workers=workers, label="lungs")


def as_csv(rows: Sequence[Row], *, header: bool) -> str:
    """Rows as CSV, one line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(Row._fields)
    writer.writerows(rows)
    return text.getvalue()


def _search_chunk(jobs: Sequence[Job]) -> list[Row]:
    return [_row(job) for job in jobs]


def _row(job: Job) -> Row:
    name = printable(job.name)
    if job.mask:
        job.mask.unlink(missing_ok=True)  # it may be of another image
    if job.error:
        return Row(name, error=printable(job.error))
    try:
        image = decode.decode(files.read_bytes(job.uri))
    except UserError as error:
        return Row(name, error=printable(credentials.masked(str(error).removeprefix(f"{job.uri}: "))))
    both, problem = lungs.open_segmenter().examine(image)
    if not both:
        return Row(name, "no", problem=problem)
    if job.mask:
        mask = np.where(both.mask(*image.shape), 255, 0).astype(np.uint8)
        with workspace.written_whole(job.mask) as partial_path:
            partial_path.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    x, y, width, height = (f"{side:.1f}" for side in both.box)
    return Row(name, "yes", f"{both.share:.4f}", x, y, width, height, job.mask.name if job.mask else "")
