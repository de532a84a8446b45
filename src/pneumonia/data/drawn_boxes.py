"""Boxes that lie beside a user's own images: a table `boxes.csv`, or a COCO detection file.

COCO: Lin et al. (2014), arXiv:1405.0312; the format is that of https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pneumonia import UserError, reason
from pneumonia.data import columns, contents, sheets
from pneumonia.data.contents import Listing, Rows
from pneumonia.data.finder import Finder, plain
from pneumonia.files import Files

TABLE, COCO = "boxes.csv", "annotations.json"
"""The names of the files; a COCO file may have any other name that ends in `.json`."""
MAX_BEYOND = 1.0
"""Pixels by which rounding may put a side of a box beyond the edge of its image; `geometry.to_store` cuts it there."""

_SIDES, _CORNERS = ("x", "y", "width", "height"), ("x_min", "y_min", "x_max", "y_max")
_PARTS = ("images", "annotations", "categories")
_USUAL = re.compile(rf"{re.escape(TABLE)}|.*(annotations?|instances|coco).*\.json")
"""Names that files with boxes usually have, as `instances_train2017.json` or `_annotations.coco.json`."""


class _Box(NamedTuple):
    """A box as a file gives it.

    Attributes:
        where: the file and the line or the annotation, for messages.
        image: the name of the image.
        sides: x, y, width, height.
        size: width and height of the image as a COCO file states them; None if it does not.
    """

    where: str
    image: str
    sides: tuple[float, float, float, float]
    size: tuple[int, int] | None = None


def with_boxes(listing: Listing, files: Files, classes: Mapping[str, int]) -> Listing:
    """What a reader finds in a place, with the boxes that lie beside the images.

    They lie in a folder that is above all images. An image with pneumonia that has no box there may have one that
    nobody drew: its boxes are not known.

    Args:
        listing: without boxes.
        files: of the place.
        classes: name of a class -> label, as `columns.class_names` returns it.

    Returns:
        The listing. Each of its boxes has `where`, the place in its file, and `size`, that of its image as a COCO file
        states it or None, for `require_inside`.

    Raises:
        UserError: two files with boxes, a damaged one, or, with counts and the first of them: a cell that is no
            number, corners in the wrong order, a box without a size, one of an unknown or a normal image, an image that
            does not exist.
    """
    places, elsewhere = _places(files, listing.rows)
    if elsewhere:
        note = (
            f"files that seem to have boxes are not read, because they are not above all images: {len(elsewhere):,}, "
            f"{contents.first(elsewhere)}; make one file of them, in the folder of the images (docs/detector.md)"
        )
        listing = listing._replace(notes=(*listing.notes, note))
    if len(places) > 1:
        raise UserError(f"{files.place}: boxes in {' and in '.join(places)}; keep the one file that counts")
    if not places:
        return listing
    ((name, content),) = places.items()
    images = _Images(files, listing.rows, name)
    boxes, notes = _of_table(files, name) if content is None else _of_coco(content, name, images, classes)
    rows = _checked(boxes, images)
    if n_twice := len(boxes) - len(rows):
        notes.append(f"{name}: boxes that occur twice count once: {n_twice:,} of {len(boxes):,}")
    known = {box["image_id"] for box in rows}
    n_ill = sum(row["label"] for row in listing.rows)
    if n_unknown := n_ill - len(known):
        notes.append(f"{name}: images with pneumonia whose boxes are not known: {n_unknown:,} of {n_ill:,}")
    others = {why: [one for one in names if one != name] for why, names in listing.companions.items()}
    companions = {why: names for why, names in others.items() if names}
    return listing._replace(boxes=rows, companions=companions, notes=(*listing.notes, *notes))


def require_inside(boxes: Sequence[Mapping[str, Any]], sizes: Mapping[str, tuple[int, int]]) -> None:
    """Check the boxes of `with_boxes` against the sizes of their images.

    Args:
        boxes: its rows; those of other sources, without `where`, are not checked.
        sizes: image -> width and height in pixels; of an image without them, a damaged one, nothing is judged.

    Raises:
        UserError: a box that ends more than `MAX_BEYOND` outside its image, or a COCO file of images of another size.
    """
    judged = [(box, size) for box in boxes if "where" in box and (size := sizes.get(box["image_id"]))]
    other = [(box, size) for box, size in judged if box["size"] not in (None, size)]
    if other:
        box, (width, height) = other[0]
        raise UserError(
            f"{box['where']}: its image has {width} x {height} pixels, in the file with boxes "
            f"{' x '.join(map(str, box['size']))}, in {len(other):,} of {len(boxes):,} boxes; use the images on which "
            "the boxes were drawn, or scale the boxes and the sizes with them"
        )
    beyond = [(box, size) for box, size in judged if not _is_inside(box, *size)]
    if beyond:
        box, (width, height) = beyond[0]
        right, bottom = box["x"] + box["width"], box["y"] + box["height"]
        raise UserError(
            f"{box['where']}: from ({box['x']:g}, {box['y']:g}) to ({right:g}, {bottom:g}), but {box['image_id']} has "
            f"{width} x {height} pixels: outside the image, in {len(beyond):,} of {len(boxes):,} boxes; give boxes in "
            "pixels of the file, inside it; corners have the columns x_min, y_min, x_max, y_max"
        )


def _is_inside(box: Mapping[str, Any], width: int, height: int) -> bool:
    spans = [(box["x"], box["x"] + box["width"], width), (box["y"], box["y"] + box["height"], height)]
    return all(
        start < side and end > 0 and start >= -MAX_BEYOND and end <= side + MAX_BEYOND for start, end, side in spans
    )


def _places(files: Files, rows: Rows) -> tuple[dict[str, Any], list[str]]:
    """The files with boxes in the folders above all images: None for a table, what it contains for a COCO file.

    Also the names of files in other folders that seem to have boxes.
    """
    if not rows:
        return {}, []
    tops = contents.folders_above(row["member"] for row in rows)
    stems = {row["member"].rsplit(".", 1)[0] for row in rows}
    found: dict[str, Any] = {}
    elsewhere = []
    for name in files.names:
        folder, _, file = name.rpartition("/")
        if contents.is_junk(name):
            continue
        if folder not in tops:
            if _USUAL.fullmatch(columns.key(file)) and name.rsplit(".", 1)[0] not in stems:
                elsewhere.append(name)
        elif columns.key(file) == TABLE:
            found[name] = None
        # Not the notes of a single image: `a.json` beside `a.png`.
        elif PurePosixPath(file).suffix.lower() == ".json" and name.rsplit(".", 1)[0] not in stems:
            content = _read_coco(files, name, required=columns.key(file) == COCO)
            if content is not None:
                found[name] = content
    return found, elsewhere


def _read_coco(files: Files, name: str, *, required: bool) -> Any:
    """The content of a COCO detection file; None if the file is something else, unless that is `required`."""
    content = files.read(name)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        if required or b'"annotations"' in content:
            raise UserError(f"{name} is no JSON ({reason(error)}); export it again, or remove it") from error
        return None
    if isinstance(value, dict) and all(isinstance(value.get(part), list) for part in _PARTS):
        return value
    if required:
        raise UserError(f"{name} is no COCO detection file: it needs the lists {', '.join(_PARTS)}; export it again")
    return None


class _Images:
    """The images of a place, found by the names that a file with boxes gives them.

    Args:
        files: of the place.
        rows: of the listing.
        name: of the file with boxes.
    """

    def __init__(self, files: Files, rows: Rows, name: str) -> None:
        self._finder, self._aliases = Finder(files, name[: name.rfind("/") + 1]), files.aliases
        self._rows = {files.aliases.get(row["member"], row["member"]): row for row in rows}
        self._of_file: dict[str, Rows] = {}
        for row in rows:
            self._of_file.setdefault(columns.key(PurePosixPath(row["member"]).name), []).append(row)

    def row(self, name: str) -> Mapping[str, Any] | None:
        """The row of an image: by its path, or, where there is no such file, by its name if only one image has it."""
        if path := self._finder.name(name):  # a file that is left out is never replaced by another one
            return self._rows.get(self._aliases.get(path, path))
        same = self._of_file.get(columns.key(plain(name)), [])
        return same[0] if len(same) == 1 else None

    def exists(self, name: str) -> bool:
        return bool(self._finder.name(name) or self.row(name))

    def problem(self, name: str) -> str:
        """Why a name has no row."""
        if path := self._finder.name(name):
            return f"{path} is no image of the data set, it is left out"
        n_named = len(self._of_file.get(columns.key(plain(name)), []))
        return f"{n_named} images have this name" if n_named > 1 else "no image of the data set has this name"


def _of_table(files: Files, name: str) -> tuple[list[_Box], list[str]]:
    sheet = sheets.read_sheet(files, name, ("image",), (*_SIDES, *_CORNERS))
    header = sheet.rows[0][1]
    given = next((sides for sides in (_SIDES, _CORNERS) if header.keys() >= {*sides}), None)
    if given is None:
        raise UserError(
            f"{name} has the columns {', '.join(header)}; it needs image and {', '.join(_SIDES)}, or image and "
            f"{', '.join(_CORNERS)}"
        )
    boxes, wrong = [], []
    for line, row in sheet.rows:
        cells = [row[side].strip() for side in given]
        if not any(cells):
            continue  # a row for an image without a box, as in the table of the RSNA challenge
        where, sides = f"{name}, line {line}", _sides(cells)
        if sides is None:
            side = next(side for side in given if _number(row[side]) is None)
            wrong.append(f"{where}: {side} {row[side]!r}")
            continue
        x, y, right, bottom = sides
        box = sides if given == _SIDES else (x, y, right - x, bottom - y)
        boxes.append(_Box(where, row["image"].strip(), box))
    if wrong:
        raise UserError(
            f"{wrong[0]} is no number, in {len(wrong):,} of {len(sheet.rows):,} rows; write numbers such as 107.8, or "
            "leave all four cells empty where an image has no box"
        )
    return boxes, [sheet.note] if sheet.note else []


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _of_coco(
    content: Mapping[str, Any], name: str, images: _Images, classes: Mapping[str, int]
) -> tuple[list[_Box], list[str]]:
    image_of = _by_id(content["images"], f"{name}, image", "file_name")
    missing = [one for one, image in image_of.items() if not images.exists(str(image["file_name"]))]
    if missing:
        raise UserError(
            f"{name}, image {missing[0]}: file_name {image_of[missing[0]]['file_name']!r}: no such image, in "
            f"{len(missing):,} of {len(image_of):,} images; add the files, correct file_name (a path in the folder, or "
            "the name of one image), or remove the entries"
        )
    drawn = _by_id(content["annotations"], f"{name}, annotation", "image_id", "category_id")
    n = f"of {len(drawn):,} annotations"
    if lost := [one for one, entry in drawn.items() if entry["image_id"] not in image_of]:
        raise UserError(
            f"{name}, annotation {lost[0]}: image_id {drawn[lost[0]]['image_id']!r} is none of its images, in "
            f"{len(lost):,} {n}; add the images to its list, or remove the annotations"
        )
    rows = {one: images.row(str(image["file_name"])) for one, image in image_of.items()}
    on_normals = [one for one, entry in drawn.items() if (row := rows[entry["image_id"]]) and row["label"] == 0]
    counted, notes = _categories_of_pneumonia(content, name, drawn, on_normals, classes)
    read = {one: entry for one, entry in drawn.items() if entry["category_id"] in counted}
    sides_of = {one: _sides(entry.get("bbox")) for one, entry in read.items()}
    if wrong := [one for one, sides in sides_of.items() if sides is None]:
        raise UserError(
            f"{name}, annotation {wrong[0]}: bbox {read[wrong[0]].get('bbox')!r:.80} is not [x, y, width, height] in "
            f"numbers, in {len(wrong):,} {n}; correct or remove them"
        )
    boxes = []
    for one, sides in sides_of.items():
        image = image_of[read[one]["image_id"]]
        stated = [side for side in (image.get("width"), image.get("height")) if isinstance(side, int) and side > 0]
        size = (stated[0], stated[1]) if len(stated) == 2 else None
        if sides:
            boxes.append(_Box(f"{name}, annotation {one}", str(image["file_name"]), sides, size))
    return boxes, notes


def _by_id(entries: Sequence[Any], where: str, *needed: str) -> dict[Any, dict[str, Any]]:
    """The entries of a list of a COCO file by their `id`, each with a whole number or a text under the needed keys."""
    found: dict[Any, dict[str, Any]] = {}
    for number, given in enumerate(entries, 1):
        entry = {key: _whole(value) for key, value in given.items()} if isinstance(given, dict) else {}
        for key in ("id", *needed):
            if not isinstance(entry.get(key), (int, str)):
                raise UserError(f"{where} {number} of {len(entries):,} has no {key}: damaged; export the file again")
        if entry["id"] in found:
            raise UserError(f"{where} {entry['id']}: two entries have this id; export the file again")
        found[entry["id"]] = entry
    return found


def _whole(value: Any) -> Any:
    """A whole number as an integer, also where pandas has written it as 7.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sides(bbox: Any) -> tuple[float, float, float, float] | None:
    values = [_number(value) for value in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [None]
    numbers = [value for value in values if value is not None]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def _categories_of_pneumonia(
    content: Mapping[str, Any],
    name: str,
    drawn: Mapping[Any, Mapping[str, Any]],
    on_normals: Sequence[Any],
    classes: Mapping[str, int],
) -> tuple[set[Any], list[str]]:
    """The categories of a file whose boxes are those of pneumonia, and notes.

    They have a name of the class or of a subtype. The category of a file that defines no other counts whatever its
    name, if it has no box on a normal image.

    Args:
        drawn: the annotations by their `id`.
        on_normals: those of them on normal images.
    """
    names = {
        one: str(entry["name"]) for one, entry in _by_id(content["categories"], f"{name}, category", "name").items()
    }
    n = f"of {len(drawn):,} annotations"
    if lost := [one for one, entry in drawn.items() if entry["category_id"] not in names]:
        raise UserError(
            f"{name}, annotation {lost[0]}: category_id {drawn[lost[0]]['category_id']!r} is none of its categories, "
            f"in {len(lost):,} {n}; export the file again"
        )
    counted = {one for one, text in names.items() if _is_pneumonia(text, classes)}
    others = [entry["category_id"] for entry in drawn.values() if entry["category_id"] not in counted]
    if not others:
        return counted, []
    listed = contents.first(sorted({repr(names[one]) for one in others}))
    if len(names) == 1 and not on_normals:
        return {*names}, [f"{name}: its only category, {listed}, counts as pneumonia"]
    why = f", {len(on_normals):,} of them on normal images" if len(names) == 1 else ""
    return counted, [
        f"{name}: boxes of other categories are not read: {len(others):,} {n}, of {listed}{why}; add the names of "
        "those that are pneumonia to fetch.classes"
    ]


def _is_pneumonia(name: str, classes: Mapping[str, int]) -> bool:
    return classes.get(columns.key(name)) == 1 or columns.key(name) in columns.SUBTYPES


def _checked(boxes: Sequence[_Box], images: _Images) -> Rows:
    """The boxes as rows for the table of boxes, each once."""
    found = [images.row(box.image) for box in boxes]
    n = f"of {len(boxes):,} boxes"
    values = [side for box in boxes for side in box.sides]
    if any(value % 1 for value in values) and max(values) <= 1:
        raise UserError(
            f"{boxes[0].where}: no number is above 1, as in shares of the image; boxes are in pixels of the "
            "file: multiply them by its width and height"
        )
    if wrong := [box for box in boxes if min(box.sides[2:]) < 0]:
        raise UserError(
            f"{_described(wrong[0])}: corners in the wrong order, in {len(wrong):,} {n}; x and y are of the upper left "
            "corner, width and height are positive"
        )
    if wrong := [box for box in boxes if min(box.sides[2:]) == 0]:
        raise UserError(f"{_described(wrong[0])}: a box of no size, in {len(wrong):,} {n}; draw it again, or remove it")
    if wrong := [box for box, row in zip(boxes, found, strict=True) if row is None]:
        raise UserError(
            f"{wrong[0].where}: {wrong[0].image!r}: {images.problem(wrong[0].image)}: unknown images, in "
            f"{len(wrong):,} {n}; write the path of the image as in the folder or the table, or the "
            "name of a file that only one image has"
        )
    of_normals = [(box, row) for box, row in zip(boxes, found, strict=True) if row and row["label"] == 0]
    if of_normals:
        box, row = of_normals[0]
        raise UserError(
            f"{box.where}: {row['image_id']} is a normal image, in {len(of_normals):,} {n}; correct the class of the "
            "image, or remove the box"
        )
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for box, one in zip(boxes, found, strict=True):
        if one:
            place = dict(zip(("image_id", *_SIDES), (one["image_id"], *box.sides), strict=True))
            rows.setdefault((*place.values(),), place | {"where": box.where, "size": box.size})
    return list(rows.values())


def _described(box: _Box) -> str:
    x, y, width, height = box.sides
    return f"{box.where}: x {x:g}, y {y:g}, width {width:g}, height {height:g}"
