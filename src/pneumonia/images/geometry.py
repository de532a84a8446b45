"""How an image is prepared for a network, and the position of boxes after it.

The stage `preprocess`, users of a model and the tests all call `prepare`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # a predictor prepares images without pandas
    import pandas as pd

Gray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preparation:
    """How an image file becomes the input of a network; stored in the image store and with every model.

    Attributes:
        size: pixels, side of the square.
        clip_limit: contrast limit of CLAHE, in multiples of a flat histogram; 0 = no CLAHE.
        tile_grid: CLAHE tiles along each side.
        aspect: `pad` keeps the proportions and fills with black; `cover` keeps them, fills the square with the middle
            of the image and leaves out the rest of its longer side; `squash` stretches to the square.
        crop: share of the width and of the height that is removed at each side: collimators, letters, frames.
        clahe: `after` equalises the resized image, `before` the cropped source in full resolution.
    """

    size: int
    clip_limit: float = 2.0
    tile_grid: int = 8
    aspect: str = "pad"
    crop: float = 0.0
    clahe: str = "after"

    @classmethod
    def from_settings(cls, *, image_size: int, **others: Any) -> Preparation:
        """The preparation in section `preprocess` of params.yaml."""
        return cls(size=image_size, **others)

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Preparation | None:
        """The preparation in the attributes of an image store or in `models/run.json`; None if an earlier version of
        this project wrote them without it."""
        return cls(**attributes["preparation"]) if "preparation" in attributes else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the attributes of a store."""
        return dataclasses.asdict(self)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all settings; it differs between stores of the same images with different settings.

        Numbers count with 8 significant digits, as reports keep them: the digest survives `models/run.json`.
        """
        values = {name: f"{one:.8g}" if isinstance(one, (int, float)) else one for name, one in self.as_dict().items()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Placement(NamedTuple):
    """Position of the image content in the square of the store, in pixels of the store; parts may lie outside."""

    x: int
    y: int
    width: int
    height: int


def prepare(image: Gray, preparation: Preparation) -> Gray:
    """An image as networks get it: cropped, resized, equalised, padded.

    It is shrunk by area, against aliasing. The black border, or what lies outside the square, does not count in the
    equalisation of the resized image.

    Args:
        image: uint8 (height, width), 0-255.
        preparation: how.

    Returns:
        uint8 (size, size), 0-255.

    Source: Pizer et al. (1987), doi:10.1016/S0734-189X(87)80186-X; Zuiderveld, Graphics Gems IV (1994).
    """
    place, content = _crop(image, preparation)
    if preparation.clahe == "before":
        content = _equalise(content, preparation)
    content = _visible(_resize(content, place), place, preparation.size)
    if preparation.clahe == "after":
        content = _equalise(content, preparation)
    return _pad(content, place, preparation.size)


def prepare_mask(mask: Gray, preparation: Preparation) -> Gray:
    """A mask with the geometry of `prepare`: uint8 (size, size), 0 or 255."""
    place, content = _crop(mask, preparation)
    # Resized like the image, then thresholded: nearest-neighbour resizing would shift it by half a pixel of the store.
    visible = _visible(_resize(content, place), place, preparation.size)
    return _pad(np.where(visible > 127, 255, 0).astype(np.uint8), place, preparation.size)


def placement(width: int, height: int, preparation: Preparation) -> Placement:
    """Position at which `prepare` puts an image of this size, measured after the crop.

    >>> placement(400, 200, Preparation(size=100, aspect="pad"))
    Placement(x=0, y=25, width=100, height=50)
    >>> placement(400, 200, Preparation(size=100, aspect="cover"))
    Placement(x=-50, y=0, width=200, height=100)
    """
    size = preparation.size
    if preparation.aspect == "squash":
        return Placement(0, 0, size, size)
    scale = size / (max if preparation.aspect == "pad" else min)(width, height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    return Placement((size - new_width) // 2, (size - new_height) // 2, new_width, new_height)


def to_store(
    boxes: npt.NDArray[np.float64], width: int, height: int, preparation: Preparation
) -> npt.NDArray[np.float64]:
    """Boxes of a source image in the geometry of the store.

    Args:
        boxes: float (n, 4): x, y, width, height in pixels of the source image.
        width, height: of the source image, pixels.
        preparation: of the store.

    Returns:
        float (n, 4): x, y, width, height in pixels of the store. A box is clipped to the part of the image that is in
        the store; a box outside it has width or height 0.
    """
    cut_x, cut_y = _margins(width, height, preparation.crop)
    kept_width, kept_height = width - 2 * cut_x, height - 2 * cut_y
    place = placement(kept_width, kept_height, preparation)
    scale_x, scale_y = place.width / kept_width, place.height / kept_height
    x, y, across, down = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T

    def placed(at: npt.NDArray[np.float64], scale: float, start: int, length: int) -> npt.NDArray[np.float64]:
        return np.clip(at * scale + start, max(start, 0), min(start + length, preparation.size))

    left, right = (placed(at - cut_x, scale_x, place.x, place.width) for at in (x, x + across))
    top, bottom = (placed(at - cut_y, scale_y, place.y, place.height) for at in (y, y + down))
    return np.stack((left, top, right - left, bottom - top), axis=1)


def boxes_in_store(
    boxes: pd.DataFrame, splits: pd.DataFrame, preparation: Preparation
) -> dict[str, npt.NDArray[np.float64]]:
    """The boxes of each image that has any, float (k, 4), in the geometry of the store.

    Args:
        boxes: `boxes.csv`.
        splits: `splits.csv`, with the sizes of the source images.
        preparation: of the store.
    """
    sizes = dict(zip(splits["image_id"], zip(splits["width"], splits["height"], strict=True), strict=True))
    boxes_of = {}
    for image_id, rows in boxes[boxes["image_id"].isin(list(sizes))].groupby("image_id"):
        width, height = sizes[image_id]
        placed = to_store(rows[["x", "y", "width", "height"]].to_numpy(float), width, height, preparation)
        if (visible := (placed[:, 2:] > 0).all(axis=1)).any():
            boxes_of[str(image_id)] = placed[visible]
    return boxes_of


def _margins(width: int, height: int, crop: float) -> tuple[int, int]:
    """Pixels that `crop` removes at the left and right, and at the top and bottom."""
    return int(width * crop), int(height * crop)


def _crop(image: Gray, preparation: Preparation) -> tuple[Placement, Gray]:
    height, width = image.shape
    x, y = _margins(width, height, preparation.crop)
    content = image[y : height - y, x : width - x]
    return placement(content.shape[1], content.shape[0], preparation), content


def _resize(content: Gray, place: Placement) -> Gray:
    # Sides that shrink are resized by area, against aliasing; enlarging by area would leave blocks.
    shrunk = (min(place.width, content.shape[1]), min(place.height, content.shape[0]))
    smaller = cv2.resize(content, shrunk, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, place[2:], interpolation=cv2.INTER_LINEAR), np.uint8)


def _visible(content: Gray, place: Placement, size: int) -> Gray:
    """The part of the resized content that is in the square."""
    y, x = max(0, -place.y), max(0, -place.x)
    return np.ascontiguousarray(content[y : y + size, x : x + size])


def _equalise(image: Gray, preparation: Preparation) -> Gray:
    if preparation.clip_limit == 0:
        return image
    tiles = (preparation.tile_grid, preparation.tile_grid)
    return np.asarray(cv2.createCLAHE(preparation.clip_limit, tiles).apply(image), np.uint8)


def _pad(content: Gray, place: Placement, size: int) -> Gray:
    square = np.zeros((size, size), np.uint8)
    y, x = max(0, place.y), max(0, place.x)
    square[y : y + content.shape[0], x : x + content.shape[1]] = content
    return square
