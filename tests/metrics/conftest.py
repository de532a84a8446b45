"""What several test files of this folder share."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray


def simulated(n: int, seed: int, *, signal: float = 1.5, decimals: int = 8) -> tuple[NDArray, NDArray]:
    """Labels and probabilities of a fair classifier; few decimals make ties."""
    generator = np.random.default_rng(seed)
    y_true = generator.integers(0, 2, n)
    logit = generator.normal(size=n) + signal * (y_true - 0.5)
    return y_true, np.round(1 / (1 + np.exp(-logit)), decimals)


def samples(*, positives: int = 1, negatives: int = 1) -> st.SearchStrategy[tuple[list[int], list[float]]]:
    """Up to 30 labelled probabilities, half of them on a coarse grid so that ties are common."""
    probability = st.one_of(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.floats(0, 1, allow_subnormal=True))
    rows = st.lists(st.tuples(st.integers(0, 1), probability), min_size=1, max_size=30)
    return (
        rows.map(lambda pairs: tuple(map(list, zip(*pairs, strict=True))))
        .filter(lambda sample: sum(sample[0]) >= positives)
        .filter(lambda sample: len(sample[0]) - sum(sample[0]) >= negatives)
    )
