"""What lies in a place: which of its files are images, and what the others are.

An image is recognised by its first bytes. Its name is enough where it ends as that of a picture: if the content is
something else, `validate` says so. Other files are companions, which nobody expects among the images (masks, texts,
what archive programs add), or they are left out: images that are not used, and files that nobody can read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from pneumonia.data.columns import SPLITS, SUBTYPES, key
from pneumonia.files import Files
from pneumonia.images.formats import DICOM, HEAD_BYTES, image_format

Rows = list[dict[str, Any]]
Names = dict[str, list[str]]

THREADS = 8
"""Files read at the same time: disks and networks read several as fast as one."""

PICTURES = {".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp"}

JUNK = "added by an operating system or an archive program"
MASKS = "masks or annotations"
TEXTS = "texts, tables or documents"
EYES = "eye scans (OCT)"
COPIES = "further copies of an image of the set"
LINKED = "images that a link gives another name"
NO_FILMS = "DICOM objects that are no images, such as presentation states or reports"
NO_IMAGES = "files of no known image format"

_JUNK_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}
_JUNK_FILES = re.compile(r"\..*|~\$.*|thumbs\.db.*|ehthumbs.*\.db|desktop\.ini|icon\r", re.IGNORECASE)
_MASK_FOLDER = re.compile(
    r"(.*[ _-])?(masks?|segmentations?|annotations?|ground[ _-]?truths?|heat[ _-]?maps?|overlays?)"
    r"|labels?|seg|gt|bbox(es)?|boxes|contours?|rois?"
)
_MASK_FILE = re.compile(r"(.+)[ _-](mask|masks|seg|segmentation|label)", re.IGNORECASE)
_OCT = re.compile(r"OCT(\d{4})?")
_OCT_CLASSES = {"CNV", "DME", "DRUSEN"}
_NO_PATIENT = re.compile(
    r"(images?|imgs?|batch|part|fold|chunk)[ _-]?\d*|pictures?|pics?|photos?|frames?|scans?"
    r"|(chest)?[ _-]?(x[ _-]?rays?|cxrs?|radiographs?|films?|dx|cr)([ _-]images?)?"
    r"|jpe?gs?|jpe|jfif|pngs?|tiffs?|tifs?|bmps?|webp|dicoms?|dcms?|gray(scale)?|rgb|raw|originals?|data(set)?s?|files?"
    r"|pa|ap|lat|lateral|frontal|\d+ ?x ?\d+( ?px)?|processed|preprocessed|resized|cropped|augmented"
)
_DOCUMENT_SUFFIXES = {".docx", ".xlsx", ".xlsm", ".pptx", ".odt", ".ods", ".odp"}
_DOCUMENT_STARTS = (b"%PDF", b"{\\rtf", b"\xd0\xcf\x11\xe0", b"\xff\xfe", b"\xfe\xff")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1f]")
# SOP class of the meta header (0002,0002) and of the data set (0008,0016), in explicit or implicit VR.
_SOP_CLASS = re.compile(rb"(?:\x02\x00\x02\x00|\x08\x00\x16\x00)(?:UI..|..\x00\x00)([0-9.]{5,64})", re.DOTALL)
_PIXEL_DATA = b"\xe0\x7f\x10\x00"


class Listing(NamedTuple):
    """What a reader finds in a place.

    Attributes:
        rows: for the manifest, each with the name of its file as `member`.
        boxes: rows of findings.
        companions: what they are -> names of files that nobody expects among the images.
        left_out: reason -> names of files that should perhaps be images of the set.
        notes: further sentences for the user.
    """

    rows: Rows
    boxes: Rows
    companions: Mapping[str, Sequence[str]] = MappingProxyType({})
    left_out: Mapping[str, Sequence[str]] = MappingProxyType({})
    notes: tuple[str, ...] = ()


class Contents(NamedTuple):
    """The files of a place: names of images, and the others as in `Listing`."""

    images: list[str]
    companions: Names
    left_out: Names


def classify(files: Files) -> Contents:
    """The images of a place and what its other files are; only first bytes are read.

    Raises:
        UserError: a file cannot be read, such as a link to nothing.
    """
    companions: Names = {}
    left_out: Names = {}
    rest = []
    shared = shared_folders(name for name in files.names if "/" in name and not is_junk(name))
    stems = {name.rsplit(".", 1)[0] for name in files.names}
    scans = _scan_folders(files.names)
    for name in files.names:
        folders = name.split("/")[:-1]
        own = folders[len(shared) :]
        stem = _MASK_FILE.fullmatch(name.rsplit(".", 1)[0])
        if is_junk(name):
            companions.setdefault(JUNK, []).append(name)
        elif any(_OCT.fullmatch(folder) for folder in folders) or any(name.startswith(folder) for folder in scans):
            companions.setdefault(EYES, []).append(name)
        elif any(_MASK_FOLDER.fullmatch(key(folder)) for folder in own) or (stem and stem[1] in stems):
            companions.setdefault(MASKS, []).append(name)
        else:
            rest.append(name)
    unclear = [name for name in rest if _suffix(name) not in PICTURES]
    with ThreadPoolExecutor(THREADS) as pool:
        kinds = dict(zip(unclear, pool.map(lambda name: _kind(files, name), unclear), strict=True))
    for name in unclear:
        kind = kinds[name]
        if kind in (TEXTS, NO_FILMS):
            companions.setdefault(kind, []).append(name)
        elif kind:
            left_out.setdefault(kind, []).append(name)
    return Contents([name for name in rest if not kinds.get(name)], companions, left_out)


def is_junk(name: str) -> bool:
    """Whether a file is hidden, or was added by an operating system or an archive program."""
    *folders, file = name.split("/")
    hidden = any(re.match(r"\.[^.]", folder) for folder in folders)
    return hidden or bool(_JUNK_FILES.fullmatch(file)) or any(key(folder) in _JUNK_FOLDERS for folder in folders)


def is_no_patient(folder: str) -> bool:
    """Whether a folder has the name of a kind of file, of a view or of a subtype, so that it cannot be a patient."""
    name = key(folder)
    return bool(_NO_PATIENT.fullmatch(name)) or name in SUBTYPES


def split_of_folder(folder: str) -> str:
    """The split that a folder names, or empty text."""
    return SPLITS.get(key(folder), "")


def shared_folders(names: Iterable[str]) -> list[str]:
    """The folders above all of these files: they say nothing about one of them."""
    shared: list[str] | None = None
    for name in names:
        folders = name.split("/")[:-1]
        if shared is None:
            shared = folders
        n = next((n for n, (one, other) in enumerate(zip(shared, folders, strict=False)) if one != other), None)
        shared = shared[: min(len(shared), len(folders)) if n is None else n]
        if not shared:
            break
    return shared or []


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _scan_folders(names: Iterable[str]) -> set[str]:
    """The folders of the eye scans that were published together with the Kermany set: its `NORMAL` is an eye, too."""
    scans = set()
    for name in names:
        folders = name.split("/")[:-1]
        depth = next((depth for depth, folder in enumerate(folders) if folder in _OCT_CLASSES), None)
        if depth is not None:
            above = "".join(f"{folder}/" for folder in folders[:depth])
            scans |= {f"{above}{one}/" for one in (*_OCT_CLASSES, "NORMAL")}
    return scans


def _kind(files: Files, name: str) -> str:
    """Empty text for an image, else what the file is."""
    head = files.head(name, HEAD_BYTES)
    form = image_format(head)
    if form == DICOM:
        return "" if _shows_an_image(files, name, head) else NO_FILMS
    if form:
        return "" if form != "GIF" else "images in GIF, which is not supported"
    if _suffix(name) in (".dcm", ".dicom"):
        return ""
    if _suffix(name) in _DOCUMENT_SUFFIXES or head.startswith(_DOCUMENT_STARTS) or not _CONTROLS.search(head):
        return TEXTS
    return NO_IMAGES


def _shows_an_image(files: Files, name: str, head: bytes) -> bool:
    """Whether a DICOM object is an image, by its class; an object of a class outside the standard, by its pixels."""
    from pydicom.uid import UID  # 0.25 s, and most archives have no DICOM

    classes = [UID(found.decode("ascii").strip(".")) for found in _SOP_CLASS.findall(head)]
    known = [one for one in classes if one.name != str(one)]
    if known:
        return all("Image Storage" in one.name for one in known)
    return not classes or _PIXEL_DATA in files.read(name)
