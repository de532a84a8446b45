"""What lies in a place: which of its files are images, and what the others are.

An image is recognised by its first bytes. Its name is enough where it ends as that of a picture: if the content is
something else, `validate` says so. Other files are companions, which nobody expects among the images (masks, texts,
what archive programs add), or they are left out: images that are not used, and files that nobody can read.

Some folders have short names with two meanings: `PA` is a view or a person, `GT` a mask or a person, `OCT` an eye scan
or a month. The folders beside them decide.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from pneumonia.data.columns import CLASSES, SUBTYPES, is_no_name, key, split
from pneumonia.files import Files
from pneumonia.images.formats import DICOM, HEAD_BYTES, PICTURES, image_format, is_named_as_image

Rows = list[dict[str, Any]]
NamesByReason = dict[str, list[str]]

THREADS = 8
"""Files read at the same time: disks and networks read several as fast as one."""

EXAMPLES = 5
"""Values, folders or files that a message names."""

JUNK = "added by an operating system or an archive program"
MASKS = "masks or annotations"
TEXTS = "texts, tables or documents"
EYES = "eye scans (OCT)"
COPIES = "further copies of an image of the set"
LINKED = "images that a link gives another name"
NO_FILMS = "DICOM objects that are no images, such as presentation states or reports"
NOT_NAMED = "files that the table of labels does not name"
IMAGES_NOT_NAMED = "images that the table of labels does not name"
NO_IMAGES = "files of no known image format"
EMPTY = "empty files"
BROKEN = "links to a file that does not exist"
MASKS_ALONE = "images in a folder with the name of masks, without the images themselves beside it"

_JUNK_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}
_JUNK_FILES = re.compile(r"\..*|~\$.*|thumbs\.db.*|ehthumbs.*\.db|desktop\.ini|icon\r", re.IGNORECASE)
_MASK_FOLDER = re.compile(
    r"(.*[ _-])?(masks?|segmentations?|annotations?|ground[ _-]?truths?|heat[ _-]?maps?|overlays?)|bbox(es)?"
)
_SHORT_MASK_FOLDER = re.compile(r"labels?|seg|gt|boxes|contours?|rois?")
_MASK_FILE = re.compile(r"(.+)[ _-](mask|masks|seg|segmentation|label)", re.IGNORECASE)
_OCT = re.compile(r"OCT(\d{4})?")
_OCT_CLASSES = {"CNV", "DME", "DRUSEN"}
# `images_001` is a part of a set, but `IMG_0001` may be a person.
_NO_PATIENT = re.compile(
    r"(images|imgs|batch|part|fold|chunk)[ _-]?\d*|image|img|pictures?|pics?|photos?|frames?|scans?"
    r"|(chest)?[ _-]?(x[ _-]?rays?|cxrs?|radiographs?|films?|dx|cr)([ _-]images?)?|ct"
    r"|jpe?gs?|jpe|jfif|pngs?|tiffs?|tifs?|bmps?|webp|dicoms?|dcms?|gray(scale)?|rgb|raw|originals?|data(set)?s?|files?"
    r"|pa|ap|lat|lateral|frontal|\d+ ?x ?\d+( ?px)?|processed|preprocessed|resized|cropped|augmented"
    r"|patients?|subjects?|cases?|studies|persons?|people"
)
_VIEWS = {"pa", "ap", "lat"}
_VISIT = re.compile(
    r"(stud(y|ies)|visits?|exam(ination)?s?|sessions?|series|time ?points?|scans?|days?|weeks?|months?|years?|waves?"
    r"|follow[ _-]?ups?|baseline|admissions?)[ _-]?\d*|(19|20)\d\d([ _.-]?\d\d){0,2}"
)
_TEXT_SUFFIXES = {
    *(".txt", ".csv", ".tsv", ".tab", ".json", ".jsonl", ".xml", ".html", ".htm", ".md", ".rst", ".log", ".tex"),
    *(".pdf", ".rtf", ".doc", ".docx", ".odt", ".xls", ".xlsx", ".xlsm", ".ods", ".ppt", ".pptx", ".odp", ".bib"),
    *(".yaml", ".yml", ".toml", ".ini", ".cfg", ".py", ".ipynb", ".r", ".sh", ".bat", ".md5", ".sha256", ".url"),
}
_TEXT_NAMES = re.compile(
    r"readme|licen[cs]e|copying|notice|authors|citation|changelog|changes|version|records|makefile|checksums?"
    r"|(md5|sha\d+)sums?",
    re.IGNORECASE,
)
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
    """The files of a place.

    Attributes:
        images: their names.
        companions, left_out: the other files, as in `Listing`.
        initials: folders that are persons, although their names may be words for a kind of file: `PA`, `NA`, `GT`.
    """

    images: list[str]
    companions: NamesByReason
    left_out: NamesByReason
    initials: set[str]


def classify(files: Files, classes: Container[str] = CLASSES) -> Contents:
    """The images of a place and what its other files are; only first bytes are read.

    Args:
        files: of the place.
        classes: names of a class.

    Raises:
        UserError: a file cannot be read, such as a link to nothing that may have been a folder.
    """
    companions: NamesByReason = {}
    left_out: NamesByReason = {}
    rest = []
    others = [name for name in files.names if not is_junk(name)]
    n_shared = len(shared_folders(name for name in others if "/" in name))
    stems = {name.rsplit(".", 1)[0] for name in files.names}
    folders = _folders_below(others)
    scans = _scan_folders(folders)
    initials = _initials(folders, classes)
    alone = set()
    for name in files.names:
        stem = _MASK_FILE.fullmatch(name.rsplit(".", 1)[0])
        path = name.split("/")[:-1]
        short = [d for d in range(n_shared, len(path)) if _SHORT_MASK_FOLDER.fullmatch(key(path[d]))]
        short = [depth for depth in short if path[depth] not in initials]
        if is_junk(name):
            companions.setdefault(JUNK, []).append(name)
        elif any(name.startswith(scan) for scan in scans):
            companions.setdefault(EYES, []).append(name)
        elif (
            any(_MASK_FOLDER.fullmatch(key(folder)) for folder in path[n_shared:])
            or (stem and stem[1] in stems)
            or (short and _is_beside_images(name, short[0], folders, stems, classes))
        ):
            companions.setdefault(MASKS, []).append(name)
        else:
            rest.append(name)
            alone |= {name} if short else set()
    kinds: dict[str, str] = {name: BROKEN for name in rest if name in files.broken and is_named_as_image(name)}
    unclear = [name for name in rest if name not in kinds and _suffix(name) not in PICTURES]
    with ThreadPoolExecutor(THREADS) as pool:
        kinds |= dict(zip(unclear, pool.map(lambda name: _kind(files, name), unclear), strict=True))
    kinds |= {name: MASKS_ALONE for name in alone if not kinds.get(name)}
    for name in rest:
        kind = kinds.get(name)
        if kind in (TEXTS, NO_FILMS):
            companions.setdefault(kind, []).append(name)
        elif kind:
            left_out.setdefault(kind, []).append(name)
    return Contents([name for name in rest if not kinds.get(name)], companions, left_out, initials)


def is_junk(name: str) -> bool:
    """Whether a file is hidden, or was added by an operating system or an archive program."""
    *folders, file = name.split("/")
    hidden = any(re.match(r"\.[^.]", folder) for folder in folders)
    return hidden or bool(_JUNK_FILES.fullmatch(file)) or any(key(folder) in _JUNK_FOLDERS for folder in folders)


def is_no_patient(folder: str) -> bool:
    """Whether a folder has the name of a kind of file, of a view or of a subtype, so that it cannot be a patient."""
    name = key(folder)
    return bool(_NO_PATIENT.fullmatch(name)) or name in SUBTYPES


def is_visit(folder: str) -> bool:
    """Whether a folder has the name of a visit, an examination, a year or a date.

    >>> is_visit("study1"), is_visit("Visit 2"), is_visit("2019-05"), is_visit("p1")
    (True, True, True, False)
    """
    return bool(_VISIT.fullmatch(key(folder)))


def split_of_folder(folder: str) -> str:
    """The split that a folder names, or empty text."""
    return split(folder) or ""


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


def folders_above(names: Iterable[str]) -> set[str]:
    """The folders above all of these files, from the top, which is empty text.

    >>> sorted(folders_above(["set/films/a.png", "set/films/p1/b.png"]))
    ['', 'set', 'set/films']
    """
    shared = shared_folders(names)
    return {"/".join(shared[:depth]) for depth in range(len(shared) + 1)}


def first(texts: Sequence[str]) -> str:
    """The first of several texts, for a message: at most `EXAMPLES` of them."""
    return ", ".join([*texts[:EXAMPLES], *(["…"] if len(texts) > EXAMPLES else [])])


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _folders_below(names: Iterable[str]) -> dict[str, set[str]]:
    """Folder, with `/` at its end or empty for the top -> the folders in it."""
    below: dict[str, set[str]] = {}
    for path in {name.rpartition("/")[0] for name in names}:
        above = ""
        for folder in path.split("/") if path else ():
            below.setdefault(above, set()).add(folder)
            above += f"{folder}/"
    return below


def _scan_folders(folders: Mapping[str, set[str]]) -> set[str]:
    """The folders of the eye scans that were published together with the Kermany set: its `NORMAL` is an eye, too.

    `OCT` may also be a month, and `CNV` the initials of a person: two classes of eye scans must lie side by side.
    """
    scans = set()
    for above, below in folders.items():
        eyes = below & _OCT_CLASSES
        parts = above.split("/")[:-1]
        depth = next((depth for depth, folder in enumerate(parts) if _OCT.fullmatch(folder)), None)
        if depth is not None and len(below & {*_OCT_CLASSES, "NORMAL"}) > 1 and eyes:
            scans.add("".join(f"{folder}/" for folder in parts[: depth + 1]))
        elif len(eyes) > 1:
            scans |= {f"{above}{folder}/" for folder in below & {*_OCT_CLASSES, "NORMAL"}}
    return scans


def _initials(folders: Mapping[str, set[str]], classes: Container[str]) -> set[str]:
    """The folders of persons: two or three capital letters, beside others that mean nothing else: `NA` and `AB`."""
    initials = set()
    for below in folders.values():
        short = {folder for folder in below if re.fullmatch("[A-Z]{2,3}", folder)}
        short = {folder for folder in short if key(folder) not in classes and not split_of_folder(folder)}
        words = {
            folder
            for folder in short
            if is_no_patient(folder) or is_no_name(folder) or _SHORT_MASK_FOLDER.fullmatch(key(folder))
        }
        initials |= short if short - words else set()
    return initials


def _is_beside_images(
    name: str, depth: int, folders: Mapping[str, set[str]], stems: set[str], classes: Container[str]
) -> bool:
    """Whether the folder at this depth of a name lies beside folders of images, or in the folder of the same image."""
    path = name.rsplit(".", 1)[0].split("/")
    siblings = folders["".join(f"{folder}/" for folder in path[:depth])]
    return "/".join(path[:depth] + path[depth + 1 :]) in stems or any(
        key(one) in classes or split_of_folder(one) or (is_no_patient(one) and key(one) not in _VIEWS)
        for one in siblings
    )


def _kind(files: Files, name: str) -> str:
    """Empty text for an image, else what the file is."""
    head = files.head(name, HEAD_BYTES)
    form = image_format(head)
    if form == DICOM:
        return "" if _shows_an_image(files, name, head) else NO_FILMS
    if form:
        return "" if form != "GIF" else "images in GIF, which is not supported"
    if is_named_as_image(name):
        return ""
    if _suffix(name) in _TEXT_SUFFIXES or _TEXT_NAMES.fullmatch(PurePosixPath(name).name):
        return TEXTS
    return NO_IMAGES if head else EMPTY


def _shows_an_image(files: Files, name: str, head: bytes) -> bool:
    """Whether a DICOM object is an image, by its class; an object of a class outside the standard, by its pixels."""
    from pydicom.uid import UID  # 0.25 s, and most archives have no DICOM

    classes = [UID(uid.decode("ascii").strip(".")) for uid in _SOP_CLASS.findall(head)]
    standard = [one for one in classes if one.name != str(one)]
    if standard:
        return all("Image Storage" in one.name for one in standard)
    return not classes or _PIXEL_DATA in files.read(name)
