"""Download the images: one immutable zip in `data/raw/`, one manifest row per image, one boxes row per finding.

`sources.DATASETS` is the table of sources. An archive is copied, checked and never unpacked (a tar archive becomes a
zip); a folder is used in place; the phantom is rendered here. A new source needs one row there, and in
`layouts.READERS` the function that reads its layout.
"""

from __future__ import annotations

import codecs
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from pneumonia import UserError, compute, files, reason, workspace
from pneumonia.credentials import NO_CREDENTIALS, Credentials
from pneumonia.data import (
    columns,
    contents,
    download,
    drawn_boxes,
    forgotten,
    layouts,
    masks,
    own,
    phantom,
    sheets,
    shortcuts,
    sources,
    tables,
    traces,
)
from pneumonia.data.forgotten import NOBODY, Forgotten
from pneumonia.images import decode
from pneumonia.images.formats import HEAD_BYTES, image_format
from pneumonia.names import printable

MANIFEST = ("image_id", "uri", "label", "patient_id", "subtype", "source_split", "bytes", "sha256")
BOXES = ("image_id", "x", "y", "width", "height")

_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")


class Fetched(NamedTuple):
    """The result of `fetch`.

    Attributes:
        manifest: the columns `MANIFEST` and further ones of the source, sorted by `image_id`.
        boxes: the columns `BOXES`, in pixels of the source image; empty if the source has none.
        record: origin of the data, and how many files are left out; also written to `source.json` beside the archive.
    """

    manifest: pd.DataFrame
    boxes: pd.DataFrame
    record: dict[str, Any]


def fetch(
    data: str,
    folder: Path,
    *,
    url: str | None,
    sha256: str | None,
    n_images: int,
    seed: int,
    workers: int | None,
    resume: Path,
    classes: Mapping[str, Sequence[str]] | None = None,
    max_left_out: float = 0.05,
    lungs: str | None = None,
    shortcut: str = "none",
    shortcut_strength: float = 0.9,
    credentials: Credentials = NO_CREDENTIALS,
    removed: Forgotten = NOBODY,
    needs_boxes: bool = False,
) -> Fetched:
    """Put the archive of a data set, complete and checked, into `folder`, or list a folder that is used in place.

    Args:
        data: a key of `DATASETS`.
        folder: for `<data>.zip` and `source.json`.
        url: replaces the published address: path, fsspec URL, or `kaggle://OWNER/NAME`; of an archive, or of a folder
            or table that is used in place. A relative path starts at the project's root. The phantom ignores it.
        sha256: of the archive at `url`; None = not checked.
        n_images, seed: of the phantom.
        workers: processes that render the phantom.
        resume: an existing folder that survives a crash, for the part of a download that has arrived.
        classes: class -> further names of it, in folders and tables of `data` = folder.
        max_left_out: largest share of the files that may be left out, 0-1.
        lungs: folder or zip archive with lung masks, pictures with the names of the images: path or fsspec URL, as
            `url`. They are copied to `lungs.zip`. The phantom ignores it.
        shortcut, shortcut_strength: planted in the phantom: `none`, or as in `shortcuts.plant`.
        credentials: for an archive at `url` only, not for `lungs`; nothing of them is stored.
        removed: patients that are left out: an archive is written again without them.
        needs_boxes: whether data without any box are refused.

    Raises:
        UserError: the data are missing, incomplete or damaged, have another checksum than `sha256`, or another layout
            than that of `data`; too many files are left out; there is no box.
    """

    def kept(manifest: pd.DataFrame, boxes: pd.DataFrame, archive: Path | None = None) -> tuple[pd.DataFrame, ...]:
        manifest, boxes = _without_removed(manifest, boxes, removed, archive)
        if needs_boxes:
            sources.require_boxes(data, len(boxes))
        return manifest, boxes

    origin = sources.source(data)
    target = folder / f"{data}.zip"
    names = columns.class_names(classes or {})
    read = partial(own.read_folder, classes=names) if data == "folder" else layouts.READERS[data]
    if not origin.synthetic and not url and not origin.url:
        raise UserError(
            f"data = {data} needs fetch.url, the place of the images (folder, table or archive; path or URL)"
        )
    if origin.synthetic:
        if url:
            print(f"data = {data} is generated here: fetch.url is ignored")
        with workspace.written_whole(target) as unfinished:
            _render(unfinished, n_images, seed, workers, shortcut, shortcut_strength)
            manifest, boxes, counts = _read_zip(data, unfinished, target, read, max_left_out)
            manifest, boxes = kept(manifest, boxes, unfinished)
        record = {"sha256": workspace.sha256_file(target)}
    elif url and (used_in_place := _in_place(url, sha256, credentials)):
        place, table = used_in_place
        if table:
            read = partial(own.read_table, table, classes=names)
        manifest, boxes, counts = _read(data, place, read, max_left_out)
        manifest, boxes = kept(manifest, boxes)
        record = {"url": url}
    else:
        address = _address(url) if url else origin.url
        checksum = (f"sha256:{sha256}" if sha256 else None) if url else origin.checksum or None
        with workspace.written_whole(target) as unfinished:
            theirs = credentials if url else NO_CREDENTIALS
            arrived = download.download_file(address, unfinished, resume=resume, checksum=checksum, credentials=theirs)
            place_name = address if url else target.name
            _require_archive(unfinished, place_name)
            if origin.side:
                _unpack_arrays(unfinished, place=place_name, side=origin.side)
            elif files.is_tar(unfinished):
                with workspace.written_whole(unfinished) as packed:
                    files.pack_again(unfinished, packed, place=place_name)
            # Before the archive gets its name: files that a failed stage leaves in an out's folder stop `dvc checkout`.
            manifest, boxes, counts = _read_zip(data, unfinished, target, read, max_left_out, place_name)
            manifest, boxes = kept(manifest, boxes, unfinished)
        record = {"url": url or origin.url, "sha256": arrived}
    if lungs and origin.synthetic:
        print(f"data = {data} has its own lung masks: fetch.lungs is ignored")
    elif lungs:
        manifest = _with_lungs(manifest, lungs, folder, resume)
        record["lungs"] = lungs
    facts = {name: getattr(origin, name) for name in ("title", "licence", "citation", "patients")}
    whole = {"data": data, **facts, **record, "n_images": len(manifest), **counts}
    tables.write_json(whole, folder / "source.json")
    return Fetched(manifest, boxes, whole)


def read_archive(data: str, path: Path, *, stored: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the boxes of an archive.

    Args:
        data: a key of `DATASETS`.
        path: of the archive.
        stored: its final path, used in rows and messages; None = `path`.

    Raises:
        UserError: the archive is harmful or damaged, has another layout, or has no images of a class.
    """
    sources.source(data)
    return _read_zip(data, path, stored or path, layouts.READERS[data])[:2]


def official_splits(manifest: pd.DataFrame) -> str:
    """The images of each split of the source; empty if the source has neither a validation nor a test split."""
    splits = manifest["source_split"].replace("", "none")
    if not splits.isin(["val", "test"]).any():
        return ""
    counts = [f"{name} {splits.eq(name).sum()}" for name in (*tables.SPLITS, "none") if splits.eq(name).any()]
    return f"official splits: {', '.join(counts)}"


def unidentified(manifest: pd.DataFrame) -> str:
    """A note on images without a patient identifier, which have their own name as identifier; else empty."""
    n_unknown = manifest["patient_id"].eq(manifest["image_id"]).sum()
    if not n_unknown:
        return ""
    return (
        f"NOTE: images without a patient identifier: {n_unknown} of {len(manifest)}; each of them counts as one "
        "patient, so images of a real patient may be in both train and test"
    )


_Read = tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]


def _read_zip(
    data: str, path: Path, stored: Path, read: layouts.Reader, max_left_out: float = 1.0, place_name: str = ""
) -> _Read:
    with files.in_archive(path, stored=stored, place=place_name) as place:
        return _read(data, place, read, max_left_out)


def _require_archive(path: Path, place_name: str) -> None:
    """Refuse an image or a text; other files that are no archives are refused when they are opened."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if image_format(head):
        raise UserError(f"{place_name}: one image, not an archive; set fetch.url to the folder of the images")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or not _NO_TEXT.search(head):
        raise UserError(
            f"{place_name}: a text, not an archive; if it is a table, give it a name that ends in .csv, else correct "
            "fetch.url"
        )


def _read(data: str, place: files.Files, read: layouts.Reader, max_left_out: float) -> _Read:
    """The manifest, the boxes, and for `source.json` the numbers of files that are no rows, if there are any."""
    listing = read(place)
    rows, boxes = listing.rows, listing.boxes
    if not rows:
        others = [name for name, other in layouts.READERS.items() if name != data and _fits(other, place)]
        hint = f"; it looks like data = {others[0]}" if others else ""
        if data == "folder" and listing.left_out and not others:
            hint = f"; to name the classes of your folders: {own.CLASSES_EXAMPLE}"
        expected = sources.source(data).layout
        top = sorted({f"{name.split('/')[0]}{'/' if '/' in name else ''}" for name in place.names}, key=_folders_first)
        content = f"found: {', '.join(top[:5])}{', …' if len(top) > 5 else ''}" if top else "it is empty"
        kinds = [f"{len(names):,} {why}" for why, names in (*_by_number(listing.left_out), *listing.companions.items())]
        content += f" ({'; '.join(kinds)})" if kinds else ""
        raise UserError(
            f"{place.place}: no images in the layout of data = {data}{f' ({expected})' if expected else ''}; "
            f"{content}{hint}"
        )
    counts = _count(listing, place.place, max_left_out)
    to_check = {box["image_id"] for box in boxes if "where" in box}
    with ThreadPoolExecutor(contents.THREADS) as pool:
        records = pool.map(lambda row: _describe(row, place, with_size=row["image_id"] in to_check), rows)
        manifest = pd.DataFrame(tqdm(records, "fetch", len(rows), unit="image", disable=None, leave=False))
    if to_check:
        sizes = zip(manifest["image_id"], manifest.pop("size"), strict=True)
        drawn_boxes.require_inside(boxes, {name: size for name, size in sizes if isinstance(size, tuple)})
        boxes = [*boxes, *_boxes_of_copies(boxes, manifest)]
    if data == "folder":
        _note_other_headers(manifest)
    manifest["patient_id"] = _patients(manifest)
    manifest = manifest.sort_values("image_id", ignore_index=True)
    manifest["label"] = manifest["label"].astype(int)
    for label, name in tables.LABELS.items():
        if not (manifest["label"] == label).any():
            raise UserError(f"{place.place}: no image of class {label} ({name}); a classifier needs both classes")
    more = [str(name) for name in manifest if name not in (*MANIFEST, "header_id")]
    manifest[more] = manifest[more].fillna("")
    table = pd.DataFrame(boxes, columns=list(BOXES))
    table[list(BOXES[1:])] = table[list(BOXES[1:])].apply(
        pd.to_numeric
    )  # text if they come from a table in the archive
    table = table.sort_values(list(BOXES), ignore_index=True)
    return manifest[[*MANIFEST, *more]], table, counts


def _boxes_of_copies(boxes: contents.Rows, manifest: pd.DataFrame) -> contents.Rows:
    """The boxes of images for their exact copies that have none: `rebalance` may keep any of them."""
    ill = manifest[manifest["label"].astype(int) == 1]
    content_of = dict(zip(ill["image_id"], ill["sha256"], strict=True))
    drawn: dict[str, dict[str, contents.Rows]] = {}
    for box in boxes:
        name = box["image_id"]
        drawn.setdefault(content_of[name], {}).setdefault(name, []).append(box)
    copies = [name for name, content in content_of.items() if content in drawn and name not in drawn[content]]
    if copies:
        _note(f"boxes count for exact copies of their image, too: {len(copies):,}, such as {copies[0]}")
    return [{**box, "image_id": name} for name in copies for box in next(iter(drawn[content_of[name]].values()))]


def _without_removed(
    manifest: pd.DataFrame, boxes: pd.DataFrame, removed: Forgotten, archive: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables, and the archive, without the patients that `pneumonia forget` has removed."""
    gone = np.array(forgotten.rows(manifest, removed), dtype=bool)
    if not gone.any():
        return manifest, boxes
    theirs, others = manifest[gone], manifest[~gone]
    if archive:
        patients = {*theirs["patient_id"]} - {*others["patient_id"]}  # a copy of a film may be of somebody else
        rows = theirs.astype(str).to_dict("records")
        traces.rewrite_archive(archive, traces.of_rows(patients, rows), traces.uris(others.to_dict("records")))
    _note(f"{gone.sum():,} of {len(manifest):,} images are left out: pneumonia forget has removed their patients")
    boxes = boxes[~boxes["image_id"].isin(theirs["image_id"])]
    return others.reset_index(drop=True), boxes.reset_index(drop=True)


def _with_lungs(manifest: pd.DataFrame, url: str, folder: Path, resume: Path) -> pd.DataFrame:
    """The manifest with `lung_mask_uri`, empty for an image without a mask."""
    address, target = _address(url), folder / "lungs.zip"
    uris = dict(zip(manifest["image_id"], manifest["uri"], strict=True))
    if files.is_folder(address):
        mask_of = masks.store(files.in_folder(address), uris, target)
    else:
        part = resume / f"lungs-{workspace.sha256_bytes(address.encode())[:12]}"  # of this address only
        part.mkdir(exist_ok=True)
        download.download_file(address, part / "masks.zip", resume=part)
        with files.in_archive(part / "masks.zip", place=url) as place:
            mask_of = masks.store(place, uris, target)
    n_missing = len(manifest) - len(mask_of)
    if n_missing:
        missing = next(name for name in manifest["image_id"] if name not in mask_of)
        _note(f"lung masks are missing for {n_missing:,} of {len(manifest):,} images, such as {missing}")
    return manifest.assign(lung_mask_uri=manifest["image_id"].map(mask_of).fillna(""))


def _by_number(names_by_reason: Mapping[str, Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return sorted(names_by_reason.items(), key=lambda item: -len(item[1]))


def _folders_first(name: str) -> tuple[bool, str]:
    return not name.endswith("/"), name


def _fits(other: layouts.Reader, place: files.Files) -> bool:
    try:
        return bool(other(place).rows)
    except UserError:  # the layout is recognised, but something is missing in it
        return True


def _count(listing: contents.Listing, place: str, max_left_out: float) -> dict[str, Any]:
    """Say which files are no rows, and why.

    Returns:
        `left_out` and `companions` for `source.json`, each only if there are such files.

    Raises:
        UserError: more than `max_left_out` of the files are left out.
    """
    for note in listing.notes:
        _note(note)
    n_left_out = sum(map(len, listing.left_out.values()))
    total = len(listing.rows) + n_left_out
    for why, names in listing.companions.items():
        _note(f"{len(names):,} {'file is' if len(names) == 1 else 'files are'} not read ({why}): {names[0]}")
    for why, names in listing.left_out.items():
        verb = "is" if len(names) == 1 else "are"
        _note(f"{len(names):,} of {total:,} files {verb} left out ({why}): {names[0]}")
    if n_left_out > max_left_out * total:
        reasons = "; ".join(f"{why}: {len(names):,}, such as {names[0]}" for why, names in _by_number(listing.left_out))
        raise UserError(
            f"{place}: {n_left_out:,} of {total:,} files would be left out, more than fetch.max_left_out = "
            f"{max_left_out:g} allows ({reasons}); rename or remove them, name their classes in fetch.classes, or "
            "raise the limit"
        )
    counts = {
        kind: [{"reason": why, "n": len(names), "first": names[0]} for why, names in others.items()]
        for kind, others in (("left_out", listing.left_out), ("companions", listing.companions))
    }
    return {kind: numbers for kind, numbers in counts.items() if numbers}


def _note(text: str) -> None:
    print(f"NOTE: {printable(text)}")


def _describe(row: dict[str, Any], place: files.Files, *, with_size: bool) -> dict[str, Any]:
    """A row of the manifest: what the source lists, and the metadata of the file; with `size`, width and height."""
    row = dict(row)
    member, mask = row.pop("member"), row.pop("lung_mask_member", "")
    content = place.read(member)
    header = decode.header(content)
    description = {name: columns.DESCRIPTIONS[name](header[name]) for name in columns.DESCRIPTIONS if name in header}
    facts = {name: value for name, value in (description | row).items() if value not in ("", None)}
    return {
        **facts,
        "patient_id": facts.get("patient_id", ""),
        "header_id": columns.patient(header.get("patient_id", "")),
        "source_split": row["source_split"],
        "uri": place.uri(member),
        "bytes": len(content),
        "sha256": workspace.sha256_bytes(content),
        **({"lung_mask_uri": place.uri(mask)} if mask else {}),
        **({"size": decode.size(content)} if with_size else {}),
    }


def _patients(manifest: pd.DataFrame) -> list[str]:
    """The patient of each image: as the source says, else as the header of the file says, else the image itself."""
    unknown = manifest["patient_id"] == ""
    headers = manifest["header_id"].where(unknown, "")
    nobody = columns.placeholders(headers)
    for identifier in sorted(nobody):
        _note(
            f"PatientID {identifier!r} names no patient, in the headers of {(headers == identifier).sum():,} of "
            f"{len(manifest):,} files"
        )
    headers = headers.where(~headers.isin(nobody), "")
    ids = zip(manifest["image_id"], manifest["label"].astype(int), headers, strict=True)
    for note in own.notes_on_patients([{"image_id": i, "label": label, "patient_id": one} for i, label, one in ids]):
        _note(f"PatientID {note}")
    patients = manifest["patient_id"].where(~unknown, headers)
    return list(patients.where(patients != "", manifest["image_id"]))


def _note_other_headers(manifest: pd.DataFrame) -> None:
    """Say that most images belong to a patient whose headers name several: a folder may be a department."""
    headers = manifest["header_id"].where(~manifest["header_id"].isin(columns.placeholders(manifest["header_id"])), "")
    both = manifest.assign(header_id=headers)[(manifest["patient_id"] != "") & (headers != "")]
    n_headers = both.groupby("patient_id")["header_id"].nunique()
    several = both["patient_id"].isin(n_headers.index[n_headers > 1])
    if 2 * several.sum() > len(manifest):
        first = both.loc[several, "patient_id"].iloc[0]
        _note(
            f"{first} counts as one patient, but the DICOM headers of its images name {n_headers[first]:,} "
            f"(images of such patients: {several.sum():,} of {len(manifest):,}); if the headers are right, use a table "
            "with an empty patient_id"
        )


def _in_place(url: str, sha256: str | None, credentials: Credentials) -> tuple[files.Files, str] | None:
    """The files of a folder, or of the folder of a table with the name of that table; None for an archive."""
    address = _address(url)
    suffix = PurePosixPath(address).suffix.lower()
    if suffix in sheets.WORKBOOKS:
        raise sheets.workbook_error(url)
    if files.is_folder(address):
        place = files.in_folder(address), ""
    elif suffix in sheets.SUFFIXES:
        if credentials and address.startswith(("http://", "https://")):
            raise UserError(
                f"{url}: later stages read the images of a table at their place, without the credentials of the "
                "environment; download the folder and set fetch.url to the table in it"
            )
        parent, _, table = address.rpartition("/")
        place = files.in_folder(parent), table
    else:
        return None
    if sha256:
        raise UserError(f"fetch.sha256 is of an archive, but {url} is used in place; set it to null")
    return place


def _address(url: str) -> str:
    """An address for fsspec: an absolute path, or the URL; a Kaggle data set is downloaded first."""
    if url.startswith("kaggle://"):
        return _from_kaggle(url.removeprefix("kaggle://"))
    # Not Path.expanduser(), which fails if the user does not exist.
    return url if "://" in url else str(workspace.project_root() / os.path.expanduser(url))


def _from_kaggle(handle: str) -> str:
    try:
        import kagglehub
    except ImportError as error:
        raise UserError("fetch.url = kaggle://… needs the package kagglehub: pip install kagglehub") from error
    try:
        if handle.startswith("competitions/"):
            return str(kagglehub.competition_download(handle.removeprefix("competitions/")))
        return str(kagglehub.dataset_download(handle))
    except Exception as error:  # kagglehub passes on any error of its transport
        raise UserError(
            f"kaggle://{handle}: the download failed ({reason(error)}); check the name and your Kaggle credentials"
        ) from error


def _unpack_arrays(path: Path, *, place: str, side: int) -> None:
    """Convert MedMNIST's arrays into an archive of one PNG per image and a table, at the same path.

    PNG keeps every pixel. So each image can be read alone, as in all other sources.
    """
    with files.in_archive(path, place=place):
        pass  # an .npz file is a zip archive and can be as harmful as any other
    rows = []
    with workspace.written_whole(path) as packed, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        try:
            for row, image in _images_of_arrays(path, side):
                rows.append(row)
                _add(archive, row["member"], image)
        # numpy and OpenCV raise many different errors for damaged and for wrong files.
        # MemoryError: a header claims more than the file holds.
        except (ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, cv2.error) as error:
            detail = " ".join(str(error).split())
            raise UserError(f"{place}: not the arrays of PneumoniaMNIST ({detail}); use the published .npz") from error
        _add(archive, "pneumoniamnist.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n").encode())


def _images_of_arrays(path: Path, side: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    with np.load(path, allow_pickle=False) as arrays:
        for split in tables.SPLITS:
            labels, pixels = arrays[f"{split}_labels"].ravel(), arrays[f"{split}_images"]
            # OpenCV would round values between 0 and 1 to black and white.
            if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side):
                raise ValueError(f"{split}_images are {pixels.dtype} {pixels.shape}, not uint8 (n, {side}, {side})")
            for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                image_id = f"{split}/{number:05}"
                row = {
                    "image_id": image_id,
                    "member": f"images/{image_id}.png",
                    "label": int(label),
                    "patient_id": "",
                    "subtype": tables.LABELS[int(label)],
                    "source_split": split,
                }
                yield row, cv2.imencode(".png", image)[1].tobytes()


def _render(
    target: Path, n_images: int, seed: int, workers: int | None, shortcut: str, shortcut_strength: float
) -> None:
    """The phantom as an archive of JPEG images, PNG lung masks and two tables.

    With a shortcut it has an official test split, which has none. Four planted defects show that validation detects
    them: two exact duplicates, a truncated file and a blank image.
    """
    patients = phantom.plan(n_images, seed)
    rows: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    first: list[bytes] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        parts = compute.chunks(patients, 16)
        planted = partial(_render_chunk, seed=seed, shortcut=shortcut, strength=shortcut_strength)
        for rendered in compute.run(planted, parts, workers=workers, label="fetch", unit="patient"):
            for row, image, mask, findings in rendered:
                rows.append(row)
                boxes += findings
                first = first if len(first) == 3 else [*first, image]
                _add(archive, row["member"], image)
                _add(archive, row["lung_mask_member"], mask)
        for row, content in _defects(rows[:3], first):
            rows.append(row)
            _add(archive, row["member"], content)
        for name, table, columns in (("radiographs.csv", rows, list(rows[0])), ("boxes.csv", boxes, list(BOXES))):
            _add(archive, name, pd.DataFrame(table, columns=columns).to_csv(index=False, lineterminator="\n").encode())


def _render_chunk(
    patients: Sequence[phantom.Patient], *, seed: int, shortcut: str, strength: float
) -> list[tuple[dict[str, Any], bytes, bytes, list[dict[str, Any]]]]:
    rendered = (radiograph for patient in patients for radiograph in phantom.render(patient))
    if shortcut == "none":
        return [_encode(radiograph, "") for radiograph in rendered]
    return [
        _encode(shortcuts.plant(radiograph, shortcut, strength, seed=seed), shortcuts.split(radiograph.patient_id))
        for radiograph in rendered
    ]


def _encode(
    radiograph: phantom.Radiograph, source_split: str
) -> tuple[dict[str, Any], bytes, bytes, list[dict[str, Any]]]:
    image_id = radiograph.image_id
    row = {
        "image_id": image_id,
        "member": f"images/{image_id}.jpeg",
        "label": radiograph.label,
        "patient_id": radiograph.patient_id,
        "subtype": radiograph.subtype,
        "source_split": source_split,
        "lung_mask_member": f"masks/{image_id}.png",
        "sex": radiograph.sex,
        "age": radiograph.age,
        "view": radiograph.view,
    }
    image = cv2.imencode(".jpeg", radiograph.image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    mask = cv2.imencode(".png", radiograph.lung_mask)[1].tobytes()
    return row, image, mask, [dict(zip(BOXES, (image_id, *box), strict=True)) for box in radiograph.boxes]


def _defects(rows: list[dict[str, Any]], images: list[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    blank = cv2.imencode(".jpeg", np.full((320, 320), 12, np.uint8))[1].tobytes()
    planted = (
        ("copy", 0, images[0]),
        ("copy", 1, images[1]),
        ("cut", 2, images[2][: len(images[2]) // 2]),
        ("blank", 2, blank),
    )
    for kind, which, content in planted:
        image_id = f"{rows[which]['image_id']}-{kind}"
        yield {**rows[which], "image_id": image_id, "member": f"images/{image_id}.jpeg"}, content


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A fixed date: the same images give the same archive, byte for byte.
    archive.writestr(zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0)), content)
