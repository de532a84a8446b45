"""The data sets, one row of `DATASETS` each, and how each source lists its images.

One function for each layout finds the patient, the label and the official split of each image. It takes the files of a
folder or archive and returns rows for the manifest and rows of boxes, or no rows if the files have another layout. A
row names its file as `member`; the rest are columns of the manifest. `fetch` adds what is read from the file itself
(size, checksum, header). A new source is one row of the table and one function.
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
from typing import Any, NamedTuple

from pneumonia import UserError
from pneumonia.data import tables
from pneumonia.files import Files

Rows = list[dict[str, Any]]
Listing = tuple[Rows, Rows]
Reader = Callable[[Files], Listing]

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".png", ".dcm", ".dicom", ""}
"""DICOM files often have no suffix."""

CLASSES = {"normal": 0, "0": 0, "pneumonia": 1, "1": 1}
"""Names of a class, in a folder's name or in a table, in upper or lower case."""
_CHEST_XRAY_MEMBER = re.compile(r"(?:^|.*/)(train|val|test)/(NORMAL|PNEUMONIA)/([^/]+\.jpe?g)", re.IGNORECASE)
_CHEST_XRAY_PERSON = re.compile(r"person(\d+)_(bacteria|virus)_")
_CHEST_XRAY_NORMAL = re.compile(r"(NORMAL2-)?IM-(\d+)-")
_TABLE_COLUMNS = ("path", "label", "patient_id")
_RSNA_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_TABLE_OPTIONS = ("split", "subtype", "sex", "age", "view")


def read_phantom(files: Files) -> Listing:
    """The archive that `fetch` renders: two tables beside the images. The table names the synthetic patients."""
    if "radiographs.csv" not in files.names:
        return [], []
    return _table(files, "radiographs.csv"), _table(files, "boxes.csv")


def read_chest_xray(files: Files) -> Listing:
    """The Kermany set, in its published layouts.

    The archive of Kaggle contains the tree twice (once under `chest_xray/chest_xray`) and `__MACOSX` junk; the archive
    of Mendeley has no `val`. The patient identifier is (subtype, number) for pneumonia: 170 numbers occur with both
    subtypes, one in train and one in test, because the numbering restarts. It is (`NORMAL2-` or not, number) for
    normals. The 16 images of `val` are too few to select a model: they count as train, from which a new validation
    split is drawn.
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

    Patients are not published: each image counts as one patient. The official splits, also validation, are not
    changed, so that results are comparable with published ones.
    """
    if "pneumoniamnist.csv" not in files.names:
        return [], []
    return _table(files, "pneumoniamnist.csv"), []


def read_rsna(files: Files) -> Listing:
    """The RSNA challenge of 2018: DICOM files, a table with a row for each box, a table of detailed classes.

    A `patientId` of the challenge identifies an image. The organisers published the patients later, in
    `pneumonia-challenge-dataset-mappings_2018.json`. If that file lies beside the tables, patients are those of NIH
    ChestX-ray14; if not, each image counts as one patient.

    Raises:
        UserError: an image of the table is missing.
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
            if label not in tables.LABELS:
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
            "subtype": subtypes.get(image_id, tables.LABELS[label]),
            "source_split": "",
        }
        if box:
            boxes.append({"image_id": image_id, **box})
    missing = [image_id for image_id, row in rows.items() if not row["member"]]
    if missing:
        raise UserError(
            f"{files.place}: {len(missing):,} of the {len(rows):,} images in stage_2_train_labels.csv are missing "
            f"(the first: {missing[0]}.dcm); add them, or remove their rows from the table"
        )
    return list(rows.values()), boxes


def read_folder(files: Files) -> Listing:
    """A user's own folders: images below a folder for their class, with folders `train`, `val`, `test` or without.

    Classes are `NORMAL` and `PNEUMONIA`, or `0` and `1`. The patient identifier is the first of these that exists: the
    first folder below the class; the folders above the class, if they differ (`PATIENT/CLASS/image`); the identifier
    in the header of a DICOM file. Without any, each image counts as one patient.

    Raises:
        UserError: a path names two classes.
    """
    images = []
    for name in files.names:
        *folders, file = name.split("/")
        if PurePosixPath(file).suffix.lower() not in IMAGE_SUFFIXES or _is_junk(name):
            continue
        split = next((folder.lower() for folder in folders if folder.lower() in tables.SPLITS), "")
        folders = [folder for folder in folders if folder.lower() not in tables.SPLITS]
        # Numbers are classes only in a path without a class name: patients and visits have numbers too.
        words = [depth for depth, folder in enumerate(folders) if folder.lower() in tables.LABELS.values()]
        depths = words or [depth for depth, folder in enumerate(folders) if folder.lower() in CLASSES]
        if len(depths) > 1:
            raise UserError(f"{name}: two folders of this path name a class; keep one, or use a table")
        if depths:
            images.append((name, split, folders[: depths[0]], folders[depths[0]], folders[depths[0] + 1 :]))
    several = len({tuple(above) for _, _, above, _, _ in images}) > 1
    rows = []
    for name, split, above, folder, below in images:
        label = CLASSES[folder.lower()]
        rows.append(
            {
                "image_id": name,
                "member": name,
                "label": label,
                "patient_id": below[0] if below else "/".join(above) if several else "",
                "subtype": tables.LABELS[label],
                "source_split": split,
            }
        )
    return rows, []


def read_table(table: str, files: Files) -> Listing:
    """A user's own table: `path,label,patient_id` and, if known, `split,subtype,sex,age,view`.

    Paths are relative to the table's folder. An empty `patient_id` is read from the header of a DICOM file; without
    one, the image counts as one patient.

    Args:
        table: name of the CSV file among `files`.

    Raises:
        UserError: with the line: no such file, an unknown label or split, a path twice, a patient in two splits.
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
        if split not in ("", *tables.SPLITS):
            raise UserError(f"{where}: split {row['split']!r}; known: {', '.join(tables.SPLITS)}, or empty")
        if member not in present:
            raise UserError(f"{where}: {member}: no such file below {files.place}; correct the path")
        if member in rows:
            raise UserError(f"{where}: {member} occurs twice; keep one row for each image")
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
            "subtype": tables.LABELS[CLASSES[label]],
            "source_split": split,
            **known,
        }
    return list(rows.values()), []


def _rsna_patients(files: Files, name: str) -> dict[str, str]:
    """The patient in NIH ChestX-ray14 of each image: `00012345_001.png` is the second image of 00012345."""
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
    """As `_table`, each row with its line number in the file; column names in upper or lower case."""
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
        raise UserError(f"{name} {problem}; it needs {', '.join(needed)}{more}, separated by commas")
    return rows


def _is_junk(name: str) -> bool:
    """Whether a file was added by macOS, or is hidden."""
    return "__MACOSX" in name or PurePosixPath(name).name.startswith(".")


class Source(NamedTuple):
    """A row of `DATASETS`.

    Attributes:
        title: what the images are.
        licence, citation: as stated by the authors.
        patients: the rule for which images belong to one patient.
        reference_standard: how the labels were made, in the words of the source.
        read: lists the files of a place in this layout.
        url: published address of the archive; empty where there is none.
        checksum: of the published archive, as stated by its publishers; empty if they state none.
        n_images: in the published set; 0 if there is none.
        side: pixels, of an archive of MedMNIST's arrays; 0 = the archive contains files.
        layout: files that `read` expects, as text for messages.
        public_test: the source has an official, public test split. The authors of this project had looked at it
            before, so that it is not an untouched test set; the model card says so.
        synthetic: no patients; stated wherever its figures are shown.
    """

    title: str
    licence: str
    citation: str
    patients: str
    reference_standard: str
    read: Reader
    url: str = ""
    checksum: str = ""
    n_images: int = 0
    side: int = 0
    layout: str = ""
    public_test: bool = False
    synthetic: bool = False


_KERMANY_STANDARD = (
    '"The diagnoses for the images were then graded by two expert physicians before being cleared for training the AI '
    'system. In order to account for any grading errors, the evaluation set was also checked by a third expert"'
)
"""Quoted from Kermany et al. (2018), doi:10.1016/j.cell.2018.02.010; PneumoniaMNIST has its labels from there."""


def _medmnist(name: str, size: int, md5: str) -> Source:
    return Source(
        title=f"PneumoniaMNIST: the Kermany set cropped to a square and shrunk to {size} pixels",
        licence="CC BY 4.0",
        citation="Yang et al. (2023), MedMNIST v2, doi:10.1038/s41597-022-01721-8",
        patients="not published: each image counts as one patient",
        reference_standard=f"as in the Kermany set: {_KERMANY_STANDARD}",
        read=read_pneumoniamnist,
        url=f"https://zenodo.org/records/10519652/files/{name}.npz?download=1",
        checksum=f"md5:{md5}",
        n_images=5856,
        side=size,
        public_test=True,
    )


DATASETS = {
    "phantom": Source(
        title="synthetic frontal chest radiographs, made here from a small physical model",
        licence="MIT, as this project",
        citation="none: no patients",
        patients="given by the generator of the images",
        reference_standard="not needed: pneumonia is present where the generator drew it",
        read=read_phantom,
        synthetic=True,
    ),
    "chest_xray": Source(
        title="paediatric chest X-rays of Guangzhou Women and Children's Medical Center",
        licence="CC BY 4.0",
        citation="Kermany, Zhang, Goldbaum (2018), Mendeley Data, doi:10.17632/rscbjbr9sj.2",
        patients="(subtype, number) for pneumonia, (NORMAL2- or not, number) for normals",
        reference_standard=_KERMANY_STANDARD,
        read=read_chest_xray,
        layout="train/NORMAL/*.jpeg, train/PNEUMONIA/*.jpeg, test/…",
        url="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        n_images=5856,
        public_test=True,
    ),
    "pneumoniamnist": _medmnist("pneumoniamnist", 28, "28209eda62fecd6e6a2d98b1501bb15f"),
    "pneumoniamnist_64": _medmnist("pneumoniamnist_64", 64, "8f4eceb4ccffa70c672198ea285246c6"),
    "pneumoniamnist_128": _medmnist("pneumoniamnist_128", 128, "05b46931834c231683c68f40c47b2971"),
    "pneumoniamnist_224": _medmnist("pneumoniamnist_224", 224, "d6a3c71de1b945ea11211b03746c1fe1"),
    "folder": Source(
        title="images of your own",
        licence="yours",
        citation="yours",
        patients="table, else folder between class and image, else DICOM header, else one per image",
        reference_standard="yours",
        read=read_folder,
        layout="images below folders NORMAL and PNEUMONIA (or 0 and 1), or fetch.url of a table path,label,patient_id",
    ),
    "rsna": Source(
        title="frontal chest X-rays of the RSNA Pneumonia Detection Challenge 2018, with boxes",
        licence="terms of the challenge; images of the NIH Clinical Center",
        citation="Shih et al. (2019), Radiology: Artificial Intelligence, doi:10.1148/ryai.2019180041",
        patients="those of NIH ChestX-ray14 if the published mapping is present, else one per image",
        reference_standard="radiologists drew boxes around pulmonary opacities that may represent pneumonia; an image "
        "with a box counts as pneumonia",
        read=read_rsna,
        layout="stage_2_train_labels.csv and the DICOM files it names",
        n_images=26_684,
    ),
}


def source(data: str) -> Source:
    """The row of `DATASETS`; an unknown name is a `UserError` that lists the known ones."""
    if data not in DATASETS:
        raise UserError(f"data = {data!r} is unknown; known: {', '.join(DATASETS)}")
    return DATASETS[data]
