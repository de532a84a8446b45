"""Tables as people and their programs write them: comma, semicolon or tab, UTF-8 or UTF-16, with or without a mark."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pneumonia import UserError
from pneumonia.files import Files

SUFFIXES = (".csv", ".tsv", ".txt", ".tab")
WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")

_WORKBOOK_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


class Sheet(NamedTuple):
    """A table: its rows with their line numbers in the file, and a sentence for the user if it was guessed."""

    rows: list[tuple[int, dict[str, str]]]
    note: str = ""


def read_sheet(files: Files, name: str, needed: Sequence[str] = (), optional: Sequence[str] = ()) -> Sheet:
    """The rows of a table; a cell that a line lacks is empty, and empty lines are no rows.

    Args:
        files: of the place with the table.
        name: of the table among them.
        needed: columns that the table must have. Case, spaces and `_` of their names have no effect: `Patient ID`.
        optional: further columns that are known.

    Raises:
        UserError: no table, a column is missing or occurs twice, no rows, or a line with too many cells.
    """
    text, note = _text(files, name)
    columns = {_plain(column): column for column in (*needed, *optional)}
    separator = _separator(text, columns)
    try:
        lines = _lines(text, separator)
        first = [column.strip() for column in next(lines, (0, []))[1]]
        header = [columns.get(_plain(column), column) for column in first]
        rows = []
        for line, cells in lines:
            if any(cell.strip() for cell in cells[len(header) :]):
                raise UserError(f"{name}, line {line}: more cells than columns; put quotes around a cell with a comma")
            cells += [""] * (len(header) - len(cells))
            rows.append((line, dict(zip(header, cells, strict=False))))
    except csv.Error as error:
        raise UserError(f"{files.place}: {name} is no table ({error}); save it as CSV in UTF-8") from error
    twice = next((column for column in columns.values() if header.count(column) > 1), "")
    if twice:
        raise UserError(f"{name} has the column {twice} twice; keep one")
    missing = [column for column in needed if column not in header]
    if missing or (needed and not rows):
        more = f" and may have {', '.join(optional)}" if optional else ""
        problem = f"lacks the column {missing[0]}, it has {', '.join(first) or 'none'}" if missing else "has no rows"
        raise UserError(
            f"{name} {problem}; it needs {', '.join(needed)}{more}, separated by commas, semicolons or tabs"
        )
    return Sheet(rows, note)


def workbook_error(name: str) -> UserError:
    """The error for a table that is the file of a spreadsheet program."""
    return UserError(
        f"{name}: the workbook of a spreadsheet program, not a table as text; save it as CSV (UTF-8) there"
    )


def _text(files: Files, name: str) -> tuple[str, str]:
    content = files.read(name)
    if content.startswith(_WORKBOOK_STARTS):
        raise workbook_error(name)
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((encoding for mark, encoding in marks.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:  # UTF-16 without a mark: every other byte of Latin text is 0
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    note = ""
    try:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            if encoding != "utf-8":
                raise
            text = content.decode("cp1252")  # what spreadsheet programs for Windows write by themselves
            note = f"{name} is not in UTF-8; it was read as Windows-1252"
        if control := _CONTROLS.search(text):
            raise ValueError(f"it has the character {control[0]!r}")
    except ValueError as error:
        raise UserError(f"{files.place}: {name} is no table ({error}); save it as CSV in UTF-8") from error
    return text, note


def _separator(text: str, columns: dict[str, str]) -> str:
    """The separator with which the first line has most of the known columns."""
    if marked := re.match(r"\"?sep=(.)", text):  # Excel writes and reads this line
        return marked[1]
    first = next((line for line in text.splitlines() if line.strip()), "")

    def n_known(separator: str) -> tuple[int, int]:
        cells = first.split(separator)
        return sum(_plain(cell) in columns for cell in cells), len(cells) if columns else 0

    return max(",;\t|", key=n_known)


def _lines(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for cells in reader:
        mark = reader.line_num == 1 and cells and cells[0].startswith("sep=")
        if not mark and any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _plain(column: str) -> str:
    return re.sub(r"[\W_]", "", column).casefold()
