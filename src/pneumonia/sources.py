"""How each source lists its images: who is the patient, what is the label, which split is the source's own.

One function for each layout. It takes the files of a place and returns rows for the manifest and rows of boxes, or no
rows where the files are not in its layout. A row names its file as `member`; the rest are columns of the manifest.
What only the file itself can say (size, checksum, header) is added by `fetch`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from pneumonia import UserError, dataset
from pneumonia.files import Files

Rows = list[dict[str, Any]]
Listing = tuple[Rows, Rows]
Reader = Callable[[Files], Listing]

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png", ".dcm", ".dicom", ""}
"""DICOM files often have none."""
CLASSES = {"normal": 0, "0": 0, "pneumonia": 1, "1": 1}
"""Names of a class, in a folder's name or in a table, in any case of letters."""

_CHEST_XRAY_MEMBER = re.compile(r"(?:^|.*/)(train|val|test)/(NORMAL|PNEUMONIA)/([^/]+\.jpe?g)", re.IGNORECASE)
_CHEST_XRAY_PERSON = re.compile(r"person(\d+)_(bacteria|virus)_")
_CHEST_XRAY_NORMAL = re.compile(r"(NORMAL2-)?IM-(\d+)-")
_TABLE_COLUMNS = ("path", "label", "patient_id")
_RSNA_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_TABLE_OPTIONS = ("split", "subtype", "sex", "age", "view")


def read_phantom(files: Files) -> Listing:
    """The archive that `fetch` renders: two tables beside the images. A patient is the one that was drawn."""
    if "radiographs.csv" not in files.names:
        return [], []
    return _table(files, "radiographs.csv"), _table(files, "boxes.csv")


def read_chest_xray(files: Files) -> Listing:
    """The Kermany set, in the layouts it is published in.

    The archive of Kaggle holds the tree twice (once under `chest_xray/chest_xray`) and `__MACOSX` junk, the one
    of Mendeley has no `val`. A patient is (subtype, number) for pneumonia, because 170 numbers occur with both
    subtypes, one in train and one in test: the numbering restarts. It is (`NORMAL2-` or not, number) for normals.
    The 16 images of `val` are too few to choose on: they count as train, of which validation is drawn anew.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(files.names, key=lambda name: (name.count("/"), name)):
        match = _CHEST_XRAY_MEMBER.fullmatch(name)
        if not match or _is_junk(name):
            continue
        split, folder, file = match[1].lower(), match[2].upper(), match[3]
        person = _CHEST_XRAY_PERSON.match(file) if folder == "PNEUMONIA" else None
        normal = _CHEST_XRAY_NORMAL.match(file) if folder == "NORMAL" else None
        stem = PurePosixPath(file).stem
        if person:
            patient, subtype = f"{person[2]}-{person[1]}", person[2]
        elif normal:
            patient, subtype = f"{normal[1] or ''}IM-{normal[2]}", "normal"
        else:
            patient, subtype = f"{folder}-{stem}", folder.lower()
        image_id = f"{split}/{folder}/{stem}"
        row = {
            "image_id": image_id,
            "member": name,
            "label": CLASSES[folder.lower()],
            "patient_id": patient,
            "subtype": subtype,
            "source_split": "test" if split == "test" else "train",
        }
        rows.setdefault(image_id, row)
    return list(rows.values()), []


def read_pneumoniamnist(files: Files) -> Listing:
    """The archive that `fetch` makes of MedMNIST's arrays.

    Who the patients were is not published: each image stands for one. The official splits, validation too, stay as
    they are, so that results compare with published ones.
    """
    if "pneumoniamnist.csv" not in files.names:
        return [], []
    return _table(files, "pneumoniamnist.csv"), []


def read_rsna(files: Files) -> Listing:
    """The RSNA challenge of 2018: DICOM files, a table with a row for each box, a table of detailed classes.

    A `patientId` of the challenge is an image. Who the patient is, the organisers published later, as
    `pneumonia-challenge-dataset-mappings_2018.json`: where that file lies beside the tables, the patient is the one
    of NIH ChestX-ray14; where it does not, each image stands for one.

    Raises:
        UserError: an image of the table is not there.
    """
    by_name = {PurePosixPath(name).name: name for name in files.names if not _is_junk(name)}
    if "stage_2_train_labels.csv" not in by_name:
        return [], []
    subtypes, patients = {}, {}
    if "stage_2_detailed_class_info.csv" in by_name:
        detailed = _table(files, by_name["stage_2_detailed_class_info.csv"], ("patientId", "class"))
        subtypes = {row["patientId"]: row["class"].lower() for row in detailed}
    if "pneumonia-challenge-dataset-mappings_2018.json" in by_name:
        patients = _rsna_patients(files, by_name["pneumonia-challenge-dataset-mappings_2018.json"])
    rows: dict[str, dict[str, Any]] = {}
    boxes = []
    for line, row in _lines(files, by_name["stage_2_train_labels.csv"], _RSNA_COLUMNS):
        try:
            image_id, label = row["patientId"], int(row["Target"])
            if label not in dataset.LABELS:
                raise ValueError(f"Target {label}; known: 0, 1")
            box = {side: float(row[side]) for side in ("x", "y", "width", "height")} if label else {}
            if not all(map(math.isfinite, box.values())):
                raise ValueError(f"a box of {list(box.values())}")
        except ValueError as error:
            raise UserError(f"stage_2_train_labels.csv, line {line}: {error}; download it again") from error
        rows[image_id] = {
            "image_id": image_id,
            "member": by_name.get(f"{image_id}.dcm", ""),
            "label": label,
            "patient_id": patients.get(image_id, image_id),
            "subtype": subtypes.get(image_id, dataset.LABELS[label]),
            "source_split": "",
        }
        if box:
            boxes.append({"image_id": image_id, **box})
    missing = [image_id for image_id, row in rows.items() if not row["member"]]
    if missing:
        raise UserError(
            f"{files.place}: {len(missing):,} of the {len(rows):,} images in stage_2_train_labels.csv are not there "
            f"(the first: {missing[0]}.dcm); bring them, or take their rows out of the table"
        )
    return list(rows.values()), boxes


def read_folder(files: Files) -> Listing:
    """A tree of one's own: images below a folder for their class, with folders `train`, `val`, `test` or without.

    Classes are `NORMAL` and `PNEUMONIA`, or `0` and `1`. A patient is the first folder below the class; without one,
    the folders above it, where there are several (`PATIENT/CLASS/image`); without those it is what the header of a
    DICOM file says; without that, each image stands for one.

    Raises:
        UserError: a path names two classes.
    """
    found = []
    for name in files.names:
        *folders, file = name.split("/")
        if PurePosixPath(file).suffix.lower() not in IMAGE_SUFFIXES or _is_junk(name):
            continue
        split = next((folder.lower() for folder in folders if folder.lower() in dataset.SPLITS), "")
        folders = [folder for folder in folders if folder.lower() not in dataset.SPLITS]
        # Numbers are classes where no word is: patients and visits are numbered too.
        words = [depth for depth, folder in enumerate(folders) if folder.lower() in dataset.LABELS.values()]
        depths = words or [depth for depth, folder in enumerate(folders) if folder.lower() in CLASSES]
        if len(depths) > 1:
            raise UserError(f"{name}: two folders of this path name a class; keep one, or bring a table")
        if depths:
            found.append((name, split, folders[: depths[0]], folders[depths[0]], folders[depths[0] + 1 :]))
    several = len({tuple(above) for _, _, above, _, _ in found}) > 1
    rows = []
    for name, split, above, folder, below in found:
        label = CLASSES[folder.lower()]
        rows.append(
            {
                "image_id": name,
                "member": name,
                "label": label,
                "patient_id": below[0] if below else "/".join(above) if several else "",
                "subtype": dataset.LABELS[label],
                "source_split": split,
            }
        )
    return rows, []


def read_table(table: str, files: Files) -> Listing:
    """A table of one's own: `path,label,patient_id` and, where known, `split,subtype,sex,age,view`.

    Paths count from the table's folder. An empty `patient_id` is taken from the header of a DICOM file, else the
    image stands for a patient of its own.

    Args:
        table: name of the CSV file among `files`.

    Raises:
        UserError: names the line: no such file, an unknown label or split, a path or a patient twice.
    """
    present = set(files.names)
    rows: dict[str, dict[str, Any]] = {}
    splits: dict[str, tuple[str, int]] = {}
    for line, row in _lines(files, table, _TABLE_COLUMNS, _TABLE_OPTIONS):
        where = f"{table}, line {line}"
        member, label = posixpath.normpath(row["path"].strip()), row["label"].strip().lower()
        if None in row:
            raise UserError(f"{where}: more cells than columns; put quotes around a cell with a comma")
        patient, split = row["patient_id"].strip(), row.get("split", "").strip().lower()
        if label not in CLASSES:
            raise UserError(f"{where}: label {row['label']!r}; known: {', '.join(CLASSES)}")
        if split not in ("", *dataset.SPLITS):
            raise UserError(f"{where}: split {row['split']!r}; known: {', '.join(dataset.SPLITS)}, or empty")
        if member not in present:
            raise UserError(f"{where}: {member}: no such file below {files.place}; correct the path")
        if member in rows:
            raise UserError(f"{where}: {member} is there twice; keep one row for an image")
        before, first = splits.setdefault(patient, (split, line))
        if patient and split != before:
            raise UserError(
                f"{where}: patient {patient} is in split {split or 'none'}, in line {first} in {before or 'none'}; "
                "a patient belongs to one split"
            )
        known = {name: row[name].strip() for name in _TABLE_OPTIONS[1:] if row.get(name, "").strip()}
        rows[member] = {
            "image_id": member,
            "member": member,
            "label": CLASSES[label],
            "patient_id": patient,
            "subtype": dataset.LABELS[CLASSES[label]],
            "source_split": split,
            **known,
        }
    return list(rows.values()), []


def _rsna_patients(files: Files, name: str) -> dict[str, str]:
    """Which patient of NIH ChestX-ray14 an image is of: `00012345_001.png` is the second image of 00012345."""
    try:
        return {row["subset_img_id"]: row["img_id"].split("_")[0] for row in json.loads(files.read(name))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name} is not the published mapping ({type(error).__name__}: {error}); download it again"
        ) from error


def _table(files: Files, name: str, needed: Sequence[str] = (), optional: Sequence[str] = ()) -> Rows:
    """Rows of a CSV file; a field that its line lacks is empty."""
    return [row for _, row in _lines(files, name, needed, optional)]


def _lines(
    files: Files, name: str, needed: Sequence[str] = (), optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, Any]]]:
    """As `_table`, each row with the number of its line, which empty lines shift; names in any case of letters."""
    try:
        table = csv.DictReader(io.StringIO(files.read(name).decode("utf-8-sig"), newline=""), restval="")
        columns = [column.strip() for column in table.fieldnames or []]
        known = {column.lower(): column for column in (*needed, *optional)}
        table.fieldnames = [known.get(column.lower(), column) for column in columns]
        rows = [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{files.place}: {name} is no CSV file in UTF-8 ({error})") from error
    missing = [column for column in needed if column not in table.fieldnames]
    if missing or (needed and not rows):
        more = f" and may have {', '.join(optional)}" if optional else ""
        problem = f"lacks the column {missing[0]}, it has {', '.join(columns) or 'none'}" if missing else "has no rows"
        raise UserError(f"{name} {problem}; it needs {', '.join(needed)}{more}, with commas between")
    return rows


def _is_junk(name: str) -> bool:
    """What a Mac leaves in an archive, and hidden files."""
    return "__MACOSX" in name or PurePosixPath(name).name.startswith(".")
