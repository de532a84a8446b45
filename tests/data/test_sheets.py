"""A table is read as programs write it, or refused with its true cause."""

import pytest

from pneumonia import UserError
from pneumonia.data import sheets
from tests.data.conftest import place

TEXT = "path,label,patient_id\nä.png,1,p 1\nb.png,0,007\n"
NEEDED = ("path", "label", "patient_id")


def read(content: bytes | str, needed: tuple[str, ...] = NEEDED, optional: tuple[str, ...] = ("age",)) -> sheets.Sheet:
    return sheets.read_sheet(place({"t.csv": content}), "t.csv", needed, optional)


def cells(content: bytes | str) -> list[list[str]]:
    return [[row[name] for name in NEEDED] for _, row in read(content).rows]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_separator_encoding_and_line_ends_are_found(separator: str, encoding: str, ending: str) -> None:
    text = TEXT.replace(",", separator).replace("\n", ending)
    assert cells(text.encode(encoding)) == [["ä.png", "1", "p 1"], ["b.png", "0", "007"]]
    assert read(text.encode(encoding)).note == ""


def test_a_table_in_the_encoding_of_windows_is_read_and_said() -> None:
    assert cells(TEXT.encode("cp1252"))[0] == ["ä.png", "1", "p 1"]
    assert read(TEXT.encode("cp1252")).note == "t.csv is not in UTF-8; it was read as Windows-1252"


@pytest.mark.parametrize("head", ["Path, Label ,PATIENT_ID", "path,label,Patient ID", '"path",label,patientId'])
def test_case_spaces_and_underscores_of_a_column_have_no_effect(head: str) -> None:
    assert cells(TEXT.replace("path,label,patient_id", head))[1] == ["b.png", "0", "007"]


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    lines = read("sep=;\npath;label;patient_id\n\na;1;p\n;;\nb;0\n").rows
    assert [(line, row["path"], row["patient_id"]) for line, row in lines] == [(4, "a", "p"), (6, "b", "")]


def test_a_cell_in_quotes_may_contain_the_separator_and_empty_columns_are_ignored() -> None:
    text = 'path;label;patient_id;;\na.png;1;"p; 1";;\nb.png;0;q;;;\n'
    assert cells(text) == [["a.png", "1", "p; 1"], ["b.png", "0", "q"]]


def test_any_columns_are_read_where_none_is_needed() -> None:
    assert read("a,b\n1,x;y\n", (), ()).rows == [(2, {"a": "1", "b": "x;y"})]


WRONG = {
    "no rows": (
        "path;label;patient_id\n",
        r"t\.csv has no rows; it needs path, label, patient_id and may have age, separated by commas, .* or tabs",
    ),
    "empty": ("", r"t\.csv lacks the column path, it has none; .*"),
    "column": ("path;label\na;0\n", r"t\.csv lacks the column patient_id, it has path, label; .*"),
    "twice": ("path,label,patient_id,Patient ID\na,0,p,q\n", r"t\.csv has the column patient_id twice; keep one"),
    "comma": (f"{TEXT}c.png,0,p,58,5\n", r"t\.csv, line 4: more cells than columns; put quotes around .* comma"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(200), r"here: t\.csv is no table \(it has the character .*\); save it .*"),
    "no text": (b"\x81\xff", r"here: t\.csv is no table \(.*\); save it as CSV in UTF-8"),
    "half a UTF-16": (b"\xff\xfea", r"here: t\.csv is no table \(.*\); save it as CSV in UTF-8"),
    "long field": (f"{TEXT}{'a' * 200_000},0,p\n", r"here: t\.csv is no table \(field larger .*\); .*"),
    "workbook": (b"PK\x03\x04" + bytes(99), r"t\.csv: the workbook of a spreadsheet program, .*; save it as CSV .*"),
    "old workbook": (b"\xd0\xcf\x11\xe0" + bytes(99), r"t\.csv: the workbook of a spreadsheet program, .*"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_with_a_table_is_one_line(kind: str) -> None:
    content, expected = WRONG[kind]
    with pytest.raises(UserError, match=f"^{expected}$"):
        read(content)
