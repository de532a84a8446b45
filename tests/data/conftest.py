"""Places that exist in the memory alone, for readers of layouts."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from pneumonia.data.contents import Listing, Rows
from pneumonia.files import Files


def place(contents: dict[str, bytes | str] | Iterable[str]) -> Files:
    """The files of a place that exists in the memory alone: names, or names with contents."""
    given = contents if isinstance(contents, dict) else dict.fromkeys(contents, b"")

    def read(name: str) -> bytes:
        content = given[name]
        return content if isinstance(content, bytes) else content.encode()

    return Files("here", sorted(given), read, lambda name: f"memory://{name}", lambda name, n: read(name)[:n])


def rows_of(listing: Listing) -> Rows:
    """What a source without boxes lists."""
    assert listing.boxes == []
    return listing.rows


def by_image(rows: Rows, *columns: str) -> dict[str, Any]:
    """Columns of a row, or its one column, by `image_id`."""
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row[columns[0]] if len(columns) == 1 else tuple(map(row.get, columns)) for row in rows}


def table(*rows: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
