"""How each source lists its images: one function for each layout, named in `READERS`.

A reader finds the patient, the label and the official split of each image. It takes the files of a folder or archive
and returns a `Listing`, without rows if the files have another layout. A row names its file as `member`; the rest are
columns of the manifest. `fetch` adds what is read from the file itself (size, checksum, header).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from pneumonia import UserError
from pneumonia.data import kermany, own, tables
from pneumonia.data.contents import NOT_NAMED, Listing, Rows, is_junk
from pneumonia.data.sheets import read_sheet
from pneumonia.files import Files

Reader = Callable[[Files], Listing]

_RSNA_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")


def read_phantom(files: Files) -> Listing:
    """The archive that `fetch` renders: two tables beside the images. The table names the synthetic patients."""
    if "radiographs.csv" not in files.names:
        return Listing([], [])
    return Listing(_table(files, "radiographs.csv"), _table(files, "boxes.csv"))


def read_pneumoniamnist(files: Files) -> Listing:
    """The archive that `fetch` makes of MedMNIST's arrays.

    Patients are not published: each image counts as one patient. The official splits, also validation, are not
    changed, so that results are comparable with published ones.
    """
    if "pneumoniamnist.csv" not in files.names:
        return Listing([], [])
    return Listing(_table(files, "pneumoniamnist.csv"), [])


def read_rsna(files: Files) -> Listing:
    """The RSNA challenge of 2018: DICOM files, a table with a row for each box, a table of detailed classes.

    A `patientId` of the challenge identifies an image. The organisers published the patients later, in
    `pneumonia-challenge-dataset-mappings_2018.json`. If that file lies beside the tables, patients are those of NIH
    ChestX-ray14; if not, each image counts as one patient.

    Raises:
        UserError: an image of the table is missing.
    """
    by_name = {PurePosixPath(name).name: name for name in files.names if not is_junk(name)}
    if "stage_2_train_labels.csv" not in by_name:
        return Listing([], [])
    subtypes, patients = {}, {}
    if "stage_2_detailed_class_info.csv" in by_name:
        detailed = read_sheet(files, by_name["stage_2_detailed_class_info.csv"], ("patientId", "class")).rows
        subtypes = {row["patientId"]: row["class"].lower() for _, row in detailed}
    if "pneumonia-challenge-dataset-mappings_2018.json" in by_name:
        patients = _rsna_patients(files, by_name["pneumonia-challenge-dataset-mappings_2018.json"])
    rows: dict[str, dict[str, Any]] = {}
    boxes = []
    for line, row in read_sheet(files, by_name["stage_2_train_labels.csv"], _RSNA_COLUMNS).rows:
        try:
            image_id, label = row["patientId"], int(row["Target"])
            if label not in tables.LABELS:
                raise ValueError(f"Target {label}; known: 0, 1")
            box = {side: float(row[side]) for side in ("x", "y", "width", "height")} if label else {}
            if not all(map(math.isfinite, box.values())) or (box and min(box["width"], box["height"]) <= 0):
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
    used = {*(row["member"] for row in rows.values()), *(name for name in by_name.values() if _is_table(name))}
    unnamed = [name for name in files.names if name not in used and not is_junk(name)]
    return Listing(list(rows.values()), boxes, {NOT_NAMED: unnamed} if unnamed else {})


def _rsna_patients(files: Files, name: str) -> dict[str, str]:
    """The patient in NIH ChestX-ray14 of each image: `00012345_001.png` is the second image of 00012345."""
    try:
        return {row["subset_img_id"]: row["img_id"].split("_")[0] for row in json.loads(files.read(name))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name} is not the published mapping ({type(error).__name__}: {error}); download it again"
        ) from error


def _is_table(name: str) -> bool:
    return name.endswith((".csv", ".json"))


def _table(files: Files, name: str) -> Rows:
    return [dict(row) for _, row in read_sheet(files, name).rows]


READERS: dict[str, Reader] = {
    "phantom": read_phantom,
    "chest_xray": kermany.read_chest_xray,
    "pneumoniamnist": read_pneumoniamnist,
    "pneumoniamnist_64": read_pneumoniamnist,
    "pneumoniamnist_128": read_pneumoniamnist,
    "pneumoniamnist_224": read_pneumoniamnist,
    "folder": own.read_folder,
    "rsna": read_rsna,
}
"""The reader of each row of `sources.DATASETS`."""
