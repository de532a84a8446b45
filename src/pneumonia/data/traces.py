"""Traces of patients in texts and archives, and the same content without them.

An archive loses their images, their masks and the lines of its tables that name them, a report in JSON the entries that
name them. All else stays as it is.
"""

from __future__ import annotations

import html
import json
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from pneumonia import workspace
from pneumonia.names import file_name, printable

_MEMBER = re.compile(r"zip://(?P<member>.+)::.+")
KEYS = ("patient_id", "image_id", "sha256")
_TEXTS = {".csv", ".tsv", ".txt", ".md", ".xml", ".json", ".jsonl", ".yaml", ".yml", ".log", ".html", ".htm"}
_SHORTEST, _FEWEST_DIGITS = 4, 6
"""Length of a patient identifier that is searched in texts; a shorter one, such as `12` or a year, occurs in many."""
_GONE: Any = object()


@dataclass(frozen=True)
class Traces:
    """What names patients, or is an image of them.

    Attributes:
        patients, images: `patient_id` and `image_id`.
        files: paths and URLs of image and mask files; of members of an archive, their names.
        digests: SHA-256 of image files.
        sizes: of image files, in bytes.
    """

    patients: frozenset[str]
    images: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    sizes: frozenset[int] = frozenset()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        patients = {one for one in self.patients if len(one) >= (_FEWEST_DIGITS if one.isdigit() else _SHORTEST)}
        names = patients | self.images | self.files | self.digests | {file_name(one, "") for one in self.images}
        longest_first = sorted({form for name in names if name for form in _written(name)}, key=len, reverse=True)
        # `P1-2` is not named by `P1-21` or by `P1-2-copy`.
        return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])" if names else r"(?!)")

    def are_named_in(self, text: str) -> bool:
        """Whether a text names one of the patients or of their images, also escaped as in HTML, Markdown or a URL."""
        plain = html.unescape(text) if "&" in text else text
        forms = {text, plain, re.sub(r"\\([`~(:])", r"\1", plain), unquote(text) if "%" in text else text}
        return any(map(self._pattern.search, forms))

    def have_row(self, row: Mapping[Any, Any]) -> bool:
        """Whether a row of a table is about an image of these patients."""
        known = (self.patients, self.images, self.digests)
        return any(row.get(key, "") in values for key, values in zip(KEYS, known, strict=True) if row.get(key))


def of_rows(patients: Iterable[str], rows: Iterable[Mapping[Any, Any]]) -> Traces:
    """The traces of patients, from the rows of their images in tables of this project."""
    rows = list(rows)
    return Traces(
        frozenset(patients),
        frozenset(row["image_id"] for row in rows if row.get("image_id")),
        frozenset(_member(uri) or uri for uri in uris(rows)),
        frozenset(row["sha256"] for row in rows if row.get("sha256")),
        frozenset(int(row["bytes"]) for row in rows if row.get("bytes")),
    )


def _written(name: str) -> set[str]:
    """A name as it is, on pages (`names.printable`), in tables of Markdown (`report.page.markdown`), and in JSON."""
    shown = printable(name)
    return {name, shown, " ".join(shown.split()).replace("|", "/"), json.dumps(name)[1:-1]}


def uris(rows: Iterable[Mapping[Any, Any]]) -> list[str]:
    """Of images and masks."""
    return [row[key] for row in rows for key in ("uri", "lung_mask_uri") if row.get(key)]


def _member(uri: str) -> str:
    """The name of a member of an archive; empty for other files."""
    match = _MEMBER.fullmatch(uri)
    return match["member"] if match else ""


def without_lines(text: str, traces: Traces) -> str:
    """A text without the lines that name patients."""
    return "".join(line for line in text.splitlines(keepends=True) if not traces.are_named_in(line))


def without_entries(text: str, traces: Traces) -> str:
    """A report in JSON without the entries that name patients; of a table, without its rows.

    A text that is no JSON, such as JSON lines, loses its lines.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return without_lines(text, traces)
    kept = _pruned(value, traces)
    if kept is _GONE:
        kept = type(value)()
    if kept == value:
        return text
    layout: dict[str, Any] = {"indent": 2} if "\n  " in text else {"separators": (",", ":")}
    return json.dumps(kept, **layout) + ("\n" if text.endswith("\n") else "")


def _pruned(value: Any, traces: Traces) -> Any:
    if isinstance(value, str):
        return _GONE if traces.are_named_in(value) else value
    if isinstance(value, dict):
        entries = {key: _pruned(entry, traces) for key, entry in value.items() if not traces.are_named_in(key)}
        return {key: entry for key, entry in entries.items() if entry is not _GONE}
    if isinstance(value, list):
        return [
            entry for one in value if (entry := _GONE if _is_row(one, traces) else _pruned(one, traces)) is not _GONE
        ]
    return value


def _is_row(value: Any, traces: Traces) -> bool:
    """Whether an element of a list is a row, without further lists in it, that names patients."""
    if not isinstance(value, (list, dict)):
        return False
    cells = list(value.values()) if isinstance(value, dict) else value
    flat = not any(isinstance(cell, (list, dict)) for cell in cells)
    return flat and any(isinstance(cell, str) and traces.are_named_in(cell) for cell in cells)


def in_archive(path: Path, traces: Traces, others: Collection[str] = ()) -> list[str]:
    """The members of a zip archive that are images or companions of patients.

    Args:
        path: of the archive.
        others: `uri` of the images and masks of other patients. With them further files of the patients are found:
            those in folders in which nobody else has an image, and those with the name of an image and a further word
            (`a_mask.png` beside `a.png`).
    """
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        images = {one.filename for one in members if one.filename in traces.files or _is_image(archive, one, traces)}
    kept = {member for uri in others if (member := _member(uri))}
    folders = _own_folders(images, kept) if others else set()
    stems = {str(PurePosixPath(name).with_suffix("")) for name in images}
    return sorted(
        name
        for name in (info.filename for info in members)
        if name in images
        or (
            name not in kept
            and (
                traces.are_named_in(name)
                or any(name.startswith(folder) for folder in folders)
                or any(re.match(rf"{re.escape(stem)}[ _.-]", name) for stem in (stems if others else ()))
            )
        )
    )


def _is_image(archive: zipfile.ZipFile, info: zipfile.ZipInfo, traces: Traces) -> bool:
    return info.file_size in traces.sizes and workspace.sha256_bytes(archive.read(info)) in traces.digests


def _own_folders(images: Iterable[str], others: Iterable[str]) -> set[str]:
    """The highest folders in which all images are of the patients, with `/` at their end."""
    shared = {f"{folder}/" for name in others for folder in map(str, PurePosixPath(name).parents)}
    folders = set()
    for name in images:
        above = [f"{folder}/" for folder in reversed(PurePosixPath(name).parents) if str(folder) != "."]
        folders |= set([folder for folder in above if folder not in shared][:1])
    return folders


def rewrite_archive(path: Path, traces: Traces, others: Collection[str]) -> None:
    """Write a zip archive again, without images and companions of patients and without lines that name them.

    Args:
        path, others: as in `in_archive`.

    Raises:
        OSError: there is no space for a second copy; the archive stays as it is.
    """
    removed = {*in_archive(path, traces, others)}
    with (
        workspace.written_whole(path) as partial,
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(partial, "w") as new,
    ):
        for info in archive.infolist():
            if info.filename not in removed:
                content = archive.read(info)
                if PurePosixPath(info.filename).suffix.lower() in _TEXTS:
                    content = _scrubbed(content, info.filename, traces)
                new.writestr(info, content)


def _scrubbed(content: bytes, name: str, traces: Traces) -> bytes:
    for encoding in ("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "latin-1"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        kept = without_entries(text, traces) if name.lower().endswith(".json") else without_lines(text, traces)
        return content if kept == text else kept.encode(encoding)
    return content
