"""Changes of images that leave the diagnosis unchanged; a robust model keeps its scores under them.

Sharpness, contrast, noise and proportions differ between hospitals, devices and archives. A model that is tested on
images of one archive only may rely on such differences: on clean validation images of the Kermany set nearly every
model reaches an AUC of .99, under these changes the models differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia.images import geometry

Gray = npt.NDArray[np.uint8]

SIDE = 224
"""Pixels, side of the store for which the amounts below are defined; they scale with the side."""


def _blur(image: Gray, sigma: float) -> Gray:
    scaled = sigma * image.shape[0] / SIDE
    return np.asarray(cv2.GaussianBlur(image, (0, 0), scaled), np.uint8)


def _resolution(image: Gray, share: float) -> Gray:
    """As if stored with a fraction of its pixels."""
    height, width = image.shape
    small = cv2.resize(
        image, (max(1, round(width * share)), max(1, round(height * share))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _contrast(image: Gray, factor: float) -> Gray:
    mean = image.mean()
    return _rounded(mean + factor * (image - mean))


def _gamma(image: Gray, exponent: float) -> Gray:
    table = _rounded(255 * (np.arange(256) / 255) ** exponent)
    return np.asarray(table[image], np.uint8)


def _noise(image: Gray, sigma: float, rng: np.random.Generator) -> Gray:
    return _rounded(image + rng.normal(0, sigma, image.shape))


def _proportions(image: Gray, share: float, upright: bool) -> Gray:
    """A share of the height (`upright`) or width removed, the rest stretched to the same size.

    This simulates a wider or taller source image that was squashed into the same square.
    """
    height, width = image.shape
    cut = round(share / 2 * (height if upright else width))
    content = image[cut : height - cut] if upright else image[:, cut : width - cut]
    return np.asarray(cv2.resize(content, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _jpeg(image: Gray, quality: int) -> Gray:
    _, content = cv2.imencode(".jpeg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)


def _rotation(image: Gray, degrees: float) -> Gray:
    height, width = image.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _without_letters(image: Gray) -> Gray:
    """Thin bright strokes in the four corners replaced by what lies around them: letters, side markers.

    A stroke is brighter than a morphological opening by `_STROKE`; bones and shoulders are wider than its disc.
    """
    height, width = image.shape
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(4 * height / SIDE) + 1,) * 2)
    smooth = cv2.morphologyEx(image, cv2.MORPH_OPEN, disc, borderType=cv2.BORDER_REPLICATE)
    strokes = cv2.dilate((cv2.subtract(image, smooth) > _STROKE).astype(np.uint8), np.ones((3, 3), np.uint8))
    middle_rows, middle_columns = (
        slice(round(share * side), side - round(share * side))
        for share, side in ((_CORNER[0], height), (_CORNER[1], width))
    )
    strokes[middle_rows] = 0
    strokes[:, middle_columns] = 0
    return np.where(strokes > 0, smooth, image)


_STROKE = 60
"""Gray levels."""

_CORNER = 0.2, 0.35
"""Height and width of a corner, as shares of the sides."""


def _rounded(values: npt.NDArray[np.floating]) -> Gray:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


STRESSES: dict[str, Callable[[Gray, np.random.Generator], Gray]] = {
    "blur": lambda image, rng: _blur(image, 1.2),  # pixels
    "resolution": lambda image, rng: _resolution(image, 0.5),
    "contrast_low": lambda image, rng: _contrast(image, 0.6),
    "contrast_high": lambda image, rng: _contrast(image, 1.4),
    "gamma_dark": lambda image, rng: _gamma(image, 1.5),
    "gamma_bright": lambda image, rng: _gamma(image, 0.67),
    "noise": lambda image, rng: _noise(image, 10.0, rng),  # gray levels
    "proportions": lambda image, rng: _proportions(image, 0.15, upright=bool(rng.integers(2))),
}
"""The robust AUC is the mean AUC on validation over the unchanged images and each of these changes."""

REPORTED: dict[str, Callable[[Gray, np.random.Generator], Gray]] = {
    "jpeg": lambda image, rng: _jpeg(image, 20),  # quality, 0-100
    "rotation": lambda image, rng: _rotation(image, rng.uniform(-10.0, 10.0)),  # degrees
    "letters_removed": lambda image, rng: _without_letters(image),
}
"""Further changes, for the audit only."""


def stressed(images: Gray, name: str, *, seed: int | np.random.Generator = 0) -> Gray:
    """Images under one of `STRESSES` or `REPORTED`.

    Args:
        images: uint8 (n, height, width), 0-255.
        name: a key of either.
        seed: of noise, angles and proportions, which differ between images; the same seed gives the same images. A
            generator keeps its state: images in several blocks get the same noise as in one.

    Returns:
        uint8 (n, height, width), 0-255.
    """
    change, rng = (STRESSES | REPORTED)[name], np.random.default_rng(seed)
    changed = np.empty_like(images)
    for row, image in enumerate(images):
        changed[row] = change(image, rng)
    return changed


def occluded(images: Gray, kept: npt.NDArray[np.bool_]) -> Gray:
    """Images that are black outside a mask.

    A model that finds pneumonia without the lungs has learnt something else: letters, tubes, how a ward takes X-rays
    (Maguolo & Nanni 2021, doi:10.1016/j.inffus.2021.04.008).

    Args:
        images: uint8 (n, height, width), 0-255.
        kept: bool, pixels that stay visible, of the same shape or (height, width).

    Returns:
        uint8 (n, height, width), 0-255.
    """
    return np.where(kept, images, np.uint8(0))


def middle(height: int, width: int, share: float = 0.7) -> npt.NDArray[np.bool_]:
    """A rectangle around the centre that contains most of the lungs, for images without masks.

    Args:
        height, width: pixels.
        share: of both sides.

    Returns:
        bool (height, width).
    """
    rows, columns = (np.abs(np.arange(side) - (side - 1) / 2) < share * side / 2 for side in (height, width))
    return np.asarray(rows[:, None] & columns[None, :], np.bool_)


class Box(NamedTuple):
    """A rectangle of pixels: rows from `top` to `bottom`, columns from `left` to `right`, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    def mask(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """Its pixels, bool (height, width)."""
        inside = np.zeros((height, width), bool)
        inside[self.top : self.bottom, self.left : self.right] = True
        return inside

    @property
    def sides(self) -> geometry.Box:
        """The same rectangle by its place and size."""
        return geometry.Box(self.left, self.top, self.right - self.left, self.bottom - self.top)


def box_of(mask: npt.NDArray[np.bool_]) -> Box:
    """The smallest box around the pixels of a mask; of an empty mask that of `middle`."""
    if not mask.any():
        return box_of(middle(*mask.shape))
    (top, bottom), (left, right) = ((int(where.min()), int(where.max()) + 1) for where in np.nonzero(mask))
    return Box(top, bottom, left, right)


def common_box(boxes: Sequence[Box], share: float = 0.95) -> Box:
    """A box that contains at least this share of the boxes: the same for every film, so that it tells no class."""
    outside = (1 - share) / 4  # of each side
    values = np.array(boxes)
    lows = np.quantile(values[:, [0, 2]], outside, axis=0, method="lower").tolist()
    highs = np.quantile(values[:, [1, 3]], 1 - outside, axis=0, method="higher").tolist()
    return Box(lows[0], highs[0], lows[1], highs[1])


def swapped(film: Gray, box: Box, other: Gray, other_box: Box) -> Gray:
    """The box of one film on the surroundings of another, in the place and size of its box, with a soft border.

    A score should follow the lungs; one that follows the surroundings has learnt something else. Where the lungs lie,
    and how large they are, belongs to the surroundings.

    Args:
        film, other: uint8 (size, size), 0-255.
        box, other_box: around their lungs.

    Source: Xiao et al. (2020), arXiv:2006.09994.
    """
    height, width = other.shape
    moved = cv2.warpAffine(
        film,
        geometry.affine(other_box.sides, box.sides),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    share = cv2.GaussianBlur(other_box.mask(height, width).astype(np.float32), (0, 0), _BORDER * height)
    return _rounded(share * moved + (1 - share) * other)


_BORDER = 0.02
"""Standard deviation of the soft border, as a share of the side."""
