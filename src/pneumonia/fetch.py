"""Bring the images: one immutable zip under `data/raw/`, one manifest row per image, one boxes row per finding.

`DATASETS` is the table of sources. An archive is copied whole, checked, and never unpacked; a folder is used where it
lies; the phantom is rendered here. Adding a source is one row and the function in `sources` that reads its layout.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import fsspec
import numpy as np
import pandas as pd
from tqdm import tqdm

from pneumonia import UserError, compute, files, reason, workspace
from pneumonia.data import download, phantom, sources, tables
from pneumonia.images import decode

MANIFEST = ("image_id", "uri", "label", "patient_id", "subtype", "source_split", "bytes", "sha256")
BOXES = ("image_id", "x", "y", "width", "height")

_READERS = 8
"""Files read at a time for the manifest: disks and networks answer several as fast as one."""


class Fetched(NamedTuple):
    """What `fetch` brought.

    Attributes:
        manifest: the columns `MANIFEST` and what more the source has, sorted by `image_id`.
        boxes: the columns `BOXES`, in pixels of the source image; empty where the source has none.
        record: where it came from; also `source.json` beside the archive.
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
) -> Fetched:
    """Put the archive of a data set, complete and checked, into `folder`; or list a folder where it lies.

    Args:
        data: a key of `DATASETS`.
        folder: where `<data>.zip` and `source.json` go.
        url: replaces the published address: path, fsspec URL, or `kaggle://OWNER/NAME`; of an archive, or of a folder
            or table that is used in place. A relative path counts from the project's root. The phantom ignores it.
        sha256: what the archive at `url` must have; None = not checked.
        n_images, seed: of the phantom.
        workers: processes that render the phantom.
        resume: an existing folder that survives a crash; holds what has arrived of a download.

    Raises:
        UserError: missing, cut short, damaged, not the archive that `sha256` names, or not in the layout of `data`.
    """
    origin = sources.source(data)
    target = folder / f"{data}.zip"
    if not origin.synthetic and not url and not origin.url:
        raise UserError(f"data = {data} needs fetch.url: where the images lie (folder, table or archive; path or URL)")
    if origin.synthetic:
        if url:
            print(f"data = {data} is made here: fetch.url is ignored")
        with workspace.written_whole(target) as partial:
            _render(partial, n_images, seed, workers)
            manifest, boxes = read_archive(data, partial, stored=target)
        record = {"sha256": workspace.sha256_file(target)}
    elif url and (place := _in_place(url, sha256)):
        manifest, boxes = _read(data, *place)
        record = {"url": url}
    else:
        address = _address(url) if url else origin.url
        checksum = (f"sha256:{sha256}" if sha256 else None) if url else origin.checksum or None
        with workspace.written_whole(target) as partial:
            arrived = download.download_file(address, partial, resume=resume, checksum=checksum)
            if origin.side:
                _unpack_arrays(partial, stored=target, side=origin.side)
            # Before it gets its name: what a failed stage leaves in an out's folder stops `dvc checkout`.
            manifest, boxes = read_archive(data, partial, stored=target)
        record = {"url": url or origin.url, "sha256": arrived}
    facts = {name: getattr(origin, name) for name in ("title", "licence", "citation", "patients")}
    whole = {"data": data, **facts, **record, "n_images": len(manifest)}
    tables.write_json(whole, folder / "source.json")
    return Fetched(manifest, boxes, whole)


def read_archive(data: str, path: Path, *, stored: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the boxes of an archive.

    Args:
        data: a key of `DATASETS`.
        path: of the archive.
        stored: where it will lie, as rows and messages name it; None = `path`.

    Raises:
        UserError: a harmful or damaged archive, another layout, or an empty class.
    """
    with files.in_archive(path, stored=stored) as listed:
        return _read(data, listed)


def _read(data: str, listed: files.Files, read: sources.Reader | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, boxes = (read or sources.source(data).read)(listed)
    if not rows:
        others = [name for name, other in sources.DATASETS.items() if name != data and _fits(other, listed)]
        hint = f"; it looks like data = {others[0]}" if others else ""
        expected = sources.source(data).layout
        top = sorted({f"{name.split('/')[0]}{'/' if '/' in name else ''}" for name in listed.names})
        found = f"found: {', '.join(top[:5])}{', …' if len(top) > 5 else ''}" if top else "it is empty"
        raise UserError(
            f"{listed.place}: no images in the layout of data = {data}{f' ({expected})' if expected else ''}; "
            f"{found}{hint}"
        )
    if data == "folder" and any(row["subtype"] in ("bacteria", "virus") for row in sources.read_chest_xray(listed)[0]):
        print("NOTE: these files are named like those of data = chest_xray, which knows who the patients are")
    if data == "folder" and not read and (unused := sorted(set(listed.names) - {row["member"] for row in rows})):
        print(f"NOTE: {len(unused)} of {len(listed.names)} files are not used, below no class or no image: {unused[0]}")
    with ThreadPoolExecutor(_READERS) as pool:
        described = pool.map(lambda row: _describe(row, listed), rows)
        manifest = pd.DataFrame(tqdm(described, "fetch", len(rows), unit="image", disable=None, leave=False))
    manifest = manifest.sort_values("image_id", ignore_index=True)
    manifest["label"] = manifest["label"].astype(int)
    for label, name in tables.LABELS.items():
        if not (manifest["label"] == label).any():
            raise UserError(f"{listed.place}: no image of class {label} ({name}); a classifier needs both classes")
    more = [str(name) for name in manifest if name not in MANIFEST]
    manifest[more] = manifest[more].fillna("")
    table = pd.DataFrame(boxes, columns=list(BOXES))
    table[list(BOXES[1:])] = table[list(BOXES[1:])].apply(pd.to_numeric)  # text where a table in the archive has them
    table = table.sort_values(list(BOXES), ignore_index=True)
    return manifest[[*MANIFEST, *more]], table


def _fits(other: sources.Source, listed: files.Files) -> bool:
    try:
        return bool(other.read(listed)[0])
    except UserError:  # the layout is known, and something in it is missing
        return True


def _describe(row: dict[str, Any], listed: files.Files) -> dict[str, Any]:
    """A row of the manifest: what the source lists, and what the file itself says."""
    row = dict(row)
    member, mask = row.pop("member"), row.pop("lung_mask_member", "")
    content = listed.read(member)
    header = decode.header(content)
    known = header | {name: value for name, value in row.items() if value != ""}
    return {
        **known,
        "patient_id": known.get("patient_id", row["image_id"]),
        "source_split": row["source_split"],
        "uri": listed.uri(member),
        "bytes": len(content),
        "sha256": workspace.sha256_bytes(content),
        **({"lung_mask_uri": listed.uri(mask)} if mask else {}),
    }


def _in_place(url: str, sha256: str | None) -> tuple[files.Files, sources.Reader | None] | None:
    """The files of a folder, or of the folder a table lies in, and how to read the table; None for an archive."""
    address = _address(url)
    if PurePosixPath(address).suffix.lower() == ".csv":
        parent, _, table = address.rpartition("/")
        place, read = files.in_folder(parent), partial(sources.read_table, table)
    elif _is_folder(address):
        place, read = files.in_folder(address), None
    else:
        return None
    if sha256:
        raise UserError(f"fetch.sha256 is of an archive, but {url} is used in place; set it to null")
    return place, read


def _is_folder(address: str) -> bool:
    # Over HTTP every page with links in it would count as a folder.
    if address.startswith(("http://", "https://")):
        return False
    if "://" not in address:
        return Path(address).is_dir()
    try:
        system, path = fsspec.core.url_to_fs(address)
        return bool(system.isdir(path))
    except Exception:  # whatever it is, bringing the file will say it
        return False


def _address(url: str) -> str:
    """What fsspec opens: an absolute path, or the URL as it is; a set of Kaggle is brought first."""
    if url.startswith("kaggle://"):
        return _from_kaggle(url.removeprefix("kaggle://"))
    # Not Path.expanduser(), which fails where there is no such user.
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
    except Exception as error:  # kagglehub passes on what its transport raises
        raise UserError(
            f"kaggle://{handle}: the download failed ({reason(error)}); check the name and your Kaggle credentials"
        ) from error


def _unpack_arrays(path: Path, *, stored: Path, side: int) -> None:
    """Turn MedMNIST's arrays into an archive of one PNG for each image and a table, at the same path.

    PNG keeps every pixel, so that each image can be read by itself as all other sources' images can.
    """
    with files.in_archive(path, stored=stored):
        pass  # an .npz file is a zip archive, and no less able to do harm than another
    rows = []
    with workspace.written_whole(path) as packed, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        try:
            for row, image in _images_of_arrays(path, side):
                rows.append(row)
                _add(archive, row["member"], image)
        # numpy and OpenCV name neither the kinds of damage nor of wrong files that they meet alike.
        # MemoryError: a header that claims more than there is.
        except (ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, cv2.error) as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"{stored.name}: not the arrays of PneumoniaMNIST ({said}); bring the published .npz"
            ) from error
        _add(archive, "pneumoniamnist.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n").encode())


def _images_of_arrays(path: Path, side: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    with np.load(path, allow_pickle=False) as arrays:
        for split in tables.SPLITS:
            labels, pixels = arrays[f"{split}_labels"].ravel(), arrays[f"{split}_images"]
            # OpenCV would round shares of 1 to black and white.
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
        parts = compute.chunks(patients, 16)
        for rendered in compute.run(_render_chunk, parts, workers=workers, label="fetch", unit="patient"):
            for row, image, mask, found in rendered:
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
