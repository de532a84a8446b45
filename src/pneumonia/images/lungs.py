"""The lungs in a film: found by a small network that learnt from human masks, and judged by rules.

Every part of the project that needs lungs without a human mask asks here. It runs ONNX Runtime on one thread, so that
a film has the same lungs in every process. `docs/lungs.md` says what the network learnt from and how good it is.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pneumonia import UserError, inference, reason
from pneumonia.images import geometry
from pneumonia.images.geometry import Box, Gray, Preparation

SIDE = 96
"""Pixels, side of the square to which the network sees a film stretched."""

FILE = Path(__file__).resolve().parents[1] / "pretrained" / "lungs" / "lungs.onnx"
"""The network of this version of the project; its digest is `geometry.SEGMENTER`."""

LUNG = 0.5
"""Probability from which a pixel counts as lung."""

SMALLEST = 0.01
"""Share of the film from which a part counts: a lung takes at least 3 % of any film of the Kermany set."""

LEFT_OVER = 0.3
"""A third part as large as this share of the second makes the picture implausible: two films in one, a mosaic."""

UNEQUAL = 0.3
"""Least area of the smaller lung as a share of the larger one; in 476 films of children and adults it was .6."""

LARGEST = 0.8
"""Largest share of the film: more is no film of a chest, or only a detail of one."""

PROPORTIONS = (0.6, 2.5)
"""Width of the lungs' box divided by its height; in 2,092 films of children and adults it was .74 to 2.46. Two films
one above the other may look like two long lungs, of .45 to .51."""

BROADEST = 1.0
"""Largest width of the narrower lung, as a share of its height; in 975 films of children it was .95. Two films side by
side may look like two broad lungs."""

STEEPEST = 0.7
"""Largest distance of the two middles in height, as a share of that in width: a film on its side has none."""

FILLED = 0.3
"""Least share of their box that the lungs fill."""

SURE = 0.75
"""Least mean probability of the pixels that count as lung: in other pictures the network is unsure."""

_DILATION = np.ones((3, 3), np.uint8)


class Lungs(NamedTuple):
    """The two lungs of a film.

    Attributes:
        probability: float32 (SIDE, SIDE), 0-1, of the searched part; 0 outside the two lungs and a seam around them.
        searched: the part of the film that was searched, in pixels of the film: all but what a preparation cuts off.
        box: around both lungs, in pixels of the film.
        share: of the searched part that is lung, 0-1.
    """

    probability: npt.NDArray[np.float32]
    searched: Box
    box: Box
    share: float

    def mask(self, height: int, width: int, scale: float = 1.0) -> npt.NDArray[np.bool_]:
        """The pixels that are lung in a film of this size, or in a picture of the film, bool (height, width).

        Args:
            height, width: of the film or of the picture, pixels.
            scale: pixels of the picture for each pixel of the film.
        """
        x, y, across, down = self.searched
        # By its ends: each of them is rounded to a line in the picture.
        left, top, right, bottom = (round(scale * end) for end in (x, y, x + across, y + down))
        mask = np.zeros((height, width), np.bool_)
        part = cv2.resize(self.probability, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        mask[top:bottom, left:right] = part >= LUNG
        return mask

    def moved(self, x: int, y: int) -> Lungs:
        """The same lungs in a film that begins further left by `x` and higher by `y` pixels."""
        searched, box = (one._replace(x=one.x + x, y=one.y + y) for one in (self.searched, self.box))
        return self._replace(searched=searched, box=box)


class Finding(NamedTuple):
    """What was found in a film: lungs, or why there are none."""

    lungs: Lungs | None
    problem: str


class Segmenter:
    """The network in an ONNX file, opened once in a process by `open_segmenter`.

    Attributes:
        digest: hex SHA-256 of the file.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self.digest, self._path = hashlib.sha256(content).hexdigest(), path
        self._session = inference.open_session(path, content, threads=1, remedy=_REMEDY)
        ends = [one.name for one in (*self._session.get_inputs(), *self._session.get_outputs())]
        if ends != ["pixels", "lungs"]:
            raise UserError(f"{path} has the inputs and outputs {ends}, not pixels and lungs; {_REMEDY}")

    def find(self, image: Gray) -> Lungs | None:
        """The lungs in a film; None if there are no two plausible lungs, as `examine` says."""
        return self.examine(image).lungs

    def examine(self, image: Gray) -> Finding:
        """The lungs in a film, or why none are found.

        The two largest parts are taken. They must be large enough, side by side and of the form of lungs; a film with
        one visible lung, a lateral film, two films in one picture and other pictures have none.

        A film with inverted gray levels, whose lungs are brighter than what lies between them, is searched once more,
        as its negative.

        Args:
            image: uint8 (height, width), 0-255, of any size.

        Returns:
            The lungs in pixels of `image`, or the reason in words.

        Raises:
            UserError: ONNX Runtime cannot run the network.
        """
        finding = _judged(self.probability(image), *image.shape)
        if finding.lungs and _are_bright(image, finding.lungs.probability):
            return _judged(self.probability(255 - image), *image.shape)
        return finding

    def probability(self, image: Gray) -> npt.NDArray[np.float32]:
        """The probability that a pixel is lung, float32 (SIDE, SIDE), of a film of any size that is stretched so."""
        small = cv2.equalizeHist(geometry.resize(image, SIDE, SIDE))
        # The mean over the film and its mirror image is a little better than either.
        inputs = np.stack([small, small[:, ::-1]])[..., None].astype(np.float32)
        try:
            (outputs,) = self._session.run(["lungs"], {"pixels": inputs})
            direct, mirrored = np.asarray(outputs, np.float32).reshape(2, SIDE, SIDE)
            return np.asarray((direct + mirrored[:, ::-1]) / 2, np.float32)
        except Exception as error:  # onnxruntime has its own error classes, which it does not export
            raise UserError(f"{self._path} cannot be run ({reason(error)}); {_REMEDY}") from error


_REMEDY = "install the project again, or export the model again"


def open_segmenter(path: Path = FILE, digest: str = geometry.SEGMENTER) -> Segmenter:
    """The network in a file, opened once in a process.

    Args:
        path: of the ONNX file.
        digest: hex SHA-256 that it must have.

    Raises:
        UserError: it is missing, damaged or another one.
    """
    return _opened(path, digest)


@lru_cache(maxsize=4)
def _opened(path: Path, digest: str) -> Segmenter:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the network that finds lungs cannot be read ({reason(error)}); {_REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path}: the network that finds lungs is damaged or of another version; {_REMEDY}")
    return Segmenter(path, content)


def find(image: Gray) -> Lungs | None:
    """The lungs in a film, by the segmenter of this version; None if there are no two plausible lungs.

    Args:
        image: uint8 (height, width), 0-255, of any size.
    """
    return open_segmenter().find(image)


def look(image: Gray, preparation: Preparation, segmenter: Segmenter | None = None) -> Finding:
    """The lungs in a film that is prepared around them, or why there are none.

    Without a search both are empty: where the film is prepared in another way.

    Args:
        image: uint8 (height, width), 0-255.
        preparation: its `crop` is cut off before the search.
        segmenter: None = that of this version of the project.

    Raises:
        UserError: the preparation was made with another segmenter than that of this version, and none is given.
    """
    if preparation.aspect != "lungs":
        return Finding(None, "")
    return search(image, preparation.crop, segmenter or open_segmenter(digest=preparation.segmenter))


def search(image: Gray, crop: float = 0.0, segmenter: Segmenter | None = None) -> Finding:
    """The lungs in what a crop leaves of a film, or why there are none.

    Args:
        image: uint8 (height, width), 0-255.
        crop: share of the width and of the height that is cut off at each side before the search.
        segmenter: None = that of this version of the project.
    """
    x, y, content = geometry.cropped(image, crop)
    lungs, problem = (segmenter or open_segmenter()).examine(content)
    return Finding(lungs.moved(x, y) if lungs else None, problem)


def box(image: Gray, preparation: Preparation) -> Box | None:
    """The box that `look` finds, for `geometry.prepare`."""
    lungs = look(image, preparation).lungs
    return lungs.box if lungs else None


def _judged(probability: npt.NDArray[np.float32], height: int, width: int) -> Finding:
    is_lung = (probability >= LUNG).astype(np.uint8)
    _, labels, statistics, centres = cv2.connectedComponentsWithStats(is_lung, connectivity=4)
    areas = statistics[1:, cv2.CC_STAT_AREA] / SIDE**2
    order = np.argsort(-areas, kind="stable")
    places = [int(place) + 1 for place in order if areas[place] >= SMALLEST]
    if len(places) < 2:
        return Finding(None, "one lung only" if places else "no lungs")
    first, second = places[:2]
    large, small = areas[first - 1], areas[second - 1]
    if len(places) > 2 and areas[places[2] - 1] > LEFT_OVER * small:
        return Finding(None, "more than two parts look like lungs")
    if small < UNEQUAL * large:
        return Finding(None, "one lung only")
    both = np.isin(labels, (first, second))
    seam = cv2.dilate(both.astype(np.uint8), _DILATION)
    lungs = _lungs(np.where(seam > 0, probability, 0).astype(np.float32), float(large + small), width, height)
    across, down = np.abs(centres[first] - centres[second]) * (width, height)
    if down > STEEPEST * across:
        return Finding(None, "the two parts are not side by side")
    if not PROPORTIONS[0] <= lungs.box.width / lungs.box.height <= PROPORTIONS[1] or lungs.share > LARGEST:
        return Finding(None, "the two parts do not have the form of lungs")
    broad = min(statistics[one, cv2.CC_STAT_WIDTH] / statistics[one, cv2.CC_STAT_HEIGHT] for one in (first, second))
    if broad * width / height > BROADEST:
        return Finding(None, "the two parts do not have the form of lungs")
    if lungs.share < FILLED * lungs.box.width * lungs.box.height / (width * height):
        return Finding(None, "the two parts do not have the form of lungs")
    if probability[both].mean() < SURE:
        return Finding(None, "nothing that is clearly lung")
    return Finding(lungs, "")


def _are_bright(image: Gray, probability: npt.NDArray[np.float32]) -> bool:
    """Whether the lungs are brighter than what lies between them: in a film the heart and the spine are brighter.

    In 623 films of children and 163 of adults, and in their negatives, the means told both apart, by at least 25 of 255
    gray levels.
    """
    are_lungs = probability >= LUNG
    corners = np.argwhere(are_lungs)[:, ::-1].astype(np.int32)
    hull = cv2.fillConvexPoly(np.zeros((SIDE, SIDE), np.uint8), cv2.convexHull(corners), 1) > 0
    between, small = hull & ~are_lungs, cv2.equalizeHist(geometry.resize(image, SIDE, SIDE))
    return bool(between.any() and small[are_lungs].mean() > small[between].mean())


def _lungs(probability: npt.NDArray[np.float32], share: float, width: int, height: int) -> Lungs:
    (left, right), (top, bottom) = _ends(probability.max(axis=0)), _ends(probability.max(axis=1))
    scale_x, scale_y = width / SIDE, height / SIDE
    sides = Box(left * scale_x, top * scale_y, (right - left) * scale_x, (bottom - top) * scale_y)
    return Lungs(probability, Box(0, 0, width, height), sides, share)


def _ends(profile: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Where a profile rises above `LUNG` for the first time and falls below it for the last time, in cells.

    Between the middles of two cells it is taken as straight: with whole cells, a difference in the last digit of a
    probability, as between two processors, would move the box by a whole cell.
    """
    return _rise(profile), len(profile) - _rise(profile[::-1])


def _rise(profile: npt.NDArray[np.float32]) -> float:
    place = int(np.argmax(profile >= LUNG))
    if place == 0:
        return 0.0
    before, after = float(profile[place - 1]), float(profile[place])
    return place - 0.5 + (LUNG - before) / (after - before)
