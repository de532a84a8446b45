"""What is left of a shortcut is measured where it is."""

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import around_lungs
from pneumonia.data.store import Split


def split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int8]) -> Split:
    n = len(labels)
    return Split(images, labels, np.ones(n, np.float32), np.ones(n, np.int16), np.arange(n).astype(str))


def films(where: tuple[slice, slice], seed: int) -> Split:
    """Noise of 112 px, brighter in one part where the label is 1."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], 40).astype(np.int8)
    images = rng.integers(60, 120, (80, 112, 112), dtype=np.uint8)
    images[(labels == 1).nonzero()[0][:, None, None], np.r_[where[0]][:, None], np.r_[where[1]]] += 100
    return split(images, labels)


CORNER, MIDDLE = (slice(0, 7), slice(0, 18)), (slice(40, 70), slice(40, 70))


@pytest.mark.parametrize(("where", "told"), [(CORNER, True), (MIDDLE, False)])
def test_border_and_corner_tell_the_class_only_where_something_is_there(where: tuple[slice, slice], told: bool) -> None:
    train, val = films(where, 1), films(where, 2)
    border, corner = around_lungs.border_auc(train, val), around_lungs.corner_auc(val)
    if told:
        assert border == corner == 1.0
    else:
        assert 0.3 < border < 0.7
        assert 0.3 < corner < 0.7
