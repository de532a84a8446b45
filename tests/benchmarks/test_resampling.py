"""Drawing the validation split anew, on features that are made up."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import resampling


def features(n: int, first: int) -> pd.DataFrame:
    labels = np.arange(n) % 2
    values = np.random.default_rng(first).normal(size=(n, 3)) + labels[:, None] * 1.2
    return pd.DataFrame(values).assign(image_id=[f"i{first + number}" for number in range(n)], label=labels)


def test_both_ways_are_scored_on_the_same_test_images_and_another_draw_moves_the_single_split() -> None:
    learnt, test = features(200, 0), features(100, 200)
    patients = pd.Series(np.arange(300) // 2, index=[f"i{number}" for number in range(300)])
    first, again, other = (resampling.figures_of_division(learnt, test, patients, seed=seed) for seed in (1, 1, 2))
    assert [row[:2] for row in first] == [
        *(("single split", point) for point in ("youden", "target_sensitivity")),
        *(("folds", point) for point in ("youden", "target_sensitivity")),
    ]
    assert first == again
    assert first != other
    for _, _, figures in first:
        assert figures["auc"] > 0.85
        mean = (figures["sensitivity"] + figures["specificity"]) / 2
        assert figures["accuracy"] == pytest.approx(mean), "half of the images are ill"
