"""A user's own images: a tree of folders that names the classes, or a table."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import NamedTuple

from pneumonia import UserError
from pneumonia.data import columns, contents, kermany, sheets, tables
from pneumonia.data.contents import Listing, Rows, is_junk, is_no_patient, split_of_folder
from pneumonia.files import Files

MANY_IMAGES = 30
"""A patient with more images, who also has a tenth of all, is probably a folder that is no patient."""

_COLUMNS = ("path", "label", "patient_id")
_OPTIONS = ("split", "subtype", "sex", "age", "view")
_FOLDER_SHARE = 0.9
_NO_CLASS = "images below no folder of a class"


class _Path(NamedTuple):
    """What the folders of an image say."""

    label: int
    split: str
    patient_id: str
    above: tuple[str, ...]
    subtype: str


def read_folder(files: Files, classes: Mapping[str, int] = columns.CLASSES) -> Listing:
    """Images below a folder for their class, with folders for the splits or without.

    The patient identifier is the first of these that exists: the first folder below the class; the folders above the
    class, if they differ (`PATIENT/CLASS/image`); the name of the file, if most names are those of the Kermany set; the
    identifier in the header of a DICOM file. Without any, each image counts as one patient. Folders for a split, a kind
    of file, a view or a subtype are no patients.

    Args:
        files: of the place.
        classes: name of a class -> label, as `columns.class_names` returns it.

    Raises:
        UserError: a path names two classes or two splits.
    """
    place = contents.classify(files)
    shared = len(contents.shared_folders(place.images))
    paths = {name: _parse(name, shared, classes) for name in place.images}
    # A link may give a file without a class a name with one, and the other way round.
    linked = {other for name, other in files.aliases.items() if paths.get(name)}
    linked |= {name for name, other in files.aliases.items() if paths.get(other)}
    linked -= {other for other in files.aliases.values() if paths.get(other)}
    images: dict[str, _Path] = {}
    for name, path in paths.items():
        if name in linked:
            place.companions.setdefault(contents.LINKED, []).append(name)
        elif path is None:
            place.left_out.setdefault(_NO_CLASS, []).append(name)
        else:
            images[name] = path
    several = len({path.above for path in images.values()}) > 1
    patients = {
        name: columns.patient(path.patient_id or ("/".join(path.above) if several else ""))
        for name, path in images.items()
    }
    nobody = columns.placeholders([(patients[name], path.label) for name, path in images.items()], _FOLDER_SHARE)
    nobody = {folder for folder in nobody if folder.strip("0")}  # somebody has made a folder 0: it is no missing value
    notes = [
        f"folder {folder} names no patient; images in it: {sum(one == folder for one in patients.values()):,}"
        for folder in sorted(nobody)
    ]
    names_of_set = _names_of_kermany(images)
    rows: Rows = []
    for name, path in images.items():
        patient = patients[name] if patients[name] not in nobody else ""
        published = names_of_set.get(name) if not patient else None
        subtype = path.subtype or (published.subtype if published else "")
        rows.append(
            {
                "image_id": name,
                "member": name,
                "label": path.label,
                "patient_id": patient or (published.patient_id if published else ""),
                "subtype": subtype if subtype and path.label else tables.LABELS[path.label],
                "source_split": path.split,
            }
        )
    if names_of_set:
        notes.append(
            "these files have names as in data = chest_xray, which is the right choice for the whole set; here their "
            "names give the patient where no folder does"
        )
    return Listing(rows, [], place.companions, place.left_out, (*notes, *notes_on_patients(rows)))


def read_table(table: str, files: Files, classes: Mapping[str, int] = columns.CLASSES) -> Listing:
    """A user's own table: `path,label,patient_id` and, if known, `split,subtype,sex,age,view`.

    Paths are relative to the table's folder, or absolute. An empty `patient_id` is read from the header of a DICOM
    file; without one, the image counts as one patient. Age, sex and view that are not understood count as not known.

    Args:
        table: name of the table among `files`.
        files: of the table's folder.
        classes: name of a class -> label, as `columns.class_names` returns it.

    Raises:
        UserError: with the line: no such file, an unknown label or split, a path twice, a patient in two splits.
    """
    sheet = sheets.read_sheet(files, table, _COLUMNS, _OPTIONS)
    find = _Finder(files)
    labels = {line: columns.label(row["label"], classes) for line, row in sheet.rows}
    identifiers = [(columns.patient(row["patient_id"]), labels[line] or 0) for line, row in sheet.rows]
    nobody = columns.placeholders(identifiers)
    rows: dict[str, dict[str, object]] = {}
    splits: dict[str, tuple[str, int]] = {}
    strange: dict[str, list[str]] = {}
    for (line, row), (patient, _) in zip(sheet.rows, identifiers, strict=True):
        where = f"{table}, line {line}"
        member, label, split = find.name(row["path"]), labels[line], columns.split(row.get("split", ""))
        if label is None:
            raise UserError(
                f"{where}: label {row['label']!r}; known: {', '.join(classes)}; fetch.classes adds other names"
            )
        if split is None:
            raise UserError(f"{where}: split {row['split']!r}; known: {', '.join(tables.SPLITS)}, or empty")
        if member is None:
            raise UserError(f"{where}: {row['path'].strip()}: no such file below {files.place}; correct the path")
        if member in rows:
            raise UserError(f"{where}: {member} occurs twice; keep one row for each image")
        if columns.is_shortened(patient):
            raise UserError(
                f"{where}: patient {patient} was shortened by a spreadsheet program, so that patients can no longer be "
                "told apart; format the column as text and export the table again"
            )
        patient = "" if patient in nobody else patient
        before, first = splits.setdefault(patient, (split, line))
        if patient and split != before:
            raise UserError(
                f"{where}: patient {patient} is in split {split or 'none'}, in line {first} in {before or 'none'}; "
                "a patient belongs to one split"
            )
        known: dict[str, str] = {}
        for name, read in columns.DESCRIPTIONS.items():
            value = read(row.get(name, ""))
            if value is None:
                strange.setdefault(name, []).append(f"{row[name]!r} in line {line}")
            elif value:
                known[name] = value
        subtype = row.get("subtype", "")
        rows[member] = {
            "image_id": member,
            "member": member,
            "label": label,
            "patient_id": patient,
            "subtype": tables.LABELS[label] if columns.is_unknown(subtype) else subtype.strip(),
            "source_split": split,
            **{name: known[name] for name in columns.DESCRIPTIONS if name in known},
        }
    unused = [name for name in files.names if name not in rows and name != table and not is_junk(name)]
    notes = [
        *([sheet.note] if sheet.note else []),
        *(
            f"{table}: patient_id {one!r} names no patient, in {sum(one == other for other, _ in identifiers):,} rows"
            for one in sorted(nobody)
        ),
        *(
            f"{table}: {name} is not understood in {len(values):,} of {len(sheet.rows):,} rows, where it counts as not "
            f"known: {values[0]}"
            for name, values in strange.items()
        ),
        *([f"files beside the table that it does not name: {len(unused):,}, such as {unused[0]}"] if unused else []),
    ]
    listed: Rows = list(rows.values())
    return Listing(listed, [], notes=(*notes, *notes_on_patients(listed)))


def notes_on_patients(rows: Rows) -> list[str]:
    """A sentence for each patient with so many images that the name is probably not that of a patient."""
    images: dict[str, list[str]] = {}
    for row in rows:
        if row["patient_id"]:
            images.setdefault(row["patient_id"], []).append(row["image_id"])
    return [
        f"{patient} counts as one patient and has {len(names):,} of {len(rows):,} images, such as {names[0]}; if it is "
        "none, name the patients in a table"
        for patient, names in images.items()
        if len(names) > MANY_IMAGES and len(names) > len(rows) / 10
    ]


def _parse(name: str, shared: int, classes: Mapping[str, int]) -> _Path | None:
    """What the folders of an image say; None if none is a class.

    Args:
        name: of the image.
        shared: number of folders that are above all images.
        classes: name of a class -> label.
    """
    folders = name.split("/")[:-1]
    keys = [columns.key(folder) for folder in folders]
    splits = {depth: split_of_folder(folder) for depth, folder in enumerate(folders) if split_of_folder(folder)}
    if len(set(splits.values())) > 1:
        splits = {depth: split for depth, split in splits.items() if depth >= shared}
    if len(set(splits.values())) > 1:
        raise UserError(f"{name}: two folders of this path name a split; keep one, or use a table")
    # Numbers are classes only in a path without a class name: patients and visits have numbers too.
    words = [depth for depth, one in enumerate(keys) if one in classes and not one.isdigit()]
    depths = words or [depth for depth, one in enumerate(keys) if one in classes]
    if len({classes[keys[depth]] for depth in depths}) > 1:
        raise UserError(f"{name}: two folders of this path name a class; keep one, or use a table")
    if not depths:
        return None
    subtypes = [columns.SUBTYPES[one] for one in keys[depths[0] :] if one in columns.SUBTYPES]
    neither = [
        None if depth in splits or depth in depths or is_no_patient(folder) else folder
        for depth, folder in enumerate(folders)
    ]
    return _Path(
        label=classes[keys[depths[0]]],
        split=next(iter(splits.values()), ""),
        patient_id=next((folder for folder in neither[depths[0] :] if folder), ""),
        above=tuple(folder for folder in neither[: depths[0]] if folder),
        subtype=subtypes[0] if subtypes else "",
    )


def _names_of_kermany(images: Mapping[str, _Path]) -> dict[str, kermany.Name]:
    """What the names of the images say, if those of most pneumonias are as in the Kermany set; normals alone are not
    enough, because programs for DICOM export `IM-0001-0001` too."""
    parsed = {name: kermany.parse_name(name.rsplit("/", 1)[-1]) for name in images}
    known = {name: one for name, one in parsed.items() if one and one.label == images[name].label}
    n_pneumonias = sum(path.label for path in images.values())
    return known if sum(one.label for one in known.values()) > n_pneumonias / 2 else {}


class _Finder:
    """Finds the files that the paths of a table name, in the ways in which programs write them."""

    def __init__(self, files: Files) -> None:
        self._names = set(files.names)
        self._place = files.place.removeprefix("file://").rstrip("/")
        self._elsewhere: str | None = None
        similar: dict[str, set[str]] = {}
        for name in files.names:
            similar.setdefault(columns.key(name), set()).add(name)
        self._similar: dict[str, Sequence[str]] = {one: sorted(names) for one, names in similar.items()}

    def name(self, path: str) -> str | None:
        """The name of the file that a path means; None if there is none.

        A path may be relative to the folder of the table, or to the folder above it, or absolute. An absolute path of
        another computer means the file at its end, if all absolute paths of the table begin with the same folders.
        """
        path = path.strip()
        if path in self._names:
            return path
        if path.startswith(f"{self._place}/"):
            return self._one(posixpath.normpath(path.removeprefix(f"{self._place}/")))
        plain = posixpath.normpath(re.sub(r"^file:/+", "/", path.replace("\\", "/")))
        if name := self._one(plain):
            return name
        first, *parts = plain.split("/")
        if not (PureWindowsPath(plain).drive or plain.startswith("/")):
            return self._one("/".join(parts)) if first == self._place.rsplit("/", 1)[-1] else None
        for n_above in range(len(parts)):
            above = "/".join([first, *parts[:n_above]])
            if self._elsewhere in (None, above) and (name := self._one("/".join(parts[n_above:]))):
                self._elsewhere = above
                return name
        return None

    def _one(self, name: str) -> str | None:
        if name in self._names:
            return name
        similar = self._similar.get(columns.key(name), [])
        return similar[0] if len(similar) == 1 else None
