"""What a search maximises on validation: one row of `OBJECTIVES` each, the keys of `tune.select`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.data import image_boxes
from pneumonia.data.store import Split, subset
from pneumonia.metrics import boxes, ranking
from pneumonia.metrics.boxes import Film
from pneumonia.models import detector, scoring

Answers = list[Any]
"""What a network answers for the validation images, as JSON has it: it is kept with trials that may be compared."""

N_BOXES = 5
"""Of an image that count here, those with the highest scores: a film has few opacities, and trials are kept short."""

N_ORDERS = 5
"""Of images, in which boxes are at chance."""


class Objective(NamedTuple):
    """A row of `OBJECTIVES`.

    Attributes:
        figure: name of the figure.
        title: of the figure, in sentences.
        failed: what counts for a fit whose loss is not finite.
        chance: its value for a network that has learnt nothing; None where that depends on what the network answers.
        measure: returns, of a network and the validation split, what gives its figures after each epoch beside those
            that every fit has.
        answers: of a trained network.
        n: number of validation images that count.
        over_chance: the figure of answers less that of answers without knowledge of the images, with its interval at a
            level.
        gain: the figure of the second answers less that of the first ones, with its interval at a level.
    """

    figure: str
    title: str
    failed: float
    chance: float | None
    measure: Callable[[Any, Split], Callable[[], dict[str, float]]]
    answers: Callable[[Any, Split], Answers]
    n: Callable[[Split], int]
    over_chance: Callable[[Split, Answers, float], tuple[float, float, float]]
    gain: Callable[[Split, Answers, Answers, float], tuple[float, float, float]]

    @property
    def key(self) -> str:
        """Of the figure in tables and in MLflow."""
        return f"val_{self.figure}"


def _scores(model: Any, split: Split) -> Answers:
    return list(np.round(scoring.predict_scores(model, split.images), 7).tolist())


def _labels(split: Split) -> npt.NDArray[np.int64]:
    return split.labels.astype(np.int64)


def _above_one_half(split: Split, answers: Answers, level: float) -> tuple[float, float, float]:
    auc, limits = ranking.roc_auc(_labels(split), answers), ranking.auc_interval(_labels(split), answers, level=level)
    return auc - 0.5, limits[0] - 0.5, limits[1] - 0.5


def _found(model: Any, split: Split) -> Callable[[], dict[int, Film]]:
    find = detector.finder(model)

    def highest(rows: npt.NDArray[np.intp]) -> list[tuple[Any, Any]]:
        return [(places[:N_BOXES], scores[:N_BOXES]) for places, scores in find(subset(split.images, rows))]

    return lambda: boxes.judged(split.boxes, highest)


def _precision(model: Any, split: Split) -> Callable[[], dict[str, float]]:
    found = _found(model, split)
    return lambda: {"val_ap50": round(boxes.average_precision(list(found().values())), 6)}


def _rows(model: Any, split: Split) -> Answers:
    """Of each image whose boxes are known what was found: lists of x, y, width, height and score."""
    return [
        np.column_stack([film.boxes.round(1), film.scores.round(4)]).tolist()
        for film in _found(model, split)().values()
    ]


def _films(split: Split, answers: Answers) -> list[Film]:
    tables = [np.array(rows, np.float64).reshape(-1, 5) for rows in answers]
    return list(boxes.judged(split.boxes, lambda _: [(rows[:, :4], rows[:, 4]) for rows in tables]).values())


def _gain_in_precision(split: Split, one: Answers, other: Answers, level: float) -> tuple[float, float, float]:
    return boxes.gain(_films(split, one), _films(split, other), "ap50", level=level)


def _above_other_images(split: Split, answers: Answers, level: float) -> tuple[float, float, float]:
    """Over the same boxes and scores on other images: these have the places and the number of the boxes, by chance.

    The gain and its limits are means over `N_ORDERS` random orders: one of them may be lucky.
    """
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(answers)) for _ in range(N_ORDERS)]
    gains = [_gain_in_precision(split, [answers[row] for row in order], answers, level) for order in orders]
    value, low, high = np.mean(gains, axis=0).tolist()
    return value, low, high


def _n_judged(split: Split) -> int:
    return 0 if split.boxes is None else int(image_boxes.are_known(split.boxes).sum())


OBJECTIVES = {
    "auc": Objective(
        figure="auc",
        title="validation AUC",
        failed=0.5,
        chance=0.5,
        measure=lambda model, split: dict,
        answers=_scores,
        n=lambda split: len(split.labels),
        over_chance=_above_one_half,
        gain=lambda split, one, other, level: ranking.auc_difference(_labels(split), one, other, level=level),
    ),
    "ap": Objective(
        figure="ap50",
        title="validation average precision of the boxes",
        failed=0.0,
        chance=None,
        measure=_precision,
        answers=_rows,
        n=_n_judged,
        over_chance=_above_other_images,
        gain=_gain_in_precision,
    ),
}


def of_table(trials: pd.DataFrame) -> Objective:
    """The objective of a search, by the columns of its `trials.csv`.

    >>> of_table(pd.DataFrame(columns=["trial", "state", "val_ap50", "epochs"])).figure
    'ap50'
    """
    return next(one for one in OBJECTIVES.values() if one.key in trials)
