"""The answer for an image file: a folder with a network in ONNX and one JSON, and what reads it.

It needs onnxruntime, numpy and the package `images`, neither TensorFlow nor MLflow. Pixels are decoded and prepared by
the functions of the workflow, so that the scores are the reported ones. The stage `export` writes the folder; the
registered version of a model contains it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumonia import UserError, files, inference, reason
from pneumonia.images import appearance, decode, geometry, lungs
from pneumonia.images.suppression import clipped, suppressed

if TYPE_CHECKING:  # importing pandas takes longer than an answer
    import pandas as pd

NETWORK = "model.onnx"
FACTS = "predictor.json"
LUNGS = "lungs.onnx"
"""The network of `images.lungs`; only of a predictor whose films are prepared around the lungs."""
MAPS = "maps.onnx"
"""What `saliency.exported` adds to the network for maps; only of a predictor whose maps need no TensorFlow."""

PRETRAINED = lungs.FILE.parents[1]
"""Where the networks that ship with this package have their folders, beside that of the segmenter."""

SCHEMA = "1.0"
"""Version of `predictor.json`. A reader accepts every minor version of its major version."""

DEFAULTS: dict[str, Any] = {
    "target": "pneumonia",
    "labels": ["normal", "pneumonia"],
    "synthetic": False,
    "weights": "none",
    "figures": {},
    "boxes": {},
    "unusual": None,
    "saliency": {},
    "learnt_from": {},
    "made_with": {},
    "caution": "For research. Not a medical device.",
}
"""Values of keys that `predictor.json` may lack. `unusual` None: no image is called unusual."""

WAYS = {"aspect": ("pad", "cover", "squash", "lungs"), "clahe": ("after", "before")}
"""Known values of settings of the preparation."""

CLIP = 5e-8
"""Scores nearer to 0 or 1 are moved to this distance before the calibration, as in `metrics.calibration`."""

BOXES = ("boxes", "box_scores")
"""Outputs that the network of a detector has beside the probability."""

_NOTHING = (np.zeros((0, 4)), np.zeros(0))
"""Boxes and scores of an image in which nothing was found."""

BATCH = 16
"""Images that are scored at once."""

Image = str | Path | bytes | npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""A path or fsspec URL, the bytes of a file, or pixels: uint8 or uint16, (height, width) or (height, width, 3) RGB."""


class FoundBox(NamedTuple):
    """A box of a detector in whole pixels of the image file, and its score, 0-1, with two decimal places."""

    x: int
    y: int
    width: int
    height: int
    score: float


class Prediction(NamedTuple):
    """The answer for one image; also the columns of the tables, in this order.

    Attributes:
        image: its path as given; `#1`, `#2`, … for bytes and pixels.
        probability: calibrated, 0-1; NaN if the image cannot be read.
        label: `pneumonia` or `normal` in a model of that target; empty if the image cannot be read.
        threshold: of the operating point, on the scale of `probability`.
        operating_point: `youden` or `target_sensitivity`.
        score: output of the network before calibration, 0-1, as in `reports/predictions.csv`.
        unusual: why the image is not like those the model learnt from; empty for a usual one.
        error: why the image has no answer; empty if it has one.
        boxes: what a detector found, from the highest score down; in tables as `boxes_as_text` writes them.
    """

    image: str
    probability: float
    label: str
    threshold: float
    operating_point: str
    score: float
    unusual: str
    error: str
    boxes: tuple[FoundBox, ...] = ()


class Film(NamedTuple):
    """An image file on its way to an answer.

    Attributes:
        image: uint8 (height, width), as it was decoded.
        prepared: uint8 (size, size), as the network gets it.
        part: of the image that the network gets; around lungs it may reach beyond the image.
        place: of this part in `prepared`.
        lungs: None if the model does not look for them, or none were found.
        unusual: why no lungs were found where the model looks for them, or what is unusual of them; empty else.
    """

    image: npt.NDArray[np.uint8]
    prepared: npt.NDArray[np.uint8]
    part: geometry.Box
    place: geometry.Placement
    lungs: lungs.Lungs | None
    unusual: str

    @property
    def square(self) -> geometry.Box:
        """All of `prepared`, with the black bars of `pad`, in pixels of `image`; it may reach beyond the image."""
        across, down = self.part.width / self.place.width, self.part.height / self.place.height
        size = self.prepared.shape[0]
        left, top = self.part.x - across * self.place.x, self.part.y - down * self.place.y
        return geometry.Box(left, top, across * size, down * size)


COLUMNS = (*Prediction._fields, "model", "version", "data", "caution")
"""Columns of every table of answers: those of `Prediction` and of `Predictor.origin`."""


class Predictor:
    """A model that answers for image files.

    Args:
        folder: with `model.onnx` and `predictor.json`.
        operating_point: where a probability counts as positive: `youden` or `target_sensitivity`.
        version: of the registered model, for the answers; empty if the folder is not from the registry.
        threads: of a prediction; None = one for each core.
        only_bytes: refuse paths and URLs: a client of a server must not read the server's files.

    Attributes:
        facts: content of `predictor.json`, with the `DEFAULTS` of missing keys.
        digest: hex SHA-256 that identifies the predictor: of `predictor.json`, which contains that of the network.
        preparation: how images are prepared.
        finds_boxes: whether the model is a detector.

    Raises:
        UserError: no predictor, a damaged one, one of another major version, or an unknown operating point.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        operating_point: str = "youden",
        version: str = "",
        threads: int | None = None,
        only_bytes: bool = False,
    ) -> None:
        self.folder, self.version, self.operating_point = Path(folder), version, operating_point
        self._only_bytes = only_bytes
        self.facts, self.digest = _read_facts(self.folder)
        try:
            points = self.facts["operating_points"]
            if operating_point not in points:
                raise UserError(f"operating point {operating_point!r} is unknown; known: {', '.join(points)}")
            self.preparation = _preparation(self.folder / FACTS, self.facts["preparation"])
            point, platt = points[operating_point], self.facts["calibration"]
            self._threshold, self._threshold_calibrated = (
                _finite(point["threshold"]),
                _finite(point["threshold_calibrated"]),
            )
            self._slope, self._bias = _finite(platt["slope"]), _finite(platt["bias"])
            self._usual = _Usual(self.facts["unusual"]) if self.facts["unusual"] else None
            digest = str(self.facts["digests"][NETWORK])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(self.folder / FACTS, error) from error
        self._session = _open_network(self.folder / NETWORK, digest, threads)
        self.finds_boxes = len(self._session.get_outputs()) > 1
        self._segmenter = (
            lungs.open_segmenter(lungs.FILE if ships(self.folder) else self.folder / LUNGS, self.preparation.segmenter)
            if self.preparation.aspect == "lungs"
            else None
        )

    @property
    def origin(self) -> dict[str, str]:
        """What every answer names: `model` (start of the digest), `version`, `data` and `caution`."""
        data = f"{self.facts['data']}{' (synthetic)' if self.facts['synthetic'] else ''}"
        return {
            "model": self.digest[:12],
            "version": self.version,
            "data": data,
            "caution": str(self.facts["caution"]),
        }

    def scores(self, images: Iterable[Image], names: Iterable[str] | None = None) -> Iterator[Prediction]:
        """An answer for each image, in the order of the images; a bad image is an answer with its error.

        Images are read as answers are taken, so any number of them fits into memory.

        Args:
            images: paths, fsspec URLs, bytes of files, or pixels.
            names: of the images; None = their paths, or `#1`, `#2`, ….
        """
        if isinstance(images, (str, Path, bytes)) or (isinstance(images, np.ndarray) and _is_one_image(images)):
            raise UserError("one image where a list of images was expected: give [image]")
        pairs = zip(images, names, strict=True) if names is not None else _named(images)
        while batch := list(islice(pairs, BATCH)):
            films, errors = [], {}
            for place, (image, _) in enumerate(batch):
                try:
                    films.append(self.read(image))
                except UserError as error:
                    # Without the path, which is the name of the answer; it may be of this machine only.
                    errors[place] = (
                        str(error).removeprefix(f"{image}: ") if isinstance(image, (str, Path)) else str(error)
                    )
            answers = iter(self.answers_for(films))
            for place, (_, name) in enumerate(batch):
                yield self.failed(name, errors[place]) if place in errors else next(answers)._replace(image=name)

    def predict(self, images: Iterable[Image]) -> pd.DataFrame:
        """A table with a row for each image: the columns of `Prediction`, and those of `origin`."""
        import pandas as pd

        rows = [answer._asdict() | {"boxes": boxes_as_text(answer.boxes)} for answer in self.scores(images)]
        return pd.DataFrame(rows, columns=list(Prediction._fields)).assign(**self.origin)

    def prepare(self, image: Image) -> npt.NDArray[np.uint8]:
        """An image as the network gets it: uint8 (size, size), 0-255.

        Raises:
            UserError: as of `read`.
        """
        return self.read(image).prepared

    def read(self, image: Image) -> Film:
        """An image, prepared for the network.

        Raises:
            UserError: it cannot be read, or is an array of another kind.
        """
        if self._only_bytes and not isinstance(image, bytes):
            raise UserError(f"the bytes of an image file were expected, not {type(image).__name__}")
        if isinstance(image, (str, Path)):
            pixels = decode.decode(files.read_bytes(str(image)))
        elif isinstance(image, (bytes, bytearray, memoryview)):
            pixels = decode.decode(bytes(image))
        else:
            pixels = _gray(image)
        finding = lungs.look(pixels, self.preparation, self._segmenter)
        box = finding.lungs.box if finding.lungs else None
        height, width = pixels.shape
        return Film(
            pixels,
            geometry.prepare(pixels, self.preparation, box),
            *geometry.region(width, height, self.preparation, box),
            finding.lungs,
            self._problem_of(finding),
        )

    def _problem_of(self, finding: lungs.Finding) -> str:
        if finding.problem:
            return f"shows no two lungs, around which this model prepares films ({finding.problem})"
        if not finding.lungs or not self._usual or self._usual.low <= finding.lungs.share <= self._usual.high:
            return ""
        return (
            f"shows lungs on {finding.lungs.share:.0%} of its area ({self._usual.low:.0%} to {self._usual.high:.0%} is "
            "usual)"
        )

    def answers_for(self, films: Sequence[Film]) -> list[Prediction]:
        """Answers for images; they have no name."""
        if not films:
            return []
        prepared = np.stack([film.prepared for film in films])
        outputs, *cells = self._run(["probability", *(BOXES if self.finds_boxes else ())], prepared)
        found = self._shown(films, *cells) if cells else [_NOTHING] * len(films)
        return [
            answer._replace(unusual="; ".join(filter(None, (film.unusual, answer.unusual))), boxes=_in_pixels(*boxes))
            for film, answer, boxes in zip(films, self._answers(outputs, prepared), found, strict=True)
        ]

    def boxes(self, films: Sequence[Film]) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        """What a detector found in each image: boxes in pixels of the image file, (m, 4), and their scores, (m,).

        Shown are boxes from the score on that was chosen on validation. They come from high to low, as x, y, width and
        height, clipped to the image; none of another model.
        """
        if not (films and self.finds_boxes):
            return [_NOTHING] * len(films)
        return self._shown(films, *self.cells(np.stack([film.prepared for film in films])))

    def _shown(
        self, films: Sequence[Film], all_boxes: npt.NDArray[np.float32], all_scores: npt.NDArray[np.float32]
    ) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        threshold, found = float(self.facts["boxes"].get("threshold", 0.5)), []
        for film, of_cells, scores_of_cells in zip(films, all_boxes, all_scores, strict=True):
            boxes, scores = suppressed(of_cells, scores_of_cells, 1, 1)
            (x, y, across, down), (height, width) = film.square, film.image.shape
            boxes = clipped(boxes * (across, down, across, down) + (x, y, 0, 0), width, height)
            # A box in a black bar has no part in the film.
            kept = (scores >= threshold) & (boxes[:, 2:] > 0).all(axis=1)
            found.append((boxes[kept], scores[kept]))
        return found

    def cells(self, prepared: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The boxes of all cells of a detector and their scores, as `detector.decode` returns them.

        Args:
            prepared: uint8 (n, size, size).
        """
        boxes, scores = self._run(list(BOXES), prepared)
        return boxes, scores

    def _run(self, names: list[str], prepared: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        try:
            outputs = self._session.run(names, {"pixels": prepared[..., None].astype(np.float32)})
        except Exception as error:  # onnxruntime has its own error classes, which it does not export
            again = remedy(self.folder, "export it again")
            raise UserError(f"{self.folder / NETWORK} cannot be run ({reason(error)}); {again}") from error
        return [np.asarray(one) for one in outputs]

    def answers(self, prepared: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Answers for prepared images, uint8 (n, size, size); they have no name."""
        (outputs,) = self._run(["probability"], prepared)
        return self._answers(outputs, prepared)

    def _answers(self, outputs: npt.NDArray[np.float32], prepared: npt.NDArray[np.uint8]) -> list[Prediction]:
        values = outputs.astype(np.float64).reshape(len(prepared))
        # Rounded as in the reports: a score and a threshold of the reports then give the decision of the reports.
        scores = np.round(values, 7)
        return [self._answer(float(score), image) for score, image in zip(scores, prepared, strict=True)]

    def _answer(self, score: float, image: npt.NDArray[np.uint8]) -> Prediction:
        if not math.isfinite(score):
            return self.failed("", "the network returned no number for this image; the predictor is damaged")
        positive = score >= self._threshold
        probability, threshold = calibrate(score, self._slope, self._bias), self._threshold_calibrated
        # A score next to the threshold: rounding must not put the probability on the other side.
        probability = max(probability, threshold) if positive else min(probability, math.nextafter(threshold, 0))
        return Prediction(
            image="",
            probability=probability,
            label=str(self.facts["labels"][int(positive)]),
            threshold=threshold,
            operating_point=self.operating_point,
            score=score,
            unusual=self._usual.problem(image) if self._usual else "",
            error="",
        )

    def failed(self, name: str, error: str) -> Prediction:
        """The answer for an image that cannot be read."""
        threshold = self._threshold_calibrated
        return Prediction(name, math.nan, "", threshold, self.operating_point, math.nan, "", error)


def _in_pixels(boxes: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> tuple[FoundBox, ...]:
    rows = zip(boxes.round().astype(int).tolist(), scores.tolist(), strict=True)
    return tuple(FoundBox(x, y, width, height, round(score, 2)) for (x, y, width, height), score in rows)


def boxes_as_text(boxes: Sequence[FoundBox]) -> str:
    """Boxes as a cell of a table.

    >>> boxes_as_text([FoundBox(20, 0, 30, 15, 0.9), FoundBox(60, 15, 30, 30, 0.7)])
    '20 0 30 15 0.90; 60 15 30 30 0.70'
    """
    return "; ".join(f"{' '.join(map(str, place))} {score:.2f}" for *place, score in boxes)


class _Usual:
    """The images a model learnt from: a normal distribution of `appearance.describe`, and the share that is lung."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.limit = float(facts["limit"])
        self.mean, self.scale = np.asarray(facts["mean"]), np.asarray(facts["scale"])
        self.precision = np.asarray(facts["precision"])
        limits = facts.get("lungs", {})
        self.low, self.high = float(limits.get("low", 0)), float(limits.get("high", 1))  # share of the film

    def problem(self, image: npt.NDArray[np.uint8]) -> str:
        distance = float(distances(appearance.describe(image)[None], self.mean, self.scale, self.precision)[0])
        if distance <= self.limit:
            return ""
        return (
            "does not look like the chest X-rays this model learnt from "
            f"(distance {distance:.0f}, at most {self.limit:.0f} is usual)"
        )


def distances(
    descriptions: npt.NDArray[np.float64],
    mean: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    precision: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Squared Mahalanobis distances, float64 (n,).

    Args:
        descriptions: float (n, d).
        mean, scale: float (d,), by which the descriptions are standardised.
        precision: float (d, d), inverse covariance of the standardised descriptions.
    """
    standardised = (descriptions - mean) / scale
    return np.asarray(np.einsum("ni,ij,nj->n", standardised, precision, standardised), dtype=np.float64)


def calibrate(score: float, slope: float, bias: float) -> float:
    """The calibrated probability of a score, as `metrics.calibration.apply` gives it.

    >>> calibrate(0.25, slope=1.0, bias=0.0)
    0.25
    """
    inside = min(max(score, CLIP), 1 - CLIP)
    logit = slope * math.log(inside / (1 - inside)) + bias
    return round(1 / (1 + math.exp(-logit)), 7)


def _named(images: Iterable[Image]) -> Iterator[tuple[Image, str]]:
    for number, image in enumerate(images, start=1):
        yield image, str(image) if isinstance(image, (str, Path)) else f"#{number}"


def _gray(image: Any) -> npt.NDArray[np.uint8]:
    """Pixels of an array as one gray channel, as `decode` gives them for a file."""
    pixels = np.asarray(image)
    if pixels.dtype.newbyteorder("=") == np.uint16:
        pixels = pixels.astype(np.uint16)  # of a file of another machine the bytes may be in the other order
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"an array of {pixels.dtype}, expected uint8 or uint16: give the pixels as the image file has them, "
            "or the bytes of the file"
        )
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))) or 0 in pixels.shape:
        raise UserError(f"an array of shape {pixels.shape}, expected (height, width) or (height, width, 3) in RGB")
    return decode.from_array(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _is_one_image(pixels: npt.NDArray[Any]) -> bool:
    return pixels.ndim < 3 or (pixels.ndim == 3 and pixels.shape[2] == 3)


def ships(folder: Path) -> bool:
    """Whether a folder is one of the networks that ship with this package."""
    return folder.resolve().parent == PRETRAINED


def remedy(folder: Path, usual: str = "run the stage export again") -> str:
    """What helps where a file of a predictor is missing, damaged or of another version.

    Args:
        folder: of the predictor.
        usual: of one that a stage has written.
    """
    return "install the project again" if ships(folder) else usual


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({reason(error)}); {remedy(path.parent)}")


def _read_facts(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / FACTS
    try:
        content = path.read_bytes()
    except OSError as error:
        instead = remedy(folder, "the stage export writes one (models/predictor)")
        raise UserError(f"{folder} has no {FACTS}: it is no predictor; {instead}") from error
    try:
        facts = json.loads(content)
        major = str(facts["schema"]).split(".")[0]
        recorded = facts["digests"].get(FACTS, "") if "digests" in facts else ""
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if recorded and recorded != facts_digest(facts):
        again = remedy(folder, "export again")
        raise UserError(f"{path} is not as the stage export wrote it: it was changed or is damaged; {again}")
    if major != SCHEMA.split(".")[0]:
        raise UserError(
            f"{path} has schema {facts['schema']}, this version of pneumonia reads {SCHEMA.split('.')[0]}.x; "
            f"{remedy(folder, 'use the version that made it, or export the model again')}"
        )
    facts = DEFAULTS | facts
    needed = ("data", "model", "preparation", "operating_points", "calibration", "digests")
    if missing := [key for key in needed if key not in facts]:
        raise UserError(f"{path} lacks {', '.join(missing)}; {remedy(folder)}")
    return facts, hashlib.sha256(content).hexdigest()


def facts_digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of the content of `predictor.json` without this digest, which is in its `digests` under its own name."""
    digests = {name: value for name, value in facts["digests"].items() if name != FACTS}
    return hashlib.sha256(json.dumps({**facts, "digests": digests}, sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} where a number was expected")
    return float(value)


def _preparation(path: Path, settings: Mapping[str, Any]) -> geometry.Preparation:
    if "size" not in settings:
        raise _damaged(path, KeyError("size"))
    known = {one.name for one in dataclasses.fields(geometry.Preparation)}
    unknown = [name for name in settings if name not in known]
    unknown += [
        f"{name} {settings[name]}" for name, values in WAYS.items() if settings.get(name, values[0]) not in values
    ]
    if unknown:  # it would change the pixels
        raise UserError(
            f"{path}: images are prepared in a way that this version of pneumonia does not know "
            f"({', '.join(unknown)}); use a newer version"
        )
    return geometry.Preparation(**settings)


def read_file(path: Path, digest: str) -> bytes:
    """The content of a file of a predictor.

    Raises:
        UserError: it cannot be read, or its SHA-256 is not this digest.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); {remedy(path.parent)}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        again = remedy(path.parent, "export again")
        raise UserError(f"{path} is not the file that {FACTS} describes: it is damaged or was replaced; {again}")
    return content


def _open_network(path: Path, digest: str, threads: int | None) -> Any:
    content = read_file(path, digest)
    session = inference.open_session(path, content, threads=threads or 0, remedy=remedy(path.parent))
    ends = [(one.name, one.type) for one in (*session.get_inputs(), *session.get_outputs())]
    known = [("pixels", "tensor(float)"), ("probability", "tensor(float)")]
    if sorted(ends) not in (sorted(known), sorted(known + [(name, "tensor(float)") for name in BOXES])):
        again = remedy(path.parent, "export again")
        raise UserError(f"{path} has the inputs and outputs {ends}, not pixels and probability; {again}")
    return session
