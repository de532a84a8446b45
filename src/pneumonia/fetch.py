"""Bring the images: one immutable zip under `data/raw/`, one manifest row per image, one boxes row per finding.

`DATASETS` is the table of sources. An archive is copied whole, checked, and never unpacked; the phantom is
rendered here. Adding a source is one row and the function that reads its layout.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import fsspec
import numpy as np
import pandas as pd
from tqdm import tqdm

from pneumonia import UserError, compute, dataset, phantom

MANIFEST = ("image_id", "uri", "label", "patient_id", "subtype", "source_split", "bytes", "sha256")
BOXES = ("image_id", "x", "y", "width", "height")

# Members of an archive are read whole, so a forged size would be a way to exhaust the memory.
MAX_MEMBER_BYTES = 256 * 2**20

_CHEST_XRAY_MEMBER = re.compile(r"(?:^|.*/)(train|val|test)/(NORMAL|PNEUMONIA)/([^/]+\.jpe?g)", re.IGNORECASE)
_CHEST_XRAY_PERSON = re.compile(r"person(\d+)_(bacteria|virus)_")
_CHEST_XRAY_NORMAL = re.compile(r"(NORMAL2-)?IM-(\d+)-")


class Source(NamedTuple):
    """A row of `DATASETS`.

    Attributes:
        title: what the images are.
        url: published address of the archive; empty where the images are made here.
        licence, citation: as their authors state them.
        synthetic: no patients; said wherever a figure of it shows.
        read: lists an open archive: manifest rows without `uri`, `bytes` and `sha256` (`member` instead), and boxes.
    """

    title: str
    url: str
    licence: str
    citation: str
    synthetic: bool
    read: Callable[[zipfile.ZipFile], tuple[list[dict[str, Any]], list[dict[str, Any]]]]


def _read_phantom(archive: zipfile.ZipFile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if "radiographs.csv" not in archive.namelist():
        return [], []
    return [  # type: ignore[return-value]
        list(csv.DictReader(io.TextIOWrapper(archive.open(name), encoding="utf-8", newline="")))
        for name in ("radiographs.csv", "boxes.csv")
    ]


def _read_chest_xray(archive: zipfile.ZipFile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The Kermany set, in the layouts it is published in.

    The archive of Kaggle holds the tree twice (once under `chest_xray/chest_xray`) and `__MACOSX` junk, the one
    of Mendeley has no `val`. A patient is (subtype, number) for pneumonia, because 170 numbers occur with both
    subtypes, one in train and one in test: the numbering restarts. It is (`NORMAL2-` or not, number) for normals.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(archive.namelist(), key=lambda name: (name.count("/"), name)):
        match = _CHEST_XRAY_MEMBER.fullmatch(name)
        if not match or "__MACOSX" in name or match[3].startswith("._"):
            continue
        split, folder, file = match[1].lower(), match[2].upper(), match[3]
        person = _CHEST_XRAY_PERSON.match(file) if folder == "PNEUMONIA" else None
        normal = _CHEST_XRAY_NORMAL.match(file) if folder == "NORMAL" else None
        if person:
            patient, subtype = f"{person[2]}-{person[1]}", person[2]
        elif normal:
            patient, subtype = f"{normal[1] or ''}IM-{normal[2]}", "normal"
        else:
            patient, subtype = f"{folder}-{Path(file).stem}", folder.lower()
        image_id = f"{split}/{folder}/{Path(file).stem}"
        rows.setdefault(
            image_id,
            {
                "image_id": image_id,
                "member": name,
                "label": int(folder == "PNEUMONIA"),
                "patient_id": patient,
                "subtype": subtype,
                "source_split": split,
            },
        )
    return list(rows.values()), []


DATASETS = {
    "phantom": Source(
        title="synthetic frontal chest radiographs, made here from a small physical model",
        url="",
        licence="MIT, as this project",
        citation="none: no patients",
        synthetic=True,
        read=_read_phantom,
    ),
    "chest_xray": Source(
        title="5,856 paediatric chest X-rays of Guangzhou Women and Children's Medical Center",
        url="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        licence="CC BY 4.0",
        citation="Kermany, Zhang, Goldbaum (2018), Mendeley Data, doi:10.17632/rscbjbr9sj.2",
        synthetic=False,
        read=_read_chest_xray,
    ),
}


def source(data: str) -> Source:
    """The row of `DATASETS`, or one line that lists the known ones."""
    if data not in DATASETS:
        raise UserError(f"data = {data!r} is unknown; known: {', '.join(DATASETS)}")
    return DATASETS[data]


def fetch(
    data: str,
    folder: Path,
    *,
    url: str | None,
    sha256: str | None,
    n_images: int,
    seed: int,
    workers: int | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put the archive of a data set, complete and checked, into `folder`; returns its manifest and its boxes.

    Args:
        data: a key of `DATASETS`.
        folder: where `<data>.zip` goes.
        url: path or fsspec URL that replaces the published address; a relative path counts from the project's
            root. The phantom ignores it.
        sha256: what the archive at `url` must have; None = not checked.
        n_images, seed: of the phantom.
        workers: processes that render the phantom.

    Returns:
        As `read_archive`.

    Raises:
        UserError: missing, cut short, damaged, not the archive that `sha256` names, or one that `read_archive`
            refuses.
    """
    origin = source(data)
    target = folder / f"{data}.zip"
    with dataset.written_whole(target) as partial:
        if origin.synthetic:
            if url:
                print(f"data = {data} is made here: fetch.url is ignored")
            _render(partial, n_images, seed, workers)
        else:
            _copy(url or origin.url, partial)
            arrived = dataset.sha256_file(partial)
            if url and sha256 and arrived != sha256:
                raise UserError(
                    f"{url}: SHA-256 is {arrived}, fetch.sha256 expects {sha256}; download the archive again or "
                    "correct fetch.sha256"
                )
        _check_archive(partial, url or origin.url or data)
        # Before it gets its name: what a failed stage leaves in an out's folder stops `dvc checkout`.
        return read_archive(data, partial, stored=target)


def read_archive(data: str, path: Path, *, stored: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the boxes of an archive.

    Reading each member whole verifies its CRC, so that a flipped bit ends here and not in a model.

    Args:
        data: a key of `DATASETS`.
        path: of the archive.
        stored: where it will lie, as rows and messages name it; None = `path`.

    Returns:
        Manifest with the columns `MANIFEST` and what more the source has; boxes with the columns `BOXES` in
        pixels of the source image, empty where the source has none. Rows are sorted by `image_id`.

    Raises:
        UserError: another layout, an empty class, or a damaged member.
    """
    stored = stored or path
    with zipfile.ZipFile(path) as archive:
        rows, boxes = source(data).read(archive)
        if not rows:
            others = [name for name, other in DATASETS.items() if name != data and other.read(archive)[0]]
            hint = f"; it looks like data = {others[0]}" if others else ""
            raise UserError(f"{stored.name}: no images in the layout of data = {data}{hint}")
        for row in tqdm(rows, desc="fetch", unit="image", disable=None, leave=False):
            member = row.pop("member")
            content = _read_member(archive, member, stored)
            row |= {
                "uri": _uri(member, stored),
                "bytes": len(content),
                "sha256": dataset.sha256_bytes(content),
            }
            if mask := row.pop("lung_mask_member", ""):
                row["lung_mask_uri"] = _uri(mask, stored)
    manifest = pd.DataFrame(rows).sort_values("image_id", ignore_index=True)
    manifest["label"] = manifest["label"].astype(int)
    for label, name in dataset.LABELS.items():
        if not (manifest["label"] == label).any():
            raise UserError(f"{stored.name}: no image of class {label} ({name}); a classifier needs both classes")
    more = [name for name in manifest if name not in MANIFEST]
    table = pd.DataFrame(boxes, columns=list(BOXES))
    table[list(BOXES[1:])] = table[list(BOXES[1:])].apply(pd.to_numeric)  # text where a table in the archive has them
    table = table.sort_values(list(BOXES), ignore_index=True)
    return manifest[[*MANIFEST, *more]], table


def _read_member(archive: zipfile.ZipFile, member: str, path: Path) -> bytes:
    try:
        size = archive.getinfo(member).file_size
        if size > MAX_MEMBER_BYTES:
            raise UserError(
                f"{path.name}: {member} unpacks to {size:,} bytes, more than {MAX_MEMBER_BYTES:,}; "
                "this is not an X-ray archive"
            )
        return archive.read(member)
    # RuntimeError: encrypted, or packed by a method that is not known here.
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, RuntimeError, zlib.error) as error:
        raise UserError(f"{path.name}: {member} is damaged ({error}); download the archive again") from error


def _uri(member: str, path: Path) -> str:
    return f"zip://{member}::{path.as_posix()}"


def _copy(url: str, target: Path) -> None:
    local = "://" not in url
    address = str(dataset.project_root() / Path(url).expanduser()) if local else url
    try:
        with fsspec.open(address, "rb") as arriving, open(target, "wb") as file:
            size = getattr(arriving, "size", None)
            with tqdm(total=size, desc="fetch", unit="B", unit_scale=True, disable=None, leave=False) as bar:
                while block := arriving.read(2**20):
                    bar.update(file.write(block))
    # fsspec leaves the errors of its transports as they are, and each has a family of its own.
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not error.__cause__:
            raise UserError(
                f"fetch.url = {url}: no such file{f' ({address})' if local else ''}; correct the path"
            ) from error
        reason = error.__cause__ or error  # over HTTP, an unreachable server is a FileNotFoundError with this cause
        raise UserError(
            f"{url}: the download failed ({type(reason).__name__}: {reason}); check the network, or bring the archive "
            "by hand and set fetch.url to its path"
        ) from error


def _check_archive(path: Path, name: str) -> None:
    try:
        zipfile.ZipFile(path).close()
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{name}: {path.stat().st_size:,} bytes arrived, but they are no complete zip archive ({error}); "
            "download it again"
        ) from error


def _render(target: Path, n_images: int, seed: int, workers: int | None) -> None:
    """The phantom as an archive of JPEG images, PNG lung masks and two tables.

    Four defects are planted, so that validation has something to find: two exact duplicates, a file cut short,
    and a blank image.
    """
    patients = phantom.plan(n_images, seed)
    rows: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    first: list[bytes] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for files in compute.run(_render_chunk, patients, workers=workers, chunk=16, label="fetch", unit="patient"):
            for row, image, mask, found in files:
                rows.append(row)
                boxes += found
                first = first if len(first) == 3 else [*first, image]
                _add(archive, row["member"], image)
                _add(archive, row["lung_mask_member"], mask)
        for row, content in _defects(rows[:3], first):
            rows.append(row)
            _add(archive, row["member"], content)
        for name, table, columns in (("radiographs.csv", rows, list(rows[0])), ("boxes.csv", boxes, list(BOXES))):
            _add(archive, name, pd.DataFrame(table, columns=columns).to_csv(index=False, lineterminator="\n").encode())


def _render_chunk(
    patients: Sequence[phantom.Patient],
) -> list[tuple[dict[str, Any], bytes, bytes, list[dict[str, Any]]]]:
    return [_encode(radiograph) for patient in patients for radiograph in phantom.render(patient)]


def _encode(radiograph: phantom.Radiograph) -> tuple[dict[str, Any], bytes, bytes, list[dict[str, Any]]]:
    image_id = radiograph.image_id
    row = {
        "image_id": image_id,
        "member": f"images/{image_id}.jpeg",
        "label": radiograph.label,
        "patient_id": radiograph.patient_id,
        "subtype": radiograph.subtype,
        "source_split": "",
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
