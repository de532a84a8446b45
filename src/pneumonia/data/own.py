"""A user's own images: a tree of folders that names the classes, or a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pneumonia import UserError
from pneumonia.data import columns, contents, drawn_boxes, kermany, sheets, tables
from pneumonia.data.contents import Listing, Rows, is_junk, is_no_patient, is_visit, split_of_folder
from pneumonia.data.finder import Finder
from pneumonia.files import Files
from pneumonia.images.formats import is_named_as_image

CLASSES_EXAMPLE = """-S "fetch.classes={normal: ['NAME'], pneumonia: ['NAME']}\""""
"""How the names of class folders are set."""
MANY_IMAGES = 30
"""A patient with more images, who also has a tenth of all, is probably a folder that is no patient."""
MANY_FOLDERS = 3
"""Folders with as many folders inside, on average, are groups of patients if their names are visits."""

LABELS = "labels.csv"
"""The table of a folder or an archive in which no folder names a class."""

_COLUMNS = ("path", "label", "patient_id")
_OPTIONS = ("split", "subtype", "sex", "age", "view")
_FOLDER_SHARE = 0.9


class _Path(NamedTuple):
    """What the folders of an image say; `below` and `above` are the folders on both sides of the class that may be
    patients."""

    label: int
    split: str
    below: tuple[str, ...]
    above: tuple[str, ...]
    subtype: str


def read_folder(files: Files, classes: Mapping[str, int] = columns.CLASSES) -> Listing:
    """Images below a folder for their class, with folders for the splits or without.

    The patient identifier is the first of these that exists: the first folder below the class that may be a patient;
    the folders above the class, if they differ (`PATIENT/CLASS/image`); the name of the file, if most names are those
    of the Kermany set; the identifier in the header of a DICOM file. Without any, each image counts as one patient.
    Folders for a split, a kind of file, a view, a subtype or a visit are no patients, and neither is a folder around
    all images of its class.

    If no folder names a class, the table `LABELS` is read, where there is one. Boxes may lie beside the images, as
    `drawn_boxes.with_boxes` reads them.

    Args:
        files: of the place.
        classes: name of a class -> label, as `columns.class_names` returns it.

    Raises:
        UserError: a path, or the names that links give to one file, name two classes or two splits; two tables of
            labels; boxes as `drawn_boxes.with_boxes` says.
    """
    place = contents.classify(files, classes)
    shared = len(contents.shared_folders(place.images))
    paths = {name: _parse(name, shared, classes, place.initials) for name in place.images}
    images = _without_copies(files, _one_name_each(files.aliases, paths, place), place)
    patients, notes = _patients(images, place.initials)
    names_of_set = _names_of_kermany(images)
    rows: Rows = []
    for name, path in images.items():
        published = names_of_set.get(name) if not patients[name] else None
        subtype = path.subtype or (published.subtype if published else "")
        rows.append(
            {
                "image_id": name,
                "member": name,
                "label": path.label,
                "patient_id": patients[name] or (published.patient_id if published else ""),
                "subtype": subtype if subtype and path.label else tables.LABELS[path.label],
                "source_split": path.split,
            }
        )
    notes += _notes_on_both_classes(images, patients)
    if names_of_set:
        notes.append(
            "these files have names as in data = chest_xray, which is the right choice for the whole set; here their "
            "names give the patient where no folder does"
        )
    folders = sorted({folder for name in images for folder in name.split("/")[:-1] if columns.is_like_split(folder)})
    if folders:
        notes.append(
            f"folder {folders[0]} looks like a split, but is none of {', '.join(tables.SPLITS)}; it gives no split; "
            "rename it if it is one"
        )
    if not rows and (table := _labels(files, place.images)):
        return read_table(table, files, classes)
    listing = Listing(rows, [], place.companions, place.left_out, (*notes, *notes_on_patients(rows)))
    return drawn_boxes.with_boxes(listing, files, classes)


def read_table(table: str, files: Files, classes: Mapping[str, int] = columns.CLASSES) -> Listing:
    """A user's own table: `path,label,patient_id` and, if known, `split,subtype,sex,age,view`.

    Paths are relative to the table's folder, or absolute. An empty `patient_id` is read from the header of a DICOM
    file; without one, the image counts as one patient. Age, sex and view that are not understood count as not known.

    Args:
        table: name of the table among `files`.
        files: of the table's folder.
        classes: name of a class -> label, as `columns.class_names` returns it.

    Raises:
        UserError: with the line: no such file, an unknown label or split, a path twice, a patient in two splits;
            boxes as `drawn_boxes.with_boxes` says.
    """
    sheet = sheets.read_sheet(files, table, _COLUMNS, _OPTIONS)
    find = Finder(files, table[: table.rfind("/") + 1])
    identifiers = columns.patients(row["patient_id"] for _, row in sheet.rows)
    nobody = columns.placeholders(identifiers)
    first_names: dict[str, str] = {}
    rows: dict[str, dict[str, object]] = {}
    splits: dict[str, tuple[str, int]] = {}
    strange: dict[str, list[tuple[str, int]]] = {}
    for (line, row), patient in zip(sheet.rows, identifiers, strict=True):
        where = f"{table}, line {line}"
        member, label = find.name(row["path"]), columns.label(row["label"], classes)
        split = columns.split(row.get("split", ""))
        if label is None:
            raise UserError(
                f"{where}: label {row['label']!r}; known: {', '.join(classes)}; fetch.classes adds other names"
            )
        if split is None:
            raise UserError(f"{where}: split {row['split']!r}; known: {', '.join(tables.SPLITS)}, or empty")
        if member is None:
            if find.exists_elsewhere(row["path"]):
                raise UserError(
                    f"{where}: {row['path'].strip()} is a file outside {files.place}, the folder of the table; put the "
                    "table into a folder above its images, or write paths relative to the table"
                )
            raise UserError(f"{where}: {row['path'].strip()}: no such file below {files.place}; {find.remedy()}")
        before = first_names.setdefault(files.aliases.get(member, member), member)
        if member in rows or before != member:
            raise UserError(
                f"{where}: {member} occurs twice{f', also as {before}' if before != member else ''}; keep one row for "
                "each image"
            )
        if columns.is_shortened(patient):
            raise UserError(
                f"{where}: patient {patient} was shortened by a spreadsheet program, so that patients can no longer be "
                "told apart; format the column as text and export the table again"
            )
        patient = "" if patient in nobody else patient
        other, first = splits.setdefault(patient, (split, line))
        if patient and split != other:
            raise UserError(
                f"{where}: patient {patient} is in split {split or 'none'}, in line {first} in {other or 'none'}; "
                "a patient belongs to one split"
            )
        description: dict[str, str] = {}
        for name, read in columns.DESCRIPTIONS.items():
            value = read(row.get(name, ""))
            if value is None:
                strange.setdefault(name, []).append((row[name].strip(), line))
            elif value:
                description[name] = value
        subtype = row.get("subtype", "")
        rows[member] = {
            "image_id": member,
            "member": member,
            "label": label,
            "patient_id": patient,
            "subtype": tables.LABELS[label] if columns.is_unknown(subtype) else subtype.strip(),
            "source_split": split,
            **{name: description[name] for name in columns.DESCRIPTIONS if name in description},
        }
    unused = [
        name
        for name in files.names
        if files.aliases.get(name, name) not in first_names and name != table and not is_junk(name)
    ]
    notes = [
        *([sheet.note] if sheet.note else []),
        *(
            f"{table}: patient_id {one!r} names no patient, in {identifiers.count(one):,} rows"
            for one in sorted(nobody)
        ),
        *(
            f"{table}: {name} is not understood in {len(values):,} of {len(sheet.rows):,} rows, where it counts as not "
            f"known: {_counted(value for value, _ in values)}; first in line {values[0][1]}"
            for name, values in strange.items()
        ),
    ]
    if find.elsewhere is not None:
        notes.append(
            f"{table}: paths begin with {find.elsewhere or '/'}; the files of the same names in {files.place} are read"
        )
    all_rows: Rows = list(rows.values())
    companions = {
        contents.IMAGES_NOT_NAMED: [name for name in unused if is_named_as_image(name)],
        contents.NOT_NAMED: [name for name in unused if not is_named_as_image(name)],
    }
    companions = {why: names for why, names in companions.items() if names}
    listing = Listing(all_rows, [], companions, notes=(*notes, *notes_on_patients(all_rows)))
    return drawn_boxes.with_boxes(listing, files, classes)


def _labels(files: Files, images: Sequence[str]) -> str:
    """The table of labels in a folder above all images; empty if there is none."""
    above = contents.folders_above(images)
    found = [
        name
        for name in files.names
        if columns.key(PurePosixPath(name).name) == LABELS and name.rpartition("/")[0] in above and not is_junk(name)
    ]
    if len(found) > 1:
        raise UserError(f"{files.place}: labels in {' and in '.join(found)}; keep the one table that counts")
    return found[0] if found else ""


def _counted(values: Iterable[str]) -> str:
    """Values with their numbers, the most frequent ones first: `'67 J' (12), '6 Wochen' (3)`."""
    return contents.first([f"{value!r} ({n:,})" for value, n in Counter(values).most_common()])


def notes_on_patients(rows: Rows) -> list[str]:
    """A sentence for each patient with so many images, of all or of a class, that it is probably no patient."""
    images: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["patient_id"]:
            images.setdefault(row["patient_id"], []).append(row)
    n_of_class = Counter(row["label"] for row in rows)
    notes = []
    for patient, own in images.items():
        of_class = [
            (label, n) for label, n in Counter(row["label"] for row in own).items() if 2 * n > n_of_class[label]
        ]
        if len(own) > max(MANY_IMAGES, len(rows) / 10):
            share = f"{len(own):,} of {len(rows):,} images"
        elif of_class and of_class[0][1] >= columns.MIN_SHARED:
            share = f"{of_class[0][1]:,} of {n_of_class[of_class[0][0]]:,} images of {tables.LABELS[of_class[0][0]]}"
        else:
            continue
        notes.append(
            f"{patient} counts as one patient and has {share}, such as {own[0]['image_id']}; if it is none, name the "
            "patients in a table"
        )
    return notes


def _notes_on_both_classes(images: Mapping[str, _Path], patients: Mapping[str, str]) -> list[str]:
    """A sentence if folders below both classes have the same name: numbers may start again in each class."""
    of_class: dict[int, set[str]] = {label: set() for label in tables.LABELS}
    for name, path in images.items():
        if patients[name] in path.below:
            of_class[path.label].add(patients[name])
    both = set.intersection(*of_class.values())
    if not both:
        return []
    who = "1 patient has" if len(both) == 1 else f"{len(both):,} patients have"
    return [
        f"{who} images of both classes, such as {min(both)}; if they are different persons, give them different names"
    ]


def _parse(name: str, shared: int, classes: Mapping[str, int], initials: set[str]) -> _Path | None:
    """What the folders of an image say; None if none is a class.

    Args:
        name: of the image.
        shared: number of folders that are above all images.
        classes: name of a class -> label.
        initials: folders that are persons, whatever their names mean.
    """
    folders = name.split("/")[:-1]
    keys = [columns.key(folder) for folder in folders]
    splits = {depth: split_of_folder(folder) for depth, folder in enumerate(folders) if split_of_folder(folder)}
    if len(set(splits.values())) > 1:
        splits = {depth: split for depth, split in splits.items() if depth >= shared}
    if len(set(splits.values())) > 1:
        raise _two_names(name, "split", [folders[depth] for depth in splits])
    # Numbers are classes only in a path without a class name: patients and visits have numbers too.
    words = [depth for depth, one in enumerate(keys) if one in classes and not one.isdigit()]
    depths = words or [depth for depth, one in enumerate(keys) if one in classes]
    if len({classes[keys[depth]] for depth in depths}) > 1:
        raise _two_names(name, "class", [folders[depth] for depth in depths])
    if not depths:
        return None
    subtypes = [columns.SUBTYPES[one] for one in keys[depths[0] :] if one in columns.SUBTYPES]
    neither = [
        None if depth in splits or depth in depths or (is_no_patient(folder) and folder not in initials) else folder
        for depth, folder in enumerate(folders)
    ]
    above = tuple(folder for folder in neither[: depths[0]] if folder)
    return _Path(
        label=classes[keys[depths[0]]],
        split=next(iter(splits.values()), ""),
        below=tuple(columns.patient(folder) for folder in neither[depths[0] :] if folder),
        above=tuple(folder for folder in above if not is_visit(folder)) or above,
        subtype=subtypes[0] if subtypes else "",
    )


def _two_names(name: str, kind: str, folders: Sequence[str]) -> UserError:
    return UserError(
        f"{name}: folders {' and '.join(folders)} both name a {kind}; rename one, set fetch.url to a folder below "
        f"{folders[0]}, or use a table"
    )


def _one_name_each(
    aliases: Mapping[str, str], paths: Mapping[str, _Path | None], place: contents.Contents
) -> dict[str, _Path]:
    """The images with a class, each file under one name; the other names that links give it add what it lacks."""
    names_of: dict[str, list[str]] = {}
    for name in paths:
        names_of.setdefault(aliases.get(name, name), []).append(name)
    images: dict[str, _Path] = {}
    linked: list[str] = []
    without_class: list[str] = []
    for names in names_of.values():
        labelled = [(name, path) for name in names if (path := paths[name])]
        # The name that says most: official splits are often links into a folder of all images.
        labelled.sort(key=lambda item: (not item[1].split, not item[1].below, item[0] in aliases, item[0]))
        one = labelled[0][0] if labelled else names[0]
        linked += [name for name in names if name != one]
        if not labelled:
            without_class.append(one)
            continue
        images[one] = labelled[0][1]
        for name, path in labelled[1:]:
            first = images[one]
            if path.label != first.label or (path.split and path.split != first.split):
                kind = "class" if path.label != first.label else "split"
                raise UserError(f"{one} and {name} are one file (a link) with two names of a {kind}; remove one")
            images[one] = first._replace(
                below=first.below or path.below,
                above=first.above or path.above,
                subtype=first.subtype or path.subtype,
            )
    if linked:
        place.companions[contents.LINKED] = sorted(linked)
    if without_class:
        place.left_out[_in_no_class(without_class, len(contents.shared_folders(paths)))] = without_class
    return images


def _in_no_class(names: Sequence[str], shared: int) -> str:
    """The reason why images without a class are left out: with the folders that may be classes."""
    folders = [name.split("/")[shared:-1] for name in names]
    others = {next((one for one in path if _may_be_class(one)), "") for path in folders} - {""}
    return f"images in no class folder{f', but in {contents.first(sorted(others))}' if others else ''}"


def _may_be_class(folder: str) -> bool:
    return not split_of_folder(folder) and (columns.key(folder) in columns.SUBTYPES or not is_no_patient(folder))


def _without_copies(files: Files, images: dict[str, _Path], place: contents.Contents) -> dict[str, _Path]:
    """The images without the inner copy of a doubled tree: `chest_xray/chest_xray/x` beside an equal `chest_xray/x`."""
    copies: set[str] = set()
    for name in images:
        outer = re.sub(r"(^|/)([^/]+)/\2/", r"\1\2/", name, count=1)
        if outer != name and outer in images and files.read(name) == files.read(outer):
            copies.add(name)
    if copies:
        place.companions[contents.COPIES] = sorted(copies)
    return {name: path for name, path in images.items() if name not in copies}


def _patients(images: Mapping[str, _Path], initials: set[str]) -> tuple[dict[str, str], list[str]]:
    """The patient that the folders of each image name, empty text if none, and notes.

    Each image has several folders that may be the patient, and the first one counts. It is removed, so that the next
    one counts, where it is no name, where it is around nearly all images of its class, or where it is a visit of many
    patients: `PNEUMONIA/2019/PATIENT`.
    """
    several = len({path.above for path in images.values()}) > 1
    folders = {name: list(path.below) for name, path in images.items()}
    for name, path in images.items():
        if several and path.above:
            folders[name].append(columns.patient("/".join(path.above)))
    notes: list[str] = []
    while True:
        first = {name: one[0] for name, one in folders.items() if one}
        nobody = {one for one in columns.placeholders(first.values()) if columns.is_no_name(one)} - initials
        nobody |= _around_each_class(images, first)
        visits = {(label, one) for label, one in _visits(images, folders) if one not in nobody}
        if not nobody and not visits:
            break
        notes += [
            f"folder {folder} names no patient; images in it: {sum(one == folder for one in first.values()):,}"
            for folder in sorted(nobody)
        ]
        if visits:
            visit = min(one for _, one in visits)
            notes.append(f"folders such as {visit} name no patient, but a visit; the patient is the folder below")
        for name, folder in first.items():
            if folder in nobody or ((images[name].label, folder) in visits and len(folders[name]) > 1):
                del folders[name][0]
    inner: dict[str, set[str]] = {}
    for name, one in folders.items():
        if len(one) > 1 and one[1] in images[name].below:
            inner.setdefault(one[0], set()).add(one[1])
    groups = [patient for patient, below in inner.items() if len(below) >= MANY_FOLDERS or is_visit(patient)]
    if groups and len(groups) > len(inner) / 2:
        notes.append(
            f"folder {groups[0]} counts as one patient and has {len(inner[groups[0]]):,} folders inside, such as "
            f"{min(inner[groups[0]])}; if these are the patients, name them in a table"
        )
    return {name: first.get(name, "") for name in images}, notes


def _around_each_class(images: Mapping[str, _Path], first: Mapping[str, str]) -> set[str]:
    """The first folders of nearly all images of a class, if each class has one: they are around the patients."""
    around = set()
    for label in {path.label for path in images.values()}:
        own = [first.get(name, "") for name, path in images.items() if path.label == label]
        folder, n = Counter(own).most_common(1)[0]
        if not folder or n < columns.MIN_SHARED or n <= _FOLDER_SHARE * len(own):
            return set()
        around.add(folder)
    return around


def _visits(images: Mapping[str, _Path], folders: Mapping[str, Sequence[str]]) -> set[tuple[int, str]]:
    """Label and first folder, where all those of a class with folders inside are visits of many patients.

    `study7` may also be a person: then the few folders inside are series, and one person would be in several splits.
    """
    visits = set()
    for label in tables.LABELS:
        pairs = {(one[0], one[1]) for name, one in folders.items() if images[name].label == label and len(one) > 1}
        first, second = {one for one, _ in pairs}, {one for _, one in pairs}
        if all(map(is_visit, first)) and not all(map(is_visit, second)) and len(pairs) >= MANY_FOLDERS * len(first):
            visits |= {(label, one) for one in first}
    return visits


def _names_of_kermany(images: Mapping[str, _Path]) -> dict[str, kermany.Name]:
    """What the names of the images say, if those of most pneumonias are as in the Kermany set; normals alone are not
    enough, because programs for DICOM export `IM-0001-0001` too."""
    parsed = {name: kermany.parse_name(name.rsplit("/", 1)[-1]) for name in images}
    published = {name: one for name, one in parsed.items() if one and one.label == images[name].label}
    n_pneumonias = sum(path.label for path in images.values())
    return published if sum(one.label for one in published.values()) > n_pneumonias / 2 else {}
