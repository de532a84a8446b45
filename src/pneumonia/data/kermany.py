"""The Kermany set, in the forms in which it was published and is passed on.

Version 2 of Mendeley (and Kaggle, which has the tree twice) names files `person12_bacteria_34.jpeg`,
`IM-0115-0001.jpeg` and `NORMAL2-IM-0115-0001.jpeg`. Version 3 names them `BACTERIA-1008087-0001.jpeg` (class, patient,
number) and has eye scans (OCT) beside the X-rays, with a class `NORMAL` too. People convert the images to other
formats: the rules read the names without their endings.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pneumonia import UserError
from pneumonia.data import contents, tables
from pneumonia.data.columns import SUBTYPES, key
from pneumonia.data.contents import Listing, is_no_patient, split_of_folder
from pneumonia.files import Files

_NAMES = (
    (2, 1, re.compile(r"person(?P<number>\d+)_(?P<subtype>bacteria|virus)_\d+(?!\d).*", re.IGNORECASE)),
    (2, 0, re.compile(r"(?P<prefix>(NORMAL2-)?IM)-(?P<number>\d+)-\d+(?!\d).*", re.IGNORECASE)),
    (3, 1, re.compile(r"(?P<subtype>BACTERIA|VIRUS)-(?P<number>\d+)-\d{4}(?!\d).*", re.IGNORECASE)),
    # The eye scans of version 3 have names of the same kind, but the last number has no zeros in front.
    (3, 0, re.compile(r"(?P<prefix>NORMAL)-(?P<number>\d+)-\d{4}(?!\d).*", re.IGNORECASE)),
)


class Name(NamedTuple):
    """What a file's name says: version of the set, label, patient and subtype."""

    version: int
    label: int
    patient_id: str
    subtype: str


def parse_name(file: str) -> Name | None:
    """What the name of a file says; None if it has none of the published forms.

    The patient identifier is (subtype, number) for pneumonia: in version 2, 170 numbers occur with both subtypes, one
    in train and one in test, because the numbering restarts. It is (`NORMAL2-` or not, number) for normals.

    >>> parse_name("person12_bacteria_34.png")
    Name(version=2, label=1, patient_id='bacteria-12', subtype='bacteria')
    """
    stem = PurePosixPath(file).stem
    for version, label, pattern in _NAMES:
        if match := pattern.fullmatch(stem):
            groups = match.groupdict()
            subtype = (groups.get("subtype") or tables.LABELS[0]).lower()
            prefix = groups["prefix"].upper() if "prefix" in groups else subtype
            return Name(version, label, f"{prefix}-{match['number']}", subtype)
    return None


def read_chest_xray(files: Files) -> Listing:
    """The images of a tree `{train,val,test}/{NORMAL,PNEUMONIA}`, wherever it lies; splits also below the classes.

    The 16 images of `val` are too few to select a model: they count as train, from which a new validation split is
    drawn. An image with a name of no published form is left out, because its patient is not known.

    Raises:
        UserError: names of both versions: the same images twice, with other splits.
    """
    place = contents.classify(files)
    rows: dict[str, dict[str, Any]] = {}
    versions: dict[int, str] = {}
    for path in sorted(place.images, key=lambda name: (name.count("/"), name)):
        *folders, file = path.split("/")
        split, label = _split_and_label(folders)
        name = parse_name(file)
        if label is None:
            place.left_out.setdefault("images not below train or test and NORMAL or PNEUMONIA", []).append(path)
            continue
        if not name or name.label != label:
            place.left_out.setdefault("images whose name is of no published form for their folder", []).append(path)
            continue
        versions.setdefault(name.version, path)
        image_id = f"{split}/{tables.LABELS[label].upper()}/{PurePosixPath(file).stem}"
        if image_id in rows:
            place.companions.setdefault(contents.COPIES, []).append(path)
            continue
        rows[image_id] = {
            "image_id": image_id,
            "member": path,
            "label": label,
            "patient_id": name.patient_id,
            "subtype": name.subtype,
            "source_split": "test" if split == "test" else "train",
        }
    if len(versions) > 1:
        raise UserError(
            f"{files.place}: names of two versions of the Kermany set, {' and '.join(versions.values())}; keep one"
        )
    _move_links(files, {row["member"] for row in rows.values()}, place)
    return Listing(list(rows.values()), [], place.companions, place.left_out)


def _move_links(files: Files, members: set[str], place: contents.Contents) -> None:
    """Count further names of images, which links give them, as companions."""
    images = {files.aliases.get(name, name) for name in members}
    for why, names in list(place.left_out.items()):
        linked = [name for name in names if files.aliases.get(name, name) in images]
        if linked:
            place.companions.setdefault(contents.LINKED, []).extend(linked)
            place.left_out[why] = [name for name in names if name not in set(linked)]
            if not place.left_out[why]:
                del place.left_out[why]


def _split_and_label(folders: list[str]) -> tuple[str, int | None]:
    """The split and the label of a path in the tree; no label outside it."""
    parts = [key(folder) for folder in folders if key(folder) in SUBTYPES or not is_no_patient(folder)]
    # `PNEUMONIA/bacteria`, or three classes: `BACTERIA`, `VIRUS` and `NORMAL`.
    parts = ["pneumonia" if part in SUBTYPES else part for part in parts]
    parts = [part for place, part in enumerate(parts) if part != "pneumonia" or "pneumonia" not in parts[:place]]
    for split, name in (parts[-2:], parts[-2:][::-1]) if len(parts) > 1 else ():
        if split_of_folder(split) and name in tables.LABELS.values():
            return split_of_folder(split), int(name == tables.LABELS[1])
    return "", None
