"""How an image is prepared for a network, and the position of boxes after it.

The stage `preprocess`, users of a model and the tests all call `prepare`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # a predictor prepares images without pandas
    import pandas as pd

Gray = npt.NDArray[np.uint8]

SEGMENTER = "ff0bebedad234fb3b7e20a10112f244965c8532a3541a7f5774bde60e8f81d64"
"""Hex SHA-256 of `pretrained/lungs/lungs.onnx`, the network of `images.lungs`."""

_AROUND_LUNGS = ("margin", "segmenter")
"""Fields of a preparation that only the aspect `lungs` uses."""


@dataclass(frozen=True)
class Preparation:
    """How an image file becomes the input of a network; stored in the image store and with every model.

    Attributes:
        size: pixels, side of the square.
        clip_limit: contrast limit of CLAHE, in multiples of a flat histogram; 0 = no CLAHE.
        tile_grid: CLAHE tiles along each side.
        aspect: `pad` keeps the proportions and fills with black; `cover` keeps them, fills the square with the middle
            of the image and leaves out the rest of its longer side; `squash` stretches to the square; `lungs` stretches
            the box around the lungs to the square, and pads an image without lungs.
        crop: share of the width and of the height that is removed at each side: collimators, letters, frames.
        clahe: `after` equalises the resized image, `before` the cropped source in full resolution.
        margin: share of the width and of the height of the lungs' box that is added at each side; only of `lungs`.
        segmenter: hex SHA-256 of the network that finds the lungs; only of `lungs`.
    """

    size: int
    clip_limit: float = 2.0
    tile_grid: int = 8
    aspect: str = "pad"
    crop: float = 0.0
    clahe: str = "after"
    margin: float = 0.04
    segmenter: str = ""

    @classmethod
    def from_settings(cls, *, image_size: int, **others: Any) -> Preparation:
        """The preparation in section `preprocess` of params.yaml, with the segmenter of this version."""
        if others.get("aspect") == "lungs":
            return cls(size=image_size, segmenter=SEGMENTER, **others)
        return cls(size=image_size, **{name: value for name, value in others.items() if name != "margin"})

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Preparation | None:
        """The preparation in the attributes of an image store or in `models/run.json`; None if an earlier version of
        this project wrote them without it."""
        return cls(**attributes["preparation"]) if "preparation" in attributes else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the attributes of a store; without those that have no effect."""
        values = dataclasses.asdict(self)
        unused = () if self.aspect == "lungs" else _AROUND_LUNGS
        return {name: value for name, value in values.items() if name not in unused}

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all settings; it differs between stores of the same images with different settings.

        Numbers count with 8 significant digits, as reports keep them: the digest survives `models/run.json`.
        """
        values = {name: f"{one:.8g}" if isinstance(one, (int, float)) else one for name, one in self.as_dict().items()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Placement(NamedTuple):
    """Position of the image content in the square of the store, in pixels of the store."""

    x: int
    y: int
    width: int
    height: int


class Box(NamedTuple):
    """A rectangle in pixels of the source image; the edge of the image is 0, not the middle of its first pixel."""

    x: float
    y: float
    width: float
    height: float


def affine(start: Box, end: Box) -> npt.NDArray[np.float64]:
    """The matrix (2, 3) that takes pixels of one rectangle to those of another, for `cv2.warpAffine`.

    Rectangles are measured from the edges of pixels, the matrix from their middles.

    >>> affine(Box(0, 0, 10, 10), Box(5, 0, 20, 10)).tolist()
    [[2.0, 0.0, 5.5], [0.0, 1.0, 0.0]]
    """
    across, down = end.width / start.width, end.height / start.height
    return np.array(
        [
            [across, 0, end.x - across * start.x + (across - 1) / 2],
            [0, down, end.y - down * start.y + (down - 1) / 2],
        ]
    )


def prepare(image: Gray, preparation: Preparation, lungs: Box | None = None) -> Gray:
    """An image as networks get it: cropped, resized, equalised, padded.

    It is shrunk by area, against aliasing. The black border, or what lies outside the square, does not count in the
    equalisation of the resized image.

    Args:
        image: uint8 (height, width), 0-255.
        preparation: how.
        lungs: the box around them, of `images.lungs.box`; None = none were found, or the preparation does not ask.

    Returns:
        uint8 (size, size), 0-255.

    Source: Pizer et al. (1987), doi:10.1016/S0734-189X(87)80186-X; Zuiderveld, Graphics Gems IV (1994).
    """
    x, y, content = cropped(image, preparation.crop)
    if preparation.clahe == "before":
        content = _equalise(content, preparation)
    place, content = _placed(content, _moved(lungs, -x, -y), preparation)
    content = resize(content, place.width, place.height)
    if preparation.clahe == "after":
        content = _equalise(content, preparation)
    return _pad(content, place, preparation.size)


def prepare_mask(mask: Gray, preparation: Preparation, lungs: Box | None = None) -> Gray:
    """A mask with the geometry of `prepare`: uint8 (size, size), 0 or 255."""
    x, y, content = cropped(mask, preparation.crop)
    place, content = _placed(content, _moved(lungs, -x, -y), preparation)
    # Resized like the image, then thresholded: nearest-neighbour resizing would shift it by half a pixel of the store.
    binary = np.where(resize(content, place.width, place.height) > 127, 255, 0).astype(np.uint8)
    return _pad(binary, place, preparation.size)


def region(width: int, height: int, preparation: Preparation, lungs: Box | None = None) -> tuple[Box, Placement]:
    """The part of an image that `prepare` uses, and where in the square it puts it.

    Around lungs, the part has whole pixels and may reach beyond the image: there its edge is repeated.

    Args:
        width, height: of the source image, pixels.
        preparation, lungs: as of `prepare`.
    """
    cut_x, cut_y = _margins(width, height, preparation.crop)
    kept_width, kept_height = width - 2 * cut_x, height - 2 * cut_y
    if preparation.aspect == "lungs" and lungs is not None:
        widened = _widened(lungs, preparation.margin)
        return Box(*map(float, widened)), Placement(0, 0, preparation.size, preparation.size)
    x, y, across, down = _used(kept_width, kept_height, preparation)
    return Box(float(cut_x + x), float(cut_y + y), float(across), float(down)), placement(across, down, preparation)


def placement(width: int, height: int, preparation: Preparation) -> Placement:
    """Position at which `prepare` puts an image of this size, measured after the crop, without lungs.

    >>> placement(400, 200, Preparation(size=100, aspect="pad"))
    Placement(x=0, y=25, width=100, height=50)
    >>> placement(400, 200, Preparation(size=100, aspect="cover"))
    Placement(x=0, y=0, width=100, height=100)
    """
    size = preparation.size
    if preparation.aspect in ("squash", "cover"):
        return Placement(0, 0, size, size)
    scale = size / max(width, height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement((size - new_width) // 2, (size - new_height) // 2, new_width, new_height)


def to_store(
    boxes: npt.NDArray[np.float64], width: int, height: int, preparation: Preparation, lungs: Box | None = None
) -> npt.NDArray[np.float64]:
    """Boxes of a source image in the geometry of the store.

    Args:
        boxes: float (n, 4): x, y, width, height in pixels of the source image.
        width, height: of the source image, pixels.
        preparation: of the store.
        lungs: the box of the lungs by which the image was prepared, as of `prepare`.

    Returns:
        float (n, 4): x, y, width, height in pixels of the store. A box is clipped to the part of the image that is in
        the store; a box outside it has width or height 0.
    """
    part, place = region(width, height, preparation, lungs)
    scale_x, scale_y = place.width / part.width, place.height / part.height
    cut_x, cut_y = _margins(width, height, preparation.crop)
    x, y, across, down = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    # First to what `crop` leaves: a box of lungs may reach beyond it, where the edge is repeated.
    left, right = (np.clip(at, max(cut_x, part.x), min(width - cut_x, part.x + part.width)) for at in (x, x + across))
    top, bottom = (np.clip(at, max(cut_y, part.y), min(height - cut_y, part.y + part.height)) for at in (y, y + down))
    scaled = ((left - part.x) * scale_x + place.x, (top - part.y) * scale_y + place.y)
    return np.stack((*scaled, (right - left) * scale_x, (bottom - top) * scale_y), axis=1)


def boxes_in_store(
    boxes: pd.DataFrame, splits: pd.DataFrame, preparation: Preparation, lungs: Mapping[str, Box | None] | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """The boxes of each image that has any, float (k, 4), in the geometry of the store.

    Args:
        boxes: `boxes.csv`.
        splits: `splits.csv`, with the sizes of the source images.
        preparation: of the store.
        lungs: image -> the box by which it was prepared, of a store around the lungs.
    """
    lungs = lungs or {}
    sizes = dict(zip(splits["image_id"], zip(splits["width"], splits["height"], strict=True), strict=True))
    boxes_of = {}
    for image_id, rows in boxes[boxes["image_id"].isin(list(sizes))].groupby("image_id"):
        width, height = sizes[image_id]
        sides = rows[["x", "y", "width", "height"]].to_numpy(float)
        placed = to_store(sides, width, height, preparation, lungs.get(str(image_id)))
        if (visible := (placed[:, 2:] > 0).all(axis=1)).any():
            boxes_of[str(image_id)] = placed[visible]
    return boxes_of


def _margins(width: int, height: int, crop: float) -> tuple[int, int]:
    """Pixels that `crop` removes at the left and right, and at the top and bottom."""
    return int(width * crop), int(height * crop)


def cropped(image: Gray, crop: float) -> tuple[int, int, Gray]:
    """What `crop` leaves of an image, behind the position of its first pixel: x, y."""
    height, width = image.shape
    x, y = _margins(width, height, crop)
    return x, y, image[y : height - y, x : width - x]


def _placed(content: Gray, lungs: Box | None, preparation: Preparation) -> tuple[Placement, Gray]:
    """The part of a cropped image that comes into the square, and its place there."""
    height, width = content.shape
    if preparation.aspect != "lungs" or lungs is None:
        x, y, across, down = _used(width, height, preparation)
        return placement(across, down, preparation), content[y : y + down, x : x + across]
    x, y, across, down = _widened(lungs, preparation.margin)
    beyond = ((max(0, -y), max(0, y + down - height)), (max(0, -x), max(0, x + across - width)))
    inside = content[max(0, y) : min(height, y + down), max(0, x) : min(width, x + across)]
    return Placement(0, 0, preparation.size, preparation.size), np.pad(inside, beyond, mode="edge")


def _used(width: int, height: int, preparation: Preparation) -> tuple[int, int, int, int]:
    """The part of a cropped image that is used without lungs: x, y, width, height; of `cover` the square in its middle.

    It is cut before the resize: a thin image would become a very long one.
    """
    if preparation.aspect != "cover":
        return 0, 0, width, height
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def _widened(lungs: Box, margin: float) -> tuple[int, int, int, int]:
    """The box with its margin, in whole pixels: x, y, width, height."""
    left, top = _whole(lungs.x - margin * lungs.width), _whole(lungs.y - margin * lungs.height)
    right = _whole(lungs.x + (1 + margin) * lungs.width)
    bottom = _whole(lungs.y + (1 + margin) * lungs.height)
    return left, top, max(1, right - left), max(1, bottom - top)


def _whole(value: float) -> int:
    """The nearest whole number, of a half always the next one: a crop then moves it by whole pixels."""
    return math.floor(value + 0.5)


def _moved(lungs: Box | None, x: int, y: int) -> Box | None:
    return lungs._replace(x=lungs.x + x, y=lungs.y + y) if lungs else None


def resize(content: Gray, width: int, height: int) -> Gray:
    """An image in another size: sides that shrink by area, against aliasing, others between their pixels."""
    # Enlarging by area would leave blocks.
    shrunk = (min(width, content.shape[1]), min(height, content.shape[0]))
    smaller = cv2.resize(content, shrunk, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _equalise(image: Gray, preparation: Preparation) -> Gray:
    if preparation.clip_limit == 0:
        return image
    tiles = (preparation.tile_grid, preparation.tile_grid)
    return np.asarray(cv2.createCLAHE(preparation.clip_limit, tiles).apply(image), np.uint8)


def _pad(content: Gray, place: Placement, size: int) -> Gray:
    square = np.zeros((size, size), np.uint8)
    square[place.y : place.y + place.height, place.x : place.x + place.width] = content
    return square
