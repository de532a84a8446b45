"""The AUC among films whose lungs lie alike."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import lung_geometry

N = 2_000
LABELS = np.arange(N) % 2


def tables(place: np.ndarray, score: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = [f"i{number}" for number in range(N)]
    geometry = pd.DataFrame({"image_id": names, "left": place})
    predictions = pd.DataFrame({"image_id": names, "patient_id": names, "label": LABELS, "score": score})
    return geometry, predictions


def test_scores_that_are_the_place_of_the_lungs_say_little_among_films_that_are_alike() -> None:
    place = LABELS + np.random.default_rng(1).normal(size=N)
    alone, within = lung_geometry.auc_within(*tables(place, place))
    assert alone == pytest.approx(0.76, abs=0.03), "the best that this place allows"
    assert within < 0.62


def test_scores_that_know_more_keep_their_auc() -> None:
    rng = np.random.default_rng(1)
    alone, within = lung_geometry.auc_within(*tables(rng.normal(size=N), LABELS + rng.normal(size=N) * 0.2))
    assert alone == pytest.approx(0.5, abs=0.1)
    assert within > 0.99


def test_only_pairs_of_one_stratum_count() -> None:
    labels, strata = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    scores = np.array([0.9, 0.8, 0.1, 0.2, 0.05])  # wrong; right and wrong
    assert lung_geometry._within(labels, scores, strata) == pytest.approx(1 / 3)
