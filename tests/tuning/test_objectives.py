"""What a search maximises, on networks that only say where boxes are."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumonia.data.store import Split
from pneumonia.metrics import boxes, ranking
from pneumonia.models import detector, scoring
from pneumonia.tuning.objectives import N_BOXES, OBJECTIVES

N = 12


def split() -> Split:
    """Every second image has a box, of one nothing is known."""
    truth = np.zeros((N, 1, 4), np.float32)
    truth[::2] = 10, 10, 20, 20
    truth[0] = np.nan
    images, ones = np.zeros((N, 64, 64), np.uint8), np.ones(N, np.float32)
    return Split(images, np.arange(N, dtype=np.int8) % 2, ones, ones.astype(np.int16), np.arange(N).astype(str), truth)


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is the number of images, the first ones, in which it finds the box."""

    def finder(n_right: int) -> Any:
        def find(images: NDArray[np.uint8]) -> detector.Found:
            return [
                (np.array([[10.04 if row < n_right else 40, 10, 20, 20]]), np.array([0.5 + row / 100]))
                for row in range(len(images))
            ]

        return find

    monkeypatch.setattr(detector, "finder", finder)


@pytest.mark.usefixtures("finds")
def test_precision_is_that_of_the_boxes_that_trials_are_compared_by() -> None:
    val, ap = split(), OBJECTIVES["ap"]
    some, more = (ap.answers(n_right, val) for n_right in (2, N))
    assert some[0] == [[10.0, 10.0, 20.0, 20.0, 0.5]], "short, as it is kept with each trial"
    films = boxes.judged(val.boxes, lambda rows: detector.finder(2)(val.images[rows]))
    (value,) = ap.measure(2, val)().values()
    assert value == pytest.approx(boxes.average_precision(list(films.values())), abs=1e-6)
    assert set(ap.measure(2, val)()) == {ap.key}
    gain, low, high = ap.gain(val, some, more, 0.95)
    assert gain == pytest.approx(ap.measure(N, val)()[ap.key] - value, abs=1e-6)
    assert low < gain < high
    assert ap.n(val) == N - 1, "without the image of which nothing is known"
    assert ap.over_chance(val, ap.answers(0, val), 0.95)[1] <= 0


def test_boxes_and_scores_without_knowledge_of_the_images_are_chance() -> None:
    """Their average precision is above 0, and so are its limits."""
    rng, ap = np.random.default_rng(2), OBJECTIVES["ap"]
    truth = np.zeros((200, 1, 4), np.float32)
    truth[:100, 0] = np.column_stack([rng.uniform(20, 120, (100, 2)), rng.uniform(30, 60, (100, 2))])
    val = split()._replace(images=np.zeros((200, 2, 2), np.uint8), boxes=truth)

    def at_random() -> list[list[float]]:
        return np.column_stack(
            [rng.uniform(20, 120, (5, 2)), rng.uniform(30, 60, (5, 2)), np.sort(rng.uniform(size=(5, 1)), axis=0)[::-1]]
        ).tolist()

    guesses = [at_random() for _ in truth]
    nothing: list[Any] = [[]] * len(truth)
    assert ap.gain(val, nothing, guesses, 0.95)[1] > 0
    assert ap.over_chance(val, guesses, 0.95)[1] <= 0
    knowing = [[[*box, 0.6]] if box[2] else guess for (box,), guess in zip(truth.tolist(), guesses, strict=True)]
    gain, low, high = ap.over_chance(val, knowing, 0.95)
    assert 0 < low <= gain <= high <= ap.gain(val, nothing, knowing, 0.95)[2]


def test_the_boxes_with_the_highest_scores_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    places, scores = np.array([[10, 10, 20, 20.0]] * 20), np.linspace(1, 0, 20)
    monkeypatch.setattr(detector, "finder", lambda model: lambda images: [(places, scores)] * len(images))
    answers = OBJECTIVES["ap"].answers(0, split())
    assert {len(rows) for rows in answers} == {N_BOXES}
    assert answers[0][0][4] == 1


def test_the_auc_is_that_of_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    val, auc = split(), OBJECTIVES["auc"]
    right = val.labels + np.linspace(0, 0.5, N)
    monkeypatch.setattr(scoring, "predict_scores", lambda model, images: model)
    one, other = (auc.answers(scores, val) for scores in (right, -right))
    assert auc.measure(right, val)() == {}, "every fit has it"
    assert auc.gain(val, other, one, 0.95)[0] == 1
    low, high = ranking.auc_interval(val.labels.astype(int), right)
    assert auc.over_chance(val, one, 0.95) == (0.5, low - 0.5, high - 0.5)
    assert auc.n(val) == N
